//! A publisher: one HTTP/1.1 connection that is kept alive, one request at a time.
//!
//! Written by hand so that the generator takes little of the CPU that it shares with what it measures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Longer than any answer to a publish.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where publishers post, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// ADDRESS:PORT.
    pub(super) address: SocketAddr,
    /// The API key.
    pub(super) key: String,
}

/// One publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    target: Target,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Publisher {
    /// Connects with the first request.
    pub(super) fn new(target: &Target) -> Self {
        Self { target: target.clone(), stream: None, buffer: Vec::new() }
    }

    /// Posts a notification (JSON) and answers the status.
    pub(super) async fn post(&mut self, body: &str) -> anyhow::Result<u16> {
        let Target { address, key } = &self.target;
        let request = format!(
            "POST /v1/notifications HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        timeout(ANSWER_DEADLINE, self.exchange(&request)).await.context("no answer in time")?
    }

    async fn exchange(&mut self, request: &str) -> anyhow::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.target.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if let Some(answer) = Answer::parse(&self.buffer)? {
                if !answer.closes {
                    self.stream = Some(stream);
                }
                return Ok(answer.status);
            }
            if self.buffer.len() > ANSWER_BYTES {
                bail!("an answer of over {ANSWER_BYTES} bytes");
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection ended within an answer");
            }
        }
    }
}

struct Answer {
    status: u16,
    closes: bool,
}

impl Answer {
    /// `None` until it is whole.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).context("a status line")?.parse()?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = header("content-length:").context("an answer without a length")?.parse()?;
        let closes = header("connection:") == Some("close");
        Ok((bytes.len() >= end + 4 + length).then_some(Self { status, closes }))
    }
}
