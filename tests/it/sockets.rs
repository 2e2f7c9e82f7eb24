//! The gateway over real loopback sockets, against a client that does what clients should not.
//!
//! Deadlines are shortened by settings; every wait of a test has a deadline of its own.

mod admission;
mod client;
mod descriptors;
mod handshakes;
mod hostile;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare::clock::Clock;
use fanfare::delivery::outlet::{Flow, Outlet};
use fanfare::domain::UnixMillis;
use fanfare::gateway::accept::AcceptSettings;
use fanfare::gateway::{Closed, SocketSettings};
use fanfare::metrics::gateway::CloseLabels;
use fanfare::wire::{CloseCode, Frame};

use client::{Client, frame};
use server::{Event, Server};

const TEXT: u8 = 0x81;
const TEXT_START: u8 = 0x01;
const CONTINUED_END: u8 = 0x80;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const CLOSE: u8 = 0x88;

fn quick() -> SocketSettings {
    SocketSettings {
        write_timeout: Duration::from_millis(300),
        close_timeout: Duration::from_millis(300),
        sweep_every: Duration::from_millis(20),
        ..SocketSettings::default()
    }
}

#[tokio::test]
async fn a_text_comes_back_and_a_close_is_echoed() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send(&frame(TEXT, "héllo".as_bytes())).await;
    assert_eq!(client.frame().await, (TEXT, "héllo".as_bytes().to_vec()));
    client.send(&frame(CLOSE, &4321_u16.to_be_bytes())).await;
    assert_eq!(client.close_code().await, 4321);
    client.ends().await;
    assert_eq!(server.outcome().await, Closed::Client(4321));
    drop(client);
    server.has_no_sockets().await;
    let metrics = &server.metrics;
    let closes = CloseLabels {
        // Made up by the client: no label of its own.
        code: "other".to_owned(),
        side: "client",
    };
    assert_eq!(metrics.closes.get_or_create(&closes).get(), 1);
    assert_eq!((metrics.frames_in.get(), metrics.frames_out.get()), (2, 2));
    assert_eq!((metrics.bytes_in.get(), metrics.bytes_out.get()), (20, 12));
}

#[tokio::test]
async fn a_frame_byte_by_byte_is_the_same_frame() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    for byte in frame(TEXT, b"slowly") {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.frame().await, (TEXT, b"slowly".to_vec()));
}

#[tokio::test]
async fn frames_in_the_segment_of_the_handshake_are_not_lost() {
    let server = Server::start(SocketSettings::default()).await;
    let second = frame(TEXT, b"second");
    let early = [frame(TEXT, b"first"), second[..4].to_vec()].concat();
    let mut client = Client::open(server.address).await;
    client.send(&[client::handshake("").into_bytes(), early].concat()).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    assert_eq!(client.frame().await, (TEXT, b"first".to_vec()));
    client.send(&second[4..]).await;
    assert_eq!(client.frame().await, (TEXT, b"second".to_vec()));
}

