//! Revocations: tokens that are refused although they are well signed and have not run out.
//!
//! Owns whose tokens and which of them. Keeping and obeying them is others' business.

use serde::{Deserialize, Serialize};

use super::{UnixMillis, UserId};

/// The longest id of a token that can be revoked, in bytes.
pub const MAX_TOKEN_ID_BYTES: usize = 256;

/// All tokens, whenever they were issued or will be: later than any time that a token can name.
pub const ALWAYS: UnixMillis = UnixMillis(i64::MAX as u64);

/// The id of a token: its `jti` (RFC 7519 section 4.1.7). Whatever the issuer writes, but no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenId(String);

/// Why a text is not the id of a token that can be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenIdError {
    /// Empty, or longer than [`MAX_TOKEN_ID_BYTES`].
    #[error("a token id must have 1..={MAX_TOKEN_ID_BYTES} bytes; got {length}")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// It has a control character.
    #[error("a token id may have no control characters")]
    Character,
}

impl TokenId {
    /// Checks it.
    ///
    /// # Errors
    /// [`TokenIdError`].
    pub fn new(text: impl Into<String>) -> Result<Self, TokenIdError> {
        let text = text.into();
        if text.is_empty() || text.len() > MAX_TOKEN_ID_BYTES {
            return Err(TokenIdError::Length { length: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(TokenIdError::Character);
        }
        Ok(Self(text))
    }

    /// As it stands in tokens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenId {
    type Error = TokenIdError;
    fn try_from(text: String) -> Result<Self, TokenIdError> {
        Self::new(text)
    }
}

/// Whose tokens are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// The one token of this id, whoever's it is.
    Token(TokenId),
    /// Those of this user: tokens with this `sub`.
    User(UserId),
    /// Everybody's.
    Everyone,
}

/// One revocation. There is at most one for each [`Revoked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub of: Revoked,
    /// Which of them: those issued before, and those that do not say when they were; [`ALWAYS`]: all.
    pub issued_before: UnixMillis,
    /// Since when.
    pub created_at: UnixMillis,
    /// From then on it is forgotten: by then every token that it is about must have run out.
    pub lapses_at: UnixMillis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_id_is_bounded_and_printable() {
        for good in ["x", "a b/c{}", "ünïcode", &"x".repeat(MAX_TOKEN_ID_BYTES)] {
            assert!(TokenId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a\0b", "a\nb", &"x".repeat(MAX_TOKEN_ID_BYTES + 1)] {
            assert!(TokenId::new(bad).is_err(), "{bad:?}");
        }
    }
}
