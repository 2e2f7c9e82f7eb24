//! What must be seen nowhere: secrets, while everything is logged that can be, on real backends.
//!
//! Each secret has a mark of its own. Whatever the node writes, answers or shows of itself is kept and searched for all of
//! them, in each form that a log could give them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use deadpool_redis::redis;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Error;

use crate::support::backends::{amqp_url, http_client, postgres_url, rabbit_api, redis_url};
use crate::support::client::{Frame, TestClient};
use crate::support::jwks::KeyServer;
use crate::support::process::{NodeProcess, NodeSettings, run};
use crate::support::tokens::{Credentials, seconds_from_now};

const FANFARE: &str = "fanfare.v1";
/// How long a node that cannot start is given to say so; most say it at once, and end.
const A_WHILE: Duration = Duration::from_secs(5);

/// Everything that was seen, and what must not be in it.
#[derive(Default)]
struct Search {
    secrets: Vec<(&'static str, String)>,
    seen: Vec<(String, String)>,
}

impl Search {
    fn hide(&mut self, what: &'static str, secret: &str) {
        assert!(secret.len() >= 16, "{what} is long enough to be found by no accident");
        self.secrets.push((what, secret.to_owned()));
    }

    fn see(&mut self, place: &str, text: impl Into<String>) {
        self.seen.push((place.to_owned(), text.into()));
    }

    fn assert_nothing_is_seen(&self) {
        for (place, text) in &self.seen {
            for (what, secret) in &self.secrets {
                for form in forms(secret) {
                    let at = text.find(&form);
                    let line = at.map(|at| text[..at].lines().count());
                    assert_eq!(line, None, "{what} is in {place}: {}", excerpt(text, at.unwrap_or_default()));
                }
            }
        }
    }
}

fn excerpt(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
    text[start..].chars().take(400).collect()
}

/// As it is, as bytes in hexadecimal and in decimal, and as base64 wherever it begins.
fn forms(secret: &str) -> Vec<String> {
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes it");
        hex
    });
    let decimal = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    let base64 = (0..3).map(|before| {
        let text = STANDARD_NO_PAD.encode([&vec![0; before][..], secret.as_bytes()].concat());
        // Ends are mixed with what is beside.
        text[4..text.len() - 4].to_owned()
    });
    [secret.to_owned(), hex, decimal].into_iter().chain(base64).collect()
}

fn mark(what: &str) -> String {
    format!("{what}{}", uuid::Uuid::now_v7().simple())
}

/// `scheme://anybody@rest` as `scheme://user:password@rest`.
fn with_login(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}://{user}:{password}@{rest}")
}

