//! One WebSocket connection that speaks `fanfare.v1` in typed frames.
//!
//! It knows the protocol from its description, not from the server's code, and does nothing by
//! itself; [`super::device`] is the client that behaves like a real one.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{DEADLINE, within};

/// What a server sends. Fields that no test looks at are not here; unknown frames fail.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame {
    Welcome(Welcome),
    Notification(Notification),
    Cancelled {
        stream: String,
        seq: u64,
        id: String,
    },
    CaughtUp {
        stream: String,
        through: u64,
    },
    Gap {
        stream: String,
        from: u64,
        to: u64,
    },
    Read {
        id: Option<Value>,
        stream: String,
        ids: Vec<String>,
        up_to: Option<u64>,
        unread: u64,
        version: u64,
    },
    Subscribed(Subscribed),
    Unsubscribed {
        id: Option<Value>,
    },
    Refreshed {
        id: Option<Value>,
        expires_at: String,
    },
    Ping,
    Error(ErrorFrame),
    Bye {
        code: u16,
        reason: String,
        reconnect_after_ms: Option<u64>,
    },
    /// Not a frame of the protocol: the WebSocket's close frame; 1006 if there was none.
    #[serde(skip)]
    Closed {
        code: u16,
        reason: String,
    },
}

/// The first frame of a session.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Welcome {
    pub connection: String,
    pub node: String,
    pub user: String,
    pub device: Option<String>,
    pub heartbeat_ms: u64,
    pub unread: u64,
    pub version: u64,
    pub streams: Vec<StreamState>,
    pub degraded: bool,
}

/// Where a session starts in a stream.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StreamState {
    pub stream: String,
    pub epoch: String,
    pub head: u64,
    pub from: u64,
    pub gap: bool,
    pub unread: Option<u64>,
}

/// One notification; without `seq` it was sent now or never.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Notification {
    pub stream: Option<String>,
    pub seq: Option<u64>,
    #[serde(default)]
    pub read: bool,
    pub notification: Value,
}

/// The answer to `subscribe`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Subscribed {
    pub id: Option<Value>,
    #[serde(flatten)]
    pub state: StreamState,
}

/// What was wrong with a frame.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ErrorFrame {
    pub id: Option<Value>,
    pub code: String,
    pub message: String,
    pub retry: bool,
}

/// A connection whose upgrade was accepted. Pings are answered while a frame is awaited.
#[derive(Debug)]
pub struct TestClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl TestClient {
    /// Connects with the token in `Authorization` and offers `fanfare.v1`; says no `hello`.
    ///
    /// # Errors
    /// As the library tells it: [`Error::Http`] holds a refusal's status and body.
    pub async fn dial(url: &str, token: &str) -> Result<Self, Error> {
        let bearer = format!("Bearer {token}");
        Self::dial_with(url, &[("sec-websocket-protocol", "fanfare.v1"), ("authorization", &bearer)]).await
    }

    /// Connects with these headers and no others of ours.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub async fn dial_with(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("tokens are visible ASCII"));
        }
        // Boxed: several of these in one test's future are too much for a thread's stack.
        let connecting = Box::pin(connect_async(request));
        let (socket, _) = within(DEADLINE, "the upgrade", connecting).await?;
        Ok(Self { socket })
    }

    /// Connects and says `hello` with these further fields, such as
    /// `json!({"device": "web-1", "resume": {…}})`.
    pub async fn connect(url: &str, token: &str, hello: Value) -> Self {
        let dialled = within(DEADLINE, "the upgrade", Self::dial(url, token)).await;
        let mut client = dialled.unwrap_or_else(|error| panic!("{url}: {error}"));
        client.hello(hello).await.expect("hello is sent");
        client
    }

    /// Says `hello` with these further fields.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn hello(&mut self, mut fields: Value) -> Result<(), Error> {
        fields["type"] = "hello".into();
        self.try_send(&fields).await
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.try_send(&frame).await.expect("the connection is open");
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn try_send(&mut self, frame: &Value) -> Result<(), Error> {
        self.socket.send(Message::text(frame.to_string())).await
    }

    /// Sends any message, well-formed or not.
    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.expect("the connection is open");
    }

    /// Acknowledges everything up to `seq`.
    pub async fn ack(&mut self, stream: &str, seq: u64) {
        self.send(json!({"type": "ack", "stream": stream, "seq": seq})).await;
    }

    /// The next frame, whenever it comes; [`Frame::Closed`] at the end, however it came.
    ///
    /// Cancel safe: a frame is taken only when it is returned.
    pub async fn next_frame(&mut self) -> Frame {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(Some(close)))) => {
                    let (code, reason) = (close.code.into(), close.reason.to_string());
                    return Frame::Closed { code, reason };
                }
                Some(Ok(Message::Binary(_))) => panic!("the server sent a binary frame"),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(None))) | Some(Err(_)) | None => {
                    // RFC 6455 section 7.1.5: no close frame is 1006.
                    return Frame::Closed { code: 1006, reason: String::new() };
                }
            };
            return serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{error} in the server's frame {text}"));
        }
    }

    /// The next frame within [`DEADLINE`].
    pub async fn frame(&mut self) -> Frame {
        within(DEADLINE, "a frame", self.next_frame()).await
    }

    /// The next frame, which must be `welcome`.
    pub async fn expect_welcome(&mut self) -> Welcome {
        match self.frame().await {
            Frame::Welcome(welcome) => welcome,
            other => panic!("welcome was expected; got {other:?}"),
        }
    }

    /// The next frame but for `caught_up`, which must be a notification.
    pub async fn expect_notification(&mut self) -> Notification {
        loop {
            match self.frame().await {
                Frame::Notification(notification) => return notification,
                Frame::CaughtUp { .. } => {}
                other => panic!("a notification was expected; got {other:?}"),
            }
        }
    }

    /// The next frame about `stream`, which must be `caught_up`; answers `through`.
    pub async fn expect_caught_up(&mut self, stream: &str) -> u64 {
        loop {
            match self.frame().await {
                Frame::CaughtUp { stream: of, through } if of == stream => return through,
                Frame::CaughtUp { .. } => {}
                other => panic!("caught_up of {stream} was expected; got {other:?}"),
            }
        }
    }

    /// The next frame but for `caught_up`, which must be an error; answers it.
    pub async fn expect_error(&mut self) -> ErrorFrame {
        loop {
            match self.frame().await {
                Frame::Error(error) => return error,
                Frame::CaughtUp { .. } => {}
                other => panic!("an error was expected; got {other:?}"),
            }
        }
    }

    /// Reads on until the connection closes; answers the close code and reason.
    pub async fn expect_close(&mut self) -> (u16, String) {
        within(DEADLINE, "a close", async {
            loop {
                if let Frame::Closed { code, reason } = self.next_frame().await {
                    return (code, reason);
                }
            }
        })
        .await
    }

    /// Fails if anything but `caught_up` arrives within `quiet`. The only wait for nothing.
    pub async fn expect_silence(&mut self, quiet: Duration) {
        let end = tokio::time::Instant::now() + quiet;
        while let Ok(frame) = tokio::time::timeout_at(end, self.next_frame()).await {
            assert!(matches!(frame, Frame::CaughtUp { .. }), "silence was expected; got {frame:?}");
        }
    }

    /// Closes as a browser does: close frame, then the server's, then the end.
    pub async fn close(mut self) {
        // An error says that the server was quicker.
        let _ = self.socket.close(None).await;
        self.expect_close().await;
    }
}
