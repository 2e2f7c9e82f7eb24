//! Secrets that do not print themselves, and the hashes that keys are stored as.
//!
//! Owns the making of random keys and their comparison in constant time. A key has 192
//! random bits, so a plain SHA-256 of it at rest is enough: there is nothing to guess.

use std::fmt;

use rand::RngExt;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::PublisherId;

/// Random bytes in a generated key: 192 bits.
const KEY_BYTES: usize = 24;
/// Random bytes in a generated signing secret: the 256 bits that HS256 wants
/// (RFC 7518 section 3.2).
const SECRET_BYTES: usize = 32;

/// A text that must not be seen: a password, a key, a URL with a password.
///
/// `Debug` prints `[redacted]`; there is no `Display` and no `Serialize`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Why a text is not a [`KeyHash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key's hash must be its SHA-256 in 64 hexadecimal digits; got {length} characters")]
pub struct HashError {
    /// How long the text is.
    pub length: usize,
}

/// The SHA-256 of a key. Text: 64 hexadecimal digits, as `sha256sum` prints it.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether `key` is the one.
    pub fn matches(&self, key: &str) -> bool {
        *self == Self::of(key)
    }
}

/// Takes the same time whatever the answer.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for KeyHash {}

impl std::str::FromStr for KeyHash {
    type Err = HashError;
    fn from_str(text: &str) -> Result<Self, HashError> {
        let wrong = HashError { length: text.len() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)
                .expect("every character was checked to be a hexadecimal digit");
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

/// A new API key of a publisher: `ffk_<id>_<48 hexadecimal digits>`.
pub fn new_publisher_key(id: &PublisherId) -> Secret {
    Secret::new(format!("ffk_{id}_{}", random_hex::<KEY_BYTES>()))
}

/// A new bearer token for `/admin`: `ffa_<48 hexadecimal digits>`.
pub fn new_admin_token() -> Secret {
    Secret::new(format!("ffa_{}", random_hex::<KEY_BYTES>()))
}

/// A new secret to sign user tokens with: 64 hexadecimal digits.
pub fn new_secret() -> Secret {
    Secret::new(random_hex::<SECRET_BYTES>())
}

fn random_hex<const N: usize>() -> String {
    let mut bytes = [0_u8; N];
    // The thread's generator is a ChaCha seeded by the operating system.
    rand::rng().fill(&mut bytes[..]);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_sha256sum_prints_and_is_read_back() {
        let hash = KeyHash::of("abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        let read: KeyHash = text.to_uppercase().parse().expect("a hash");
        assert!(read.matches("abc"));
        assert!(!read.matches("abd"));
        assert_eq!("é".repeat(32).parse::<KeyHash>().err(), Some(HashError { length: 64 }));
        assert!("ba78".parse::<KeyHash>().is_err());
    }

    #[test]
    fn a_hash_that_differs_anywhere_is_another_one() {
        let hash = KeyHash::of("abc");
        for bit in 0..256 {
            let mut other = hash;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash, other, "bit {bit}");
        }
        assert_eq!(hash, KeyHash::of("abc"));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([redacted])");
    }

    #[test]
    fn generated_keys_differ_and_name_their_publisher() {
        let shop = PublisherId::new("shop_1").expect("an id");
        let (one, other) = (new_publisher_key(&shop), new_publisher_key(&shop));
        assert_ne!(one, other);
        assert!(one.expose().starts_with("ffk_shop_1_"));
        assert_eq!(one.expose().len(), "ffk_shop_1_".len() + 48);
        assert_eq!(new_secret().expose().len(), 64);
    }
}
