//! Devices: WebSockets that say `hello`, are welcomed, and stay.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use fanfare::auth::{Algorithm, Grant, KeySettings, Secret, SigningKey};
use fanfare::domain::UnixMillis;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// How many handshakes are under way at a time.
const OPENING: usize = 64;
/// From connect to `welcome`.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Longer than any measurement.
const TOKEN_TTL: Duration = Duration::from_secs(2 * 3600);
/// The first of eight source addresses: one address has ports for about 28 000 connections to one target.
const FIRST_SOURCE: u8 = 10;

/// Opens devices, each of a user of its own: `load-0`, `load-1` and so on.
#[derive(Debug, Clone)]
pub(super) struct Fleet {
    target: SocketAddr,
    key: Arc<SigningKey>,
}

/// Devices that are connected. All close when this is dropped.
#[derive(Debug)]
pub(super) struct Connected {
    devices: JoinSet<anyhow::Result<()>>,
}

/// What a device does with a text frame; what it answers is sent.
pub(super) trait Handler: Send + 'static {
    /// A frame arrived.
    fn on_text(&mut self, text: &str) -> Option<String>;
}

/// A frame's kind.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

impl Fleet {
    /// Devices of `target`, with tokens signed with the HS256 `secret`.
    pub(super) fn new(target: SocketAddr, secret: &str) -> anyhow::Result<Self> {
        let settings =
            KeySettings { id: None, algorithm: Algorithm::HS256, key: Secret::new(secret.to_owned()) };
        Ok(Self { target, key: Arc::new(SigningKey::new(&settings)?) })
    }

    /// Connects `count` devices and waits until all are welcomed. `ack` is the mode in `hello`.
    pub(super) async fn connect<H: Handler>(
        &self,
        count: u32,
        ack: &'static str,
        handler: impl Fn(u32) -> H,
    ) -> anyhow::Result<Connected> {
        let opening = Arc::new(Semaphore::new(OPENING));
        let (mut devices, mut welcomed) = (JoinSet::new(), JoinSet::new());
        for number in 0..count {
            let permit = Arc::clone(&opening).acquire_owned().await?;
            let (fleet, handler) = (self.clone(), handler(number));
            let (done, ready) = tokio::sync::oneshot::channel();
            devices.spawn(async move {
                let socket = timeout(OPEN_DEADLINE, fleet.open(number, ack))
                    .await
                    .context("no welcome in time")
                    .flatten()
                    .with_context(|| format!("device {number}"))?;
                drop(permit);
                // Whoever waited may have given up.
                let _ = done.send(());
                follow(socket, handler).await
            });
            welcomed.spawn(ready);
            while welcomed.try_join_next().is_some() {}
            if let Some(ended) = devices.try_join_next() {
                ended??;
                bail!("a device ended early");
            }
        }
        while welcomed.join_next().await.is_some() {}
        let mut connected = Connected { devices };
        connected.check()?;
        Ok(connected)
    }

    async fn open(&self, number: u32, ack: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
        let user = user(number);
        let grant = Grant { sub: user, ..Grant::default() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let token = self.key.sign(&grant, TOKEN_TTL, UnixMillis(u64::try_from(since)?))?;
        let socket = TcpSocket::new_v4()?;
        // The kernel chooses the port at connect, when it knows the target, too.
        socket.set_reuseaddr(true)?;
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, FIRST_SOURCE + u8::try_from(number % 8)?));
        socket.bind(SocketAddr::new(source, 0))?;
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{}/v1/connect", self.target).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "fanfare.v1".parse()?);
        let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
        let (mut socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        let hello = serde_json::json!({"type": "hello", "token": token, "device": "load", "ack": ack});
        socket.send(Message::text(hello.to_string())).await?;
        let Some(first) = socket.next().await else { bail!("closed before welcome") };
        let first = first?.into_text()?;
        match serde_json::from_str::<Kind<'_>>(&first)?.kind {
            "welcome" => Ok(socket),
            other => bail!("{other} instead of welcome: {first}"),
        }
    }
}

/// Whose device has this number.
pub(super) fn user(number: u32) -> String {
    format!("load-{number}")
}

impl Connected {
    /// Fails if a device has lost its connection.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.devices.try_join_next() {
            None => Ok(()),
            Some(ended) => {
                ended??;
                bail!("a device has lost its connection")
            }
        }
    }
}

async fn follow(mut socket: WebSocketStream<TcpStream>, mut handler: impl Handler) -> anyhow::Result<()> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => {
                if let Some(answer) = handler.on_text(&text) {
                    socket.send(Message::text(answer)).await?;
                }
            }
            Message::Close(close) => bail!("the node closed a connection: {close:?}"),
            // The library has queued the pong of a ping: it goes out with the next read.
            _ => {}
        }
    }
    bail!("a connection ended")
}
