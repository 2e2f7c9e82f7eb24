//! Revoked tokens, as users and operators meet them, on one node and on two.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::support::backends::http_client;
use crate::support::client::{Frame, TestClient};
use crate::support::cluster::TestCluster;
use crate::support::operator::Operator;
use crate::support::process::run;
use crate::support::single::TestNode;
use crate::support::tokens::{Credentials, seconds_from_now};
use crate::support::{DEADLINE, eventually};

/// How soon all nodes must know.
const SOON: Duration = Duration::from_secs(1);

/// A token of `user`, issued so many seconds ago, with this id.
fn token(credentials: &Credentials, user: &str, age: i64, id: &str) -> String {
    let (iat, exp) = (seconds_from_now(-age), seconds_from_now(3_600));
    credentials.sign(&json!({"sub": user, "exp": exp, "iat": iat, "jti": id, "scope": "publish"}))
}

/// Waits for `bye` with 4501, whatever comes before.
async fn expect_refused(client: &mut TestClient) {
    loop {
        match client.frame().await {
            Frame::Bye { code, .. } => {
                assert_eq!(code, 4501);
                break;
            }
            Frame::Closed { code, .. } => panic!("closed with {code} and without bye"),
            _ => {}
        }
    }
    assert_eq!(client.expect_close().await.0, 4501);
}

/// The status and code of a handshake that is refused.
async fn refused_handshake(url: &str, token: &str) -> (u16, String) {
    match TestClient::dial(url, token).await {
        Err(Error::Http(answer)) => {
            let body: Value =
                serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).expect("a problem");
            (answer.status().as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
        }
        other => panic!("a refusal was expected; got {other:?}"),
    }
}

fn revoked() -> (u16, String) {
    (401, "token_revoked".to_owned())
}

async fn connect(url: &str, token: &str) -> TestClient {
    let mut client = TestClient::connect(url, token, json!({})).await;
    client.expect_welcome().await;
    client
}

async fn revoke(operator: &Operator, order: Value) -> Value {
    let (status, done) = operator.post_json("/admin/revocations", &order).await;
    assert_eq!(status, 200, "{done}");
    done
}

#[tokio::test]
async fn a_revoked_token_is_refused_wherever_it_comes_and_its_connections_end() {
    let node = TestNode::start().await;
    let (url, http, operator) = (node.process.ws_url(), node.process.http_url(), node.operator());
    let of = |user: &str, id: &str| token(&node.credentials, user, 10, id);
    let (bad, other) = (of("alice", "bad"), of("alice", "other"));
    let ask_ticket = async |token: &str| {
        let request = http_client().post(format!("{http}/v1/tickets")).bearer_auth(token);
        request.send().await.expect("an answer").json::<Value>().await.expect("JSON")
    };
    let ticket = ask_ticket(&bad).await["ticket"].as_str().expect("a ticket").to_owned();
    let (mut ended, mut stays) = (connect(&url, &bad).await, connect(&url, &other).await);

    let done = revoke(&operator, json!({"token_id": "bad"})).await;
    assert_eq!(done["revocation"]["token_id"], "bad");
    expect_refused(&mut ended).await;
    assert_eq!(refused_handshake(&url, &bad).await, revoked());
    let dialled = TestClient::dial_with(&url, &[("sec-websocket-protocol", "fanfare.v1")]).await;
    let mut hello = dialled.expect("the upgrade");
    hello.hello(json!({"token": bad})).await.expect("sent");
    assert_eq!(hello.expect_error().await.code, "invalid_token");
    expect_refused(&mut hello).await;
    let mut by_ticket =
        TestClient::dial_with(&format!("{url}?ticket={ticket}"), &[]).await.expect("it opens");
    expect_refused(&mut by_ticket).await;
    stays.send(json!({"type": "refresh", "token": bad})).await;
    assert_eq!(stays.expect_error().await.code, "invalid_token");
    for request in [
        http_client().get(format!("{http}/v1/inbox")),
        http_client().post(format!("{http}/v1/notifications")).body("{}"),
    ] {
        let answer = request.bearer_auth(&bad).send().await.expect("an answer");
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.json::<Value>().await.expect("a problem")["code"], "token_revoked");
    }
    assert_eq!(ask_ticket(&bad).await["code"], "token_revoked");
    assert!(operator.metric("fanfare_auth_revoked_total").await >= 6.0);
    assert_eq!(operator.metric("fanfare_auth_revocations").await, 1.0);

    // Of the same user, by another token, all goes on.
    stays.send(json!({"type": "refresh", "token": of("alice", "third"), "id": 2})).await;
    while !matches!(stays.frame().await, Frame::Refreshed { .. }) {}
}

