//! One device: a WebSocket that says `hello`, is welcomed, counts what comes and acknowledges it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use fanfare::auth::{Algorithm, Grant, KeySettings, Secret, SigningKey};
use fanfare::domain::UnixMillis;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::tally::Tally;

/// Whose device it is.
pub(super) const USER: &str = "lanes";

/// From connect to `welcome`.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Longer than any measurement.
const TOKEN_TTL: Duration = Duration::from_secs(2 * 3600);

/// A device that is not connected yet.
#[derive(Debug)]
pub(super) struct Device {
    /// The node.
    pub(super) target: SocketAddr,
    /// The HS256 secret of its tokens.
    pub(super) secret: String,
}

/// A frame's kind.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Device {
    /// Connects, and counts into `tally` until the task is aborted or the connection ends, which is an error.
    pub(super) async fn connect(&self, tally: &Arc<Tally>) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let socket = timeout(OPEN_DEADLINE, self.open()).await.context("no welcome in time")??;
        Ok(tokio::spawn(follow(socket, Arc::clone(tally))))
    }

    async fn open(&self) -> anyhow::Result<Socket> {
        let settings =
            KeySettings { id: None, algorithm: Algorithm::HS256, key: Secret::new(self.secret.clone()) };
        let grant = Grant { sub: USER.to_owned(), ..Grant::default() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now = UnixMillis(u64::try_from(since)?);
        let token = SigningKey::new(&settings)?.sign(&grant, TOKEN_TTL, now)?;
        let mut request = format!("ws://{}/v1/connect", self.target).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "fanfare.v1".parse()?);
        let (mut socket, _) = connect_async(request).await?;
        let hello = serde_json::json!({"type": "hello", "token": token, "device": "lanes", "ack": "manual"});
        socket.send(Message::text(hello.to_string())).await?;
        let Some(first) = socket.next().await else { bail!("closed before welcome") };
        let first = first?.into_text()?;
        match serde_json::from_str::<Kind<'_>>(&first)?.kind {
            "welcome" => Ok(socket),
            other => bail!("{other} instead of welcome: {first}"),
        }
    }
}

async fn follow(mut socket: Socket, tally: Arc<Tally>) -> anyhow::Result<()> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => {
                if let Some(ack) = tally.take(&text) {
                    socket.send(Message::text(ack)).await?;
                }
            }
            Message::Close(close) => bail!("the node closed the connection: {close:?}"),
            // The library has queued the pong of a ping: it goes out with the next read.
            _ => {}
        }
    }
    bail!("the connection ended")
}
