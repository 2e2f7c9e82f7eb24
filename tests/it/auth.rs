//! Users' tokens, as a client meets them.

mod key_set;
mod key_set_node;
mod publishers;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::auth::{
    Algorithm, Grant, KeySettings, Secret, SigningKey, TokenSettings, TopicPattern, UserTokens,
};
use fanfare::domain::UnixMillis;
use serde_json::{Value, json};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const NOW_SECONDS: u64 = NOW.0 / 1000;
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const RSA_PUBLIC: &str = include_str!("keys/rsa.public.pem");
const RSA_PRIVATE: &str = include_str!("keys/rsa.private.pem");
const P256_PUBLIC: &str = include_str!("keys/p256.public.pem");
const P256_PRIVATE: &str = include_str!("keys/p256.private.pem");
const ED_PUBLIC: &str = include_str!("keys/ed25519.public.pem");
const ED_PRIVATE: &str = include_str!("keys/ed25519.private.pem");

fn key(id: Option<&str>, algorithm: Algorithm, key: &str) -> KeySettings {
    KeySettings { id: id.map(str::to_owned), algorithm, key: Secret::new(key) }
}

fn settings(keys: Vec<KeySettings>) -> TokenSettings {
    TokenSettings { keys, issuer: None, audience: vec![], leeway: Duration::from_secs(5) }
}

fn verifier(keys: Vec<KeySettings>) -> UserTokens {
    UserTokens::new(settings(keys)).expect("usable keys")
}

/// A token of any header and claims, signed with an HS256 secret by hand.
fn hs256(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
    format!("{message}.{}", signature.expect("HMAC takes any key"))
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "alice", "exp": NOW_SECONDS + 60});
    let more = more.as_object().expect("an object").clone();
    claims.as_object_mut().expect("an object").extend(more);
    claims
}

/// What a node with one HS256 key answers to these claims.
fn verify(claims: &Value) -> Result<fanfare::auth::UserClaims, &'static str> {
    let token = hs256(&json!({"alg": "HS256"}), claims, SECRET);
    verifier(vec![key(None, Algorithm::HS256, SECRET)]).verify(&token, NOW).map_err(|error| error.code())
}

#[test]
fn a_token_of_each_algorithm_is_taken_and_one_by_another_key_is_not() {
    for (algorithm, private, public) in [
        (Algorithm::HS256, SECRET, SECRET),
        (Algorithm::HS384, SECRET, SECRET),
        (Algorithm::HS512, SECRET, SECRET),
        (Algorithm::RS256, RSA_PRIVATE, RSA_PUBLIC),
        (Algorithm::PS256, RSA_PRIVATE, RSA_PUBLIC),
        (Algorithm::ES256, P256_PRIVATE, P256_PUBLIC),
        (Algorithm::EdDSA, ED_PRIVATE, ED_PUBLIC),
    ] {
        let signing = SigningKey::new(&key(Some("k1"), algorithm, private)).expect("signs");
        let grant = Grant { sub: "alice".to_owned(), topics: vec!["news.*".to_owned()], ..Grant::default() };
        let token = signing.sign(&grant, Duration::from_secs(60), NOW).expect("signs");
        let tokens = verifier(vec![key(Some("k1"), algorithm, public)]);
        let claims = tokens.verify(&token, NOW).expect("a valid token");
        assert_eq!(claims.user.as_str(), "alice");
        assert_eq!(claims.topics, [TopicPattern::new("news.*").expect("a pattern")]);
        assert_eq!(claims.issued_at, Some(NOW));
        assert_eq!(claims.expires_at, NOW.after(Duration::from_secs(65)));

        let (head, signature) = token.rsplit_once('.').expect("three parts");
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{head}.{flipped}{}", &signature[1..]);
        let error = tokens.verify(&forged, NOW).expect_err("a forged token");
        assert_eq!(error.code(), "invalid_token", "{algorithm:?}");
    }
}

