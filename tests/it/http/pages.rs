//! Paths and methods of the client listener, and the demo page.

use std::time::Duration;

use fanfare::auth::Secret;
use fanfare::clock::Clock;
use fanfare::http::{Demo, Trial};
use reqwest::Method;
use serde_json::json;

use super::rig::{KEY, Rig, got, signing_key};

async fn rig_with(demo: Demo) -> Rig {
    Rig::start_with(|state| state.demo = demo).await
}

fn trial() -> Demo {
    let publisher_key = Secret::new(KEY);
    Demo::Trial(Trial { key: signing_key(), token_ttl: Duration::from_secs(600), publisher_key })
}

#[tokio::test]
async fn every_path_names_its_methods_when_another_one_comes() {
    let rig = rig_with(Demo::On).await;
    let cases = [
        (Method::GET, "/v1/notifications", "POST, OPTIONS"),
        (Method::DELETE, "/v1/notifications", "POST, OPTIONS"),
        (Method::PUT, "/v1/notifications/x", "GET, HEAD, DELETE, OPTIONS"),
        (Method::GET, "/v1/notifications/batch", "POST, OPTIONS"),
        (Method::DELETE, "/v1/notifications/batch", "POST, OPTIONS"),
        (Method::POST, "/v1/inbox", "GET, HEAD, OPTIONS"),
        (Method::POST, "/v1/inbox/unread", "GET, HEAD, OPTIONS"),
        (Method::GET, "/v1/inbox/read", "POST, OPTIONS"),
        (Method::GET, "/v1/devices/web-1", "DELETE, OPTIONS"),
        (Method::POST, "/v1/presence", "GET, HEAD, OPTIONS"),
        (Method::PUT, "/v1/tickets", "POST, OPTIONS"),
        (Method::POST, "/v1/connect", "GET, OPTIONS"),
        (Method::POST, "/", "GET, HEAD, OPTIONS"),
        (Method::PATCH, "/demo/demo.js", "GET, HEAD, OPTIONS"),
        (Method::GET, "/demo/token", "POST, OPTIONS"),
    ];
    for (method, path, allow) in cases {
        let answer = got(rig.ask(method.clone(), path)).await;
        answer.is_problem(405, "method_not_allowed", method.as_str());
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
        let options = got(rig.ask(Method::OPTIONS, path)).await;
        assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "{path}");
    }
    for path in [
        "/v1",
        "/v1/notifications/x/y",
        "/v1/devices",
        "/v2/notifications",
        "/livez",
        "/metrics",
        "/demo/absent.js",
    ] {
        got(rig.ask(Method::GET, path)).await.is_problem(404, "not_found", "path");
    }
}

#[tokio::test]
async fn the_demo_page_is_whole_and_may_load_nothing_from_elsewhere() {
    let rig = rig_with(Demo::On).await;
    let page = got(rig.ask(Method::GET, "/")).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self' ws: wss:"));
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let etag = page.header("etag").expect("an etag").to_owned();
    let again = got(rig.ask(Method::GET, "/").header("if-none-match", etag)).await;
    assert_eq!(again.status, 304);

    let script = rig.ask(Method::GET, "/demo/demo.js").send().await.expect("an answer");
    let length = script.text().await.expect("text").len();
    let head = got(rig.ask(Method::HEAD, "/demo/demo.js")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.to_string().as_str())));
    assert_eq!(head.header("content-type"), Some("text/javascript; charset=utf-8"));
}

#[tokio::test]
async fn a_trial_hands_out_tokens_that_are_good_here() {
    let rig = rig_with(trial()).await;
    let config = got(rig.ask(Method::GET, "/demo/config")).await;
    assert_eq!(config.json, json!({"trial": true, "node": "n1"}));
    let ask = |body: &'static str| rig.ask(Method::POST, "/demo/token").body(body);
    let answer = got(ask(r##"{"user":"alice","topics":["#"]}"##)).await;
    assert_eq!((answer.status, answer.json["publisher_key"].as_str()), (200, Some(KEY)), "{}", answer.json);
    let token = answer.json["token"].as_str().expect("a token");
    let claims = rig.tokens.verify(token, Clock::system().now()).expect("a good token");
    assert_eq!((claims.user.as_str(), claims.topics.len()), ("alice", 1));
    assert!(answer.json["expires_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{}", answer.json);

    got(ask(r#"{"user":"a/b"}"#)).await.is_problem(422, "invalid_request", "a/b");
    got(ask(r##"{"user":"a","topics":["#.x"]}"##)).await.is_problem(422, "invalid_request", "topics[0]");
    let foreign = ask(r#"{"user":"alice"}"#).header("origin", "https://shop.example");
    got(foreign).await.is_problem(403, "origin_forbidden", "shop.example");
}

#[tokio::test]
async fn without_a_trial_no_tokens_and_without_a_demo_no_page() {
    let rig = rig_with(Demo::On).await;
    let config = got(rig.ask(Method::GET, "/demo/config")).await;
    assert_eq!(config.json, json!({"trial": false, "node": "n1"}));
    let ask = rig.ask(Method::POST, "/demo/token").body(r#"{"user":"alice"}"#);
    got(ask).await.is_problem(403, "not_a_trial", "trial");

    let rig = rig_with(Demo::Off).await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/demo/config"),
        (Method::GET, "/demo/demo.js"),
        (Method::POST, "/demo/token"),
    ] {
        got(rig.ask(method, path)).await.is_problem(404, "not_found", "path");
    }
}
