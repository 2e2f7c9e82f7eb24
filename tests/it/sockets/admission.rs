//! Who gets a WebSocket when many want one: limits that are kept before the upgrade.

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
