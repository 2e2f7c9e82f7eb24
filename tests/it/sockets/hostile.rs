//! Clients that break RFC 6455, or keep to it in order to wear the server out.

use fanfare::gateway::SocketSettings;

use super::client::{self, Client, frame};
use super::server::Server;
use super::{CLOSE, CONTINUED_END, PING, PONG, TEXT, TEXT_START};

const CONTINUED: u8 = 0x00;

/// Each of these, on a connection of its own, is answered by a close frame with its code and an orderly end.
async fn each_is_refused(cases: impl IntoIterator<Item = (String, Vec<u8>, u16)>) {
    let server = Server::start(SocketSettings::default()).await;
    for (what, bytes, code) in cases {
        let mut client = Client::connect(server.address).await;
        client.send(&bytes).await;
        assert_eq!(client.close_code().await, code, "{what}");
        client.ends().await;
    }
    server.has_no_sockets().await;
}

/// Its pings are answered.
async fn is_served(client: &mut Client) {
    client.send(&frame(PING, b"still there?")).await;
    assert_eq!(client.frame().await, (PONG, b"still there?".to_vec()));
}

#[tokio::test]
async fn every_reserved_bit_and_every_reserved_opcode_is_refused() {
    let bits = (1..8_u8).flat_map(|bits| [TEXT, PING, 0x82].map(|first| first | bits << 4));
    let opcodes = (0x3..=0x7).chain(0xB..=0xF).map(|opcode| 0x80 | opcode);
    let firsts = bits.chain(opcodes);
    each_is_refused(firsts.map(|first| (format!("{first:#x}"), frame(first, b"x"), 1002))).await;
}

#[tokio::test]
async fn control_frames_are_short_and_whole() {
    let long = [PING, PONG, CLOSE].map(|first| (format!("long {first:#x}"), frame(first, &[0; 126]), 1002));
    let cut = [PING, PONG, CLOSE].map(|first| (format!("cut {first:#x}"), frame(first & 0x7f, b""), 1002));
    each_is_refused(long.into_iter().chain(cut)).await;
}

#[tokio::test]
async fn close_frames_with_what_nobody_may_send_are_refused() {
    let codes = [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65_535];
    let codes = codes.map(|code| (code.to_string(), frame(CLOSE, &code.to_be_bytes()), 1002));
    let others = [
        ("half a code".to_owned(), frame(CLOSE, &[3]), 1002),
        ("a reason that is not UTF-8".to_owned(), frame(CLOSE, b"\x03\xe8\xc3\x28"), 1007),
        ("a reason that is cut".to_owned(), frame(CLOSE, b"\x03\xe8caf\xc3"), 1007),
    ];
    each_is_refused(codes.into_iter().chain(others)).await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_refused_at_the_fragment_that_spoils_it() {
    let fragments = |pieces: &[&[u8]]| -> Vec<u8> {
        let firsts = std::iter::once(TEXT_START).chain(std::iter::repeat(CONTINUED));
        firsts.zip(pieces).flat_map(|(first, piece)| frame(first, piece)).collect()
    };
    // The message goes on in each, so nobody waits for its end.
    let cases: [(&str, Vec<u8>); 4] = [
        ("a second byte that is none", fragments(&[b"caf\xc3", b"("])),
        ("a surrogate over three fragments", fragments(&[b"\xed", b"\xa0", b"\x80"])),
        ("beyond the last character", fragments(&[b"\xf4", b"\x90"])),
        ("a form that is too long", fragments(&[b"ok", b"", b"\xc0"])),
    ];
    each_is_refused(cases.map(|(what, bytes)| (what.to_owned(), bytes, 1007))).await;

    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::connect(server.address).await;
    let euro = "€".as_bytes();
    client.send(&fragments(&[&euro[..1], b"", &euro[1..2]])).await;
    client.send(&frame(CONTINUED_END, &euro[2..])).await;
    assert_eq!(client.frame().await, (TEXT, euro.to_vec()));
}

#[tokio::test]
async fn messages_that_never_end_are_refused_at_a_bound() {
    let endless = |piece: &[u8], count: usize| {
        [frame(TEXT_START, piece), frame(CONTINUED, piece).repeat(count)].concat()
    };
    each_is_refused([
        ("empty fragments".to_owned(), endless(b"", 256), 1009),
        ("fragments of a byte".to_owned(), endless(b"a", 256), 1009),
        ("fragments of a KiB".to_owned(), endless(&[b'a'; 1024], 16), 1009),
    ])
    .await;
}

#[tokio::test]
async fn a_flood_of_pings_whose_pongs_nobody_reads_queues_one_pong_and_hurts_nobody() {
    // Far more bytes than the kernel keeps for a connection (`tcp_wmem`: 4 MiB).
    const PINGS: u32 = 120_000;
    let settings =
        SocketSettings { frames_per_second: 1_000_000, frame_burst: 1_000_000, ..SocketSettings::default() };
    let server = Server::start(settings).await;
    let mut neighbour = Client::connect(server.address).await;
    let mut flooding = Client::open_narrow(server.address).await;
    flooding.upgrade(&client::handshake("")).await;
    let ping = |number: u32| frame(PING, &[&number.to_be_bytes()[..], &[b'z'; 121]].concat());
    let flood = async {
        for hundred in 0..PINGS / 100 {
            let pings: Vec<u8> = (1..=100).flat_map(|number| ping(hundred * 100 + number)).collect();
            flooding.send(&pings).await;
        }
    };
    let serve = async {
        for _ in 0..100 {
            is_served(&mut neighbour).await;
        }
    };
    tokio::join!(flood, serve);

    let (mut pongs, mut last) = (0, 0);
    while last < PINGS {
        let (first, payload) = flooding.frame().await;
        let number = u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
        assert_eq!((first, payload.len()), (PONG, 125));
        assert!(number > last, "{number} after {last}");
        (pongs, last) = (pongs + 1, number);
    }
    assert!(pongs < PINGS / 2, "{pongs} of {PINGS} pongs were kept for who reads none");
    assert_eq!(server.metrics.overfull.get(), 0);
    is_served(&mut flooding).await;
}

#[tokio::test]
async fn a_hundred_clients_reset_in_the_middle_of_frames_leave_nothing_behind() {
    let server = Server::start(SocketSettings::default()).await;
    let mut neighbour = Client::connect(server.address).await;
    let mut clients = vec![];
    for _ in 0..100 {
        let mut client = Client::connect(server.address).await;
        client
            .send(&[frame(PING, b"x"), frame(TEXT_START, b"a"), frame(TEXT, &[b'a'; 99])].concat()[..30])
            .await;
        clients.push(client);
    }
    clients.into_iter().for_each(Client::reset);
    is_served(&mut neighbour).await;
    drop(neighbour);
    server.has_no_sockets().await;
}

#[tokio::test]
async fn a_client_that_offers_compression_is_served_without_it() {
    let server = Server::start(SocketSettings::default()).await;
    for offer in ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"]
    {
        let mut client = Client::open(server.address).await;
        let offered = client::handshake(&format!("Sec-WebSocket-Extensions: {offer}\r\n"));
        let head = client.upgrade(&offered).await.to_ascii_lowercase();
        assert!(!head.contains("extensions"), "{head}");
        client.send(&frame(TEXT, b"plain")).await;
        assert_eq!(client.frame().await, (TEXT, b"plain".to_vec()));
        // A compressed message: its mark is a reserved bit, as nothing was agreed.
        client.send(&frame(TEXT | 0x40, b"\xf2\x48\xcd\xc9\xc9\x07\x00")).await;
        assert_eq!(client.close_code().await, 1002);
    }
}
