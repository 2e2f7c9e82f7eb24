//! The admin listener: health, metrics, nodes, connections, drain.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare::broker::Health;
use fanfare::delivery::Drain;
use fanfare::http::{Check, Readiness};
use fanfare::presence::Presence;
use fanfare::wire::CloseCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::rig::{Away, KEY, Rig, all_well, got, lease, user_token};
use crate::support::{DEADLINE, within};

#[tokio::test]
async fn health_says_what_is_up_and_when_to_stay_away() {
    let rig = Rig::start().await;
    let down = || Check::Down("gone".to_owned());
    let cases: [(Readiness, u16, &str, &str, Value); 8] = [
        (all_well(), 200, "ready", "/checks/clock/skew_ms", json!(3)),
        (
            Readiness { presence: down(), ..all_well() },
            200,
            "degraded",
            "/checks/presence/detail",
            json!("gone"),
        ),
        (
            Readiness { broker: Health::Blocked, ..all_well() },
            200,
            "degraded",
            "/checks/broker/status",
            json!("blocked"),
        ),
        (Readiness { blind: true, ..all_well() }, 200, "degraded", "/checks/presence/status", json!("up")),
        (Readiness { inbox: down(), ..all_well() }, 503, "not_ready", "/checks/inbox/status", json!("down")),
        (
            Readiness { skew_ms: Some(-1_001), ..all_well() },
            503,
            "not_ready",
            "/checks/inbox/status",
            json!("up"),
        ),
        (Readiness::starting(), 503, "starting", "/checks/clock/skew_ms", Value::Null),
        (Readiness { draining: true, ..all_well() }, 503, "draining", "/checks/broker/status", json!("up")),
    ];
    for (readiness, status, word, pointer, value) in cases {
        rig.readiness.send_replace(readiness);
        let answer = got(rig.operate(Method::GET, "/readyz")).await;
        assert_eq!((answer.status, answer.json["status"].as_str()), (status, Some(word)), "{}", answer.json);
        assert_eq!(answer.json.pointer(pointer), Some(&value), "{}", answer.json);
    }
    assert_eq!(got(rig.operate(Method::GET, "/livez")).await.status, 200);
    rig.readiness.send_replace(all_well());
    rig.first.stop_attaching();
    let draining = got(rig.operate(Method::GET, "/readyz")).await;
    assert_eq!((draining.status, draining.json["status"].as_str()), (503, Some("draining")));
}

