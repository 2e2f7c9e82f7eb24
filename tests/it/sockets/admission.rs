//! Who gets a WebSocket when many want one: limits that are kept before the upgrade.

use std::time::Duration;

use fanfare::gateway::SocketSettings;
use fanfare::metrics::gateway::HandshakeLabels;

use super::client::{self, Client};
use super::server::Server;

/// Asks for a WebSocket with `extra` header lines: its client, or the answer instead.
async fn ask(server: &Server, extra: &str) -> Result<Client, (String, String)> {
    let mut client = Client::open(server.address).await;
    client.send(client::handshake(extra).as_bytes()).await;
    if !client.peeks("HTTP/1.1 101").await {
        return Err(client.response().await);
    }
    client.head().await;
    Ok(client)
}

fn status(answer: &Result<Client, (String, String)>) -> &str {
    answer.as_ref().err().map_or("101", |(head, _)| &head[9..12])
}

/// The seconds of `Retry-After`.
fn retry_after(head: &str) -> u32 {
    let value = head.split("retry-after: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    value.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("no Retry-After: {head}"))
}

fn refused(server: &Server, outcome: &'static str) -> u64 {
    server.metrics.handshakes.get_or_create(&HandshakeLabels { outcome }).get()
}

#[tokio::test]
async fn one_address_has_so_many_sockets_and_gets_another_when_one_ends() {
    let server =
        Server::start(SocketSettings { max_sockets_per_address: 2, ..SocketSettings::default() }).await;
    let first = ask(&server, "").await.expect("the first");
    let _second = ask(&server, "").await.expect("the second");
    // Written by the client itself: nobody believes it.
    let (head, body) = ask(&server, "X-Forwarded-For: 203.0.113.1\r\n").await.expect_err("a third");
    assert!(head.starts_with("http/1.1 429"), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    assert!((5..=10).contains(&retry_after(&head)), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["code"], "too_many_connections_of_address");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("at most 2")), "{body}");
    assert_eq!(refused(&server, "address"), 1);
    first.reset();
    server.outcome().await;
    server.has_sockets(1).await;
    assert_eq!(status(&ask(&server, "").await), "101");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_an_address_of_its_own() {
    let settings = SocketSettings {
        max_sockets_per_address: 1,
        trusted_proxies: vec!["127.0.0.0/8".parse().expect("a network")],
        ..SocketSettings::default()
    };
    let server = Server::start(settings).await;
    let mut open = vec![];
    for (forwarded, expected) in [
        ("203.0.113.1", "101"),
        ("203.0.113.2", "101"),
        ("203.0.113.9, 203.0.113.1", "429"),
        ("203.0.113.3, 127.0.0.7", "101"),
        ("2001:db8::1", "101"),
        ("2001:db8::2", "429"),
        ("2001:db8:0:1::1", "101"),
    ] {
        let answer = ask(&server, &format!("X-Forwarded-For: {forwarded}\r\n")).await;
        assert_eq!(status(&answer), expected, "{forwarded}");
        open.push(answer);
    }
}

#[tokio::test]
async fn so_many_sockets_a_second_are_let_in_and_the_others_told_when_their_turn_is() {
    let server = Server::start(SocketSettings { accept_rate: 2, ..SocketSettings::default() }).await;
    let (mut open, mut turns) = (vec![], vec![]);
    // On a slow machine some more than two come in a second's time; thirty would take 14 s.
    for _ in 0..30 {
        match ask(&server, "").await {
            Ok(client) => open.push(client),
            Err((head, body)) => {
                assert!(head.starts_with("http/1.1 503"), "{head}");
                assert!(body.contains(r#""code":"too_many_at_once""#), "{body}");
                turns.push(retry_after(&head));
            }
        }
    }
    assert!((2..30).contains(&open.len()), "{}", open.len());
    assert_eq!(refused(&server, "rate"), turns.len() as u64);
    // The line moves by two a second, and each is told a little more.
    assert!((1..=2).contains(&turns[0]), "{turns:?}");
    assert!(turns.len() < 10 || turns.iter().max() > turns.iter().min(), "{turns:?}");
    server.has_sockets(open.len()).await;
}

#[tokio::test]
async fn who_comes_back_at_its_time_is_let_in() {
    let server = Server::start(SocketSettings { accept_rate: 1, ..SocketSettings::default() }).await;
    let mut open = vec![];
    let turn = loop {
        match ask(&server, "").await {
            Ok(client) => open.push(client),
            Err((head, _)) => break retry_after(&head),
        }
    };
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(turn.into())).await;
    tokio::time::resume();
    assert_eq!(status(&ask(&server, "").await), "101");
}

#[tokio::test]
async fn without_a_limit_one_address_has_as_many_sockets_as_there_are() {
    let server = Server::start(SocketSettings { max_sockets: 20, ..SocketSettings::default() }).await;
    let mut open = vec![];
    for _ in 0..20 {
        open.push(ask(&server, "").await.expect("a place"));
    }
    let (head, _) = ask(&server, "").await.expect_err("no place");
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!((5..=10).contains(&retry_after(&head)), "{head}");
    assert_eq!(refused(&server, "full"), 1);
}
