//! Patterns over dotted ids: which topics or users somebody may have to do with.
//!
//! Owns the matching only. `*` stands for one level and `#`, at the end, for all further
//! levels, none included, as in AMQP topic exchanges (`news.#` matches `news` too).

use std::fmt;
use std::marker::PhantomData;

use crate::domain::id::{Id, Kind, MAX_ID_BYTES, Topic, User};

/// Which topics.
pub type TopicPattern = Pattern<Topic>;
/// Which users.
pub type UserPattern = Pattern<User>;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty or longer than an id may be.
    #[error("a pattern must have 1..={MAX_ID_BYTES} characters; got {length}")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// `*` or `#` beside other characters, `#` not at the end, or a character no id has.
    #[error(
        "a pattern is an id in which * stands for one level and a last # for all further \
         levels; got {text:?}"
    )]
    Shape {
        /// The text.
        text: String,
    },
}

/// A name, or a name with `*` and `#` for whole levels. Text of at most 128 bytes.
pub struct Pattern<K> {
    text: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Pattern<K> {
    /// Reads a pattern; a plain name is one.
    ///
    /// # Errors
    /// [`PatternError`] if it is empty, too long, or `*` and `#` are not levels of their own.
    pub fn new(text: impl AsRef<str>) -> Result<Self, PatternError> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > MAX_ID_BYTES {
            return Err(PatternError::Length { length: text.len() });
        }
        let mut levels = text.split('.').peekable();
        while let Some(level) = levels.next() {
            let well_formed = match level {
                "#" => levels.peek().is_none(),
                // An empty level is an id's own business (`a..b` is an id).
                "*" | "" => true,
                word => Id::<K>::new(word).is_ok(),
            };
            if !well_formed {
                return Err(PatternError::Shape { text: text.to_owned() });
            }
        }
        Ok(Self { text: text.into(), kind: PhantomData })
    }

    /// The pattern that everything matches: `#`.
    pub fn everything() -> Self {
        Self { text: "#".into(), kind: PhantomData }
    }

    /// Whether `id` is one of those meant.
    pub fn matches(&self, id: &Id<K>) -> bool {
        let mut levels = id.as_str().split('.');
        for wanted in self.text.split('.') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("*", Some(_)) => {}
                (word, Some(level)) if word == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<K> Clone for Pattern<K> {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), kind: PhantomData }
    }
}
impl<K> PartialEq for Pattern<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl<K> Eq for Pattern<K> {}
impl<K> fmt::Debug for Pattern<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}
impl<K> fmt::Display for Pattern<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl<K: Kind> std::str::FromStr for Pattern<K> {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TopicName;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let pattern = TopicPattern::new(pattern).expect("a pattern");
        for (names, expected) in [(matching, true), (others, false)] {
            for name in names {
                let topic = TopicName::new(name).expect("a topic");
                assert_eq!(pattern.matches(&topic), expected, "{pattern} and {name}");
            }
        }
    }

    #[test]
    fn a_star_is_one_level_and_a_last_hash_is_the_rest() {
        check("news", &["news"], &["new", "newsy", "news.eu", "a.news"]);
        check("news.*", &["news.eu", "news."], &["news", "news.eu.at", "olds.eu"]);
        check("*.eu", &["news.eu"], &["eu", "news.us", "a.news.eu"]);
        check("news.#", &["news", "news.eu", "news.eu.at"], &["newsy", "olds"]);
        check("*.eu.#", &["news.eu", "news.eu.at"], &["news", "eu"]);
        check("#", &["news", "a.b.c"], &[]);
    }

    #[test]
    fn stars_and_hashes_are_levels_of_their_own() {
        for bad in ["", "news*", "#.news", "a.#.b", "a b", "a.##", "a/b", "é", "**"] {
            assert!(TopicPattern::new(bad).is_err(), "{bad:?}");
        }
        assert!(TopicPattern::new("x".repeat(128)).is_ok());
        assert!(TopicPattern::new("x".repeat(129)).is_err());
    }
}
