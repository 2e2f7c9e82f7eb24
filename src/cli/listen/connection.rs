//! One connection of `fanfare listen`: from the handshake to how it ended.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::{RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::super::failure::Failure;
use super::super::problem;
use super::Stop;
use super::follow::{Bye, Follower, Frame, Taken};
use super::show::Show;
use crate::auth::Secret;
use crate::wire::CloseCode;

/// For the handshake and until `welcome`.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// For one frame to be taken by the network.
const SEND: Duration = Duration::from_secs(10);
/// To say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Added to two heartbeats before a silent connection is given up.
const SLACK: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a connection ended.
pub(super) enum End {
    /// As the person wished.
    Done,
    /// Come back.
    Lost {
        /// In words.
        why: String,
        /// When, if the server said so.
        after: Option<Duration>,
        /// How long the session lasted.
        lived: Duration,
    },
    /// Do not come back; in words.
    Refused(String),
}

pub(super) struct Connection<'a> {
    pub(super) url: &'a str,
    pub(super) token: &'a Secret,
    pub(super) follower: &'a mut Follower,
    pub(super) show: &'a mut Show,
}

/// What the server has said about the end, and what is known of the connection.
struct Session {
    welcomed: Option<Instant>,
    patience: Duration,
    bye: Option<Bye>,
}

impl Session {
    fn lost(&self, why: impl Into<String>) -> End {
        End::Lost {
            why: why.into(),
            after: self.bye.as_ref().and_then(Bye::after),
            lived: self.welcomed.map_or(Duration::ZERO, |at| at.elapsed()),
        }
    }

    fn broken(&self, error: &Error) -> End {
        self.lost(format!("the connection broke: {error}"))
    }

    /// By the close frame's code, or the one that `bye` announced.
    fn closed(&self, frame: Option<CloseFrame>) -> End {
        let announced = self.bye.as_ref().map(|bye| (bye.code, bye.reason.clone()));
        let frame = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
        let Some((code, reason)) = frame.or(announced) else {
            return self.lost("the server closed the connection without a code");
        };
        let known = CloseCode::ALL.iter().find(|known| known.code() == code);
        let meaning = known.map_or("", |known| known.meaning());
        let why = format!("the server closed the connection: {code} {reason}. {meaning}");
        match code {
            4500..=4999 => End::Refused(why),
            // RFC 6455 section 7.4.1: what this client sent was wrong, and would be again.
            1002 | 1003 | 1007..=1010 => End::Refused(why),
            _ => self.lost(why),
        }
    }
}

