//! Clients: who may connect, and the first frames of a connection until delivery has it.
//!
//! Owns the ways a token can come (header, subprotocol, ticket, `hello`), the origin check and the
//! wait for `hello`. What comes after is delivery's. It must never log a credential.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;

use super::Sockets;
use super::handshake::Handshake;
use super::sockets::RETRY_AFTER_S;
use super::upgrade::{Decision, upgrade};
use super::visitor::{Caller, Visitor};
use crate::auth::ticket::Ticket;
use crate::auth::{TokenError, UserClaims, UserTokens};
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::presence::Presence;
use crate::wire::{AckMode, CloseCode, Hello};

/// When who finds a node that stops may try again, in seconds: any of these.
const DRAINING_AFTER_S: RangeInclusive<u32> = 1..=5;

/// How clients are let in.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// How long a client may take to say `hello`.
    pub hello_timeout: Duration,
    /// Origins of other sites that may connect, as browsers send them (`https://example.org`).
    pub allowed_origins: Vec<String>,
}

/// Lets clients in.
pub struct Clients {
    /// How.
    pub settings: ClientSettings,
    /// Who takes over.
    pub delivery: Arc<Delivery>,
    /// Who says whose a token is.
    pub tokens: Arc<UserTokens>,
    /// Who keeps tickets.
    pub presence: Arc<dyn Presence>,
    /// The time.
    pub clock: Clock,
    /// Owns the tasks.
    pub tracker: TaskTracker,
}

/// What a handshake brought.
pub(super) enum Credential {
    /// A valid token or ticket.
    Claims(Box<UserClaims>),
    /// Nothing: `hello` has to bring it.
    None,
    /// Something that is refused, from a client that cannot see an HTTP status.
    Invalid(CloseCode),
}

impl Clients {
    /// `GET /v1/connect`.
    pub fn routes(self: Arc<Self>, sockets: Sockets) -> BoxedFilter<(Response<String>,)> {
        let hook = move |handshake| {
            let clients = Arc::clone(&self);
            async move { clients.decide(handshake).await }
        };
        warp::path!("v1" / "connect").and(warp::get()).and(upgrade(sockets, hook)).boxed()
    }

    async fn decide(self: Arc<Self>, handshake: Handshake) -> Decision {
        if self.delivery.is_draining() {
            return self.reject_while_draining();
        }
        if let Err(origin) = self.check_origin(&handshake) {
            let detail = format!("the origin {origin:?} is not in http.allowed_origins");
            return reject(StatusCode::FORBIDDEN, "origin_forbidden", &detail);
        }
        let query = match Query::parse(&handshake.query) {
            Ok(query) => query,
            Err(detail) => return reject(StatusCode::BAD_REQUEST, "invalid_query", &detail),
        };
        let credential = match self.credential(&handshake, &query).await {
            Ok(credential) => credential,
            Err(decision) => return decision,
        };
        let plain = !handshake.offer.fanfare;
        if plain && matches!(credential, Credential::None) {
            let detail =
                "a token is needed: Authorization: Bearer, the subprotocol fanfare.token.<jwt>, or ?ticket=";
            return reject(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        }
        let address = handshake.peer.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let caller = Caller { address, accepted_at: self.clock.now() };
        Decision::Accept(Box::new(move |socket| {
            Visitor::seat(self, socket, caller, credential, plain.then_some(query.hello))
        }))
    }

    /// By chance later or sooner, so that they do not come back as one.
    fn reject_while_draining(&self) -> Decision {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let decision = reject(status, "draining", "this node is stopping: try again");
        let Decision::Reject(mut response) = decision else { return decision };
        let after_s = self.clock.random_range(DRAINING_AFTER_S);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after_s));
        Decision::Reject(response)
    }

    async fn credential(&self, handshake: &Handshake, query: &Query) -> Result<Credential, Decision> {
        if let Some(bearer) = bearer(handshake) {
            return self.verify(bearer).await.map(claims).map_err(|error| refuse(&error));
        }
        if let Some(token) = &handshake.offer.token {
            // A browser sees no HTTP status of a failed handshake, but it does see a close code.
            let verified = self.verify(token).await;
            return Ok(verified.map_or_else(|error| Credential::Invalid(close_code(&error)), claims));
        }
        let Some(ticket) = &query.ticket else { return Ok(Credential::None) };
        match self.presence.take_ticket(ticket).await {
            Ok(value) => Ok(value
                .and_then(|value| Ticket::parse(&value))
                .filter(|ticket| ticket.fits(header(handshake, "origin"), self.clock.now()))
                .map(Ticket::into_claims)
                .filter(|claims| !self.tokens.is_revoked(claims))
                .map_or(Credential::Invalid(CloseCode::InvalidToken), claims)),
            Err(_) => Err(reject(
                StatusCode::SERVICE_UNAVAILABLE,
                "presence_unavailable",
                "tickets cannot be looked up now",
            )),
        }
    }

    /// May wait for a key that is not known yet, for as long as two fetches of keys may take.
    pub(super) async fn verify(&self, token: &str) -> Result<UserClaims, TokenError> {
        self.tokens.verify_or_learn(token, || self.clock.now()).await
    }

    /// Browsers name the page's site; other clients name none. Same site, or on the list.
    fn check_origin(&self, handshake: &Handshake) -> Result<(), String> {
        let Some(origin) = header(handshake, "origin") else { return Ok(()) };
        let host = header(handshake, "host").unwrap_or_default();
        let same =
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
        if same || self.settings.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return Ok(());
        }
        Err(origin.to_owned())
    }
}

