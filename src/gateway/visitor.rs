//! A visitor: one socket from its first frame until delivery has its connection, and after.
//!
//! Owns the wait for `hello`, the frames that arrive while delivery is at it, and the hand-over of
//! everything that comes later. It must never log a credential.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;

use super::clients::{Clients, Credential, close_code};
use super::{Closed, Peer, Socket};
use crate::auth::{TokenError, UserClaims};
use crate::delivery::outlet::Outlet;
use crate::delivery::{Attach, AttachError, Connection};
use crate::domain::UnixMillis;
use crate::wire::server::{self, ErrorCode};
use crate::wire::{ClientFrame, CloseCode, Frame, Hello};

/// How many frames may arrive between `hello` and `welcome`.
const WAITING_FRAMES: usize = 64;
/// When a client that sent too fast for too long may come back.
const SLOW_DOWN: std::ops::Range<Duration> = Duration::from_millis(5_000)..Duration::from_millis(10_000);
/// When a client that could not be attached may come back.
const RETRY_AFTER: Range<Duration> = Duration::from_millis(500)..Duration::from_millis(5_000);
/// The same for what takes longer to change: keys that cannot be fetched, which may concern all clients, and connections
/// that a dead node held, which count until presence forgets them.
const LATER_AFTER: Range<Duration> = Duration::from_secs(5)..Duration::from_secs(15);

/// One socket until and after delivery has its connection.
pub(super) struct Visitor {
    clients: Arc<Clients>,
    socket: Arc<Socket>,
    caller: Caller,
    stage: Mutex<Stage>,
}

/// Who made the handshake, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    /// Where it comes from.
    pub(super) address: SocketAddr,
    /// From before the handshake was answered.
    pub(super) accepted_at: UnixMillis,
}

enum Stage {
    /// Waiting for `hello`; the handshake may have brought claims.
    Hello(Option<Box<UserClaims>>),
    /// Delivery is at it; frames wait.
    Attaching {
        connection: Option<Arc<Connection>>,
        waiting: VecDeque<String>,
    },
    /// Delivery has it.
    Attached(Arc<Connection>),
    Ended,
}

impl Visitor {
    /// `hello` is what a plain client, which says none, stands for.
    pub(super) fn seat(
        clients: Arc<Clients>,
        socket: Arc<Socket>,
        caller: Caller,
        credential: Credential,
        hello: Option<Hello>,
    ) -> Arc<dyn Peer> {
        let claims = match credential {
            Credential::Claims(claims) => Some(claims),
            Credential::None => None,
            Credential::Invalid(code) => {
                let visitor = Arc::new(Self { clients, socket, caller, stage: Mutex::new(Stage::Ended) });
                visitor.say_bye(code, LATER_AFTER);
                return Arc::new(Seat(visitor));
            }
        };
        let timeout = clients.settings.hello_timeout;
        let visitor = Arc::new(Self { clients, socket, caller, stage: Mutex::new(Stage::Hello(None)) });
        match (hello, claims) {
            (Some(hello), Some(claims)) => visitor.attach(*claims, hello, &mut visitor.lock()),
            (_, claims) => {
                *visitor.lock() = Stage::Hello(claims);
                visitor.socket.expect_within(timeout, CloseCode::HelloExpected);
            }
        }
        Arc::new(Seat(visitor))
    }

    fn on_first(self: &Arc<Self>, text: &str, stage: &mut Stage) -> Result<(), CloseCode> {
        let hello = match ClientFrame::parse(text, None) {
            Ok(ClientFrame::Hello(hello)) => *hello,
            Ok(_) => {
                let message = "the first frame must be hello";
                let _ = self.socket.push(server::error(None, ErrorCode::InvalidFrame, message));
                return Err(CloseCode::InvalidFrame);
            }
            Err(error) => {
                let _ = self.socket.push(server::error(error.id, error.code, &error.message));
                return Ok(());
            }
        };
        let Stage::Hello(brought) = stage else { return Ok(()) };
        let claims = match (&hello.token, brought.take()) {
            (Some(token), _) => match self.clients.tokens.verify(token, self.clients.clock.now()) {
                Err(TokenError::UnknownKid) => {
                    self.socket.settled();
                    self.attach_later(hello, stage);
                    return Ok(());
                }
                verified => verified,
            },
            (None, Some(claims)) => Ok(*claims),
            (None, None) => {
                let message = "token: hello must bring one, as the handshake did not";
                let _ = self.socket.push(server::error(hello.id, ErrorCode::InvalidToken, message));
                return Err(CloseCode::InvalidToken);
            }
        };
        match claims {
            Ok(claims) => {
                self.socket.settled();
                self.attach(claims, hello, stage);
                Ok(())
            }
            Err(error) => {
                self.say_refused(hello.id, &error);
                Err(CloseCode::InvalidToken)
            }
        }
    }

    fn say_refused(&self, id: Option<u64>, error: &TokenError) {
        let _ = self.socket.push(server::error(id, ErrorCode::InvalidToken, &error.to_string()));
    }

