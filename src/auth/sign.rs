//! Signing tokens: for the trial set-up and `fanfare token`.
//!
//! A node in production verifies only; nothing that serves requests calls this, but for the
//! demo page of the trial set-up.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use super::key::{Algorithm, KeyError, KeySettings, check_secret};
use crate::domain::UnixMillis;

/// A key to sign with.
pub struct SigningKey {
    id: Option<String>,
    algorithm: Algorithm,
    encoding: EncodingKey,
}

/// What a signed token is to say.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Grant {
    /// `sub`: the user's, or for scope `publish` the publisher's id.
    pub sub: String,
    /// `topics`: names or patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// `users`: patterns, for publishers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// `scope`, such as `publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// `iss`.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `aud`.
    #[serde(rename = "aud", skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    grant: &'a Grant,
    iat: u64,
    exp: u64,
}

impl SigningKey {
    /// Prepares an HMAC secret, or a private key in PEM (PKCS #8; RSA also PKCS #1).
    ///
    /// # Errors
    /// [`KeyError`] if the secret is too short or a PEM, or the PEM no such private key.
    pub fn new(settings: &KeySettings) -> Result<Self, KeyError> {
        let (algorithm, key) = (settings.algorithm, settings.key.expose());
        let read = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => EncodingKey::from_rsa_pem(key.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(key.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(key.as_bytes()),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                check_secret(algorithm, key, algorithm.min_secret_bytes().unwrap_or_default())?;
                Ok(EncodingKey::from_secret(key.as_bytes()))
            }
        };
        let unusable = KeyError::Unusable { algorithm, what: "private key" };
        let ready =
            Self { id: settings.id.clone(), algorithm, encoding: read.map_err(|_| unusable.clone())? };
        // A PEM of another kind of key shows only when it is used.
        match ready.sign(&Grant::default(), Duration::ZERO, UnixMillis::default()) {
            Ok(_) => Ok(ready),
            Err(_) => Err(unusable),
        }
    }

    /// A token that says `grant` from `now` for `ttl` (whole seconds, rounded down).
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the key cannot sign.
    pub fn sign(&self, grant: &Grant, ttl: Duration, now: UnixMillis) -> Result<String, KeyError> {
        let mut header = Header::new(self.algorithm.to_library());
        header.kid.clone_from(&self.id);
        let payload = Payload { grant, iat: now.0 / 1000, exp: now.after(ttl).0 / 1000 };
        jsonwebtoken::encode(&header, &payload, &self.encoding)
            .map_err(|_| KeyError::Unusable { algorithm: self.algorithm, what: "private key" })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
