//! Publishers' keys and tokens, and whom they may send to; administrators' tokens.

use std::sync::Arc;

use fanfare::auth::{
    AdminSettings, Admins, Algorithm, KeyHash, Limits, Permissions, PublisherSettings, Publishers, Secret,
    TopicPattern, UserPattern, new_admin_token, new_publisher_key,
};
use fanfare::domain::{DeviceId, PublisherId, Target, TopicName, UserId};
use serde_json::{Value, json};

use super::{NOW, SECRET, claims, hs256, key, verifier};

fn id(text: &str) -> PublisherId {
    PublisherId::new(text).expect("an id")
}

fn publisher(name: &str, keys: &[&Secret], limits: Limits) -> PublisherSettings {
    PublisherSettings {
        id: id(name),
        key_hashes: keys.iter().map(|key| KeyHash::of(key.expose())).collect(),
        amqp_user: Some(format!("amqp-{name}")),
        limits,
        rate: None,
    }
}

fn publishers(settings: Vec<PublisherSettings>, default: Option<&str>) -> Publishers {
    let tokens = verifier(vec![key(None, Algorithm::HS256, SECRET)]);
    Publishers::new(settings, default.map(id), Arc::new(tokens))
}

#[test]
fn a_publisher_is_known_by_any_of_its_keys_and_by_its_amqp_user() {
    let (old, new) = (new_publisher_key(&id("shop")), new_publisher_key(&id("shop")));
    let settings =
        vec![publisher("shop", &[&old, &new], Limits::default()), publisher("bank", &[], Limits::default())];
    let all = publishers(settings, Some("bank"));
    for key in [&old, &new] {
        let found = all.authenticate(key.expose(), NOW).expect("a known key");
        assert_eq!(found.id.as_str(), "shop");
    }
    let stranger = new_publisher_key(&id("shop"));
    for bad in [stranger.expose(), "ffk_shop_", "ffk_"] {
        let error = all.authenticate(bad, NOW).expect_err("an unknown key");
        assert_eq!(error.code(), "invalid_key");
    }
    let by_amqp = |user| all.by_user_id(user).map(|publisher| publisher.id.clone());
    assert_eq!(by_amqp("amqp-bank"), Some(id("bank")));
    assert_eq!(by_amqp("guest"), None);
    assert_eq!(all.default_publisher().map(|one| one.id.clone()), Some(id("bank")));
    let shown = format!("{all:?}");
    assert!(!shown.contains(new.expose()) && !shown.contains(SECRET), "{shown}");
}

#[test]
fn a_token_of_scope_publish_is_a_publisher_with_the_limits_it_says() {
    let all = publishers(vec![], None);
    let with = |more: Value| {
        let token = hs256(&json!({"alg": "HS256"}), &claims(more), SECRET);
        all.authenticate(&token, NOW)
    };
    for scope in [json!("read publish"), json!(["publish"]), json!(["read", "a publish"])] {
        let found = with(json!({"scope": scope, "sub": "shop"})).expect("a publisher");
        assert_eq!(found.id, id("shop"));
        assert_eq!(found.may.publish_to(&Target::Everyone), Ok(()));
    }
    for scope in [json!("publisher"), json!([]), json!(null)] {
        let error = with(json!({"scope": scope})).expect_err("no publisher");
        assert_eq!(error.code(), "missing_scope");
    }
    let limited = with(json!({"scope": "publish", "users": ["customer.*"]})).expect("limited");
    let user = |name| Target::Users(vec![UserId::new(name).expect("an id")]);
    assert_eq!(limited.may.publish_to(&user("customer.7")), Ok(()));
    assert!(limited.may.publish_to(&user("staff.7")).is_err());
    assert!(limited.may.publish_to(&Target::Everyone).is_err());
    let expired = with(json!({"scope": "publish", "exp": 5})).expect_err("expired");
    assert_eq!(expired.code(), "token_expired");
    let malformed = with(json!({"scope": "publish", "users": ["a b"]})).expect_err("a bad limit");
    assert_eq!(malformed.code(), "invalid_token");
}

#[test]
fn a_limited_publisher_reaches_what_is_listed_and_nothing_else() {
    let shop_key = new_publisher_key(&id("shop"));
    let limits = Limits {
        users: Some(vec![UserPattern::new("customer.#").expect("a pattern")]),
        topics: Some(vec![TopicPattern::new("news.*").expect("a pattern")]),
        everyone: None,
    };
    let all = publishers(vec![publisher("shop", &[&shop_key], limits)], None);
    let may = all.authenticate(shop_key.expose(), NOW).expect("known").may;
    let user = |name| UserId::new(name).expect("an id");
    let topic = |name| Target::Topic(TopicName::new(name).expect("a topic"));
    let device = DeviceId::new("web-1").expect("an id");
    assert_eq!(may.publish_to(&Target::Users(vec![user("customer.7")])), Ok(()));
    assert_eq!(may.publish_to(&topic("news.eu")), Ok(()));
    for (target, what) in [
        (Target::Users(vec![user("customer.7"), user("bob")]), "user \"bob\""),
        (Target::Devices(vec![(user("bob"), device)]), "user \"bob\""),
        (topic("news"), "topic \"news\""),
        (Target::Everyone, "everyone"),
    ] {
        let refused = may.publish_to(&target).expect_err("a forbidden target");
        assert_eq!(refused.what, what);
        assert_eq!(refused.code(), "target_forbidden");
    }
}

#[test]
fn everyone_is_allowed_or_not_apart_from_the_other_limits() {
    let may = |users: Option<&str>, everyone| {
        let users = users.map(|text| vec![UserPattern::new(text).expect("a pattern")]);
        let limits = Limits { users, topics: None, everyone };
        let may = Permissions::new(limits);
        let topic = Target::Topic(TopicName::new("news").expect("a topic"));
        [Target::Everyone, topic].map(|target| may.publish_to(&target).is_ok())
    };
    assert_eq!(may(None, None), [true, true]);
    assert_eq!(may(None, Some(false)), [false, true]);
    assert_eq!(may(Some("a"), None), [false, false]);
    assert_eq!(may(Some("a"), Some(true)), [true, false]);
}

#[test]
fn an_administrator_is_known_by_the_token_only() {
    let token = new_admin_token();
    let settings = AdminSettings { id: "ops".to_owned(), token_hash: KeyHash::of(token.expose()) };
    let admins = Admins::new(vec![settings]);
    let found = admins.authenticate(token.expose());
    assert_eq!(found.map(|admin| admin.id).as_deref(), Some("ops"));
    assert_eq!(admins.authenticate(new_admin_token().expose()), None);
    assert_eq!(admins.authenticate(""), None);
    assert_eq!(Admins::new(vec![]).authenticate(token.expose()), None);
}
