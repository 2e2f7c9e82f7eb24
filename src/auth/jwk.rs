//! Reading a JSON Web Key Set (RFC 7517).
//!
//! Owns which of its keys tokens are verified with, and the one algorithm of each: the key's own `alg`, else the
//! one of its type. It must never take a secret for a key, nor a key that is for something else.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::key::{Algorithm, VerifyingKey};

/// How many keys a set may have, those that are left out included.
const MAX_KEYS: usize = 64;
/// The longest `kid`, in bytes.
const MAX_KID_BYTES: usize = 256;
/// RFC 7518 section 3.3 asks for 2048 bits or more; the library verifies with no more than 4096.
const RSA_BITS: RangeInclusive<usize> = 2_048..=4_096;

/// Why a set is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not the JSON of RFC 7517 section 5.
    #[error("the answer is no JSON object with a list \"keys\"")]
    Malformed,
    /// More keys than a set may have.
    #[error("the set has {got} keys; at most {MAX_KEYS} are taken")]
    TooManyKeys {
        /// How many it has.
        got: usize,
    },
}

/// The keys of a set that tokens can be verified with, and how many were left out.
///
/// `Display` is a line for logs: numbers and reasons, nothing that the set says.
#[derive(Default)]
pub struct SetKeys {
    pub(super) keys: Vec<VerifyingKey>,
    left_out: BTreeMap<LeftOut, usize>,
}

/// Why one key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    OtherUse,
    Symmetric,
    Private,
    OtherKind,
    RsaSize,
    Double,
    Malformed,
}

impl LeftOut {
    fn as_str(self) -> &'static str {
        match self {
            Self::OtherUse => "not for signatures",
            Self::Symmetric => "symmetric",
            Self::Private => "private",
            Self::OtherKind => "of another kind or algorithm",
            Self::RsaSize => "RSA and not of 2048-4096 bits",
            Self::Double => "of a kid that came before",
            Self::Malformed => "malformed",
        }
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// What is looked at of a key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Only a private key has it.
    d: Option<IgnoredAny>,
}

impl SetKeys {
    /// Reads a set. Keys that are of no use are left out; a set without any key is one, too.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn read(json: &[u8]) -> Result<Self, KeySetError> {
        let set: Set = serde_json::from_slice(json).map_err(|_| KeySetError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys { got: set.keys.len() });
        }
        let mut read = Self::default();
        for value in set.keys {
            let key = serde_json::from_value::<Jwk>(value).map_err(|_| LeftOut::Malformed);
            let is_double = |key: &VerifyingKey| {
                key.id.is_some() && read.keys.iter().any(|other: &VerifyingKey| other.id == key.id)
            };
            match key.and_then(verifying_key) {
                Ok(key) if is_double(&key) => *read.left_out.entry(LeftOut::Double).or_default() += 1,
                Ok(key) => read.keys.push(key),
                Err(reason) => *read.left_out.entry(reason).or_default() += 1,
            }
        }
        Ok(read)
    }

    /// How many keys there are to verify with.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Their `kid`s, by which two sets can be told apart.
    pub fn kids(&self) -> Vec<Option<String>> {
        self.keys.iter().map(|key| key.id.clone()).collect()
    }

    /// How many keys of the set are left out.
    pub fn left_out(&self) -> usize {
        self.left_out.values().sum()
    }
}

impl fmt::Display for SetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys in force, {} left out", self.count(), self.left_out())?;
        let reasons = self.left_out.iter().map(|(reason, count)| format!("{count} {}", reason.as_str()));
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() { Ok(()) } else { write!(f, " ({})", reasons.join(", ")) }
    }
}

impl fmt::Debug for SetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetKeys({self})")
    }
}

fn verifying_key(jwk: Jwk) -> Result<VerifyingKey, LeftOut> {
    if jwk.kty == "oct" {
        return Err(LeftOut::Symmetric);
    }
    if jwk.d.is_some() {
        return Err(LeftOut::Private);
    }
    let verifies = jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
    if jwk.usage.as_ref().is_some_and(|usage| usage != "sig") || !verifies {
        return Err(LeftOut::OtherUse);
    }
    if jwk.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
        return Err(LeftOut::Malformed);
    }
    let algorithm = algorithm(&jwk)?;
    let decoding = match algorithm {
        Algorithm::ES256 => p256(&jwk)?,
        Algorithm::EdDSA => ed25519(&jwk)?,
        _ => rsa(&jwk)?,
    };
    Ok(VerifyingKey::prepared(jwk.kid, algorithm, decoding))
}

/// The algorithm that the key says, if it is one of its type; without `alg` the type's own.
fn algorithm(jwk: &Jwk) -> Result<Algorithm, LeftOut> {
    let of_type: &[Algorithm] = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", None) => &[Algorithm::RS256, Algorithm::PS256],
        ("EC", Some("P-256")) => &[Algorithm::ES256],
        ("OKP", Some("Ed25519")) => &[Algorithm::EdDSA],
        _ => return Err(LeftOut::OtherKind),
    };
    let Some(alg) = &jwk.alg else { return Ok(of_type[0]) };
    let named = of_type.iter().find(|algorithm| algorithm.as_str() == alg);
    named.copied().ok_or(LeftOut::OtherKind)
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, LeftOut> {
    let (n, e) = (without_zeros(bytes(&jwk.n)?), without_zeros(bytes(&jwk.e)?));
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(LeftOut::RsaSize);
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let exponent = e.iter().take(8).fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    // RFC 8017 section 3.1, and what the library verifies with: below 2^33.
    let is_exponent = e.len() <= 5 && (3..1 << 33).contains(&exponent);
    if !(is_odd(&n) && is_odd(&e) && is_exponent) {
        return Err(LeftOut::Malformed);
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

/// RFC 7518 section 6.2.1.2: each coordinate has the full size of the curve.
fn p256(jwk: &Jwk) -> Result<DecodingKey, LeftOut> {
    let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
    if (x.len(), y.len()) != (32, 32) {
        return Err(LeftOut::Malformed);
    }
    // SEC 1 section 2.3.3: an uncompressed point.
    on_curve(Algorithm::ES256, DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat()))
}

fn ed25519(jwk: &Jwk) -> Result<DecodingKey, LeftOut> {
    let x = bytes(&jwk.x)?;
    // RFC 8032 section 5.1.5.
    if x.len() != 32 {
        return Err(LeftOut::Malformed);
    }
    on_curve(Algorithm::EdDSA, DecodingKey::from_ed_der(&x))
}

/// The library looks at the point only when it verifies: with no signature at all it does nothing else.
fn on_curve(algorithm: Algorithm, key: DecodingKey) -> Result<DecodingKey, LeftOut> {
    let tried = jsonwebtoken::crypto::verify("", b"", &key, algorithm.to_library());
    tried.map(|_| key).map_err(|_| LeftOut::Malformed)
}

fn bytes(member: &Option<String>) -> Result<Vec<u8>, LeftOut> {
    let text = member.as_ref().ok_or(LeftOut::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| LeftOut::Malformed)
}

fn without_zeros(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}
