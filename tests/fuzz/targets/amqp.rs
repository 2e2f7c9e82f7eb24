//! Properties of AMQP messages (`publish::ingress`): a request within its bounds, or a dead letter with its reason.
//!
//! An input is `expiration`, `message_id`, `user_id` and the body, a line each; an empty line is an absent property.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use fanfare::auth::{Limits, PublisherSettings, Publishers, TokenSettings, UserTokens};
use fanfare::broker::Outcome;
use fanfare::domain::PublisherId;
use fanfare::publish::ingress::{self, MAX_KEY_BYTES};

use super::{Target, demand};

/// An AMQP short string has no more (AMQP 0-9-1 section 4.2.5.3).
const SHORT_STRING_BYTES: usize = 255;

/// A property of 255 bytes, each of them escaped, and a sentence.
const LONGEST_REASON: usize = 2_000;

pub(super) const TARGET: Target = Target {
    name: "amqp",
    corpus,
    words: &[
        b"\n",
        b"shop",
        b"60000",
        b"18446744073709551615",
        b"+1",
        b" 1",
        b"0",
        b"-1",
        b"\xc2\xa0",
        b"\x7f\x7f\x7f\x7f",
    ],
    check,
};

fn corpus() -> Vec<Vec<u8>> {
    ["60000\norder-42\nshop\n{}", "\n\nshop\n", "\nkey\n\n{}", "0\n\n\n", "x\n\nnobody\n{}"]
        .map(Vec::from)
        .to_vec()
}

static PUBLISHERS: LazyLock<Publishers> = LazyLock::new(|| {
    let id = |text: &str| PublisherId::new(text).expect("valid");
    let publisher = |name: &str, amqp_user: Option<&str>| PublisherSettings {
        id: id(name),
        key_hashes: vec![],
        amqp_user: amqp_user.map(str::to_owned),
        limits: Limits::default(),
        rate: None,
    };
    let settings = TokenSettings { keys: vec![], issuer: None, audience: vec![], leeway: Duration::ZERO };
    let tokens = UserTokens::new(settings).expect("no keys, none wrong");
    Publishers::new(
        vec![publisher("shop", Some("shop")), publisher("anybody", None)],
        Some(id("anybody")),
        Arc::new(tokens),
    )
});

fn check(input: &[u8]) -> Result<String, String> {
    let mut lines = input.splitn(4, |byte| *byte == b'\n');
    let mut property = || {
        let line = lines.next().unwrap_or_default();
        let text = String::from_utf8_lossy(&line[..line.len().min(SHORT_STRING_BYTES)]).into_owned();
        Some(text).filter(|text| !text.is_empty())
    };
    let (expiration, message_id, user_id) = (property(), property(), property());
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let read = ingress::request(
        &PUBLISHERS,
        body.clone(),
        message_id.clone(),
        expiration.as_deref(),
        user_id.as_deref(),
    );
    match read {
        Ok(request) => {
            let from = if user_id.is_some() { "shop" } else { "anybody" };
            demand(request.publisher.id.as_str() == from, || {
                format!("it is from {:?}", request.publisher.id)
            })?;
            demand(request.json == body, || "the body changed".to_owned())?;
            let key = message_id.filter(|_| user_id.is_some());
            demand(request.idempotency_key == key, || format!("its key is {:?}", request.idempotency_key))?;
            let is_bad = key.is_some_and(|key| key.len() > MAX_KEY_BYTES || key.contains('\0'));
            demand(!is_bad, || "its key is too long, or has a NUL".to_owned())?;
            let ttl = request.default_ttl.map(|ttl| ttl.as_millis().to_string());
            let said = expiration.map(|text| text.trim_start_matches('+').trim_start_matches('0').to_owned());
            demand(ttl == said, || format!("its ttl is {ttl:?} ms, said was {said:?}"))?;
            Ok(format!("taken from {from}, ttl {}, key {}", ttl.is_some(), request.idempotency_key.is_some()))
        }
        Err(Outcome::Dead { code, reason }) => {
            let length = reason.len();
            demand((1..=LONGEST_REASON).contains(&length), || {
                format!("a reason of {length} bytes; at most {LONGEST_REASON}")
            })?;
            demand(!code.is_empty(), || "no code".to_owned())?;
            Ok(code.to_owned())
        }
        Err(other) => Err(format!("neither taken nor dead: {other:?}")),
    }
}
