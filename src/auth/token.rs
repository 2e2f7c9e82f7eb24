//! Verifying JSON Web Tokens (RFC 7519, RFC 8725).
//!
//! Owns which key a token is checked with: the one that its `kid` names, or without `kid`
//! each key of its algorithm; never by what a token says about itself otherwise. Configured keys come before
//! those of the key set, of which a token without `kid` is checked only with those that have none either.

use std::sync::Arc;
use std::time::Duration;

use super::claims::{Claims, UserClaims};
use super::key::{KeyError, KeySettings, VerifyingKey};
use super::key_set::{KeySet, Learnt};
use super::revocations::Revocations;
use crate::domain::{IdError, UnixMillis};

/// The longest token that is looked at, in bytes; half of what one frame can carry.
const MAX_TOKEN_BYTES: usize = 8192;

/// What makes a token acceptable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The keys; a token is valid if one of them signed it.
    pub keys: Vec<KeySettings>,
    /// `iss` must be exactly this; `None`: not looked at.
    pub issuer: Option<String>,
    /// `aud` must name one of these; empty: not looked at.
    pub audience: Vec<String>,
    /// How far clocks may differ: added to `exp`, taken from `nbf`.
    pub leeway: Duration,
}

/// How often a token asks for keys: a second time where the first answer was under way before it came.
const ASKS: usize = 2;

/// Why a token was refused. Never holds the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWS in compact form, an unknown `alg` (such as `none`), a `crit` header, or
    /// claims of wrong types.
    #[error("the token is not a signed JWT that Fanfare takes")]
    Malformed,
    /// Longer than 8192 bytes.
    #[error("the token has {length} bytes; at most {MAX_TOKEN_BYTES} are taken")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// No key has its `kid`, or without `kid` no key has its algorithm.
    #[error("no key is configured for the token's kid and alg")]
    UnknownKey,
    /// No key is known for it, and the key set may have one by now. Clients are told what they are told without a set.
    #[error("no key is configured for the token's kid and alg")]
    UnknownKid,
    /// No key is known for it, and whether there is one cannot be found out now. It may be a good token: its
    /// bearer should come back with it.
    #[error("the key of the token is not known yet, and keys cannot be fetched now")]
    KeysUnavailable,
    /// Its `alg` is not the one that its key is pinned to.
    #[error("the token's alg is not the algorithm of its key")]
    WrongAlgorithm,
    /// The signature is not by the key.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// A claim is absent that must be there, or is not what it must be.
    #[error("the token's claim {claim} is absent or malformed")]
    Claim {
        /// Its name.
        claim: &'static str,
    },
    /// `exp` has passed.
    #[error("the token expired at {at}")]
    Expired {
        /// `exp`.
        at: UnixMillis,
    },
    /// `nbf` is still to come.
    #[error("the token is not valid before {from}")]
    NotYetValid {
        /// `nbf`.
        from: UnixMillis,
    },
    /// `iss` is not the configured one.
    #[error("the token is of another issuer")]
    WrongIssuer,
    /// `aud` names none of the configured ones.
    #[error("the token is for another audience")]
    WrongAudience,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// `sub` is not an id.
    #[error("the token's sub is refused: {0}")]
    InvalidSubject(#[from] IdError),
}

impl TokenError {
    /// The stable word for clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "token_expired",
            Self::NotYetValid { .. } => "token_not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::InvalidSubject(_) => "invalid_subject",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Revoked => "token_revoked",
            Self::Malformed
            | Self::TooLong { .. }
            | Self::UnknownKey
            | Self::UnknownKid
            | Self::WrongAlgorithm
            | Self::BadSignature
            | Self::Claim { .. } => "invalid_token",
        }
    }

    /// Whether the same token may be taken later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::KeysUnavailable)
    }
}

/// Verifies tokens. Keys are prepared once; share it by reference or `Arc`.
pub struct UserTokens {
    keys: Vec<VerifyingKey>,
    set: Option<Arc<KeySet>>,
    revocations: Arc<Revocations>,
    settings: TokenSettings,
}

impl UserTokens {
    /// Prepares the keys. No key at all is allowed: then every token is refused.
    ///
    /// # Errors
    /// Each key's place in the list and what is wrong with it.
    pub fn new(settings: TokenSettings) -> Result<Self, Vec<(usize, KeyError)>> {
        let mut keys: Vec<VerifyingKey> = Vec::with_capacity(settings.keys.len());
        let mut errors = Vec::new();
        for (place, key) in settings.keys.iter().enumerate() {
            match VerifyingKey::new(key) {
                Ok(ready) if ready.id.is_some() && keys.iter().any(|key| key.id == ready.id) => {
                    let id = ready.id.unwrap_or_default();
                    errors.push((place, KeyError::DoubleId { id }));
                }
                Ok(ready) => keys.push(ready),
                Err(error) => errors.push((place, error)),
            }
        }
        if errors.is_empty() {
            Ok(Self { keys, set: None, revocations: Arc::default(), settings })
        } else {
            Err(errors)
        }
    }

    /// Takes the keys of `set`, too.
    pub fn with_key_set(self, set: Option<Arc<KeySet>>) -> Self {
        Self { set, ..self }
    }

