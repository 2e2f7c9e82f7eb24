//! Tickets: single-use secrets that stand for a token where none can be sent.
//!
//! Owns what a ticket stands for and how that is kept (as JSON, by presence, for 30 seconds). The
//! secret itself is random and says nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::claims::UserClaims;
use super::pattern::TopicPattern;
use crate::domain::{UnixMillis, UserId};

/// How long a ticket can be used.
pub const TICKET_TTL: Duration = Duration::from_secs(30);

/// What a ticket stands for: the claims of the token that it was given for, on one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    user: UserId,
    expires_at_ms: u64,
    topics: Vec<String>,
    origin: Option<String>,
    /// What revocations go by; tickets of an older node have neither.
    #[serde(default)]
    issued_at_ms: Option<u64>,
    #[serde(default)]
    token_id: Option<String>,
}

impl Ticket {
    /// For the bearer of `claims`, to be used from the same `Origin` (or, like it, from none).
    pub fn new(claims: &UserClaims, origin: Option<&str>) -> Self {
        Self {
            user: claims.user.clone(),
            expires_at_ms: claims.expires_at.0,
            topics: claims.topics.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            origin: origin.map(str::to_owned),
            issued_at_ms: claims.issued_at.map(|at| at.0),
            token_id: claims.token_id.clone(),
        }
    }

    /// A secret for it: 32 random bytes, base64url.
    pub fn secret() -> String {
        URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
    }

    /// What presence keeps.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a ticket has text keys only")
    }

    /// Reads that; `None` if it is something else.
    pub fn parse(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }

    /// Whether it may be used from `origin` now.
    pub fn fits(&self, origin: Option<&str>, now: UnixMillis) -> bool {
        self.origin.as_deref() == origin && now.0 < self.expires_at_ms
    }

    /// The claims that it stands for.
    pub fn into_claims(self) -> UserClaims {
        UserClaims {
            user: self.user,
            expires_at: UnixMillis(self.expires_at_ms),
            topics: self.topics.iter().filter_map(|topic| TopicPattern::new(topic).ok()).collect(),
            issued_at: self.issued_at_ms.map(UnixMillis),
            token_id: self.token_id,
        }
    }
}
