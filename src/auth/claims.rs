//! What a token says (RFC 7519 section 4), and the checks of it against the time.
//!
//! Owns the claims' shapes and their rules. Signatures are [`super::token`]'s.

use std::time::Duration;

use serde::Deserialize;

use super::pattern::{Pattern, TopicPattern};
use super::revocations::Revocations;
use super::token::{TokenError, TokenSettings};
use crate::domain::id::Kind;
use crate::domain::{UnixMillis, UserId};

/// What a valid user token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserClaims {
    /// Who it is: `sub`.
    pub user: UserId,
    /// From this moment the token is refused: `exp` and the leeway.
    pub expires_at: UnixMillis,
    /// Topics that may be followed; empty: none.
    pub topics: Vec<TopicPattern>,
    /// When it was issued: `iat`, if it says so.
    pub issued_at: Option<UnixMillis>,
    /// Its own id: `jti`, if it has one.
    pub token_id: Option<String>,
}

/// The claims as they stand in the token. Unknown claims are others' business.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: Option<String>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    iss: Option<String>,
    aud: Option<OneOrMany>,
    jti: Option<String>,
    scope: Option<OneOrMany>,
    pub(super) topics: Option<Vec<String>>,
    pub(super) users: Option<Vec<String>>,
    pub(super) everyone: Option<bool>,
}

impl Claims {
    /// Checks time, issuer and audience. Answers from when the token is refused.
    pub(super) fn check(&self, settings: &TokenSettings, now: UnixMillis) -> Result<UnixMillis, TokenError> {
        let exp = self.exp.ok_or(TokenError::Claim { claim: "exp" })?.0;
        let expires_at = exp.after(settings.leeway);
        // RFC 7519 section 4.1.4: "on or after which the JWT MUST NOT be accepted".
        if now >= expires_at {
            return Err(TokenError::Expired { at: exp });
        }
        if let Some(NumericDate(from)) = self.nbf
            && now.after(settings.leeway) < from
        {
            return Err(TokenError::NotYetValid { from });
        }
        if settings.issuer.is_some() && self.iss != settings.issuer {
            return Err(TokenError::WrongIssuer);
        }
        let is_for_us = |aud: &OneOrMany| aud.iter().any(|one| settings.audience.contains(one));
        if !settings.audience.is_empty() && !self.aud.as_ref().is_some_and(is_for_us) {
            return Err(TokenError::WrongAudience);
        }
        Ok(expires_at)
    }

    /// Whether the token was revoked, whosever it is.
    pub(super) fn are_revoked(&self, revocations: &Revocations) -> bool {
        let subject = self.sub.as_deref().unwrap_or_default();
        revocations.cover(subject, self.iat.map(|date| date.0), self.jti.as_deref())
    }

    /// Whether `scope` (RFC 8693 section 4.2: space-separated; or a list) names `wanted`.
    pub(super) fn has_scope(&self, wanted: &str) -> bool {
        self.scope
            .as_ref()
            .is_some_and(|scope| scope.iter().flat_map(|text| text.split(' ')).any(|one| one == wanted))
    }

    pub(super) fn into_user(self, expires_at: UnixMillis) -> Result<UserClaims, TokenError> {
        let subject = self.sub.unwrap_or_default();
        Ok(UserClaims {
            user: UserId::new(subject)?,
            expires_at,
            topics: patterns("topics", self.topics.unwrap_or_default())?,
            issued_at: self.iat.map(|date| date.0),
            token_id: self.jti,
        })
    }
}

/// Reads the patterns of one claim.
pub(super) fn patterns<K: Kind>(
    claim: &'static str,
    texts: Vec<String>,
) -> Result<Vec<Pattern<K>>, TokenError> {
    texts.iter().map(|text| Pattern::new(text).map_err(|_| TokenError::Claim { claim })).collect()
}

/// RFC 7519 section 2: seconds since 1970, perhaps with a fraction. Before 1970 is 1970.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(from = "Seconds")]
struct NumericDate(UnixMillis);

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Whole(u64),
    Other(f64),
}

impl From<Seconds> for NumericDate {
    fn from(seconds: Seconds) -> Self {
        Self(match seconds {
            Seconds::Whole(seconds) => UnixMillis::default().after(Duration::from_secs(seconds)),
            // A float cast saturates, and makes 0 of what is negative.
            Seconds::Other(seconds) => UnixMillis((seconds * 1000.0) as u64),
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn iter(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
        .iter()
    }
}
