//! Keys that are fetched from a URL: which are taken, when they are fetched, and what a bad answer changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::auth::{KeySet, KeySetSettings, Secret, SetKeys, UserTokens};
use fanfare::clock::Clock;
use fanfare::jobs::key_set::{Download, Refresher};
use fanfare::metrics::auth::{AuthMetrics, FetchLabels};
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{NOW, RSA_PUBLIC, SECRET, claims, hs256, key, verifier};
use crate::support::backends::http_client;
use crate::support::jwks::{KeyServer, public_key, token};
use crate::support::ports::free_port;
use crate::support::{DEADLINE, eventually};

const HOUR: Duration = Duration::from_secs(3_600);

/// Fetches at the start, and then only when a token asks, once.
fn settings(url: &str) -> KeySetSettings {
    let url = Secret::new(url);
    KeySetSettings { url, refresh: HOUR, timeout: DEADLINE, cooldown: HOUR, keep: HOUR }
}

/// Tokens with one static HS256 key and a key set.
struct Rig {
    tokens: UserTokens,
    metrics: AuthMetrics,
    _stop: DropGuard,
}

impl Rig {
    fn start(settings: KeySetSettings) -> Self {
        // The TLS provider is there as soon as there is a client.
        drop(http_client());
        let (metrics, cancel) = (AuthMetrics::default(), CancellationToken::new());
        let set = Arc::new(KeySet::new(settings.timeout, metrics.clone()));
        let refresher = Refresher {
            source: Download::new(settings.url.clone()).expect("a client"),
            settings,
            set: Arc::clone(&set),
            clock: Clock::system(),
            metrics: metrics.clone(),
        };
        tokio::spawn(refresher.run(cancel.clone()));
        let keys = vec![key(None, fanfare::auth::Algorithm::HS256, SECRET)];
        Self { tokens: verifier(keys).with_key_set(Some(set)), metrics, _stop: cancel.drop_guard() }
    }

    /// Whose token it is, or the code of the refusal.
    async fn verify(&self, token: &str) -> Result<String, &'static str> {
        let verified = self.tokens.verify_or_learn(token, || NOW).await;
        verified.map(|claims| claims.user.to_string()).map_err(|error| error.code())
    }

    fn fetches(&self, outcome: &'static str) -> u64 {
        self.metrics.fetches.get_or_create(&FetchLabels { outcome }).get()
    }
}

fn alices(kid: &str, algorithm: Algorithm) -> String {
    token(kid, algorithm, &claims(json!({})))
}

fn alice() -> Result<String, &'static str> {
    Ok("alice".to_owned())
}

/// Without `alg`: then the type of the key decides.
fn without_alg(mut key: Value) -> Value {
    key.as_object_mut().expect("an object").remove("alg");
    key
}

#[tokio::test]
async fn each_key_verifies_its_own_algorithm_and_no_other_whatever_the_token_says() {
    let keys = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let named = keys.map(|algorithm| public_key(&format!("{algorithm:?}"), algorithm));
    let bare = keys.map(|algorithm| without_alg(public_key(&format!("bare-{algorithm:?}"), algorithm)));
    let pss = public_key("pss", Algorithm::PS256);
    let server = KeyServer::start(0, &[&named[..], &bare[..], &[pss]].concat()).await;
    let rig = Rig::start(settings(&server.url()));
    for algorithm in keys {
        assert_eq!(rig.verify(&alices(&format!("{algorithm:?}"), algorithm)).await, alice());
        assert_eq!(rig.verify(&alices(&format!("bare-{algorithm:?}"), algorithm)).await, alice());
    }
    assert_eq!(rig.verify(&alices("pss", Algorithm::PS256)).await, alice());

    let modulus = named[0]["n"].as_str().expect("a text");
    let header = json!({"alg": "HS256", "kid": "RS256"});
    let unsigned = |alg: &str| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": alg, "kid": "RS256"})), part(claims(json!({}))))
    };
    for confused in [
        hs256(&header, &claims(json!({})), RSA_PUBLIC),
        hs256(&header, &claims(json!({})), modulus),
        hs256(&json!({"alg": "HS256"}), &claims(json!({})), modulus),
        unsigned("none"),
        unsigned("RS256"),
        alices("RS256", Algorithm::ES256),
        alices("ES256", Algorithm::RS256),
        alices("RS256", Algorithm::PS256),
        alices("bare-RS256", Algorithm::PS256),
        alices("pss", Algorithm::RS256),
    ] {
        assert_eq!(rig.verify(&confused).await, Err("invalid_token"), "{confused}");
    }
    assert_eq!(server.requests(), 1, "none of them is of an unknown key");
}

