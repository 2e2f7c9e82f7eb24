//! Streams: the ordered logs that notifications are entered in.

use std::fmt;

use super::id::{TopicName, UserId};

/// An ordered log with an [`Epoch`] and gapless [`Seq`]s from 1.
///
/// Text (in SQL, in envelopes): `user:<id>`, `topic:<name>` or `everyone`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// What is for one user, on all devices or on one.
    User(UserId),
    /// What is for everyone who follows a topic.
    Topic(TopicName),
    /// What is for everyone.
    Everyone,
}

impl Stream {
    /// Whether sessions of several users read it (a topic, or everyone).
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::User(_))
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// A sentence that names the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.split_once(':') {
            Some(("user", id)) => UserId::new(id).map(Self::User),
            Some(("topic", name)) => TopicName::new(name).map(Self::Topic),
            _ if text == "everyone" => return Ok(Self::Everyone),
            _ => {
                return Err(format!("a stream is user:<id>, topic:<name> or everyone; got {text:?}"));
            }
        };
        parsed.map_err(|error| error.to_string())
    }

    /// What clients call it: their own stream is `user`.
    pub fn client_name(&self) -> ClientName<'_> {
        ClientName(self)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Topic(topic) => write!(f, "topic:{topic}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

/// A stream's name in client frames: `user`, `topic:<name>` or `everyone`.
#[derive(Debug, Clone, Copy)]
pub struct ClientName<'a>(&'a Stream);

impl fmt::Display for ClientName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Stream::User(_) => f.write_str("user"),
            other => other.fmt(f),
        }
    }
}

/// A place in a stream, from 1; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The next place.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// For a `bigint` column.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From a `bigint` column.
    pub fn from_i64(seq: i64) -> Self {
        Self(u64::try_from(seq).unwrap_or(0))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which life of a stream a [`Seq`] belongs to; another one after a store was restored or
/// made anew. Compared for equality only. Text: `k` and up to seven base-36 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let (mut rest, mut text) = (self.0, Vec::with_capacity(8));
        loop {
            text.push(DIGITS[(rest % 36) as usize]);
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        text.push(b'k');
        text.iter().rev().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl std::str::FromStr for Epoch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix('k')
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u32::from_str_radix(digits, 36).ok())
            .map(Self)
            .ok_or_else(|| format!("an epoch is k and base-36 digits; got {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_epochs_are_read_back_as_they_were_written() {
        for text in ["user:alice", "topic:news.eu", "everyone", "user:a:b"] {
            assert_eq!(Stream::parse(text).map(|stream| stream.to_string()).as_deref(), Ok(text));
        }
        assert!(Stream::parse("users:x").is_err());
        for epoch in [0, 35, 36, 123_456, u32::MAX] {
            assert_eq!(Epoch(epoch).to_string().parse(), Ok(Epoch(epoch)));
        }
    }
}