    /// Refuses what `revocations` cover.
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// What is revoked.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Whether the token that these claims are of is revoked by now.
    pub fn is_revoked(&self, claims: &UserClaims) -> bool {
        self.revocations.cover(claims.user.as_str(), claims.issued_at, claims.token_id.as_deref())
    }

    /// Verifies a user's token.
    ///
    /// # Errors
    /// [`TokenError`]; its [`code`](TokenError::code) is for the client.
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<UserClaims, TokenError> {
        let (claims, expires_at) = self.verify_claims(token, now)?;
        claims.into_user(expires_at)
    }

    /// The same, but a token whose key is not known waits until the key set was fetched anew: for one fetch, and
    /// for another if that was under way before. Tokens of known keys never wait. `now` tells the time.
    ///
    /// # Errors
    /// As of [`verify`](Self::verify), and [`TokenError::KeysUnavailable`] where no set was fetched.
    pub async fn verify_or_learn(
        &self,
        token: &str,
        now: impl Fn() -> UnixMillis,
    ) -> Result<UserClaims, TokenError> {
        let (claims, expires_at) = self.verify_claims_or_learn(token, now).await?;
        claims.into_user(expires_at)
    }

    /// The same of any token, whosever it is.
    pub(super) async fn verify_claims_or_learn(
        &self,
        token: &str,
        now: impl Fn() -> UnixMillis,
    ) -> Result<(Claims, UnixMillis), TokenError> {
        let mut verified = self.verify_claims(token, now());
        for _ in 0..ASKS {
            let (Some(set), Err(TokenError::UnknownKid)) = (&self.set, &verified) else { break };
            let learnt = set.learn().await;
            match learnt {
                Learnt::Fetched | Learnt::Joined => verified = self.verify_claims(token, now()),
                Learnt::Failed | Learnt::Resting => return Err(TokenError::KeysUnavailable),
            }
            if learnt == Learnt::Fetched {
                break;
            }
        }
        verified
    }

    /// Verifies any token, whosever it is.
    pub(super) fn verify_claims(
        &self,
        token: &str,
        now: UnixMillis,
    ) -> Result<(Claims, UnixMillis), TokenError> {
        let claims = self.claims(token)?;
        let expires_at = claims.check(&self.settings, now)?;
        if claims.are_revoked(&self.revocations) {
            self.revocations.count_refusal();
            return Err(TokenError::Revoked);
        }
        Ok((claims, expires_at))
    }

    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { length: token.len() });
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // RFC 7515 section 4.1.11: a critical extension that is not understood must be refused.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let of_set = self.set.as_ref().map(|set| set.keys()).unwrap_or_default();
        match &header.kid {
            Some(id) => self.by_kid(token, id, header.alg, &of_set),
            None => {
                let nameless = of_set.iter().filter(|key| key.id.is_none());
                let found = by_algorithm(token, header.alg, self.keys.iter().chain(nameless));
                match found {
                    // Whether it is the set's cannot be told before there is one.
                    Err(TokenError::UnknownKey | TokenError::BadSignature) if self.awaits_set(header.alg) => {
                        Err(TokenError::UnknownKid)
                    }
                    found => found,
                }
            }
        }
    }

    /// Whether a key of this algorithm may be in a set that was never fetched, or is out of force.
    fn awaits_set(&self, algorithm: jsonwebtoken::Algorithm) -> bool {
        !is_hmac(algorithm) && self.set.as_ref().is_some_and(|set| !set.is_in_force())
    }

    fn by_kid(
        &self,
        token: &str,
        id: &str,
        algorithm: jsonwebtoken::Algorithm,
        of_set: &[VerifyingKey],
    ) -> Result<Claims, TokenError> {
        let named = |key: &&VerifyingKey| key.id.as_deref() == Some(id);
        match self.keys.iter().chain(of_set).find(named) {
            Some(key) if key.algorithm.to_library() != algorithm => Err(TokenError::WrongAlgorithm),
            Some(key) => decode(token, key),
            // No set ever has a key for an HMAC.
            None if self.set.is_some() && !is_hmac(algorithm) => Err(TokenError::UnknownKid),
            None => Err(TokenError::UnknownKey),
        }
    }
}

fn by_algorithm<'a>(
    token: &str,
    algorithm: jsonwebtoken::Algorithm,
    keys: impl Iterator<Item = &'a VerifyingKey>,
) -> Result<Claims, TokenError> {
    let mut outcome = Err(TokenError::UnknownKey);
    for key in keys.filter(|key| key.algorithm.to_library() == algorithm) {
        outcome = decode(token, key);
        // Anything but a wrong signature is about the token, not the key.
        if !matches!(outcome, Err(TokenError::BadSignature)) {
            break;
        }
    }
    outcome
}

fn is_hmac(algorithm: jsonwebtoken::Algorithm) -> bool {
    use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
    matches!(algorithm, HS256 | HS384 | HS512)
}

fn decode(token: &str, key: &VerifyingKey) -> Result<Claims, TokenError> {
    use jsonwebtoken::errors::ErrorKind;
    jsonwebtoken::decode(token, &key.decoding, &key.validation).map(|data| data.claims).map_err(|error| {
        match error.kind() {
            ErrorKind::InvalidSignature => TokenError::BadSignature,
            _ => TokenError::Malformed,
        }
    })
}

impl std::fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UserTokens").field(&self.settings).finish()
    }
}