#[tokio::test]
async fn metrics_are_open_metrics_and_count_requests_by_route() {
    let rig = Rig::start().await;
    got(rig.ask(Method::GET, "/v1/presence?user=a").bearer_auth(KEY)).await;
    got(rig.ask(Method::GET, "/some/path/of/a/scanner")).await;
    let answer = rig.operate(Method::GET, "/metrics").send().await.expect("an answer");
    let content_type = answer.headers()["content-type"].to_str().expect("ASCII").to_owned();
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.expect("text");
    for line in [
        "fanfare_http_requests_total{route=\"/v1/presence\",method=\"GET\",status=\"2xx\"} 1",
        "fanfare_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"4xx\"} 1",
        "fanfare_http_request_seconds_count{route=\"/v1/presence\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("scanner"), "a client's text is no label");
}

#[tokio::test]
async fn nothing_below_admin_is_for_anybody_else() {
    let rig = Rig::start().await;
    let client = reqwest_without_token(&rig);
    for (method, path) in [
        (Method::GET, "/admin/nodes"),
        (Method::GET, "/admin/connections"),
        (Method::GET, "/admin/presence/alice"),
        (Method::DELETE, "/admin/connections/0000000000000000"),
        (Method::DELETE, "/admin/users/alice"),
        (Method::GET, "/admin/revocations"),
        (Method::POST, "/admin/revocations"),
        (Method::DELETE, "/admin/revocations?user=alice"),
        (Method::POST, "/admin/drain"),
    ] {
        let bare = got(client(method.clone(), path)).await;
        bare.is_problem(401, "unauthorized", "admin token");
        assert_eq!(bare.header("www-authenticate"), Some("Bearer realm=\"fanfare\""));
        for other in [KEY.to_owned(), user_token("alice"), "ffa_wrong".to_owned()] {
            let answer = got(client(method.clone(), path).bearer_auth(other)).await;
            answer.is_problem(401, "invalid_key", "not known");
        }
    }
    assert_eq!(rig.drains.load(Ordering::SeqCst), 0);
    got(rig.operate(Method::POST, "/admin/nodes")).await.is_problem(405, "method_not_allowed", "POST");
    got(rig.operate(Method::GET, "/admin/secrets")).await.is_problem(404, "not_found", "path");
    let close = got(rig.operate(Method::GET, "/admin/connections/0000000000000000")).await;
    assert_eq!((close.status, close.header("allow")), (405, Some("DELETE, OPTIONS")));
}

fn reqwest_without_token(rig: &Rig) -> impl Fn(Method, &str) -> reqwest::RequestBuilder {
    let (client, address) = (crate::support::backends::http_client(), rig.operators);
    move |method, path| client.request(method, format!("http://{address}{path}"))
}

#[tokio::test]
async fn nodes_are_listed_this_one_first() {
    let rig = Rig::start().await;
    rig.connect(&rig.first, "alice", "phone").await;
    let answer = got(rig.operate(Method::GET, "/admin/nodes")).await;
    assert_eq!((answer.status, &answer.json["partial"]), (200, &json!(false)), "{}", answer.json);
    let nodes = answer.json["nodes"].as_array().expect("a list");
    let of = |node: &Value| (node["node"].clone(), node["self"].clone(), node["connections"].clone());
    assert_eq!(of(&nodes[0]), (json!("n1"), json!(true), json!(1)));
    assert_eq!(of(&nodes[1]), (json!("n2"), json!(false), json!(0)));
    assert_eq!(nodes[0]["http"], "127.0.0.1:8080");
}

#[tokio::test]
async fn connections_of_all_nodes_are_listed_and_filtered() {
    let rig = Rig::start().await;
    rig.connect(&rig.first, "alice", "phone").await;
    rig.connect(&rig.second, "alice", "desk").await;
    rig.connect(&rig.second, "bob", "phone").await;
    let list = |query: &str| got(rig.operate(Method::GET, &format!("/admin/connections{query}")));
    let who = |json: &Value| -> Vec<String> {
        let connections = json["connections"].as_array().expect("a list").iter();
        let one = |it: &Value| format!("{}/{}/{}", it["node"], it["user"], it["device"]).replace('"', "");
        let mut who: Vec<String> = connections.map(one).collect();
        who.sort_unstable();
        who
    };
    let all = list("").await;
    assert_eq!(who(&all.json), ["n1/alice/phone", "n2/alice/desk", "n2/bob/phone"]);
    assert_eq!((&all.json["truncated"], &all.json["no_answer"]), (&json!(false), &json!([])));
    assert_eq!(who(&list("?user=alice").await.json), ["n1/alice/phone", "n2/alice/desk"]);
    assert_eq!(who(&list("?node=n2&user=alice").await.json), ["n2/alice/desk"]);
    let two = list("?limit=2").await;
    assert_eq!((who(&two.json).len(), &two.json["truncated"]), (2, &json!(true)));
    list("?limit=0").await.is_problem(422, "invalid_request", "limit");
    list("?nod=n2").await.is_problem(422, "invalid_request", "nod");

    let presence = got(rig.operate(Method::GET, "/admin/presence/alice")).await;
    assert_eq!((presence.status, &presence.json["online"]), (200, &json!(true)), "{}", presence.json);
    assert_eq!(presence.json["devices"].as_array().map(Vec::len), Some(2));
    let nobody = got(rig.operate(Method::GET, "/admin/presence/c%7Cd")).await;
    assert_eq!((&nobody.json["user"], &nobody.json["online"]), (&json!("c|d"), &json!(false)));
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let rig = Rig::start_with(|state| state.settings.ask_timeout = Duration::from_millis(200)).await;
    rig.presence.lease(&lease("n3"), Duration::from_secs(60), true).await.expect("nobody has it");
    let (here, _) = rig.connect(&rig.first, "alice", "phone").await;
    let list = got(rig.operate(Method::GET, "/admin/connections")).await;
    assert_eq!((list.status, &list.json["no_answer"]), (200, &json!(["n3"])));
    assert_eq!(list.json["connections"].as_array().map(Vec::len), Some(1));
    let absent = got(rig.operate(Method::DELETE, "/admin/connections/0123456789abcdef")).await;
    absent.is_problem(502, "no_answer", "n3");
    assert_eq!(absent.json["no_answer"], json!(["n3"]));
    // Found here, nobody else is asked.
    let found = got(rig.operate(Method::DELETE, &format!("/admin/connections/{}", here))).await;
    assert_eq!(found.status, 204);
}

#[tokio::test]
async fn a_connection_is_closed_on_whichever_node_it_is() {
    let rig = Rig::start().await;
    let close = |id: String| got(rig.operate(Method::DELETE, &format!("/admin/connections/{id}")));
    for (node, device) in [(&rig.first, "phone"), (&rig.second, "desk")] {
        let (connection, sink) = rig.connect(node, "alice", device).await;
        assert_eq!(close(connection).await.status, 204);
        assert_eq!(sink.closed(), Some(CloseCode::ClosedByOperator));
    }
    close("0123456789abcdef".to_owned()).await.is_problem(404, "not_found", "any node");
    close("nonsense".to_owned()).await.is_problem(404, "not_found", "16 hexadecimal");
}

#[tokio::test]
async fn without_redis_operators_see_this_node_and_are_told_that_there_may_be_more() {
    let rig = Rig::start_with(|state| state.presence = Arc::new(Away)).await;
    rig.connect(&rig.first, "alice", "phone").await;
    let nodes = got(rig.operate(Method::GET, "/admin/nodes")).await;
    assert_eq!(
        (&nodes.json["partial"], nodes.json["nodes"].as_array().map(Vec::len)),
        (&json!(true), Some(1))
    );
    let list = got(rig.operate(Method::GET, "/admin/connections")).await;
    assert_eq!(
        (&list.json["partial"], list.json["connections"].as_array().map(Vec::len)),
        (&json!(true), Some(1))
    );
    let close = got(rig.operate(Method::DELETE, "/admin/connections/0123456789abcdef")).await;
    close.is_problem(503, "presence_unavailable", "presence");
    got(rig.operate(Method::GET, "/admin/presence/alice")).await.is_problem(503, "presence_unavailable", "");
}

#[tokio::test]
async fn a_drain_is_started_by_an_operator() {
    let rig = Rig::start().await;
    for _ in 0..2 {
        let answer = got(rig.operate(Method::POST, "/admin/drain")).await;
        assert_eq!((answer.status, answer.json), (202, json!({"status": "draining"})));
    }
    assert_eq!(rig.drains.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_operator_sees_how_far_a_drain_is() {
    let rig = Rig::start().await;
    for number in 0..20 {
        rig.connect(&rig.first, &format!("user-{number}"), "phone").await;
    }
    let asked = async || got(rig.operate(Method::GET, "/admin/drain")).await;
    let before = asked().await;
    assert_eq!((before.status, before.json), (200, json!({"status": "serving", "connections": 20})));
    let (first, emptied) = (Arc::clone(&rig.first), Arc::new(tokio::sync::Notify::new()));
    let noted = Arc::clone(&emptied);
    let drain = tokio::spawn(async move {
        let how = Drain { window: Duration::from_secs(60), spread: Duration::from_secs(1) };
        first.drain(how, Instant::now() + Duration::from_secs(60), || noted.notify_one()).await
    });
    within(DEADLINE, "all are sent away", emptied.notified()).await;
    let after = asked().await.json;
    assert_eq!((&after["status"], &after["connections"]), (&json!("draining"), &json!(0)));
    assert_eq!((&after["connections_at_start"], &after["window_ms"]), (&json!(20), &json!(60_000)));
    assert!(after["since"].as_str().is_some_and(|at| at.ends_with('Z')), "{after}");
    assert_eq!(drain.await.expect("it ends").connections, 20);
}
