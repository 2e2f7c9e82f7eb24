//! A WebSocket client of raw bytes: it sends what it is told, right or wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A request to upgrade, with `extra` header lines.
pub(crate) fn handshake(extra: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    )
}

/// The same for another address than `/`.
pub(crate) fn handshake_to(path: &str, extra: &str) -> String {
    handshake(extra).replacen("GET / ", &format!("GET {path} "), 1)
}

/// A masked frame with its first byte as given.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
    }
    let key = [1, 2, 3, 4];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    /// A TCP connection, nothing said.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connects"), unread: Vec::new() }
    }

    /// The same, for a client that takes in little: what it does not read soon waits at the server.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        Self { stream: socket.connect(address).await.expect("connects"), unread: Vec::new() }
    }

    /// A WebSocket.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address).await;
        client.upgrade(&handshake("")).await;
        client
    }

    /// Sends a request, which must be answered as a handshake is; the head of the answer.
    pub(crate) async fn upgrade(&mut self, request: &str) -> String {
        self.send(request.as_bytes()).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        head
    }

    /// Sends; that the server has closed meanwhile is for what follows to find.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Whether what comes next begins with `text`; it is still to be read.
    pub(crate) async fn peeks(&mut self, text: &str) -> bool {
        while self.unread.len() < text.len() {
            assert!(self.fill().await, "ended before {text:?}");
        }
        self.unread.starts_with(text.as_bytes())
    }

    /// The head of an HTTP response.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is ASCII");
            }
            assert!(self.fill().await, "ended in the head: {:?}", self.unread);
        }
    }

    /// Reads an HTTP response with a length, whole.
    pub(crate) async fn skip_response(&mut self) {
        let _ = self.response().await;
    }

    /// An HTTP response with a length: its head in lower case, and its body.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let head = self.head().await.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|n| n.parse().ok()).expect("a length");
        while self.unread.len() < length {
            assert!(self.fill().await, "ended in the body");
        }
        let body = self.unread.drain(..length).collect();
        (head, String::from_utf8(body).expect("a text"))
    }

    /// The next frame: its first byte and its payload.
    pub(crate) async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let [first, short, rest @ ..] = &self.unread[..] {
                let (length, header) = match (*short, rest) {
                    (126, [a, b, ..]) => (u16::from_be_bytes([*a, *b]) as usize, 4),
                    (126, _) => (usize::MAX / 2, 4),
                    (short, _) => (short as usize, 2),
                };
                if self.unread.len() >= header + length {
                    let first = *first;
                    let frame: Vec<u8> = self.unread.drain(..header + length).collect();
                    return (first, frame[header..].to_vec());
                }
            }
            assert!(self.fill().await, "ended before a frame");
        }
    }

    /// The code of the next frame, which must be a close.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let (first, payload) = self.frame().await;
        assert_eq!(first, 0x88, "a close frame, not {payload:?}");
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// Waits for the server's end of stream, with nothing before it, and not by a reset.
    pub(crate) async fn ends(&mut self) {
        assert_eq!(self.unread, b"");
        assert!(!self.fill().await, "more came: {:?}", self.unread);
    }

    /// Whether the server has ended it by now, in whatever way.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self.stream.try_read_buf(&mut self.unread) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Closes by a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("an open socket");
    }

    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        read.expect("the server says something in time").expect("no reset") > 0
    }
}