#[test]
fn what_is_not_for_signatures_symmetric_private_small_or_unknown_is_left_out_of_a_set() {
    let rsa = public_key("good", Algorithm::RS256);
    let with = |name: &str, value: Value| {
        let mut key = rsa.clone();
        key["kid"] = json!(format!("{name} {}", value.to_string().len()));
        key[name] = value;
        key
    };
    let small = URL_SAFE_NO_PAD.encode([0xff_u8; 128]);
    let keys = [
        rsa.clone(),
        rsa.clone(),
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("alg", json!("RS512")),
        with("alg", json!("HS256")),
        with("alg", json!("ES256")),
        with("n", json!(small)),
        with("n", json!(URL_SAFE_NO_PAD.encode([0xff_u8; 1024]))),
        with("n", json!("no base64!")),
        with("n", json!(7)),
        with("e", json!("AQ")),
        with("d", json!("AQAB")),
        with("kid", json!("k".repeat(257))),
        with("kty", json!("new")),
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "hmac", "alg": "HS256"}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kty": "OKP", "crv": "X25519", "x": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([1; 31])}),
        json!("no key"),
    ];
    let read = SetKeys::read(json!({"keys": keys}).to_string().as_bytes()).expect("a set");
    assert_eq!((read.count(), read.left_out()), (1, keys.len() - 1), "{read}");
    assert_eq!(
        read.to_string(),
        "1 keys in force, 20 left out (2 not for signatures, 1 symmetric, 1 private, 6 of another kind or \
         algorithm, 2 RSA and not of 2048-4096 bits, 1 of a kid that came before, 7 malformed)"
    );
    let many = vec![rsa; 65];
    let error = SetKeys::read(json!({"keys": many}).to_string().as_bytes()).expect_err("too many");
    assert_eq!(error.to_string(), "the set has 65 keys; at most 64 are taken");
    for bad in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
        assert!(SetKeys::read(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_new_kid_is_learnt_at_once_and_a_key_that_left_is_refused_from_then_on() {
    let server = KeyServer::start(0, &[public_key("old", Algorithm::ES256)]).await;
    let rig = Rig::start(settings(&server.url()));
    let (old, new) = (alices("old", Algorithm::ES256), alices("new", Algorithm::EdDSA));
    assert_eq!(rig.verify(&old).await, alice());
    server.publish(&[public_key("new", Algorithm::EdDSA)]);
    assert_eq!(rig.verify(&old).await, alice(), "nobody has looked yet");
    assert_eq!(rig.verify(&new).await, alice());
    assert_eq!(rig.verify(&old).await, Err("keys_unavailable"), "nobody has looked since it came");
    assert_eq!((server.requests(), rig.metrics.suppressed.get()), (2, 1));
    server.publish(&[]);
    let rig = Rig::start(KeySetSettings { refresh: Duration::from_millis(20), ..settings(&server.url()) });
    eventually(DEADLINE, "an empty set is fetched", async || rig.fetches("ok") > 0).await;
    assert_eq!(rig.verify(&new).await, Err("invalid_token"), "an empty set revokes all keys");
}

#[tokio::test]
async fn a_thousand_unknown_kids_cause_one_fetch_and_hold_up_nobody() {
    let server = KeyServer::start(0, &[public_key("known", Algorithm::ES256)]).await;
    let rig = Rig::start(settings(&server.url()));
    let known = alices("known", Algorithm::ES256);
    assert_eq!(rig.verify(&known).await, alice());
    // Nobody has to sign what is refused by its kid.
    let stranger = |at: usize| {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "ES256", "kid": format!("k{at}")}).to_string());
        format!("{header}.{}", known.split_once('.').expect("three parts").1)
    };
    let strangers: Vec<String> = (0..1_000).map(stranger).collect();
    let refused = join_all(strangers.iter().map(|token| rig.verify(token))).await;
    assert!(refused.iter().all(|outcome| *outcome == Err("invalid_token")));
    assert_eq!(server.requests(), 2, "one at the start, one for all of them");
    let joined = rig.metrics.suppressed.get();
    for token in &strangers {
        assert_eq!(rig.verify(token).await, Err("keys_unavailable"));
    }
    assert_eq!(server.requests(), 2, "and none while it rests");
    assert_eq!(rig.metrics.suppressed.get() - joined, 1_000);
    assert_eq!(rig.verify(&known).await, alice());
}