#[tokio::test]
async fn tokens_are_revoked_by_user_and_by_when_they_were_issued_until_that_is_lifted() {
    let node = TestNode::start().await;
    let (url, operator) = (node.process.ws_url(), node.operator());
    let of = |user: &str, age| token(&node.credentials, user, age, "t");
    let dateless = node.credentials.user_token("carol");

    let now = json!({"user": "alice", "issued_before": "now"});
    let mut old = connect(&url, &of("alice", 60)).await;
    revoke(&operator, now).await;
    expect_refused(&mut old).await;
    assert_eq!(refused_handshake(&url, &of("alice", 60)).await, revoked());
    // As if it were issued in a minute: later than the revocation, whatever the test's own second is.
    drop(connect(&url, &of("alice", -60)).await);
    drop(connect(&url, &of("bob", 60)).await);

    let mut all = connect(&url, &of("bob", -60)).await;
    revoke(&operator, json!({"user": "bob"})).await;
    expect_refused(&mut all).await;
    assert_eq!(refused_handshake(&url, &of("bob", -60)).await, revoked());

    drop(connect(&url, &dateless).await);
    let (status, refusal) = operator.post_json("/admin/revocations", &json!({"everyone": true})).await;
    assert_eq!((status, &refusal["code"]), (422, &json!("invalid_request")));
    revoke(&operator, json!({"everyone": true, "issued_before": "now"})).await;
    assert_eq!(refused_handshake(&url, &of("dora", 60)).await, revoked());
    assert_eq!(refused_handshake(&url, &dateless).await, revoked(), "it does not say when it was issued");
    drop(connect(&url, &of("dora", -60)).await);

    let (_, listed) = operator.get("/admin/revocations").await;
    let listed = listed["revocations"].as_array().expect("a list");
    let of = |user: Value| listed.iter().find(|one| one["user"] == user).expect("it is listed");
    assert_eq!((listed.len(), &of(json!("bob"))["issued_before"]), (3, &Value::Null));
    assert!(of(json!("alice"))["issued_before"].is_string() && of(Value::Null)["everyone"] == true);
    assert_eq!(operator.delete("/admin/revocations?user=bob").await.0, 204);
    assert_eq!(operator.delete("/admin/revocations?user=bob").await.0, 404);
    let bobs = token(&node.credentials, "bob", -60, "t");
    eventually(DEADLINE, "bob is let in", async || TestClient::dial(&url, &bobs).await.is_ok()).await;
}

