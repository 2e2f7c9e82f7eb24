//! A node whose users' keys come from a URL, as clients and operators meet it.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::jwks::{KeyServer, public_key, token};
use crate::support::single::TestNode;
use crate::support::tokens::seconds_from_now;

const FANFARE: &str = "fanfare.v1";

fn of(user: &str, kid: &str, algorithm: Algorithm) -> String {
    token(kid, algorithm, &json!({"sub": user, "exp": seconds_from_now(3600), "scope": "publish"}))
}

async fn node(server: &KeyServer, cooldown: &str) -> TestNode {
    let url = format!("\"{}\"", server.url());
    TestNode::start_with(&[("auth.users.jwks_url", &url), ("auth.users.jwks_cooldown_s", cooldown)]).await
}

/// Connects with nothing and says `hello` with the token.
async fn hello(node: &TestNode, token: &str) -> TestClient {
    let dialled = TestClient::dial_with(&node.process.ws_url(), &[("sec-websocket-protocol", FANFARE)]).await;
    let mut client = dialled.expect("the upgrade");
    client.hello(json!({"token": token})).await.expect("sent");
    client
}

#[tokio::test]
async fn users_attach_by_keys_of_the_set_and_those_of_new_keys_wait_for_them() {
    let server = KeyServer::start(0, &[public_key("rsa", Algorithm::RS256)]).await;
    let node = node(&server, "1").await;
    let url = node.process.ws_url();
    let mut header = TestClient::connect(&url, &of("alice", "rsa", Algorithm::RS256), json!({})).await;
    assert_eq!(header.expect_welcome().await.user, "alice");
    let mut own = TestClient::connect(&url, &node.credentials.user_token("bob"), json!({})).await;
    assert_eq!(own.expect_welcome().await.user, "bob");

    server.publish(&[public_key("rsa", Algorithm::RS256), public_key("p256", Algorithm::ES256)]);
    let by_hello = of("carol", "p256", Algorithm::ES256);
    let mut waits = hello(&node, &by_hello).await;
    assert_eq!(waits.expect_welcome().await.user, "carol");
    waits.send(json!({"type": "refresh", "token": by_hello, "id": 1})).await;
    loop {
        if let Frame::Refreshed { id, .. } = waits.frame().await {
            assert_eq!(id, Some(json!(1)));
            break;
        }
    }
    let operator = node.operator();
    assert_eq!(operator.metric("fanfare_auth_jwks_keys").await, 2.0);

    let carols = of("carol", "p256", Algorithm::ES256);
    let inbox = format!("{}/v1/inbox", node.process.http_url());
    let answer = http_client().get(inbox).bearer_auth(&carols).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body: Value = json!({"to": {"users": ["alice"]}, "type": "t", "title": "x"});
    let publish = http_client().post(format!("{}/v1/notifications", node.process.http_url()));
    let publish = publish.bearer_auth(&carols).header("content-type", "application/json");
    let answer = publish.body(body.to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    assert_eq!(header.expect_notification().await.notification["title"], "x");
}

#[tokio::test]
async fn an_unknown_kid_is_refused_like_a_bad_signature_and_shows_nowhere() {
    let server = KeyServer::start(0, &[public_key("ed", Algorithm::EdDSA)]).await;
    let mut node = node(&server, "3600").await;
    let url = node.process.ws_url();
    let known = of("alice", "ed", Algorithm::EdDSA);
    let mut client = hello(&node, &known).await;
    assert_eq!(client.expect_welcome().await.user, "alice");
    let forged = format!("{}{}", &known[..known.len() - 8], "AAAAAAAA");
    let unknown = of("alice", "unknown", Algorithm::EdDSA);
    for bad in [&forged, &unknown, &unknown] {
        match TestClient::dial(&url, bad).await {
            Err(Error::Http(answer)) => {
                assert_eq!(answer.status(), 401);
                let body: Value =
                    serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).expect("a problem");
                assert_eq!(body["code"], "invalid_token");
            }
            other => panic!("401 was expected; got {other:?}"),
        }
        let mut refused = hello(&node, bad).await;
        assert_eq!(refused.expect_error().await.code, "invalid_token");
        assert!(matches!(refused.frame().await, Frame::Bye { code: 4501, .. }));
        assert_eq!(refused.expect_close().await.0, 4501);
        client.send(json!({"type": "refresh", "token": bad})).await;
        assert_eq!(client.expect_error().await.code, "invalid_token");
    }
    assert_eq!(server.requests(), 2, "one at the start, one for all that were unknown");
    assert_eq!(node.operator().metric("fanfare_auth_jwks_suppressed_total").await, 5.0);
    let log = node.process.process().log();
    let told = log.lines().filter(|line| line.contains("auth.users.jwks_url")).count();
    assert_eq!(told, 1, "one line at each change of state: {log}");
    for secret in [&known, &unknown, &server.url()] {
        assert!(!log.contains(secret.as_str()), "{log}");
    }
}
