//! One thing that is wrong with the configuration, for people to mend.

use std::fmt;

/// What is wrong with one key. Never holds the value of a secret key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, such as `http.listen` or `auth.publishers[1].id`; or a file's name.
    pub key: String,
    /// Where it was set: a file, or a variable of the environment; empty for the default.
    pub origin: String,
    /// What it must be and what it is.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.is_empty() {
            write!(f, "{}: {}", self.key, self.message)
        } else {
            write!(f, "{} (in {}): {}", self.key, self.origin, self.message)
        }
    }
}