#[tokio::test]
async fn the_gate_opens_again_after_its_rest() {
    let server = KeyServer::start(0, &[]).await;
    let cooldown = Duration::from_millis(50);
    let rig = Rig::start(KeySetSettings { cooldown, ..settings(&server.url()) });
    assert_eq!(rig.verify(&alices("a", Algorithm::ES256)).await, Err("invalid_token"));
    server.publish(&[public_key("b", Algorithm::EdDSA)]);
    let late = alices("b", Algorithm::EdDSA);
    eventually(DEADLINE, "a later kid is learnt", async || rig.verify(&late).await == alice()).await;
}

#[tokio::test]
async fn a_token_waits_for_one_deadline_at_most_and_known_keys_do_not_wait() {
    let server = KeyServer::start(0, &[public_key("known", Algorithm::ES256)]).await;
    let timeout = Duration::from_secs(2);
    let rig = Rig::start(KeySetSettings { timeout, ..settings(&server.url()) });
    let (known, unknown) = (alices("known", Algorithm::ES256), alices("unknown", Algorithm::EdDSA));
    eventually(DEADLINE, "the first fetch", async || rig.verify(&known).await == alice()).await;
    server.fall_silent();
    let began = Instant::now();
    let (refused, verified) = tokio::join!(rig.verify(&unknown), async {
        eventually(DEADLINE, "the fetch is under way", async || server.requests() >= 2).await;
        rig.tokens.verify(&known, NOW).is_ok() && began.elapsed() < timeout
    });
    assert_eq!(refused, Err("keys_unavailable"));
    assert!(verified, "a known key is verified while another token waits");
    assert!(began.elapsed() < DEADLINE);
}

#[tokio::test]
async fn what_a_token_says_of_keys_is_never_heeded() {
    let server = KeyServer::start(0, &[public_key("rsa", Algorithm::RS256)]).await;
    let attackers = KeyServer::start(0, &[public_key("evil", Algorithm::EdDSA)]).await;
    let rig = Rig::start(settings(&server.url()));
    for kid in [Some("evil".to_owned()), Some("rsa".to_owned()), None] {
        let header = jsonwebtoken::Header {
            kid,
            jku: Some(attackers.url()),
            x5u: Some(attackers.url()),
            jwk: serde_json::from_value(public_key("evil", Algorithm::EdDSA)).expect("a key"),
            ..jsonwebtoken::Header::new(Algorithm::EdDSA)
        };
        let key = crate::support::jwks::private_key(Algorithm::EdDSA);
        let token = jsonwebtoken::encode(&header, &claims(json!({})), &key).expect("signed");
        assert_eq!(rig.verify(&token).await, Err("invalid_token"));
    }
    assert_eq!(attackers.requests(), 0);
}

#[tokio::test]
async fn a_url_that_is_away_at_the_start_keeps_no_static_key_waiting_and_is_tried_until_it_is_there() {
    let port = free_port();
    let rig = Rig::start(settings(&format!("http://127.0.0.1:{port}/jwks")));
    let own = hs256(&json!({"alg": "HS256"}), &claims(json!({})), SECRET);
    assert!(rig.tokens.verify(&own, NOW).is_ok());
    let token = alices("late", Algorithm::ES256);
    assert_eq!(rig.verify(&token).await, Err("keys_unavailable"));
    let _server = KeyServer::start(port, &[public_key("late", Algorithm::ES256)]).await;
    eventually(DEADLINE, "the set is fetched after all", async || rig.tokens.verify(&token, NOW).is_ok())
        .await;
}