    /// The token of `hello` is of a key that is not known yet: that may change while frames wait.
    fn attach_later(self: &Arc<Self>, mut hello: Hello, stage: &mut Stage) {
        *stage = Stage::Attaching { connection: None, waiting: VecDeque::new() };
        let visitor = Arc::clone(self);
        self.clients.tracker.spawn(async move {
            let token = hello.token.take().unwrap_or_default();
            match visitor.clients.verify(&token).await {
                Ok(claims) => visitor.hand_over(claims, hello).await,
                Err(error) => {
                    if !error.is_temporary() {
                        visitor.say_refused(hello.id, &error);
                    }
                    visitor.say_bye(close_code(&error), LATER_AFTER);
                }
            }
        });
    }

    fn attach(self: &Arc<Self>, claims: UserClaims, hello: Hello, stage: &mut Stage) {
        *stage = Stage::Attaching { connection: None, waiting: VecDeque::new() };
        let visitor = Arc::clone(self);
        self.clients.tracker.spawn(async move { visitor.hand_over(claims, hello).await });
    }

    async fn hand_over(&self, claims: UserClaims, hello: Hello) {
        let Caller { address, accepted_at } = self.caller;
        let id = hello.id;
        let attach = Attach { claims, hello, peer: address, accepted_at };
        let outlet: Arc<dyn Outlet> = self.socket.clone();
        let made = |connection: &Arc<Connection>| self.made(connection);
        match self.clients.delivery.attach(attach, outlet, made).await {
            Ok(connection) => self.attached(connection),
            Err(AttachError::Ended) => {}
            Err(error) => self.not_attached(id, &error),
        }
    }

    fn made(&self, made: &Arc<Connection>) {
        let mut stage = self.lock();
        match &mut *stage {
            Stage::Attaching { connection, .. } => *connection = Some(Arc::clone(made)),
            // The socket ended before delivery began.
            _ => {
                drop(stage);
                made.on_closed();
            }
        }
    }

    /// Frames that waited are handed on before any that comes later.
    fn attached(&self, connection: Arc<Connection>) {
        let mut stage = self.lock();
        if let Stage::Attaching { waiting, .. } = &mut *stage {
            waiting.drain(..).for_each(|text| connection.on_text(&text));
            *stage = Stage::Attached(connection);
        }
    }

    fn not_attached(&self, hello: Option<u64>, error: &AttachError) {
        tracing::debug!(%error, "a connection was not attached");
        if let Some(error_code) = error.error_code() {
            let _ = self.socket.push(server::error(hello, error_code, &error.to_string()));
        }
        let after = match error {
            AttachError::PerhapsTooManyConnections(_) => LATER_AFTER,
            _ => RETRY_AFTER,
        };
        self.say_bye(error.close_code(), after);
    }

    /// Whoever may come back is told to do so at some time within `span`.
    fn say_bye(&self, code: CloseCode, span: Range<Duration>) {
        let retry = code.is_reconnectable().then(|| rand::rng().random_range(span));
        let _ = self.socket.push(server::bye(code, retry));
        self.socket.close(code);
    }

    /// The connection, once delivery has made it.
    fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.lock() {
            Stage::Attaching { connection, .. } => connection.clone(),
            Stage::Attached(connection) => Some(Arc::clone(connection)),
            Stage::Hello(_) | Stage::Ended => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        // A panic in between leaves a stage that is at worst too early: the socket ends by its deadlines.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A visitor as the socket's peer.
struct Seat(Arc<Visitor>);

impl Peer for Seat {
    fn on_text(&self, text: &str) -> Result<(), CloseCode> {
        let mut stage = self.0.lock();
        match &mut *stage {
            Stage::Attached(connection) => {
                let connection = Arc::clone(connection);
                drop(stage);
                connection.on_text(text);
                Ok(())
            }
            Stage::Attaching { waiting, .. } if waiting.len() < WAITING_FRAMES => {
                waiting.push_back(text.to_owned());
                Ok(())
            }
            Stage::Attaching { .. } => Err(CloseCode::InvalidFrame),
            Stage::Hello(_) => self.0.on_first(text, &mut stage),
            Stage::Ended => Ok(()),
        }
    }

    fn on_pong(&self) {
        if let Some(connection) = self.0.connection() {
            connection.on_pong();
        }
    }

    fn on_drained(&self) {
        if let Some(connection) = self.0.connection() {
            connection.on_drained();
        }
    }

    fn on_closed(&self, _how: Closed) {
        // In one step, so that a connection that is made meanwhile sees the end.
        let stage = std::mem::replace(&mut *self.0.lock(), Stage::Ended);
        match stage {
            Stage::Attaching { connection: Some(connection), .. } | Stage::Attached(connection) => {
                connection.on_closed();
            }
            Stage::Attaching { connection: None, .. } | Stage::Hello(_) | Stage::Ended => {}
        }
    }

    fn farewell(&self, code: CloseCode) -> Option<Frame> {
        let after = (code == CloseCode::RateLimited).then(|| rand::rng().random_range(SLOW_DOWN));
        Some(server::bye(code, after))
    }
}