#[tokio::test]
async fn broken_frames_end_with_their_close_code_and_an_orderly_end_of_stream() {
    let server = Server::start(SocketSettings::default()).await;
    let large = vec![b'a'; 16 * 1024 + 1];
    let cases: [(&str, Vec<u8>, u16); 9] = [
        ("unmasked", vec![TEXT, 2, b'h', b'i'], 1002),
        ("reserved bit", frame(0xC1, b"x"), 1002),
        ("unknown opcode", frame(0x83, b"x"), 1002),
        ("text inside a text", [frame(TEXT_START, b"a"), frame(TEXT, b"b")].concat(), 1002),
        ("continuation of nothing", frame(CONTINUED_END, b"a"), 1002),
        ("binary", frame(0x82, b"x"), 1003),
        ("not UTF-8", frame(TEXT, b"\xff"), 1007),
        ("too big", frame(TEXT, &large), 1009),
        ("pings behind the mistake", [frame(0x83, b"x"), frame(PING, b"late")].concat(), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut client = Client::connect(server.address).await;
        client.send(&bytes).await;
        assert_eq!(client.close_code().await, code, "{what}");
        client.ends().await;
        let Closed::Server(told) = server.outcome().await else {
            panic!("{what}: the peer was told otherwise");
        };
        assert_eq!(told.code(), code, "{what}");
    }
}

#[tokio::test]
async fn pings_are_answered_in_order_between_fragments() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let bytes =
        [frame(TEXT_START, b"one "), frame(PING, b"a"), frame(PING, b"b"), frame(CONTINUED_END, b"text")];
    client.send(&bytes.concat()).await;
    assert_eq!(client.frame().await, (PONG, b"a".to_vec()));
    assert_eq!(client.frame().await, (PONG, b"b".to_vec()));
    assert_eq!(client.frame().await, (TEXT, b"one text".to_vec()));
    client.send(&frame(PONG, b"")).await;
    assert_eq!(server.event().await, Event::Text("one text".to_owned()));
    assert_eq!(server.event().await, Event::Pong);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_frame_is_a_lost_connection() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send(&frame(TEXT, &[b'a'; 1000])[..500]).await;
    client.reset();
    assert_eq!(server.outcome().await, Closed::Lost);
    server.has_no_sockets().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped_at_the_write_deadline() {
    let server = Server::start(quick()).await;
    let client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let body = Bytes::from(vec![b'x'; 60_000]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while socket.push(Frame::text(b"", body.clone())) == Flow::Open {
        assert!(Instant::now() < deadline, "the socket never became full");
    }
    assert_eq!(server.outcome().await, Closed::Server(CloseCode::SlowConsumer));
    server.has_no_sockets().await;
    assert_eq!(server.metrics.write_deadlines.get(), 1);
    drop(client);
}

#[tokio::test]
async fn a_client_that_goes_on_asking_and_reads_no_answer_is_dropped_at_a_bound() {
    let server = Server::start(SocketSettings { max_queued: 100_000, ..SocketSettings::default() }).await;
    let mut client = Client::connect(server.address).await;
    let question = frame(TEXT, &[b'x'; 10_000]);
    let asking = async {
        // The kernel's buffers come on top: at most a few MiB on loopback.
        for _ in 0..5_000 {
            client.send(&question).await;
        }
    };
    tokio::join!(asking, async {
        assert_eq!(server.outcome().await, Closed::Server(CloseCode::SlowConsumer));
    });
    server.has_no_sockets().await;
    assert_eq!((server.metrics.overfull.get(), server.metrics.write_deadlines.get()), (1, 0));
}

#[tokio::test]
async fn a_full_socket_drains_in_order_and_the_peer_is_told() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let mut pushed = 0_u32;
    loop {
        let head = format!("{pushed:08}");
        let body = Bytes::from(vec![b'x'; 10_000 + pushed as usize % 7]);
        let flow = socket.push(Frame::text(head.as_bytes(), body));
        pushed += 1;
        assert!(pushed < 100_000, "the socket never became full");
        if flow == Flow::Full {
            break;
        }
    }
    for number in 0..pushed {
        let (opcode, payload) = client.frame().await;
        assert_eq!(opcode, TEXT);
        assert_eq!(payload.len(), 10_008 + number as usize % 7);
        assert_eq!(payload[..8], *format!("{number:08}").as_bytes());
    }
    assert_eq!(server.event().await, Event::Drained);
}

#[tokio::test]
async fn what_is_held_is_written_in_order_with_what_follows_or_when_it_is_let_go() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let numbered = |number: u32| Frame::text(format!("{number:08}").as_bytes(), Bytes::new());
    let before = server.metrics.bytes_out.get();
    for number in 0..40 {
        assert_eq!(socket.hold(numbered(number)), Flow::Open);
    }
    assert_eq!(server.metrics.bytes_out.get(), before, "nothing is written yet");
    socket.let_go();
    assert_eq!(server.metrics.bytes_out.get(), before + 400, "all of it is");
    socket.let_go();
    let _ = (socket.hold(numbered(40)), socket.push(numbered(41)));
    assert_eq!(server.metrics.bytes_out.get(), before + 420);
    for number in 0..42_u32 {
        assert_eq!(client.frame().await.1, format!("{number:08}").as_bytes());
    }
}

