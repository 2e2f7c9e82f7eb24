//! The WebSocket handshake (RFC 6455 section 4.2), as a pure check of a request's head.
//!
//! Owns what makes a request an upgrade and which answer a wrong one gets. Must not look at
//! tokens, users or origins: that is the hook's, which gets the head.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use sha1::{Digest, Sha1};

/// The subprotocol of Fanfare's frames; offering it makes `hello` required.
pub const SUBPROTOCOL: &str = "fanfare.v1";

/// What a token offered as a subprotocol starts with; browsers cannot set headers.
const TOKEN_PREFIX: &str = "fanfare.token.";

/// RFC 6455 section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A handshake that is in order, for the hook that decides on it. Holds credentials: never log it.
pub struct Handshake {
    /// All headers of the request.
    pub headers: HeaderMap,
    /// The query string, without the question mark; empty if there is none.
    pub query: String,
    /// The other end of the TCP connection: a proxy, if there is one.
    pub peer: Option<SocketAddr>,
    /// What the client offered as subprotocols.
    pub offer: Offer,
}

/// The subprotocols that mean something to Fanfare; others are ignored.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// `fanfare.v1` was among them, and is answered.
    pub fanfare: bool,
    /// The token of the first `fanfare.token.<jwt>` among them.
    pub token: Option<String>,
}

/// Why a request is no handshake. The answers are problem+json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a WebSocket handshake at all.
    #[error("this address speaks WebSocket: an HTTP/1.1 GET with Connection: Upgrade is needed")]
    NotAnUpgrade,
    /// Another version of the protocol.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// Not one key of 16 bytes.
    #[error("Sec-WebSocket-Key must be given once: 16 bytes in base64")]
    Key,
    /// RFC 6455 section 4.2.1 asks for one.
    #[error("a Host header is needed")]
    Host,
    /// A handshake has no body; taking one would make its bytes frames.
    #[error("a WebSocket handshake has no body")]
    Body,
    /// As many sockets as allowed are open, or the node is stopping.
    #[error("this node takes no more connections now")]
    Full {
        /// When to come back.
        retry_after_s: u32,
    },
    /// As many sockets as allowed are open from the client's address.
    #[error("at most {limit} connections may be open from one address (IPv6: from one /64)")]
    Address {
        /// How many may be.
        limit: u32,
        /// When to come back.
        retry_after_s: u32,
    },
    /// More come at a time than are let in.
    #[error("too many clients connect at once: this one's turn comes in {retry_after_s} s")]
    Rate {
        /// When to come back.
        retry_after_s: u32,
    },
}

impl Refusal {
    /// The outcome label in the metrics.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Full { .. } => "full",
            Self::Address { .. } => "address",
            Self::Rate { .. } => "rate",
            _ => "malformed",
        }
    }

    /// The answer.
    pub fn response(self) -> Response<String> {
        let (status, code) = match self {
            Self::NotAnUpgrade => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, "websocket_version"),
            Self::Full { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_connections"),
            Self::Rate { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_at_once"),
            // RFC 6585 section 4: it is about this client, not about the node.
            Self::Address { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_connections_of_address"),
            Self::Key | Self::Host | Self::Body => (StatusCode::BAD_REQUEST, "bad_handshake"),
        };
        let title = status.canonical_reason().unwrap_or_default();
        let mut response = Response::new(format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"code":"{code}","detail":"{self}"}}"#,
            status.as_u16(),
        ));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CONTENT_TYPE, "application/problem+json");
        match self {
            // RFC 9110 section 15.5.22: 426 names what to upgrade to.
            Self::NotAnUpgrade | Self::Version => {
                set(header::UPGRADE, "websocket");
                set(header::CONNECTION, "upgrade");
                set(header::SEC_WEBSOCKET_VERSION, "13");
            }
            Self::Full { retry_after_s }
            | Self::Address { retry_after_s, .. }
            | Self::Rate { retry_after_s } => {
                headers.insert(header::RETRY_AFTER, retry_after_s.into());
            }
            _ => {}
        }
        response
    }
}

/// Checks a request's head; the value of `Sec-WebSocket-Accept` if it is a handshake.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if version != Version::HTTP_11
        || !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(Refusal::NotAnUpgrade);
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(Refusal::Version);
    }
    if single(headers, header::HOST).is_none() {
        return Err(Refusal::Host);
    }
    let no_length = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if !no_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Body);
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(accept(key)),
        _ => Err(Refusal::Key),
    }
}

/// RFC 6455 section 4.2.2, step 5.4.
fn accept(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    HeaderValue::from_str(&STANDARD.encode(digest)).expect("base64 is a valid header value")
}

/// Reads the offered subprotocols (RFC 6455 section 11.3.4: a list, perhaps in several headers).
pub(super) fn offer(headers: &HeaderMap) -> Offer {
    let mut offer = Offer::default();
    for protocol in list(headers, header::SEC_WEBSOCKET_PROTOCOL) {
        if protocol == SUBPROTOCOL {
            offer.fanfare = true;
        } else if let Some(token) = protocol.strip_prefix(TOKEN_PREFIX)
            && offer.token.is_none()
        {
            offer.token = Some(token.to_owned());
        }
    }
    offer
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    list(headers, name).any(|item| item.eq_ignore_ascii_case(token))
}

fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The value of a header that is there exactly once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_example_is_accepted() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn subprotocols_are_read_from_all_headers() {
        let mut headers = HeaderMap::new();
        for value in ["chat , fanfare.token.a.b.c", "fanfare.v1,fanfare.token.d"] {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
        }
        let offer = offer(&headers);
        assert!(offer.fanfare);
        assert_eq!(offer.token.as_deref(), Some("a.b.c"));
    }
}