fn claims(claims: UserClaims) -> Credential {
    Credential::Claims(Box::new(claims))
}

fn header<'a>(handshake: &'a Handshake, name: &str) -> Option<&'a str> {
    handshake.headers.get(name).and_then(|value| value.to_str().ok())
}

fn bearer(handshake: &Handshake) -> Option<&str> {
    let (scheme, token) = header(handshake, "authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a client is told in `bye` whose token was not taken.
pub(super) fn close_code(error: &TokenError) -> CloseCode {
    if error.is_temporary() { CloseCode::Unavailable } else { CloseCode::InvalidToken }
}

fn refuse(error: &TokenError) -> Decision {
    let (status, retry_after_s) = match error.is_temporary() {
        true => (StatusCode::SERVICE_UNAVAILABLE, rand::random_range(RETRY_AFTER_S)),
        false => (StatusCode::UNAUTHORIZED, 0),
    };
    reject_until(retry_after_s, status, error.code(), &error.to_string())
}

fn reject(status: StatusCode, code: &str, detail: &str) -> Decision {
    reject_until(1, status, code, detail)
}

/// `retry_after_s` is told with 503 only.
fn reject_until(retry_after_s: u32, status: StatusCode, code: &str, detail: &str) -> Decision {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail,
    });
    let mut response = Response::builder().status(status).header("content-type", "application/problem+json");
    if status == StatusCode::UNAUTHORIZED {
        response = response.header("www-authenticate", "Bearer");
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response = response.header("retry-after", retry_after_s);
    }
    Decision::Reject(response.body(body.to_string()).expect("the headers are constants"))
}

/// The query string of a handshake.
#[derive(Debug, Default)]
struct Query {
    ticket: Option<String>,
    hello: Hello,
}

impl Query {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            match name {
                "ticket" => parsed.ticket = Some(value.into_owned()),
                "device" => {
                    parsed.hello.device = Some(value.parse().map_err(|error| format!("device: {error}"))?)
                }
                "ack" => parsed.hello.ack = ack_mode(&value)?,
                other => return Err(format!("the query may have ticket, device and ack; got {other:?}")),
            }
        }
        Ok(parsed)
    }
}

fn ack_mode(text: &str) -> Result<AckMode, String> {
    match text {
        "manual" => Ok(AckMode::Manual),
        "auto" => Ok(AckMode::Auto),
        other => Err(format!("ack must be manual or auto; got {other:?}")),
    }
}
