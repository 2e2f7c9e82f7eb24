//! The keys that tokens are verified with, each pinned to one algorithm.
//!
//! Owns the checks that keep a key from being used for what it is not: an HMAC secret that
//! is a PEM, a private key where a public one belongs, a key of another curve.

use jsonwebtoken::{DecodingKey, Validation};

use super::secret::Secret;

/// How a token is signed (RFC 7518 section 3.1; RFC 8037 for `EdDSA`, here Ed25519).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are RFC 7518's own")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    PS256,
    ES256,
    EdDSA,
}

impl Algorithm {
    /// All that Fanfare takes.
    pub const ALL: [Self; 7] =
        [Self::HS256, Self::HS384, Self::HS512, Self::RS256, Self::PS256, Self::ES256, Self::EdDSA];

    /// The `alg` of RFC 7518.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::PS256 => "PS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    /// For HMAC the shortest secret in bytes: as long as the hash (RFC 7518 section 3.2).
    pub fn min_secret_bytes(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            Self::RS256 | Self::PS256 | Self::ES256 | Self::EdDSA => None,
        }
    }

    pub(super) fn to_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::HS384 => jsonwebtoken::Algorithm::HS384,
            Self::HS512 => jsonwebtoken::Algorithm::HS512,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::PS256 => jsonwebtoken::Algorithm::PS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or_else(|| KeyError::Algorithm { name: text.to_owned() })
    }
}

/// One key, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// What tokens call it (`kid`, RFC 7515 section 4.1.4); `None`: only tokens without `kid`.
    pub id: Option<String>,
    /// The only algorithm it is good for.
    pub algorithm: Algorithm,
    /// The HMAC secret, or the public key as PEM.
    pub key: Secret,
}

/// Why a key cannot be used. Never holds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An algorithm that Fanfare does not take.
    #[error("algorithm must be HS256, HS384, HS512, RS256, PS256, ES256 or EdDSA; got {name:?}")]
    Algorithm {
        /// Its name.
        name: String,
    },
    /// An HMAC secret that is a PEM: whoever knows the public key could sign.
    #[error("an {algorithm} secret must not be a PEM key; for a PEM take RS256, PS256, ES256 or EdDSA", algorithm = algorithm.as_str())]
    PemAsSecret {
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// An HMAC secret shorter than the hash.
    #[error("an {algorithm} secret must have at least {at_least} bytes; got {got}", algorithm = algorithm.as_str())]
    ShortSecret {
        /// The algorithm.
        algorithm: Algorithm,
        /// The bound, in bytes.
        at_least: usize,
        /// Its length, in bytes.
        got: usize,
    },
    /// A private key where the public one is enough.
    #[error("this is a private key; a node needs the public key (openssl pkey -pubout)")]
    PrivateKey,
    /// Not a PEM, or a PEM of something else.
    #[error("not a {what} in PEM that {algorithm} can use", algorithm = algorithm.as_str())]
    Unusable {
        /// The algorithm.
        algorithm: Algorithm,
        /// `public key` or `private key`.
        what: &'static str,
    },
    /// Two keys of one id: a token could not say which it means.
    #[error("two keys have the id {id:?}")]
    DoubleId {
        /// The id.
        id: String,
    },
}

/// A key ready to verify with; made once.
pub(super) struct VerifyingKey {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

impl VerifyingKey {
    pub(super) fn new(settings: &KeySettings) -> Result<Self, KeyError> {
        let algorithm = settings.algorithm;
        let decoding = decoding_key(algorithm, settings.key.expose())?;
        Ok(Self::prepared(settings.id.clone(), algorithm, decoding))
    }

    /// `decoding` must be a key of `algorithm`.
    pub(super) fn prepared(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey) -> Self {
        let mut validation = Validation::new(algorithm.to_library());
        // The library reads the system's clock and lets absent claims pass: time, issuer and
        // audience are checked in `claims`, against the time passed in.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self { id, algorithm, decoding, validation }
    }
}

fn decoding_key(algorithm: Algorithm, key: &str) -> Result<DecodingKey, KeyError> {
    if let Some(at_least) = algorithm.min_secret_bytes() {
        check_secret(algorithm, key, at_least)?;
        return Ok(DecodingKey::from_secret(key.as_bytes()));
    }
    if key.contains("PRIVATE KEY-----") {
        return Err(KeyError::PrivateKey);
    }
    let read = match algorithm {
        Algorithm::RS256 | Algorithm::PS256 => DecodingKey::from_rsa_pem(key.as_bytes()),
        Algorithm::ES256 => DecodingKey::from_ec_pem(key.as_bytes()),
        _ => DecodingKey::from_ed_pem(key.as_bytes()),
    };
    let unusable = KeyError::Unusable { algorithm, what: "public key" };
    let decoding = read.map_err(|_| unusable.clone())?;
    if is_usable(algorithm, decoding.try_get_as_bytes().unwrap_or_default()) {
        Ok(decoding)
    } else {
        Err(unusable)
    }
}

/// Whether a public key's bytes have the form of the algorithm. The library looks only when a
/// token arrives, and then a wrong key is told from a wrong signature by nobody.
fn is_usable(algorithm: Algorithm, key: &[u8]) -> bool {
    match algorithm {
        // SEC 1 section 2.3.3: an uncompressed (or compressed) point of P-256.
        Algorithm::ES256 => matches!((key.len(), key.first()), (65, Some(4)) | (33, Some(2 | 3))),
        // RFC 8032 section 5.1.5.
        Algorithm::EdDSA => key.len() == 32,
        // RFC 8017 appendix A.1.1, and RFC 7518 section 3.3: 2048 bits or more.
        _ => key.len() >= 256,
    }
}

pub(super) fn check_secret(algorithm: Algorithm, secret: &str, at_least: usize) -> Result<(), KeyError> {
    if secret.contains("-----BEGIN") {
        return Err(KeyError::PemAsSecret { algorithm });
    }
    if secret.len() < at_least {
        return Err(KeyError::ShortSecret { algorithm, at_least, got: secret.len() });
    }
    Ok(())
}
