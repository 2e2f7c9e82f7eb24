//! A TCP proxy in front of one backend, so that one test can lose it without all others losing it.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections are closed, new ones as soon as they are made: the backend is down.
    Cut,
    /// Connections stay, new ones are taken, and no byte passes: the backend, or the network, hangs.
    Freeze,
    /// As RabbitMQ under an alarm: a connection that publishes something meanwhile is told, and not read any more.
    Block,
}

/// A proxy that passes everything until told otherwise; gone when dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl ChaosProxy {
    /// Stands in front of `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (mode, modes) = watch::channel(Mode::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target.to_owned(), modes));
        Self { address, mode, _tasks: tasks }
    }

    /// Stands in front of the host of `url`; answers itself and the URL that goes through it.
    pub async fn before(url: &str) -> (Self, String) {
        let (_, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let target = authority.rsplit('@').next().unwrap_or_default();
        let proxy = Self::start(target).await;
        let through = url.replacen(target, &proxy.address.to_string(), 1);
        (proxy, through)
    }

    /// As if the backend had died: connections end, new ones end at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// As if the backend or the network hung: everything stays open and silent.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Freeze);
    }

    /// As if RabbitMQ had an alarm (memory or disk): a connection that publishes something is told then, and not read any
    /// more. Those that publish nothing go on and hear nothing.
    pub fn block(&self) {
        self.mode.send_replace(Mode::Block);
    }

    /// As before. What was frozen or blocked goes on where it was.
    pub fn heal(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

async fn accept(listener: TcpListener, target: String, modes: watch::Receiver<Mode>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *modes.borrow() != Mode::Cut {
            connections.spawn(carry(client, target.clone(), modes.clone()));
        }
    }
}

async fn carry(client: TcpStream, target: String, mut modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    // Small frames must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (up, down) = (modes.clone(), modes.clone());
    let blocked = watch::Sender::new(false);
    // Whatever ends first ends all of it.
    tokio::select! {
        () = pump(client_read, server_write, up, &blocked) => {}
        () = pump_back(server_read, client_write, down, blocked.subscribe()) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// From the client to the server, until its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    blocked: &watch::Sender<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = Frames::of_client();
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let publishes = frames.pass(&buffer[..length]);
        if modes.wait_for(|mode| matches!(mode, Mode::Pass | Mode::Block)).await.is_err() {
            return;
        }
        if publishes && *modes.borrow() == Mode::Block {
            blocked.send_replace(true);
            if modes.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
                return;
            }
            blocked.send_replace(false);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// From the server to the client, until its end. What RabbitMQ says of an alarm is put between its frames.
async fn pump_back(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    mut blocked: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = Frames::default();
    let mut told = false;
    loop {
        let blocks = *blocked.borrow_and_update();
        if blocks != told && frames.is_between() {
            let word = if blocks { BLOCKED } else { UNBLOCKED };
            if to.write_all(word).await.is_err() {
                return;
            }
            told = blocks;
        }
        let length = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(length @ 1..) => length,
                _ => return,
            },
            changed = blocked.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        if modes.wait_for(|mode| matches!(mode, Mode::Pass | Mode::Block)).await.is_err() {
            return;
        }
        frames.pass(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// AMQP 0-9-1, section 4.2.3: type, channel, size, payload, end. `connection.blocked` with the reason "low on memory".
const BLOCKED: &[u8] = b"\x01\x00\x00\x00\x00\x00\x12\x00\x0a\x00\x3c\x0dlow on memory\xce";
/// `connection.unblocked`.
const UNBLOCKED: &[u8] = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x3d\xce";

/// `basic.publish`: how the payload of its frame, of the type 1, begins.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];

/// Where frames begin and end in what one side sends. Of use for AMQP only.
#[derive(Default)]
struct Frames {
    /// Before the first frame.
    preface: usize,
    head: Vec<u8>,
    /// Which method it is, of the frame that is passing.
    method: Option<Vec<u8>>,
    rest: usize,
}

impl Frames {
    /// A client begins with the protocol header: 8 bytes.
    fn of_client() -> Self {
        Self { preface: 8, ..Self::default() }
    }

    fn is_between(&self) -> bool {
        self.preface == 0 && self.head.is_empty() && self.rest == 0
    }

    /// Whether something is published in it.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        let mut publishes = false;
        let before = self.preface.min(bytes.len());
        self.preface -= before;
        let mut bytes = &bytes[before..];
        while !bytes.is_empty() {
            let passed = if self.rest > 0 { self.body(bytes, &mut publishes) } else { self.begin(bytes) };
            bytes = &bytes[passed..];
        }
        publishes
    }

    fn begin(&mut self, bytes: &[u8]) -> usize {
        let passed = (7 - self.head.len()).min(bytes.len());
        self.head.extend(&bytes[..passed]);
        if let [kind, _, _, size @ ..] = &self.head[..]
            && let Ok(size) = <[u8; 4]>::try_from(size)
        {
            self.rest = usize::try_from(u32::from_be_bytes(size)).expect("64 bits") + 1;
            self.method = (*kind == 1).then(Vec::new);
            self.head.clear();
        }
        passed
    }

    fn body(&mut self, bytes: &[u8], publishes: &mut bool) -> usize {
        let passed = self.rest.min(bytes.len());
        self.rest -= passed;
        if let Some(method) = &mut self.method {
            let lacks = PUBLISH.len() - method.len();
            method.extend(&bytes[..passed.min(lacks)]);
            if method.len() == PUBLISH.len() {
                *publishes |= method[..] == PUBLISH;
                self.method = None;
            }
        }
        passed
    }
}

mod tests {
    use std::time::Duration;

    use deadpool_redis::redis::{Client, cmd};

    use super::ChaosProxy;
    use crate::support::backends::redis_url;
    use crate::support::{DEADLINE, within};

    #[tokio::test]
    async fn a_proxy_freezes_cuts_and_heals_what_goes_through_it() {
        let (proxy, url) = ChaosProxy::before(&redis_url().await).await;
        let client = Client::open(url).expect("a URL");
        let mut connection = within(DEADLINE, "a connection", client.get_multiplexed_async_connection())
            .await
            .expect("Redis answers through the proxy");

        proxy.freeze();
        let ping = cmd("PING");
        let frozen =
            tokio::time::timeout(Duration::from_millis(100), ping.query_async::<String>(&mut connection));
        assert!(frozen.await.is_err(), "an answer came through the ice");

        proxy.heal();
        let pong = within(DEADLINE, "a pong", ping.query_async::<String>(&mut connection)).await;
        assert_eq!(pong.as_deref(), Ok("PONG"));

        proxy.cut();
        let lost = within(DEADLINE, "an error", ping.query_async::<String>(&mut connection)).await;
        assert!(lost.is_err());
        let refused = within(DEADLINE, "an end", client.get_multiplexed_async_connection()).await;
        assert!(refused.is_err());
    }
}