#[test]
fn time_is_checked_to_the_millisecond_with_the_leeway() {
    let at = |claims: Value, now: u64| {
        let token = hs256(&json!({"alg": "HS256"}), &claims, SECRET);
        verifier(vec![key(None, Algorithm::HS256, SECRET)])
            .verify(&token, UnixMillis(now))
            .map(drop)
            .map_err(|error| error.code())
    };
    let expiring = json!({"sub": "alice", "exp": 1000});
    assert_eq!(at(expiring.clone(), 1_004_999), Ok(()));
    assert_eq!(at(expiring, 1_005_000), Err("token_expired"));
    let fraction = json!({"sub": "alice", "exp": 1000.5});
    assert_eq!(at(fraction.clone(), 1_005_499), Ok(()));
    assert_eq!(at(fraction, 1_005_500), Err("token_expired"));
    let early = json!({"sub": "alice", "exp": 2000, "nbf": 1000});
    assert_eq!(at(early.clone(), 994_999), Err("token_not_yet_valid"));
    assert_eq!(at(early, 995_000), Ok(()));
    let negative = json!({"sub": "alice", "exp": -5});
    assert_eq!(at(negative, 5_000), Err("token_expired"));
    let eternal = json!({"sub": "alice", "exp": u64::MAX});
    assert_eq!(at(eternal, 1), Ok(()));
}

#[test]
fn exp_is_required_and_claims_have_their_types() {
    assert_eq!(verify(&json!({"sub": "alice"})).err(), Some("invalid_token"));
    for more in [
        json!({"exp": "soon"}),
        json!({"exp": null}),
        json!({"nbf": "x"}),
        json!({"topics": "news"}),
        json!({"topics": ["a b"]}),
        json!({"topics": [7]}),
        json!({"sub": 7}),
    ] {
        assert_eq!(verify(&claims(more.clone())).err(), Some("invalid_token"), "{more}");
    }
    let full = verify(&claims(json!({"jti": "t1", "iat": 7, "aud": ["x"], "iss": "y", "else": {}})));
    let full = full.expect("other claims and any audience");
    assert_eq!(full.token_id.as_deref(), Some("t1"));
    assert_eq!(full.issued_at, Some(UnixMillis(7_000)));
    assert!(full.topics.is_empty());
}

#[test]
fn a_subject_outside_the_character_set_has_a_code_of_its_own() {
    for sub in [json!("a/b"), json!(""), json!("x".repeat(129)), json!("é"), json!(null)] {
        assert_eq!(verify(&claims(json!({"sub": sub}))).err(), Some("invalid_subject"));
    }
    let absent = json!({"exp": NOW_SECONDS + 60});
    assert_eq!(verify(&absent).err(), Some("invalid_subject"));
}

#[test]
fn issuer_and_audience_are_required_once_configured() {
    let check = |more: Value| {
        let mut settings = settings(vec![key(None, Algorithm::HS256, SECRET)]);
        settings.issuer = Some("https://id.example".to_owned());
        settings.audience = vec!["fanfare".to_owned(), "push".to_owned()];
        let token = hs256(&json!({"alg": "HS256"}), &claims(more), SECRET);
        let tokens = UserTokens::new(settings).expect("usable keys");
        tokens.verify(&token, NOW).map(drop).map_err(|error| error.code())
    };
    let iss = "https://id.example";
    assert_eq!(check(json!({"iss": iss, "aud": "push"})), Ok(()));
    assert_eq!(check(json!({"iss": iss, "aud": ["x", "fanfare"]})), Ok(()));
    assert_eq!(check(json!({"aud": "push"})), Err("wrong_issuer"));
    assert_eq!(check(json!({"iss": "https://id.example/", "aud": "push"})), Err("wrong_issuer"));
    assert_eq!(check(json!({"iss": iss})), Err("wrong_audience"));
    assert_eq!(check(json!({"iss": iss, "aud": []})), Err("wrong_audience"));
    assert_eq!(check(json!({"iss": iss, "aud": "other"})), Err("wrong_audience"));
}