/// URLs of real backends with logins and passwords of the test's own.
async fn backends(search: &mut Search) -> (String, String, String) {
    let (amqp, redis_at, postgres) = (amqp_url().await, redis_url().await, postgres_url().await);
    let (user, passwords) = (mark("u"), ["amqp", "redis", "postgres"].map(mark));
    for (what, password) in
        ["AMQP password", "Redis password", "PostgreSQL password"].into_iter().zip(&passwords)
    {
        search.hide(what, password);
    }
    let vhost = amqp.rsplit('/').next().expect("a vhost");
    let body = json!({"password": passwords[0], "tags": ""}).to_string();
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"}).to_string();
    for (path, body) in [(format!("users/{user}"), body), (format!("permissions/{vhost}/{user}"), all)] {
        let request = http_client().put(format!("{}/api/{path}", rabbit_api()));
        let request = request.header("content-type", "application/json").body(body);
        assert!(request.send().await.expect("an answer").status().is_success());
    }
    let client = redis::Client::open(redis_at.as_str()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
    let password = format!(">{}", passwords[1]);
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg(&user).arg("on").arg(password).arg("~*").arg("&*").arg("+@all");
    acl.query_async::<()>(&mut connection).await.expect("a user");
    let mut connection = PgConnection::connect(&postgres).await.expect("PostgreSQL answers");
    let role = format!("create role {user} superuser login password '{}'", passwords[2]);
    connection.execute(sqlx::AssertSqlSafe(role)).await.expect("a role");
    (
        with_login(&amqp, &user, &passwords[0]),
        with_login(&redis_at, &user, &passwords[1]),
        with_login(&postgres, &user, &passwords[2]),
    )
}

/// Secrets of a node whose own are all marked.
fn credentials(search: &mut Search) -> Credentials {
    let credentials = Credentials::new();
    search.hide("secret of users' tokens", &credentials.user_secret);
    search.hide("API key", &credentials.publisher_key);
    search.hide("admin token", &credentials.admin_token);
    credentials
}

/// A token, of which the signature is searched for: it is in no other.
fn token(search: &mut Search, what: &'static str, credentials: &Credentials, user: &str) -> String {
    let claims = json!({"sub": user, "exp": seconds_from_now(600), "jti": mark("j"), "topics": ["#"]});
    let token = credentials.sign(&claims);
    search.hide(what, token.rsplit('.').next().expect("a signature"));
    token
}

async fn answer(search: &mut Search, place: &str, request: RequestBuilder) -> String {
    let answer = request.send().await.expect("an answer");
    let text = format!("{:?}", answer.headers()) + &answer.text().await.expect("a body");
    // Made to be told, once.
    if place != "the ticket" {
        search.see(place, text.clone());
    }
    text
}

/// Frames up to the first that `end` says; all of them are kept.
async fn frames(search: &mut Search, client: &mut TestClient, end: impl Fn(&Frame) -> bool) {
    loop {
        let frame = client.frame().await;
        search.see("a frame", format!("{frame:?}"));
        if end(&frame) || matches!(frame, Frame::Closed { .. }) {
            return;
        }
    }
}

async fn by_sockets(search: &mut Search, node: &NodeProcess, good: &str, bad: &str, ticket: &str) {
    let url = node.ws_url();
    let bearer = |token: &str| format!("Bearer {token}");
    let is_welcome = |frame: &Frame| matches!(frame, Frame::Welcome(_));
    let mut header =
        TestClient::dial_with(&url, &[("authorization", &bearer(good))]).await.expect("it opens");
    frames(search, &mut header, is_welcome).await;
    header.send(json!({"type": "refresh", "token": good})).await;
    frames(search, &mut header, |frame| matches!(frame, Frame::Refreshed { .. })).await;
    header.send(json!({"type": "refresh", "token": bad})).await;
    frames(search, &mut header, |frame| matches!(frame, Frame::Error(_))).await;
    header.send(json!({"type": "refresh", "tokens": bad})).await;
    frames(search, &mut header, |frame| matches!(frame, Frame::Error(_))).await;

    for token in [good, bad] {
        let offered = format!("{FANFARE}, fanfare.token.{token}");
        let mut client =
            TestClient::dial_with(&url, &[("sec-websocket-protocol", &offered)]).await.expect("it opens");
        // The connection may have been closed by then.
        drop(client.hello(json!({})).await);
        frames(search, &mut client, is_welcome).await;
        let mut client =
            TestClient::dial_with(&url, &[("sec-websocket-protocol", FANFARE)]).await.expect("it opens");
        client.hello(json!({"token": token, "device": "web-1"})).await.expect("sent");
        frames(search, &mut client, is_welcome).await;
        let with_ticket = format!("{url}?ticket={ticket}");
        // The second time it is used up.
        let mut client = TestClient::dial_with(&with_ticket, &[]).await.expect("it opens");
        frames(search, &mut client, is_welcome).await;
    }
    let misnamed = format!("{url}?tickets={ticket}");
    for (url, headers) in [(&url, bearer(bad)), (&misnamed, bearer(good)), (&url, format!("Basic {bad}"))] {
        match TestClient::dial_with(url, &[("authorization", &headers)]).await {
            Err(Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                search.see("a refused handshake", String::from_utf8_lossy(body));
            }
            other => panic!("a refusal was expected; got {other:?}"),
        }
    }
}

async fn by_http(
    search: &mut Search,
    client: &Client,
    node: &NodeProcess,
    keys: [&str; 4],
    tokens: [&str; 2],
) {
    let (http, admin) = (node.http_url(), node.admin_url());
    let [key, wrong_key, admin_token, wrong_admin] = keys;
    let [good, bad] = tokens;
    let body = json!({"to": {"users": ["alice"]}, "type": "t", "title": "x"}).to_string();
    for credential in [key, wrong_key, good, bad, admin_token] {
        let publish = client.post(format!("{http}/v1/notifications")).bearer_auth(credential);
        let publish = publish.header("content-type", "application/json").body(body.clone());
        answer(search, "the answer to a publish", publish).await;
        let inbox = client.get(format!("{http}/v1/inbox?limit=1")).bearer_auth(credential);
        answer(search, "the inbox", inbox).await;
    }
    for credential in [admin_token, wrong_admin, key, good] {
        for path in ["/admin/nodes", "/admin/connections", "/admin/presence/alice", "/admin/revocations"] {
            let request = client.get(format!("{admin}{path}")).bearer_auth(credential);
            answer(search, path, request).await;
        }
        let revoke = client.post(format!("{admin}/admin/revocations")).bearer_auth(credential);
        let revoke =
            revoke.header("content-type", "application/json").body(json!({"token_id": "t"}).to_string());
        answer(search, "the answer to a revocation", revoke).await;
    }
    let twice = client.get(format!("{http}/v1/inbox")).bearer_auth(good).bearer_auth(bad);
    answer(search, "two credentials", twice).await;
    answer(search, "/readyz", client.get(format!("{admin}/readyz"))).await;
}

#[tokio::test]
async fn no_secret_is_in_any_log_error_metric_or_list_of_processes_while_everything_is_logged() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut search = Search::default();
    let (amqp, redis_at, postgres) = backends(&mut search).await;
    let credentials = credentials(&mut search);
    let (keys, url_key) = (KeyServer::start(0, &[]).await, mark("q"));
    search.hide("key in a URL", &url_key);
    let settings = NodeSettings {
        broker_urls: vec![amqp],
        presence_url: Some(redis_at),
        inbox_url: Some(postgres),
        others: vec![
            ("log.level", "\"trace\"".to_owned()),
            ("auth.users.jwks_url", format!("\"{}?key={url_key}\"", keys.url())),
        ],
        ..NodeSettings::embedded("n1")
    };
    let config = settings.write(folder.path(), &credentials);
    let config = config.to_str().expect("plain names").to_owned();
    for command in ["migrate", "check"] {
        let output = run(folder.path(), &[command, "--config", &config]);
        search.see(command, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
        assert!(output.status.success(), "{command}: {:?}", search.seen.last());
    }
    let mut node = NodeProcess::start(settings, folder.path(), &credentials).await;

    let good = token(&mut search, "token", &credentials, "alice");
    let bad = token(&mut search, "token by another secret", &Credentials::new(), "alice");
    let (wrong_key, wrong_admin) = (format!("ffk_shop_{}", mark("k")), format!("ffa_{}", mark("a")));
    search.hide("unknown API key", &wrong_key);
    search.hide("unknown admin token", &wrong_admin);
    let client = http_client();
    let tickets = client.post(format!("{}/v1/tickets", node.http_url())).bearer_auth(&good);
    let told = answer(&mut search, "the ticket", tickets).await;
    let ticket = told.split("\"ticket\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let ticket = ticket.expect("a ticket").to_owned();
    by_sockets(&mut search, &node, &good, &bad, &ticket).await;
    search.hide("ticket", &ticket);
    let keys = [credentials.publisher_key.as_str(), &wrong_key, &credentials.admin_token, &wrong_admin];
    by_http(&mut search, &client, &node, keys, [&good, &bad]).await;

    let metrics = client.get(format!("{}/metrics", node.admin_url()));
    answer(&mut search, "/metrics", metrics).await;
    let id = node.process().id();
    for file in ["cmdline", "comm"] {
        let text = fs::read(format!("/proc/{id}/{file}")).expect("it runs");
        search.see(file, String::from_utf8_lossy(&text));
    }
    node.process().signal("TERM");
    node.process().wait(crate::support::DEADLINE).await;
    let log = node.process().log();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "everything is logged");
    search.see("the log", log);
    search.assert_nothing_is_seen();
}

/// Whatever is wrong with a URL or a login, the line that says so does not show the password.
#[tokio::test]
async fn no_password_is_in_what_a_node_says_of_a_backend_that_it_cannot_use() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut search = Search::default();
    let (amqp, redis_at, postgres) = backends(&mut search).await;
    let credentials = credentials(&mut search);
    let wrong = mark("w");
    search.hide("wrong password", &wrong);
    let relogged = |url: &str| {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (login, rest) = rest.split_once('@').expect("a login");
        format!("{scheme}://{}:{wrong}@{rest}", login.split(':').next().expect("a name"))
    };
    let nowhere = |url: &str| {
        let (login, rest) = url.split_once('@').expect("a login");
        format!("{login}@127.0.0.1:1/{}", rest.split_once('/').map_or("", |(_, path)| path))
    };
    let unreadable = |url: &str| url.replace("127.0.0.1", "127.0.0.1:x");
    let scram = relogged(&with_login(&postgres, "fanfare", "x"));
    let mut sets = vec![(amqp.clone(), redis_at.clone(), scram)];
    for spoil in [&relogged as &dyn Fn(&str) -> String, &nowhere, &unreadable] {
        sets.push((spoil(&amqp), redis_at.clone(), postgres.clone()));
        sets.push((amqp.clone(), spoil(&redis_at), postgres.clone()));
        sets.push((amqp.clone(), redis_at.clone(), spoil(&postgres)));
    }
    let mut failed = 0;
    for (at, (amqp, redis_at, postgres)) in sets.into_iter().enumerate() {
        let settings = NodeSettings {
            broker_urls: vec![amqp],
            presence_url: Some(redis_at),
            inbox_url: Some(postgres),
            others: vec![
                ("log.level", "\"trace\"".to_owned()),
                ("inbox.migrate_at_start", "true".to_owned()),
                // A start that goes on trying ends by itself.
                ("node.lease_ttl_ms", "3000".to_owned()),
            ],
            ..NodeSettings::embedded(&format!("n{at}"))
        };
        failed += say(&mut search, folder.path(), &settings, &credentials).await;
    }
    assert!(failed >= 7, "most of them cannot start: {failed}");
    search.assert_nothing_is_seen();
}

/// Runs `check`, and starts a node until it has ended or a while is over. Whether it has ended.
async fn say(
    search: &mut Search,
    folder: &Path,
    settings: &NodeSettings,
    credentials: &Credentials,
) -> usize {
    let config = settings.write(folder, credentials);
    let output = run(folder, &["check", "--config", config.to_str().expect("plain names")]);
    search.see("check", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let mut node = NodeProcess::spawn(settings.clone(), folder, credentials);
    let ended = tokio::time::timeout(A_WHILE, node.process().ended()).await;
    search.see("the log of a node that cannot start", node.process().log());
    usize::from(ended.is_ok())
}
