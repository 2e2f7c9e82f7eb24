//! Identifiers: who, which device, which topic, which node, which notification.
//!
//! Owns the one character set of ids (1-128 of `A-Za-z0-9._~@|:-`), chosen so that
//! Redis members and keys, AMQP routing keys and URLs hold any id unescaped. It must
//! never learn what an id is used for.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id, in bytes (all allowed characters are one byte).
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty or longer than [`MAX_ID_BYTES`].
    #[error("{what} must have 1..=128 characters; got {length}")]
    Length {
        /// What the text should have been, such as `user id`.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The text has a character that ids never have.
    #[error("{what} may have only A-Za-z0-9._~@|:- ; got {character:?} in {text:?}")]
    Character {
        /// What the text should have been.
        what: &'static str,
        /// The first character that is not allowed.
        character: char,
        /// The text.
        text: String,
    },
}

/// What a kind of id is called in errors.
pub trait Kind: 'static {
    /// Such as `user id`.
    const WHAT: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $id:ident, $what:literal;)*) => {$(
        #[doc = concat!("Marks an [`Id`] as a ", $what, ".")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind { const WHAT: &'static str = $what; }
        $(#[$doc])*
        pub type $id = Id<$kind>;
    )*};
}

kinds! {
    /// A person (or account): the `sub` of a user token.
    User, UserId, "user id";
    /// One device (browser, phone) of a user; unique within the user.
    Device, DeviceId, "device id";
    /// A topic; `.` separates its levels.
    Topic, TopicName, "topic";
    /// One running `fanfare serve`.
    Node, NodeId, "node id";
    /// A backend service that publishes.
    Publisher, PublisherId, "publisher id";
}

/// A valid identifier of one [`Kind`]. Clones share the text.
pub struct Id<K> {
    text: Arc<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Id<K> {
    /// Takes a text of 1-128 allowed characters.
    ///
    /// # Errors
    /// [`IdError`] names the length or the first character that is not allowed.
    pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > MAX_ID_BYTES {
            return Err(IdError::Length { what: K::WHAT, length: text.len() });
        }
        match text.chars().find(|character| !is_id_character(*character)) {
            Some(character) => Err(IdError::Character { what: K::WHAT, character, text: text.to_owned() }),
            None => Ok(Self { text: text.into(), kind: PhantomData }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_id_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._~@|:-".contains(character)
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self { text: Arc::clone(&self.text), kind: PhantomData }
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl<K> Borrow<str> for Id<K> {
    fn borrow(&self) -> &str {
        &self.text
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl<K: Kind> std::str::FromStr for Id<K> {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

/// One connection of one device, unique over the cluster.
///
/// The upper 44 bits are the Unix time in milliseconds at which it was accepted, the
/// lower 20 are random, so of two connections the greater one is the newer: all nodes
/// agree which of two connections of one device has to go. Text: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// An id for a connection accepted at `now`; `random` makes it unique (20 bits are used).
    pub fn new(now: super::UnixMillis, random: u32) -> Self {
        Self((now.0 << 20) | u64::from(random & 0x000f_ffff))
    }

    /// When the connection was accepted, as it was given to [`ConnectionId::new`].
    pub fn made_at(self) -> super::UnixMillis {
        super::UnixMillis(self.0 >> 20)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match u64::from_str_radix(text, 16) {
            Ok(number) if text.len() == 16 => Ok(Self(number)),
            _ => Err(format!("a connection id is 16 hexadecimal digits; got {text:?}")),
        }
    }
}

/// One notification: a UUID version 7 (RFC 9562 section 5.7), so ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotificationId(pub uuid::Uuid);

impl NotificationId {
    /// An id for a notification accepted at `now` with 10 random bytes.
    pub fn new(now: super::UnixMillis, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(now.0, &random).into_uuid())
    }

    /// When it was accepted: the first 48 bits (RFC 9562 section 5.7).
    pub fn accepted_at(self) -> super::UnixMillis {
        super::UnixMillis(u64::try_from(self.0.as_u128() >> 80).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl std::str::FromStr for NotificationId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        uuid::Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| format!("a notification id is a UUID; got {text:?}"))
    }
}

impl Serialize for NotificationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UnixMillis;

    #[test]
    fn ids_take_the_whole_character_set_and_nothing_else() {
        assert!(UserId::new("AZaz09._~@|:-").is_ok());
        for bad in ["", "a b", "a/b", "a{b", "a}b", "é", "a\n", "a\0"] {
            assert!(UserId::new(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::new("x".repeat(128)).is_ok());
        assert!(UserId::new("x".repeat(129)).is_err());
    }

    #[test]
    fn the_newer_connection_has_the_greater_id() {
        let older = ConnectionId::new(UnixMillis(1_000), u32::MAX);
        let newer = ConnectionId::new(UnixMillis(1_001), 0);
        assert!(newer > older);
        assert_eq!(newer.to_string().parse::<ConnectionId>(), Ok(newer));
        assert_eq!((older.made_at(), newer.made_at()), (UnixMillis(1_000), UnixMillis(1_001)));
    }

    #[test]
    fn a_notification_id_tells_when_it_was_accepted() {
        let at = UnixMillis(1_796_000_000_123);
        assert_eq!(NotificationId::new(at, [7; 10]).accepted_at(), at);
    }
}
