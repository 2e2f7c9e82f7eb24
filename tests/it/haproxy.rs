//! `deploy/haproxy.cfg` does what it says, on a real HAProxy: before stand-ins, and before real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async, connect_async};

use crate::support::backends::http_client;
use crate::support::cluster::{NODE_IDS, TestCluster};
use crate::support::device::{Device, DeviceOptions, all_received};
use crate::support::front::Front;
use crate::support::haproxy::{self, DEPLOYED, Node};
use crate::support::ports::unused_ports;
use crate::support::publisher::Publisher;
use crate::support::single::TestNode;
use crate::support::stand_in::{answer, echo, stand_in, websocket_echo};
use crate::support::{DEADLINE, eventually, within};
use crate::topology::{
    carries_websockets, cut_posts, post, tells_nodes_who_asks_and_believes_no_client_about_it,
};

/// What a killed node told nobody is found soon. Heartbeats are the default's: on a busy machine a client may miss
/// two of a second each, and here nobody may lose a connection for that.
const HEALING: &[(&str, &str)] = &[("delivery.head_check_ms", "1000"), ("delivery.blind_check_ms", "500")];

/// Two nodes whose checks are answered 200.
async fn before(http: [u16; 2]) -> (Front, TempDir) {
    let (admin, _) = stand_in(echo).await;
    let folder = TempDir::new().expect("a temporary folder");
    let front = haproxy::start(folder.path(), http.map(|http| Node { http, admin })).await;
    (front, folder)
}

async fn before_cluster(cluster: &TestCluster) -> Front {
    haproxy::start(cluster.folder(), [(&cluster.nodes[0]).into(), (&cluster.nodes[1]).into()]).await
}

/// The status of a GET.
async fn get(front: &Front, path: &str) -> u16 {
    let get = http_client().get(format!("{}{path}", front.http_url()));
    get.send().await.expect("an answer").status().as_u16()
}

/// Waits until HAProxy has written `line`.
async fn says(front: &mut Front, line: &str) {
    eventually(Duration::from_secs(30), line, async || front.process().log().contains(line)).await;
}

/// Alice's devices, all behind the proxy, one after the other.
async fn devices(cluster: &TestCluster, front: &Front, count: usize) -> Vec<Device> {
    let mut devices = vec![];
    for number in 0..count {
        let mut device = Device::start(DeviceOptions {
            first_url: front.ws_url(),
            ws_url: front.ws_url(),
            token: cluster.credentials.user_token("alice"),
            device: format!("device-{number}"),
            topics: vec![],
        });
        device.connected(DEADLINE, 1).await;
        devices.push(device);
    }
    devices
}

/// Which node each device was on first.
fn first_nodes(devices: &[Device]) -> Vec<String> {
    devices.iter().map(|device| device.diary().welcomes[0].node.clone()).collect()
}

#[tokio::test]
async fn haproxy_tells_nodes_who_asks_and_believes_no_client_about_it() {
    let (port, _) = stand_in(echo).await;
    let (haproxy, _folder) = before([port, port]).await;
    tells_nodes_who_asks_and_believes_no_client_about_it(&haproxy).await;
}

