//! `fanfare listen` against a WebSocket server that the test plays by hand.

use std::path::Path;
use std::process::{Child, Command};

use fanfare::config::Trial;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use warp::Filter;

use super::{DEADLINE, claims, ended, fanfare, folder, run};

/// A WebSocket server that a test plays by hand.
struct Stage {
    listener: TcpListener,
}

impl Stage {
    async fn new() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        (Self { listener }, url)
    }

    /// The next connection, and its `hello`.
    async fn accept(&self) -> (Client, Value) {
        let accepted = tokio::time::timeout(DEADLINE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("it comes in time").expect("accepted");
        #[expect(clippy::result_large_err, reason = "tungstenite's callback has this type")]
        let answer = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/v1/connect");
            assert_eq!(request.headers()["sec-websocket-protocol"], "fanfare.v1");
            let protocol = http::HeaderValue::from_static("fanfare.v1");
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, answer).await;
        let mut client = Client { socket: socket.expect("a handshake") };
        let hello = client.receive().await;
        (client, hello)
    }
}

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn send(&mut self, frame: Value) {
        let sent = self.socket.send(Message::text(frame.to_string())).await;
        sent.expect("the client takes it");
    }

    async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
        next.expect("it comes in time")?.ok()
    }

    async fn receive(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("a text frame, not {other:?}"),
        }
    }

    async fn welcome(&mut self, from: u64) {
        let stream = json!({"stream": "user", "epoch": "k3", "head": 9, "from": from, "gap": false});
        self.send(json!({
            "type": "welcome", "connection": "c", "node": "n1", "user": "alice", "device": "d1",
            "time": "2026-01-01T00:00:00Z", "heartbeat_ms": 25000, "unread": 2, "version": 1,
            "streams": [stream], "degraded": false
        }))
        .await;
    }

    async fn notify(&mut self, seq: u64) {
        self.send(notification(seq)).await;
    }

    async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.socket.close(Some(frame)).await.expect("sent");
        while self.next().await.is_some() {}
    }
}

fn notification(seq: u64) -> Value {
    let title = format!("n{seq}");
    json!({"type": "notification", "stream": "user", "seq": seq,
           "notification": {"id": "x", "title": title, "data": null}})
}

fn ack(seq: u64) -> Value {
    json!({"type": "ack", "stream": "user", "seq": seq})
}

fn listen(folder: &Path, url: &str, more: &[&str]) -> Child {
    let common = ["listen", "--url", url, "--token", "hunter2", "--device", "d1"];
    let mut command = fanfare(folder, &[&common[..], more].concat());
    command.spawn().expect("it starts")
}

#[tokio::test]
async fn listen_acks_what_it_printed_resumes_and_drops_doubles() {
    let (stage, url) = Stage::new().await;
    let folder = folder();
    let child = listen(folder.path(), &url, &["--topic", "news"]);

    let (mut client, hello) = stage.accept().await;
    let expected = json!({"type": "hello", "token": "hunter2", "device": "d1", "ack": "manual",
                          "topics": ["news"]});
    assert_eq!(hello, expected);
    client.welcome(0).await;
    for seq in [1, 2] {
        client.notify(seq).await;
        assert_eq!(client.receive().await, ack(seq));
    }
    client.send(json!({"type": "ping"})).await;
    assert_eq!(client.receive().await, json!({"type": "pong"}));
    client.send(json!({"type": "bye", "code": 4000, "reason": "draining", "reconnect_after_ms": 1})).await;
    client.close(4000, "draining").await;

    let (mut client, hello) = stage.accept().await;
    assert_eq!(hello["resume"], json!({"user": {"epoch": "k3", "seq": 2}}));
    client.welcome(1).await;
    for seq in [2, 3] {
        client.notify(seq).await;
        assert_eq!(client.receive().await, ack(seq));
    }
    // A connection that only breaks: it comes back by itself.
    drop(client);

    let (mut client, hello) = stage.accept().await;
    assert_eq!(hello["resume"]["user"]["seq"], 3);
    client.welcome(3).await;
    client.send(json!({"type": "gap", "stream": "user", "from": 4, "to": 6})).await;
    client.send(json!({"type": "cancelled", "stream": "user", "seq": 7, "id": "x"})).await;
    assert_eq!(client.receive().await, ack(7));
    client.close(4501, "invalid_token").await;

    let ran = ended(child).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    let expected =
        ["user 1  n1", "user 2  n2", "user 3  n3", "user  missed for good: 4 to 6", "user 7  cancelled: x"];
    assert_eq!(lines, expected, "{}", ran.err);
    let last = ran.err.lines().last().expect("an end");
    assert_eq!(last, "fanfare: the server closed the connection: 4501 invalid_token. The token was refused.");
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}

