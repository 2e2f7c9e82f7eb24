//! What comes before a WebSocket: requests, their limits, their deadlines.

use std::time::{Duration, Instant};

use fanfare::gateway::SocketSettings;
use fanfare::gateway::accept::AcceptSettings;

use super::client::{self, Client};
use super::server::{Event, Server};

#[tokio::test]
async fn handshakes_that_are_wrong_get_a_status_and_no_socket() {
    let server = Server::start(SocketSettings::default()).await;
    let good = client::handshake("");
    let cases = [
        (good.replace("Version: 13", "Version: 8"), "426"),
        (good.replace("Connection: Upgrade", "Connection: close"), "426"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "426"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "Zm9v"), "400"),
        (good.replace("Host: x\r\n", "Host: x\r\nContent-Length: 2\r\n"), "400"),
        (good.replace("GET", "POST"), "405"),
        (client::handshake("X-Reject: yes\r\n"), "401"),
        (client::handshake(&format!("X-Long: {}\r\n", "a".repeat(9000))), "431"),
    ];
    for (request, status) in cases {
        let mut client = Client::open(server.address).await;
        client.send(request.as_bytes()).await;
        let head = client.head().await;
        assert_eq!(&head[9..12], status, "{head}");
        if head.contains("426") {
            assert!(head.to_ascii_lowercase().contains("sec-websocket-version: 13"));
        }
    }
    server.has_no_sockets().await;
}

#[tokio::test]
async fn only_the_protocol_is_answered_and_the_hook_sees_the_token() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::open(server.address).await;
    let offer = "Sec-WebSocket-Protocol: fanfare.v1, fanfare.token.abc\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate\r\n";
    client.send(client::handshake(offer).as_bytes()).await;
    let head = client.head().await.to_ascii_lowercase();
    assert!(head.contains("sec-websocket-protocol: fanfare.v1\r\n"), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    assert!(!head.contains("abc"), "{head}");
    assert_eq!(server.event().await, Event::Offered(Some("abc".to_owned())));
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let accept = AcceptSettings { header_timeout: Duration::from_millis(200), ..AcceptSettings::default() };
    let server = Server::start_with(SocketSettings::default(), accept).await;
    for start in ["", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut client = Client::open(server.address).await;
        client.send(start.as_bytes()).await;
        client.ends().await;
    }
}

#[tokio::test]
async fn a_handshake_that_trickles_in_is_cut_as_well() {
    let accept = AcceptSettings { header_timeout: Duration::from_millis(200), ..AcceptSettings::default() };
    let server = Server::start_with(SocketSettings::default(), accept).await;
    let start = Instant::now();
    let mut client = Client::open(server.address).await;
    let request = client::handshake(&format!("X-Slow: {}\r\n", "a".repeat(1000)));
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    // All of it would take over ten seconds.
    for byte in request.bytes() {
        ticks.tick().await;
        client.send(&[byte]).await;
        if client.has_ended() {
            break;
        }
    }
    let waited = start.elapsed().as_millis();
    assert!((190..5_000).contains(&waited), "{waited} ms");
    server.has_no_sockets().await;
}

#[tokio::test]
async fn a_head_without_end_is_refused_at_the_limit() {
    let server = Server::start(SocketSettings::default()).await;
    let short: String = (0..2_000).map(|number| format!("X-{number}: y\r\n")).collect();
    let starts = [
        format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "a".repeat(8_192)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{short}"),
        format!("GET /{}", "a".repeat(8_192)),
    ];
    for start in starts {
        let mut client = Client::open(server.address).await;
        client.send(start.as_bytes()).await;
        let head = client.head().await;
        assert!(["431", "414"].contains(&&head[9..12]), "{head}");
    }
}

#[tokio::test]
async fn what_follows_a_handshake_is_frames_even_if_it_looks_like_a_request() {
    let server = Server::start(SocketSettings::default()).await;
    let mut client = Client::open(server.address).await;
    client.upgrade(&[client::handshake("").as_str(), "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).await;
    assert_eq!(client.close_code().await, 1002);
    client.ends().await;
}

#[tokio::test]
async fn an_idle_connection_waits_longer_than_a_slow_head_of_its_next_request() {
    let accept = AcceptSettings {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(2),
        ..AcceptSettings::default()
    };
    let server = Server::start_with(SocketSettings::default(), accept).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
    for (next, at_least, at_most) in [("", 1950, 10_000), ("GET /", 190, 1900)] {
        let mut client = Client::open(server.address).await;
        client.send(request.as_bytes()).await;
        client.skip_response().await;
        let start = Instant::now();
        client.send(next.as_bytes()).await;
        client.ends().await;
        let waited = start.elapsed().as_millis();
        assert!((at_least..at_most).contains(&waited), "{next:?}: {waited} ms");
    }
}

#[tokio::test]
async fn one_connection_or_socket_too_many_is_told_to_come_back() {
    let accept = AcceptSettings { max_connections: 1, ..AcceptSettings::default() };
    let settings = SocketSettings { max_sockets: 1, ..SocketSettings::default() };
    let server = Server::start_with(settings, accept).await;
    let client = Client::connect(server.address).await;
    let mut second = Client::open(server.address).await;
    second.send(client::handshake("").as_bytes()).await;
    let head = second.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(head.contains("retry-after"), "{head}");
    // The second's HTTP connection is kept alive and takes the only place there is.
    let mut third = Client::open(server.address).await;
    let head = third.head().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    third.ends().await;
    drop(client);
}