#[test]
fn the_kid_selects_the_key_and_without_one_each_key_of_the_algorithm_is_tried() {
    let tokens = verifier(vec![
        key(Some("old"), Algorithm::HS256, OTHER_SECRET),
        key(Some("new"), Algorithm::HS256, SECRET),
        key(Some("rsa"), Algorithm::RS256, RSA_PUBLIC),
    ]);
    let with = |header: Value, secret: &str| {
        let token = hs256(&header, &claims(json!({})), secret);
        tokens.verify(&token, NOW).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(with(json!({"alg": "HS256", "kid": "new"}), SECRET), Ok(()));
    assert_eq!(with(json!({"alg": "HS256"}), SECRET), Ok(()));
    let wrong = with(json!({"alg": "HS256", "kid": "old"}), SECRET);
    assert_eq!(wrong, Err("the token's signature is wrong".to_owned()));
    let unknown = with(json!({"alg": "HS256", "kid": "lost"}), SECRET);
    assert_eq!(unknown, Err("no key is configured for the token's kid and alg".to_owned()));
    let absent = with(json!({"alg": "HS384"}), SECRET);
    assert_eq!(absent, Err("no key is configured for the token's kid and alg".to_owned()));
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let tokens = verifier(vec![key(Some("rsa"), Algorithm::RS256, RSA_PUBLIC)]);
    for header in [json!({"alg": "HS256", "kid": "rsa"}), json!({"alg": "HS256"})] {
        let confused = hs256(&header, &claims(json!({})), RSA_PUBLIC);
        let error = tokens.verify(&confused, NOW).expect_err("algorithm confusion");
        assert_eq!(error.code(), "invalid_token");
    }
    let refused = UserTokens::new(settings(vec![key(None, Algorithm::HS256, RSA_PUBLIC)]));
    let errors = refused.expect_err("a PEM as a secret");
    assert!(errors[0].1.to_string().contains("must not be a PEM"), "{errors:?}");
}

#[test]
fn unsigned_critical_and_broken_tokens_are_refused_without_being_quoted() {
    let tokens = verifier(vec![key(None, Algorithm::HS256, SECRET)]);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(claims(json!({})));
    let none = |alg: &str| format!("{}.{body}.", part(json!({"alg": alg})));
    let critical = hs256(&json!({"alg": "HS256", "crit": ["b64"]}), &claims(json!({})), SECRET);
    let valid = hs256(&json!({"alg": "HS256"}), &claims(json!({})), SECRET);
    for token in [
        none("none"),
        none("None"),
        none("HS256"),
        none("ES512"),
        critical,
        valid.replacen('.', "", 1),
        format!("{valid}.x"),
        format!("{valid}="),
        format!(" {valid}"),
        String::new(),
        "..".to_owned(),
        "x".repeat(9000),
        hs256(&json!({"alg": "HS256"}), &json!([1]), SECRET),
    ] {
        let error = tokens.verify(&token, NOW).expect_err("a bad token");
        assert_eq!(error.code(), "invalid_token", "{token}");
        let shown = format!("{error} {error:?}");
        assert!(token.len() < 3 || !shown.contains(&token), "{shown}");
    }
    assert!(tokens.verify(&valid, NOW).is_ok());
}

#[test]
fn keys_that_cannot_work_are_refused_at_start_with_their_place() {
    let bad = [
        key(None, Algorithm::HS256, "too short"),
        key(None, Algorithm::HS512, &SECRET[..63]),
        key(None, Algorithm::RS256, P256_PUBLIC),
        key(None, Algorithm::ES256, include_str!("keys/p384.public.pem")),
        key(None, Algorithm::EdDSA, P256_PUBLIC),
        key(None, Algorithm::RS256, RSA_PRIVATE),
        key(None, Algorithm::ES256, "no PEM at all"),
        key(Some("twice"), Algorithm::HS256, SECRET),
        key(Some("twice"), Algorithm::HS256, OTHER_SECRET),
    ];
    let errors = UserTokens::new(settings(bad.to_vec())).expect_err("bad keys");
    let places: Vec<usize> = errors.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 8], "{errors:?}");
    let shown = format!("{bad:?} {errors:?}");
    assert!(!shown.contains("too short") && !shown.contains("BEGIN"), "{shown}");
}
