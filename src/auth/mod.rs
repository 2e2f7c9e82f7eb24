//! Who somebody is and what they may do: user tokens, publishers, administrators.
//!
//! Owns the keys and their comparison. It never reads a clock, a file or a socket: the time is an
//! argument, keys come as text. Only a token of an unknown key waits, for keys that others fetch. No
//! error, log line or `Debug` from here holds a token or a secret.

mod admin;
mod allowance;
mod claims;
mod jwk;
mod key;
mod key_set;
mod pattern;
mod publisher;
mod revocations;
mod secret;
mod sign;
pub mod ticket;
mod token;

pub use admin::{Admin, AdminSettings, Admins};
pub use allowance::{Allowance, PublishRate};
pub use claims::UserClaims;
pub use jwk::{KeySetError, SetKeys};
pub use key::{Algorithm, KeyError, KeySettings};
pub use key_set::{KeySet, KeySetSettings};
pub use pattern::{Pattern, PatternError, TopicPattern, UserPattern};
pub use publisher::{
    CredentialError, Forbidden, Limits, Permissions, Publisher, PublisherSettings, Publishers,
};
pub use revocations::Revocations;
pub use secret::{HashError, KeyHash, Secret, new_admin_token, new_publisher_key, new_secret};
pub use sign::{Grant, SigningKey};
pub use token::{TokenError, TokenSettings, UserTokens};