#[tokio::test]
async fn haproxy_carries_websockets_to_the_node_that_is_there() {
    let (port, server) = websocket_echo().await;
    // Its checks are answered, so that only the refused connection tells.
    let (haproxy, _folder) = before([unused_ports()[0], port]).await;
    carries_websockets(&haproxy).await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn haproxy_sends_a_post_to_another_node_only_if_the_first_never_had_it() {
    let (cutting, cut) = stand_in(cut_posts).await;
    let (haproxy, _folder) = before([cutting, cutting]).await;
    let before_it = cut.load(Ordering::Relaxed);
    assert_eq!((post(&haproxy).await, cut.load(Ordering::Relaxed)), (502, before_it + 1));

    let (port, _) = stand_in(echo).await;
    let (haproxy, _folder) = before([unused_ports()[0], port]).await;
    for _ in 0..4 {
        assert_eq!(post(&haproxy).await, 200);
    }
}

#[tokio::test]
async fn haproxy_sends_a_get_to_another_node_if_the_first_ended_without_a_word() {
    let ((cutting, cut), (port, _)) = (stand_in(|_| String::new()).await, stand_in(echo).await);
    let (haproxy, _folder) = before([cutting, port]).await;
    for _ in 0..4 {
        assert_eq!(get(&haproxy, "/v1/inbox").await, 200);
    }
    assert_ne!(cut.load(Ordering::Relaxed), 0, "some came to that one first");
}

#[tokio::test]
async fn haproxy_hands_a_refusal_on_and_asks_no_other_node() {
    let full = |_: &str| {
        answer("503 Service Unavailable", "{}").replace("\r\nConnection", "\r\nRetry-After: 7\r\nConnection")
    };
    let (port, asked) = stand_in(full).await;
    let (haproxy, _folder) = before([port, port]).await;
    let before_it = asked.load(Ordering::Relaxed);
    let Err(Error::Http(refusal)) = connect_async(haproxy.ws_url()).await else {
        panic!("an answer other than 101 was expected")
    };
    assert_eq!(refusal.status(), 503);
    assert_eq!(refusal.headers()["retry-after"], "7");
    assert_eq!(asked.load(Ordering::Relaxed), before_it + 1);
}

#[tokio::test]
async fn a_node_that_is_not_ready_gets_no_newcomers_and_keeps_whom_it_has() {
    let ready = NODE_IDS.map(|id| Arc::new(AtomicBool::new(id == "node-1")));
    let mut admin = vec![];
    for ready in &ready {
        let ready = Arc::clone(ready);
        let answers =
            move |head: &str| match (head.starts_with("GET /readyz "), ready.load(Ordering::Relaxed)) {
                (true, true) => answer("200 OK", "{}"),
                (true, false) => answer("503 Service Unavailable", "{}"),
                (false, _) => answer("404 Not Found", "{}"),
            };
        admin.push(stand_in(answers).await.0);
    }
    let ((first, server), (second, _)) = (websocket_echo().await, stand_in(echo).await);
    let folder = TempDir::new().expect("a temporary folder");
    let nodes = [Node { http: first, admin: admin[0] }, Node { http: second, admin: admin[1] }];
    let mut haproxy = haproxy::start(folder.path(), nodes).await;
    says(&mut haproxy, "Server fanfare/node-2 is DOWN").await;
    let (mut socket, _) = connect_async(haproxy.ws_url()).await.expect("the first takes it");

    ready[1].store(true, Ordering::Relaxed);
    says(&mut haproxy, "Server fanfare/node-2 is UP").await;
    ready[0].store(false, Ordering::Relaxed);
    says(&mut haproxy, "Server fanfare/node-1 is DOWN").await;
    for _ in 0..4 {
        // The first would cut it, and it is not sent again.
        assert_eq!(post(&haproxy).await, 200);
    }
    socket.send(Message::text("still here")).await.expect("sent");
    let echoed = within(DEADLINE, "an echo", socket.next()).await.expect("open").expect("a message");
    assert_eq!(echoed, Message::text("still here"));
    server.await.expect("no panic");
}

#[tokio::test]
async fn what_belongs_to_operators_is_not_behind_haproxy() {
    const PATHS: [&str; 8] = [
        "/readyz",
        "/livez",
        "/metrics",
        "/admin/nodes",
        "/%61dmin/nodes",
        "/admin",
        "/console",
        "/console/index.html",
    ];
    let (port, asked) = stand_in(echo).await;
    let (haproxy, _folder) = before([port, port]).await;
    let before_it = asked.load(Ordering::Relaxed);
    for path in PATHS {
        assert_eq!(get(&haproxy, path).await, 404, "{path}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), before_it, "no node was asked");

    let node = TestNode::start().await;
    let haproxy = haproxy::start(node.folder(), [(&node.process).into(), (&node.process).into()]).await;
    let ask = async |url: &str, path: &str| {
        let get = http_client().get(format!("{url}{path}")).bearer_auth(&node.credentials.admin_token);
        get.send().await.expect("an answer").status().as_u16()
    };
    for path in &PATHS[..4] {
        assert_eq!(ask(&node.process.admin_url(), path).await, 200, "{path} is there");
        assert_eq!(ask(&haproxy.http_url(), path).await, 404, "{path}");
    }
}

/// A handshake from an address of the test's own, which may say that it is from another: its socket, or the
/// status.
async fn ask_from(
    address: &str,
    says: Option<&'static str>,
    front: &Front,
    token: &str,
) -> Result<WebSocketStream<TcpStream>, u16> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("on loopback");
    let stream = socket.connect(front.address()).await.expect("it listens");
    let mut request = front.ws_url().into_client_request().expect("a URL");
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", "fanfare.v1".parse().expect("ASCII"));
    headers.insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    if let Some(says) = says {
        headers.insert("x-forwarded-for", says.parse().expect("ASCII"));
    }
    match within(DEADLINE, "an answer", Box::pin(client_async(request, stream))).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(refusal)) => Err(refusal.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_node_that_trusts_haproxy_counts_the_addresses_of_its_clients() {
    let node = TestNode::start_with(&[
        ("http.trusted_proxies", "[\"127.0.0.1\"]"),
        ("http.max_connections_per_address", "1"),
    ])
    .await;
    let haproxy = haproxy::start(node.folder(), [(&node.process).into(), (&node.process).into()]).await;
    let token = node.credentials.user_token("alice");
    let _first = ask_from("127.0.0.2", None, &haproxy, &token).await.expect("the first of its address");
    assert_eq!(ask_from("127.0.0.2", None, &haproxy, &token).await.expect_err("the second"), 429);
    let lie = ask_from("127.0.0.2", Some("203.0.113.1"), &haproxy, &token).await;
    assert_eq!(lie.expect_err("the same, whatever it says"), 429);
    let _other = ask_from("127.0.0.3", None, &haproxy, &token).await.expect("another address");
}

#[tokio::test]
async fn haproxy_logs_paths_without_what_may_be_a_ticket() {
    let (port, _) = stand_in(echo).await;
    let (mut haproxy, _folder) = before([port, port]).await;
    assert_eq!(get(&haproxy, "/v1/connect?ticket=hushhush").await, 200);
    says(&mut haproxy, "\"GET /v1/connect\" 200").await;
    assert!(!haproxy.process().log().contains("hush"));
}

#[tokio::test]
async fn haproxy_cuts_a_head_that_never_ends() {
    let (port, _) = stand_in(echo).await;
    let (haproxy, _folder) = before([port, port]).await;
    let mut stream = TcpStream::connect(haproxy.address()).await.expect("it listens");
    stream.write_all(b"GET /v1/connect HTTP/1.1\r\nX-Slow: ").await.expect("sent");
    let mut said = String::new();
    within(Duration::from_secs(20), "an end", stream.read_to_string(&mut said)).await.expect("in order");
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
}

/// Milliseconds of a timeout of the deployed file.
fn timeout(name: &str) -> u64 {
    let line = DEPLOYED.lines().find_map(|line| line.trim().strip_prefix("timeout ")?.strip_prefix(name));
    let seconds = line.and_then(|value| value.trim().strip_suffix('s')).expect("seconds");
    seconds.parse::<u64>().expect("a number") * 1_000
}

#[test]
fn haproxy_leaves_quiet_connections_open_for_longer_than_nodes_do() {
    let (_, gateway) =
        include_str!("../../config/default.toml").split_once("\n[gateway]\n").expect("its table");
    let heartbeat = gateway.lines().find_map(|line| line.strip_prefix("heartbeat_ms = "));
    assert!(timeout("tunnel") > 3 * heartbeat.expect("a default").parse::<u64>().expect("a number"));
    assert!(timeout("server") > 30_000, "Prefer: wait");
}

#[tokio::test]
async fn behind_haproxy_clients_spread_evenly_and_a_killed_node_costs_them_nothing() {
    let mut cluster = TestCluster::start_with(HEALING).await;
    let haproxy = before_cluster(&cluster).await;
    let mut devices = devices(&cluster, &haproxy, 4).await;
    let first = first_nodes(&devices);
    for id in NODE_IDS {
        assert_eq!(first.iter().filter(|node| *node == id).count(), 2, "{first:?}");
    }
    let publisher = Publisher::new(&haproxy.http_url(), &cluster.credentials);
    for number in 0..100 {
        if number == 50 {
            cluster.nodes[0].process().kill();
        }
        let body = json!({"to": {"users": ["alice"]}, "data": number});
        publisher.publish_surely(&body, &number.to_string(), DEADLINE).await;
    }
    all_received(&mut devices, Duration::from_secs(30), 100).await;
    for (device, first) in devices.iter().zip(first) {
        let last = device.diary().welcomes.last().map(|welcome| welcome.node.clone());
        assert_eq!(last.as_deref(), Some(NODE_IDS[1]));
        let closes = device.diary().closes.clone();
        assert_eq!(!closes.is_empty(), first == NODE_IDS[0], "{closes:?} on {first}");
        assert_eq!(device.data("user"), (0..100).map(Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn behind_haproxy_a_node_that_is_stopped_hands_its_clients_over() {
    let mut cluster = TestCluster::start_with(HEALING).await;
    let haproxy = before_cluster(&cluster).await;
    let mut devices = devices(&cluster, &haproxy, 2).await;
    let first = first_nodes(&devices);
    let publisher = Publisher::new(&haproxy.http_url(), &cluster.credentials);
    for number in 0..100 {
        if number == 50 {
            cluster.nodes[0].process().signal("TERM");
        }
        let body = json!({"to": {"users": ["alice"]}, "data": number});
        publisher.publish_surely(&body, &number.to_string(), DEADLINE).await;
    }
    let status = cluster.nodes[0].process().wait(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}");
    all_received(&mut devices, Duration::from_secs(30), 100).await;
    for (device, first) in devices.iter().zip(first) {
        let bye: &[u16] = if first == NODE_IDS[0] { &[4000] } else { &[] };
        assert_eq!(device.diary().closes, bye, "of {first}");
        assert_eq!(device.data("user"), (0..100).map(Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn behind_haproxy_nodes_without_sql_say_so_themselves_and_do_the_rest() {
    let cluster = TestCluster::start_with(HEALING).await;
    let mut haproxy = before_cluster(&cluster).await;
    let mut devices = devices(&cluster, &haproxy, 2).await;
    cluster.postgres.cut();
    for id in NODE_IDS {
        says(&mut haproxy, &format!("Server fanfare/{id} is DOWN")).await;
    }
    let publisher = Publisher::new(&haproxy.http_url(), &cluster.credentials);
    let mut body = json!({"to": {"users": ["alice"]}, "data": 1});
    let refused = publisher.try_publish(&body, None).await.expect("an answer");
    assert_eq!(refused.status, 503);
    assert!(refused.body["code"].is_string(), "a node's answer: {}", refused.body);
    body["ttl"] = 0.into();
    let sent = publisher.try_publish(&body, None).await.expect("an answer");
    assert_eq!((sent.status, &sent.body["status"]), (200, &json!("sent")));
    all_received(&mut devices, DEADLINE, 1).await;
    cluster.postgres.heal();
    for id in NODE_IDS {
        says(&mut haproxy, &format!("Server fanfare/{id} is UP")).await;
    }
    assert!(
        devices.iter().all(|device| device.diary().closes.is_empty()),
        "the connections lived through it"
    );
}