#[tokio::test]
async fn a_socket_is_full_whether_frames_are_pushed_or_held() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let body = Bytes::from(vec![b'x'; 10_000]);
    let mut held = 0_u32;
    while socket.hold(Frame::text(format!("{held:08}").as_bytes(), body.clone())) == Flow::Open {
        held += 1;
        assert!(held < 100_000, "the socket never became full");
    }
    socket.let_go();
    for number in 0..=held {
        assert_eq!(client.frame().await.1[..8], *format!("{number:08}").as_bytes());
    }
    assert_eq!(server.event().await, Event::Drained);
}

#[tokio::test]
async fn what_expires_while_a_client_reads_nothing_is_not_written() {
    let now = Arc::new(AtomicU64::new(1_000));
    let told = Arc::clone(&now);
    let clock = Clock::new(move || UnixMillis(told.load(Ordering::SeqCst)));
    let server = Server::start_at(SocketSettings::default(), AcceptSettings::default(), clock).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let body = Bytes::from(vec![b'x'; 10_000]);
    let mut filling = 0;
    while socket.push(Frame::text(b"", body.clone()).expiring(Some(UnixMillis(2_000)))) == Flow::Open {
        filling += 1;
        assert!(filling < 100_000, "the socket never became full");
    }
    for (text, expires_at) in [("dies", Some(2_000)), ("lives", Some(2_001)), ("is for ever", None)] {
        let _ = socket.push(Frame::text(text.as_bytes(), Bytes::new()).expiring(expires_at.map(UnixMillis)));
    }
    now.store(2_000, Ordering::SeqCst);
    let mut arrived = 0;
    let first = loop {
        let (_, payload) = client.frame().await;
        if payload.len() < 100 {
            break payload;
        }
        assert_eq!(payload.len(), 10_000, "what was begun is whole");
        arrived += 1;
    };
    assert_eq!(first, b"lives");
    assert_eq!(client.frame().await.1, b"is for ever");
    assert_eq!(server.event().await, Event::Drained);
    // The last frame that filled it, and "dies", came after.
    let expired = server.metrics.frames_expired.get();
    assert!(expired >= 2);
    assert_eq!(arrived + expired, filling + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_threads_push_arrives_whole_and_in_the_order_of_each() {
    const THREADS: usize = 4;
    const FRAMES: usize = 5_000;
    let settings = SocketSettings { max_queued: usize::MAX, ..SocketSettings::default() };
    let server = Server::start(settings).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    for thread in 0..THREADS {
        let socket = socket.clone();
        std::thread::spawn(move || {
            for number in 0..FRAMES {
                let body = Bytes::from(vec![b'x'; number % 900]);
                // Pushed on though it is full: nothing may be lost then either.
                let _ = socket.push(Frame::text(format!("{thread}{number:05}").as_bytes(), body));
            }
        });
    }
    let mut next = [0; THREADS];
    for _ in 0..THREADS * FRAMES {
        let (opcode, payload) = client.frame().await;
        let text = std::str::from_utf8(&payload).expect("text");
        let thread: usize = text[..1].parse().expect("a thread");
        let number: usize = text[1..6].parse().expect("a number");
        assert_eq!((opcode, number), (TEXT, next[thread]), "thread {thread}");
        assert_eq!(payload.len(), 6 + number % 900);
        next[thread] += 1;
    }
}

#[tokio::test]
async fn a_close_comes_after_what_was_pushed_and_waits_for_the_echo() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    let _ = socket.push(Frame::text(b"bye", Bytes::new()));
    socket.close(CloseCode::Draining);
    let _ = socket.push(Frame::text(b"too late", Bytes::new()));
    socket.close(CloseCode::Displaced);
    assert_eq!(client.frame().await, (TEXT, b"bye".to_vec()));
    assert_eq!(client.close_code().await, 4000);
    assert_eq!(server.outcome().await, Closed::Server(CloseCode::Draining));
    client.send(&frame(TEXT, b"unseen")).await;
    client.send(&frame(CLOSE, &4000_u16.to_be_bytes())).await;
    client.ends().await;
    server.has_no_sockets().await;
}

#[tokio::test]
async fn a_client_that_never_answers_a_close_is_dropped() {
    let server = Server::start(quick()).await;
    let mut client = Client::connect(server.address).await;
    server.socket().await.close(CloseCode::Draining);
    assert_eq!(client.close_code().await, 4000);
    server.has_no_sockets().await;
    client.ends().await;
}

#[tokio::test]
async fn what_is_expected_and_does_not_come_closes_with_its_code() {
    let server = Server::start(quick()).await;
    let mut silent = Client::connect(server.address).await;
    let socket = server.socket().await;
    socket.expect_within(Duration::from_millis(100), CloseCode::HelloExpected);
    assert_eq!(silent.frame().await, (TEXT, b"bye 4503".to_vec()));
    assert_eq!(silent.close_code().await, 4503);
    silent.ends().await;

    let mut prompt = Client::connect(server.address).await;
    let socket = server.socket().await;
    socket.expect_within(Duration::from_millis(100), CloseCode::HelloExpected);
    socket.settled();
    // A later deadline than the one that was settled: it is the one that must be seen.
    socket.expect_within(Duration::from_millis(200), CloseCode::TokenExpired);
    assert_eq!(prompt.frame().await, (TEXT, b"bye 4001".to_vec()));
}

#[tokio::test]
async fn a_client_that_sends_too_fast_is_slowed_down_and_not_closed() {
    let settings = SocketSettings { frame_burst: 5, frames_per_second: 20, ..quick() };
    let server = Server::start(settings).await;
    let mut client = Client::connect(server.address).await;
    let start = Instant::now();
    client.send(&frame(PING, b"burst").repeat(15)).await;
    for _ in 0..15 {
        assert_eq!(client.frame().await, (PONG, b"burst".to_vec()));
    }
    client.send(&frame(TEXT, b"after")).await;
    assert_eq!(client.frame().await, (TEXT, b"after".to_vec()));
    // 15 frames, of which 5 are free, at 20 a second.
    assert!(start.elapsed() >= Duration::from_millis(450));
    assert!(server.metrics.throttled.get() >= 1);
}

#[tokio::test]
async fn a_client_that_goes_on_sending_too_fast_is_told_so_and_closed() {
    let settings = SocketSettings {
        frames_per_second: 1_000,
        frame_burst: 4_000,
        flood_after: Some(Duration::from_millis(300)),
        ..quick()
    };
    let server = Server::start(settings).await;
    let is_closed = async |one: Vec<u8>| {
        let mut client = Client::connect(server.address).await;
        let start = Instant::now();
        client.send(&one.repeat(12_000)).await;
        loop {
            match client.frame().await {
                (CLOSE, code) => break assert_eq!(code[..2], 4008_u16.to_be_bytes()),
                (TEXT, text) if text.starts_with(b"bye") => assert_eq!(text, b"bye 4008"),
                _ => {}
            }
        }
        assert!(start.elapsed() >= Duration::from_millis(300), "not at once");
        assert_eq!(server.outcome().await, Closed::Server(CloseCode::RateLimited));
    };
    tokio::join!(is_closed(frame(PING, b"")), is_closed(frame(TEXT, b"{}")));
    let closes = CloseLabels { code: "4008".to_owned(), side: "server" };
    assert_eq!(server.metrics.closes.get_or_create(&closes).get(), 2);
    assert!(server.metrics.throttled.get() >= 2, "they were slowed down before");
}

#[tokio::test]
async fn an_error_of_the_peer_closes_with_its_code() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    client.send(&frame(TEXT, b"refuse me")).await;
    assert_eq!(client.frame().await, (TEXT, b"bye 4502".to_vec()));
    assert_eq!(client.close_code().await, 4502);
    client.ends().await;
}

#[tokio::test]
async fn after_stop_nothing_is_accepted_and_the_tasks_end_with_the_last_socket() {
    let server = Server::start(quick()).await;
    let mut client = Client::connect(server.address).await;
    let socket = server.socket().await;
    server.stop.cancel();
    client.send(&frame(TEXT, b"still served")).await;
    assert_eq!(client.frame().await, (TEXT, b"still served".to_vec()));
    socket.close(CloseCode::Draining);
    assert_eq!(client.close_code().await, 4000);
    client.send(&frame(CLOSE, &4000_u16.to_be_bytes())).await;
    server.ends().await;
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}
