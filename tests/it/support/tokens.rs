//! Credentials of a test's own: what its nodes are configured with, and what its users show.
//!
//! Tokens are signed here with the library, not by Fanfare's own code: a mistake there must show.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The secrets of one test.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Signs users' tokens (HS256).
    pub user_secret: String,
    /// The API key of the publisher `shop`, who may send to anybody.
    pub publisher_key: String,
    /// A bearer token for `/admin`.
    pub admin_token: String,
}

impl Credentials {
    /// New ones.
    pub fn new() -> Self {
        let random = || format!("{}{}", uuid::Uuid::now_v7().simple(), uuid::Uuid::now_v7().simple());
        Self {
            user_secret: random(),
            publisher_key: format!("ffk_shop_{}", &random()[..48]),
            admin_token: format!("ffa_{}", &random()[..48]),
        }
    }

    /// A token of `user` for an hour, which may follow every topic.
    pub fn user_token(&self, user: &str) -> String {
        self.sign(&json!({"sub": user, "exp": seconds_from_now(3600), "topics": ["#"]}))
    }

    /// A token with exactly these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_secret(self.user_secret.as_bytes());
        encode(&Header::default(), claims, &key).expect("HS256 signs any claims")
    }

    /// The `[auth]` part of a node's configuration file.
    pub fn config(&self) -> String {
        format!(
            "[auth.users]\nsecret = \"{}\"\n\
             [[auth.publishers]]\nid = \"shop\"\nkey_hashes = [\"{}\"]\namqp_user = \"guest\"\n\
             [[auth.admin]]\nid = \"ops\"\ntoken_hash = \"{}\"\n",
            self.user_secret,
            sha256(&self.publisher_key),
            sha256(&self.admin_token),
        )
    }
}

/// Unix time in seconds, so far from now.
pub fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i64::try_from(now.as_secs()).expect("the clock is before the year 292 billion") + seconds
}

fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