#[tokio::test]
async fn another_epoch_starts_the_stream_anew() {
    let (stage, url) = Stage::new().await;
    let folder = folder();
    let child = listen(folder.path(), &url, &["--count", "2"]);
    let (mut client, _) = stage.accept().await;
    client.welcome(8).await;
    client.notify(9).await;
    assert_eq!(client.receive().await, ack(9));
    client.send(json!({"type": "bye", "code": 4000, "reason": "x", "reconnect_after_ms": 0})).await;
    client.close(4000, "draining").await;
    let (mut client, _) = stage.accept().await;
    let stream = json!({"stream": "user", "epoch": "k4", "head": 1, "from": 0, "gap": true});
    client
        .send(json!({"type": "welcome", "node": "n1", "user": "alice", "heartbeat_ms": 25000,
                     "unread": 1, "streams": [stream]}))
        .await;
    client.notify(1).await;
    assert_eq!(client.receive().await, ack(1));
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "user 9  n9\nuser 1  n1\n"));
}

#[tokio::test]
async fn listen_prints_frames_as_json_and_ends_in_order_after_its_count() {
    let (stage, url) = Stage::new().await;
    let folder = folder();
    let child = listen(folder.path(), &url, &["--json", "--count", "1", "--ack", "auto"]);
    let (mut client, hello) = stage.accept().await;
    assert_eq!(hello["ack"], "auto");
    client.welcome(0).await;
    client.notify(1).await;
    // No ack of its own before the close frame.
    assert!(matches!(client.next().await, Some(Message::Close(_))));
    drop(client);
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON"), notification(1));
}

#[tokio::test]
async fn listen_ends_in_order_when_it_is_asked_to_stop() {
    let (stage, url) = Stage::new().await;
    let folder = folder();
    let child = listen(folder.path(), &url, &[]);
    let (mut client, _) = stage.accept().await;
    client.welcome(0).await;
    client.notify(1).await;
    assert_eq!(client.receive().await, ack(1));
    // `timeout` hands the signal on.
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    assert!(matches!(client.next().await, Some(Message::Close(_))));
    drop(client);
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "user 1  n1\n"));
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

#[tokio::test]
async fn listen_does_not_come_back_after_a_refusal() {
    let folder = folder();
    let refusing = warp::any().map(|| {
        let body = json!({"code": "token_expired", "detail": "the token expired"});
        http::Response::builder().status(401).body(body.to_string())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(warp::serve(refusing).incoming(listener).run());
    let ran = ended(listen(folder.path(), &url, &[])).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.err, "fanfare: refused with 401 (token_expired): the token expired\n");

    let ran = run(folder.path(), &["listen"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("fanfare: no token: give --token"), "{}", ran.err);
}

#[tokio::test]
async fn listen_beside_a_trial_connects_as_alice_with_a_token_of_its_own() {
    let (stage, url) = Stage::new().await;
    let folder = folder();
    let data_dir = folder.path().join("data");
    let mut trial = Trial::load_or_create(&data_dir).expect("made");
    trial.keep_url(&data_dir, &url).expect("kept");
    let mut command = fanfare(folder.path(), &["listen", "--count", "1", "--topic", "news"]);
    let child = command.spawn().expect("it starts");
    let (mut client, hello) = stage.accept().await;
    let token = hello["token"].as_str().expect("a text");
    let claims = claims(token, trial.user_secret.expose());
    assert_eq!(claims.user.as_str(), "alice");
    assert_eq!(claims.topics[0].as_str(), "news");
    assert!(hello["device"].as_str().expect("a text").starts_with("cli-"));
    client.welcome(0).await;
    client.notify(1).await;
    assert_eq!(client.receive().await, ack(1));
    assert_eq!(ended(child).await.code, Some(0));
}

#[test]
fn listen_away_from_the_nodes_data_makes_no_secrets_and_says_what_to_do() {
    let folder = folder();
    let ran = run(folder.path(), &["listen", "--user", "alice", "--url", "http://127.0.0.1:1"]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 1), "{}", ran.err);
    for word in ["data", "--config", "--token"] {
        assert!(ran.err.contains(word), "{}", ran.err);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0, "nothing was made");
}