#[tokio::test]
async fn a_token_without_kid_waits_for_the_first_set_and_is_refused_by_that_only() {
    let nameless = |algorithm| {
        let header = jsonwebtoken::Header::new(algorithm);
        let key = crate::support::jwks::private_key(algorithm);
        jsonwebtoken::encode(&header, &claims(json!({})), &key).expect("signed")
    };
    let mut bare = public_key("", Algorithm::ES256);
    bare.as_object_mut().expect("an object").remove("kid");
    let port = free_port();
    let rig = Rig::start(settings(&format!("http://127.0.0.1:{port}/jwks")));
    assert_eq!(rig.verify(&nameless(Algorithm::ES256)).await, Err("keys_unavailable"));
    let own = hs256(&json!({"alg": "HS256"}), &claims(json!({})), "another secret of thirty-two bytes");
    assert_eq!(rig.verify(&own).await, Err("invalid_token"), "no set has keys of this kind");

    let server = KeyServer::start(port, &[bare]).await;
    let rig = Rig::start(settings(&server.url()));
    assert_eq!(rig.verify(&nameless(Algorithm::ES256)).await, alice(), "the first fetch is under way");
    assert_eq!(rig.verify(&nameless(Algorithm::EdDSA)).await, Err("invalid_token"));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_fetch_that_began_before_a_token_came_refuses_it_not() {
    let read = |keys: Value| SetKeys::read(json!({"keys": keys}).to_string().as_bytes()).expect("a set");
    let set = Arc::new(KeySet::new(DEADLINE, AuthMetrics::default()));
    let tokens = verifier(vec![]).with_key_set(Some(Arc::clone(&set)));
    let late = alices("late", Algorithm::ES256);
    let fetches = async {
        set.begin();
        tokio::task::yield_now().await;
        set.end(Some(read(json!([]))), false);
        set.asked().await;
        set.begin();
        set.end(Some(read(json!([public_key("late", Algorithm::ES256)]))), true);
    };
    let verify = tokens.verify_or_learn(&late, || NOW);
    let (verified, ()) =
        tokio::time::timeout(DEADLINE, async { tokio::join!(verify, fetches) }).await.expect("it asks again");
    assert_eq!(verified.expect("a good token").user.as_str(), "alice");
}

#[tokio::test]
async fn a_bad_answer_changes_nothing_and_a_redirect_is_not_followed() {
    let good = [public_key("known", Algorithm::ES256)];
    let server = KeyServer::start(0, &good).await;
    let elsewhere = KeyServer::start(0, &[public_key("evil", Algorithm::EdDSA)]).await;
    let rig = Rig::start(KeySetSettings { refresh: Duration::from_millis(20), ..settings(&server.url()) });
    let known = alices("known", Algorithm::ES256);
    assert_eq!(rig.verify(&known).await, alice());
    let location = format!("Location: {}\r\n", elsewhere.url());
    let oversized = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(600 * 1024));
    let many = json!({"keys": vec![json!({}); 65]}).to_string();
    for (status, headers, body) in [
        ("200 OK", "", "{\"keys\":[{"),
        ("200 OK", "", oversized.as_str()),
        ("200 OK", "", many.as_str()),
        ("302 Found", location.as_str(), ""),
        ("500 Internal Server Error", "", "{\"keys\":[]}"),
        ("204 No Content", "", ""),
    ] {
        server.answer(status, headers, body);
        let failed = rig.fetches("failed");
        // The first may have been under way before the answer changed.
        eventually(DEADLINE, "it was fetched", async || rig.fetches("failed") >= failed + 2).await;
        assert!(rig.tokens.verify(&known, NOW).is_ok(), "{status}");
    }
    assert_eq!((elsewhere.requests(), rig.metrics.keys.get()), (0, 1));
    server.publish(&[]);
    eventually(DEADLINE, "it is fetched again", async || rig.tokens.verify(&known, NOW).is_err()).await;
}
