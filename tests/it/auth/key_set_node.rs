//! A node whose users' keys come from a URL, as clients and operators meet it.

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::jwks::{KeyServer, public_key, token};
use crate::support::single::TestNode;
use crate::support::tokens::seconds_from_now;
use crate::support::{DEADLINE, eventually};

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

/// Status and code of a handshake with the token in the header, and whether it says when to come back.
async fn refused_handshake(url: &str, token: &str) -> (u16, String, bool) {
    match TestClient::dial(url, token).await {
        Err(Error::Http(answer)) => {
            let body: Value =
                serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).expect("a problem");
            let code = body["code"].as_str().unwrap_or_default().to_owned();
            (answer.status().as_u16(), code, answer.headers().contains_key("retry-after"))
        }
        other => panic!("a refusal was expected; got {other:?}"),
    }
}

/// Whoever says `bye` with 4005 says when to come back.
async fn expect_come_back(client: &mut TestClient) {
    match client.frame().await {
        Frame::Bye { code: 4005, reconnect_after_ms, .. } => assert!(reconnect_after_ms.is_some()),
        other => panic!("bye with 4005 was expected; got {other:?}"),
    }
    assert_eq!(client.expect_close().await.0, 4005);
}

#[tokio::test]
async fn while_keys_cannot_be_fetched_good_tokens_are_told_to_come_back_and_are_taken_later() {
    let server = KeyServer::start(0, &[]).await;
    server.answer("503 Service Unavailable", "", "");
    let node = node(&server, "1").await;
    let url = node.process.ws_url();
    let token = of("alice", "rsa", Algorithm::RS256);

    assert_eq!(refused_handshake(&url, &token).await, (503, "keys_unavailable".to_owned(), true));
    expect_come_back(&mut hello(&node, &token).await).await;
    let offered = format!("{FANFARE}, fanfare.token.{token}");
    let mut browser =
        TestClient::dial_with(&url, &[("sec-websocket-protocol", &offered)]).await.expect("the upgrade");
    expect_come_back(&mut browser).await;
    let mut own = TestClient::connect(&url, &node.credentials.user_token("alice"), json!({})).await;
    own.expect_welcome().await;
    own.send(json!({"type": "refresh", "token": token, "id": 7})).await;
    let error = own.expect_error().await;
    assert_eq!((error.code.as_str(), error.retry), ("unavailable", true));

    let http = node.process.http_url();
    let inbox = http_client().get(format!("{http}/v1/inbox")).bearer_auth(&token);
    let publish = http_client().post(format!("{http}/v1/notifications")).bearer_auth(&token);
    for request in [inbox, publish.header("content-type", "application/json").body("{}")] {
        let answer = request.send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
        let body: Value = answer.json().await.expect("a problem");
        assert_eq!(body["code"], "keys_unavailable");
    }

    server.publish(&[public_key("rsa", Algorithm::RS256)]);
    eventually(DEADLINE, "the same token is taken", async || TestClient::dial(&url, &token).await.is_ok())
        .await;
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
    assert_eq!(refused_handshake(&url, &forged).await, (401, "invalid_token".to_owned(), false));
    let mut refused = hello(&node, &forged).await;
    assert_eq!(refused.expect_error().await.code, "invalid_token");
    assert!(matches!(refused.frame().await, Frame::Bye { code: 4501, .. }));
    assert_eq!(refused.expect_close().await.0, 4501);
    for bad in [&forged, &unknown] {
        client.send(json!({"type": "refresh", "token": bad})).await;
        assert_eq!(client.expect_error().await.code, "invalid_token", "a set was fetched since it came");
    }
    assert_eq!(refused_handshake(&url, &unknown).await, (503, "keys_unavailable".to_owned(), true));
    assert_eq!(server.requests(), 2, "one at the start, one for all that were unknown");
    assert_eq!(node.operator().metric("fanfare_auth_jwks_suppressed_total").await, 1.0);
    let log = node.process.process().log();
    let told = log.lines().filter(|line| line.contains("auth.users.jwks_url")).count();
    assert_eq!(told, 1, "one line at each change of state: {log}");
    for secret in [&known, &unknown, &server.url()] {
        assert!(!log.contains(secret.as_str()), "{log}");
    }
}