impl Connection<'_> {
    /// Connects, and follows until the end.
    ///
    /// # Errors
    /// Standard output cannot be written any more.
    pub(super) async fn run(self, stop: &mut Stop) -> Result<End, Failure> {
        let mut session = Session {
            welcomed: None,
            patience: HANDSHAKE,
            bye: None,
        };
        let connecting = tokio::time::timeout(HANDSHAKE, self.connect());
        let connected = tokio::select! {
            connected = connecting => connected,
            () = stop.asked() => return Ok(End::Done),
        };
        let mut socket = match connected {
            Ok(Ok(socket)) => socket,
            Ok(Err(end)) => return Ok(end),
            Err(_) => return Ok(session.lost(format!("no answer from {}", self.url))),
        };
        self.follow(&mut socket, &mut session, stop).await
    }

    async fn connect(&self) -> Result<Socket, End> {
        let refused = |error: Error| End::Refused(format!("--url {}: {error}", self.url));
        let mut request = self.url.into_client_request().map_err(refused)?;
        let protocol = HeaderValue::from_static("fanfare.v1");
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let lost = |why: String, after| End::Lost {
            why,
            after,
            lived: Duration::ZERO,
        };
        let (mut socket, _) = connect_async(request).await.map_err(|error| match error {
            Error::Http(response) => {
                let status = response.status();
                let body = response.body().as_deref().unwrap_or_default();
                let why = problem::refusal(status.as_u16(), &String::from_utf8_lossy(body));
                // RFC 9110 sections 15.5.9, 15.5.20 and RFC 6585 section 4: try again later.
                if status.is_client_error() && !matches!(status.as_u16(), 408 | 421 | 429) {
                    End::Refused(why)
                } else {
                    let after = response.headers().get(RETRY_AFTER);
                    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
                    lost(why, after.map(Duration::from_secs))
                }
            }
            error => lost(format!("{} cannot be reached: {error}", self.url), None),
        })?;
        let hello = self.follower.hello(self.token.expose());
        match send(&mut socket, hello).await {
            Ok(()) => Ok(socket),
            Err(why) => Err(lost(why, None)),
        }
    }

    async fn follow(
        self,
        socket: &mut Socket,
        session: &mut Session,
        stop: &mut Stop,
    ) -> Result<End, Failure> {
        let Self { follower, show, .. } = self;
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(session.patience, socket.next()) => message,
                () = stop.asked() => {
                    goodbye(socket).await;
                    return Ok(End::Done);
                }
            };
            let text = match message {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(frame)))) => {
                    goodbye(socket).await;
                    return Ok(session.closed(frame));
                }
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(error))) => return Ok(session.broken(&error)),
                Ok(None) => return Ok(session.closed(None)),
                Err(_) => return Ok(session.lost("the server is silent")),
            };
            let answer = match follower.take(&text) {
                Ok(Taken::New(frame)) => act(frame, &text, session, follower, show)?,
                Ok(Taken::Double { stream, seq }) => follower.ack(&stream, seq),
                Err(why) => return Ok(End::Refused(why)),
            };
            if let Some(answer) = answer
                && let Err(why) = send(socket, answer).await
            {
                return Ok(session.lost(why));
            }
            if show.is_done() {
                goodbye(socket).await;
                return Ok(End::Done);
            }
        }
    }
}

/// Shows what is to be shown; gives what is to be answered afterwards.
fn act(
    frame: Frame,
    text: &str,
    session: &mut Session,
    follower: &Follower,
    show: &mut Show,
) -> Result<Option<String>, Failure> {
    match frame {
        Frame::Notification {
            stream,
            seq,
            notification,
        } => {
            let place = seq.map_or_else(|| stream.clone(), |seq| format!("{stream} {seq}"));
            show.notification(&place, &notification, text)?;
            return Ok(seq.and_then(|seq| follower.ack(&stream, seq)));
        }
        Frame::Cancelled { stream, seq, id } => {
            show.event(
                &format!("{stream} {seq}"),
                &format!("cancelled: {id}"),
                text,
            )?;
            return Ok(follower.ack(&stream, seq));
        }
        Frame::Ping => return Ok(Some(r#"{"type":"pong"}"#.to_owned())),
        Frame::Gap { stream, from, to } => {
            show.event(&stream, &format!("missed for good: {from} to {to}"), text)?;
        }
        Frame::Welcome(welcome) => {
            show.status(&welcome.in_words());
            session.welcomed = Some(Instant::now());
            session.patience = 2 * welcome.heartbeat() + SLACK;
        }
        Frame::Error { code, message } => show.status(&format!("{code}: {message}")),
        Frame::Bye(bye) => session.bye = Some(bye),
        Frame::Subscribed(_) | Frame::CaughtUp { .. } | Frame::Other => {}
    }
    Ok(None)
}

async fn send(socket: &mut Socket, text: String) -> Result<(), String> {
    match tokio::time::timeout(SEND, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the connection broke: {error}")),
        Err(_) => Err("the server takes nothing any more".to_owned()),
    }
}

/// Closes in order (RFC 6455 section 7.1.2), so that what was sent before has arrived.
async fn goodbye(socket: &mut Socket) {
    let closing = async {
        // Whatever fails here, the connection is over; an unacknowledged entry comes again.
        let _ = socket.close(None).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _ = tokio::time::timeout(GOODBYE, closing).await;
}