/// The promise: all nodes within a second, and after their restart.
#[tokio::test]
async fn two_nodes_close_and_refuse_what_one_was_told_to_revoke_within_a_second_and_after_a_restart() {
    let mut cluster = TestCluster::start().await;
    let urls = [cluster.nodes[0].ws_url(), cluster.nodes[1].ws_url()];
    let of = |user: &str, id: &str| token(&cluster.credentials, user, 10, id);
    let (by_id, by_user, by_time) = (of("alice", "one"), of("bob", "two"), of("carol", "three"));
    let orders = [
        (&by_id, json!({"token_id": "one"})),
        (&by_user, json!({"user": "bob"})),
        (&by_time, json!({"user": "carol", "issued_before": "now"})),
    ];
    for (token, order) in &orders {
        let mut clients = [connect(&urls[0], token).await, connect(&urls[1], token).await];
        let began = Instant::now();
        let done = revoke(&cluster.operator(0), order.clone()).await;
        for client in &mut clients {
            expect_refused(client).await;
        }
        assert!(began.elapsed() < SOON, "{order}: {:?}", began.elapsed());
        assert_eq!((&done["no_answer"], &done["partial"]), (&json!([]), &json!(false)));
        for url in &urls {
            assert_eq!(refused_handshake(url, token).await, revoked());
        }
    }
    let good = of("alice", "other");
    drop(connect(&urls[1], &good).await);

    for node in &mut cluster.nodes {
        node.process().signal("TERM");
        node.process().wait(DEADLINE).await;
    }
    for node in &mut cluster.nodes {
        node.restart().await;
    }
    for url in &urls {
        for (token, order) in &orders {
            assert_eq!(refused_handshake(url, token).await, revoked(), "{order}");
        }
        drop(connect(url, &good).await);
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_told_finds_a_revocation_within_a_second() {
    let cluster = TestCluster::start().await;
    let mallory = token(&cluster.credentials, "mallory", 10, "t");
    let mut client = connect(&cluster.nodes[1].ws_url(), &mallory).await;
    cluster.rabbit.cut();
    let operator = cluster.operator(0);
    let began = Instant::now();
    let told = tokio::spawn(async move { revoke(&operator, json!({"user": "mallory"})).await });
    expect_refused(&mut client).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let done = told.await.expect("it is answered");
    assert_eq!(done["no_answer"], json!(["node-2"]));
}

#[tokio::test]
async fn an_operator_revokes_lists_and_lifts_from_the_command_line() {
    let node = TestNode::start().await;
    let (admin, secret) = (node.process.admin_url(), node.credentials.admin_token.clone());
    let fanfare = |what: &[&str]| {
        let common = ["revocations", "--admin-url", &admin, "--token", &secret];
        let output = run(node.folder(), &[&common[..], what].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let alices = token(&node.credentials, "alice", 10, "t");
    let mut client = connect(&node.process.ws_url(), &alices).await;
    let (code, out, err) = fanfare(&["add", "--user", "alice"]);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("revoked: tokens of alice, until 2"), "{out}");
    assert!(lines.len() == 2 && lines[1].ends_with(" connections were ended"), "{out}");
    expect_refused(&mut client).await;

    let (code, out, _) = fanfare(&["add", "--everyone", "--issued-before", "2001-09-09T01:46:40Z", "--json"]);
    let done: Value = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!((code, &done["revocation"]["issued_before"]), (Some(0), &json!("2001-09-09T01:46:40Z")));
    let (_, listed, _) = fanfare(&["list"]);
    assert!(listed.starts_with("revoked: everybody's tokens issued before 2001-09-09T01:46:40Z"), "{listed}");
    assert_eq!(listed.lines().count(), 2);
    assert_eq!(fanfare(&["lift", "--user", "alice"]).1, "lifted\n");
    assert_eq!(fanfare(&["lift", "--everyone"]).1, "lifted\n");
    assert_eq!(fanfare(&["list"]).1, "no revocations\n");
    let (code, _, err) = fanfare(&["lift", "--token-id", "x"]);
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "fanfare: refused with 404 (not_found): there is no such revocation\n")
    );
    for wrong in [&["add"][..], &["add", "--everyone"], &["add", "--user", "a", "--everyone"]] {
        assert_eq!(fanfare(wrong).0, Some(2), "{wrong:?}");
    }
    let (_, _, err) = fanfare(&["add", "--user", "alice", "--issued-before", "yesterday"]);
    assert!(err.contains("422 (invalid_request)") && err.contains("yesterday"), "{err}");
}
