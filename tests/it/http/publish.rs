//! `POST /v1/notifications`: what is accepted, and what each bad request is told.

use fanfare::auth::Grant;
use fanfare::inbox::Upkeep;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{KEY, LIMITED_KEY, Rig, got, token, user_token};

#[tokio::test]
async fn a_stored_notification_is_accepted_and_its_place_named() {
    let rig = Rig::start().await;
    rig.connect(&rig.second, "alice", "phone").await;
    let body = json!({"to": {"users": ["alice", "bob", "alice"]}, "title": "Hello", "ttl": 60}).to_string();
    let request = rig.publish(body).header("content-type", "application/json").header("x-request-id", "r-1");
    let answer = got(request).await;
    assert_eq!(answer.status, 202, "{}", answer.json);
    let id = answer.json["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.json, json!({"id": id, "status": "accepted", "recipients": 2, "online": 1}));
    assert_eq!(answer.header("location"), Some(format!("/v1/notifications/{id}").as_str()));
    assert_eq!(answer.header("x-request-id"), Some("r-1"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("idempotent-replayed"), None);

    let shared = got(rig.publish(r#"{"to":{"topic":"news"}}"#)).await;
    assert_eq!((shared.status, &shared.json["recipients"]), (202, &Value::Null));
}

#[tokio::test]
async fn now_or_never_is_sent_and_has_no_place() {
    let rig = Rig::start().await;
    let answer = got(rig.publish(r#"{"to":{"users":["alice"]},"ttl":0}"#)).await;
    assert_eq!((answer.status, answer.json["status"].as_str()), (200, Some("sent")));
    assert_eq!(answer.header("location"), None);
}

#[tokio::test]
async fn the_same_key_is_answered_as_the_first_time_and_another_body_is_refused() {
    let rig = Rig::start().await;
    let send = |body: &'static str| got(rig.publish(body).header("idempotency-key", "order-42"));
    let first = send(r#"{"to":{"users":["alice"]},"title":"one"}"#).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None));
    let again = send(r#"{"to":{"users":["alice"]},"title":"one"}"#).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (202, Some("true")));
    assert_eq!(again.json, first.json);
    assert_eq!(again.header("location"), first.header("location"));
    let other = send(r#"{"to":{"users":["alice"]},"title":"two"}"#).await;
    other.is_problem(422, "idempotency_key_reused", "idempotency key");
}

#[tokio::test]
async fn each_bad_request_is_told_what_is_wrong_and_the_next_good_one_is_accepted() {
    let rig = Rig::start().await;
    let many: Vec<String> = (0..10_001).map(|number| format!("u{number}")).collect();
    let large = "x".repeat(64 << 10);
    let cases: Vec<(Vec<u8>, u16, &str, &str)> = vec![
        (b"".to_vec(), 400, "invalid_json", "EOF"),
        (b"{".to_vec(), 400, "invalid_json", "EOF"),
        (b"{\"to\":{\"topic\":\"n\"}} x".to_vec(), 400, "invalid_json", "trailing"),
        (b"{\"title\":\"\xff\"}".to_vec(), 400, "invalid_json", "UTF-8"),
        (json_of(&json!([])), 422, "invalid_request", ""),
        (json_of(&json!({"to": {"users": ["a"]}, "title": 5})), 422, "invalid_request", "title"),
        (json_of(&json!({"to": {"users": "a"}})), 422, "invalid_request", "users"),
        (json_of(&json!({"to": {"users": ["a"]}, "titel": "x"})), 422, "invalid_request", "titel"),
        (json_of(&json!({"to": {"user": "a"}})), 422, "invalid_request", "user"),
        (json_of(&json!({"title": "x"})), 422, "invalid_request", "to"),
        (json_of(&json!({"to": {}})), 422, "invalid_target", "none"),
        (json_of(&json!({"to": {"everyone": false}})), 422, "invalid_target", "none"),
        (json_of(&json!({"to": {"users": ["a"], "topic": "n"}})), 422, "invalid_target", "2 of them"),
        (json_of(&json!({"to": {"users": []}})), 422, "invalid_target", "empty"),
        (json_of(&json!({"to": {"users": many}})), 422, "too_many_recipients", "10001"),
        (json_of(&json!({"to": {"users": ["a/b"]}})), 422, "invalid_request", "a/b"),
        (json_of(&json!({"to": {"topic": "x".repeat(129)}})), 422, "invalid_request", "129"),
        (json_of(&json!({"to": {"users": ["a"]}, "title": "a\0b"})), 422, "invalid_text", "title"),
        (json_of(&json!({"to": {"users": ["a"]}, "data": {"a": "\0"}})), 422, "invalid_text", "data"),
        (nested(33), 422, "data_too_deep", "at most 32 arrays and objects within one another; got 33"),
        (json_of(&json!({"to": {"users": ["a"]}, "ttl": -1})), 422, "invalid_ttl", "-1"),
        (json_of(&json!({"to": {"users": ["a"]}, "ttl": 2_592_001})), 422, "invalid_ttl", "2592000"),
        (json_of(&json!({"to": {"users": ["a"]}, "ttl": 1.5})), 422, "invalid_request", "ttl"),
        (json_of(&json!({"to": {"users": ["a"]}, "body": large})), 413, "notification_too_large", "65536"),
        (vec![b' '; (2 << 20) + 1], 413, "request_too_large", "2097152"),
    ];
    for (body, status, code, word) in cases {
        got(rig.publish(body)).await.is_problem(status, code, word);
    }
    assert_eq!(got(rig.publish(r#"{"to":{"users":["a"]}}"#)).await.status, 202);
}

/// A request whose `data` has so many arrays within one another.
fn nested(depth: usize) -> Vec<u8> {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"to":{{"users":["a"]}},"data":{open}{close}}}"#).into_bytes()
}

fn json_of(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[tokio::test]
async fn whoever_cannot_show_a_publishers_credential_is_refused() {
    let rig = Rig::start().await;
    let path = "/v1/notifications";
    let body = r#"{"to":{"users":["alice"]}}"#;
    let nobody = got(rig.ask(Method::POST, path).body(body)).await;
    nobody.is_problem(401, "unauthorized", "publisher's key");
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer realm=\"fanfare\""));
    let basic = rig.ask(Method::POST, path).basic_auth("shop", Some(KEY)).body(body);
    got(basic).await.is_problem(401, "unauthorized", "Bearer");

    let publisher = Grant { sub: "jobs".to_owned(), scope: Some("publish".to_owned()), ..Grant::default() };
    let mut forged = token(publisher.clone(), 0);
    forged.truncate(forged.len() - 10);
    forged.push_str("AAAAAAAAAA");
    // {"alg":"none"} . {"sub":"jobs","exp":9999999999,"scope":"publish"} .
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJqb2JzIiwiZXhwIjo5OTk5OTk5OTk5LCJzY29wZSI6InB1Ymxpc2gifQ.";
    let cases = [
        ("ffk_shop_wrong".to_owned(), 401, "invalid_key", "not known"),
        (token(publisher.clone(), 7_200), 401, "token_expired", "expired"),
        (forged, 401, "invalid_token", "signature"),
        (unsigned.to_owned(), 401, "invalid_token", "token"),
        ("no token at all".to_owned(), 401, "invalid_token", "token"),
        (user_token("alice"), 403, "missing_scope", "publish"),
        (LIMITED_KEY.to_owned(), 403, "forbidden_target", "alice"),
    ];
    for (credential, status, code, word) in cases {
        let answer = got(rig.ask(Method::POST, path).bearer_auth(&credential).body(body)).await;
        answer.is_problem(status, code, word);
        assert_eq!(answer.header("www-authenticate").is_some(), code != "forbidden_target", "{code}");
        assert!(!answer.json.to_string().contains(&credential), "the credential is not repeated");
    }
    let answer = got(rig.ask(Method::POST, path).bearer_auth(token(publisher, 0)).body(body)).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn headers_that_cannot_be_meant_are_refused() {
    let rig = Rig::start().await;
    let body = r#"{"to":{"users":["alice"]}}"#;
    for key in [String::new(), "a b".to_owned(), "x".repeat(256)] {
        let answer = got(rig.publish(body).header("idempotency-key", key)).await;
        answer.is_problem(400, "invalid_idempotency_key", "255");
    }
    let twice = rig.publish(body).header("idempotency-key", "a").header("idempotency-key", "b");
    got(twice).await.is_problem(400, "invalid_idempotency_key", "several");
    let longest = got(rig.publish(body).header("idempotency-key", "x".repeat(255))).await;
    assert_eq!(longest.status, 202);

    let form = rig.publish(body).header("content-type", "application/x-www-form-urlencoded");
    got(form).await.is_problem(415, "unsupported_media_type", "application/json");
    let packed = rig.publish(body).header("content-encoding", "gzip");
    got(packed).await.is_problem(415, "unsupported_media_type", "gzip");
}

/// Sends a body in chunks, without its length, and answers with the status line and what follows.
async fn send_chunked(rig: &Rig, chunks: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(rig.clients).await.expect("it listens");
    let head = format!(
        "POST /v1/notifications HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    for chunk in chunks {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.expect("it reads");
        stream.write_all(chunk).await.expect("it reads on, or the answer would be lost");
        stream.write_all(b"\r\n").await.expect("it reads");
    }
    stream.write_all(b"0\r\n\r\n").await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, not a reset");
    answer
}

#[tokio::test]
async fn a_chunked_body_is_taken_and_counted_as_it_comes() {
    let rig = Rig::start().await;
    let answer = send_chunked(&rig, &[b"{\"to\":{\"users\"", b":[\"alice\"]}}"]).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let piece = vec![b' '; 512 << 10];
    let answer = send_chunked(&rig, &[piece.as_slice(); 6]).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("request_too_large"), "{answer}");
}

#[tokio::test]
async fn without_sql_what_must_be_stored_is_told_to_come_back_and_the_rest_goes_on() {
    let rig = Rig::start().await;
    rig.inbox.close().await;
    let request = rig.publish(r#"{"to":{"users":["alice"]}}"#).header("x-request-id", "r-2");
    let answer = got(request).await;
    answer.is_problem(503, "inbox_unavailable", "inbox");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json["request_id"], "r-2");
    assert_eq!(got(rig.publish(r#"{"to":{"users":["alice"]},"ttl":0}"#)).await.status, 200);
}
