//! Two nodes in one process, the first with both listeners.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fanfare::auth::{
    AdminSettings, Admins, Algorithm, Grant, KeyHash, KeySettings, Limits, PublishRate, PublisherSettings,
    Publishers, Secret, SigningKey, TokenSettings, UserClaims, UserTokens,
};
use fanfare::broker::embedded::EmbeddedBus;
use fanfare::broker::{Broker, Health};
use fanfare::clock::Clock;
use fanfare::delivery::outlet::{Flow, Outlet};
use fanfare::delivery::{self, Attach, Crowd, Delivery, OverLimit};
use fanfare::domain::{DeviceId, NodeId, PublisherId, Seq, Stream, TopicName, UserId};
use fanfare::gateway::accept::{AcceptSettings, Lifetime, serve};
use fanfare::http::{Check, Demo, Readiness, Settings, State, admin_routes, client_routes};
use fanfare::inbox::sqlite::SqliteInbox;
use fanfare::inbox::{self, Delivered, Inbox, Receipts, Streams};
use fanfare::metrics::Metrics;
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::{Lease, Located, Member, NodeLease, Presence, PresenceError, Route};
use fanfare::publish::{self, Publishing};
use fanfare::routing::Router;
use fanfare::session::{Rules, Window};
use fanfare::wire::{CloseCode, Frame, Hello};
use hyper_util::service::TowerToHyperService;
use reqwest::{Method, Response};
use serde_json::Value;
use sqlx::{Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;

use crate::support::backends::http_client;
use crate::support::{DEADLINE, within};

/// May publish to everybody.
pub const KEY: &str = "ffk_shop_000000000000000000000000000000000000000000000001";
/// May publish to everybody, five at once and one a second.
pub const SLOW_KEY: &str = "ffk_slow_000000000000000000000000000000000000000000000003";
/// May publish to user `bob` only.
pub const LIMITED_KEY: &str = "ffk_desk_000000000000000000000000000000000000000000000002";
pub const ADMIN: &str = "ffa_000000000000000000000000000000000000000000000003";
const SECRET: &str = "a secret of at least thirty-two bytes";

/// The first node's listeners, and what is behind them.
pub struct Rig {
    pub clients: SocketAddr,
    pub operators: SocketAddr,
    pub first: Arc<Delivery>,
    pub second: Arc<Delivery>,
    pub presence: EmbeddedPresence,
    pub inbox: Arc<SqliteInbox>,
    /// Of the first node.
    pub publishing: Arc<Publishing>,
    pub tokens: Arc<UserTokens>,
    pub readiness: watch::Sender<Readiness>,
    pub drains: Arc<AtomicUsize>,
    client: reqwest::Client,
    folder: TempDir,
    _cancel: DropGuard,
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// `change` is made to what the endpoints get.
    pub async fn start_with(change: impl FnOnce(&mut State)) -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let folder = TempDir::new().expect("a folder");
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::new()));
        let inbox = Arc::new(open_inbox(&folder, &clock, &metrics).await);
        let presence = EmbeddedPresence::new(clock.clone());
        let parts = Parts {
            bus: EmbeddedBus::new(),
            inbox: inbox.clone(),
            presence: presence.clone(),
            clock: clock.clone(),
            tokens: Arc::new(tokens()),
            metrics: metrics.clone(),
            tracker: tracker.clone(),
            cancel: cancel.clone(),
        };
        let (first, publishing, lease) = parts.node("n1").await;
        let (second, _, _) = parts.node("n2").await;
        let (readiness, ready) = watch::channel(all_well());
        let drains = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&drains);
        let mut state = State {
            settings: Settings {
                max_body_bytes: 2 << 20,
                body_timeout: Duration::from_secs(10),
                answer_timeout: Duration::from_secs(20),
                ask_timeout: Duration::from_secs(2),
                revocation_life: Duration::from_secs(24 * 3_600),
                allowed_origins: vec!["https://shop.example".to_owned()],
            },
            node: lease,
            clock,
            publishing: Arc::clone(&publishing),
            delivery: Arc::clone(&first),
            presence: Arc::new(presence.clone()),
            graveyard: Arc::new(
                EmbeddedBus::new().join(NodeId::new("n0").expect("an id"), metrics.broker.clone()).0,
            ),
            inbox: inbox.clone(),
            publishers: Arc::new(publishers(&parts.tokens)),
            tokens: Arc::clone(&parts.tokens),
            admins: Arc::new(Admins::new(vec![AdminSettings {
                id: "ops".to_owned(),
                token_hash: KeyHash::of(ADMIN),
            }])),
            metrics,
            demo: Demo::Off,
            readiness: ready,
            drain: Box::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            }),
        };
        change(&mut state);
        let state = Arc::new(state);
        Self {
            clients: parts.listen(client_routes(Arc::clone(&state))).await,
            operators: parts.listen(admin_routes(state)).await,
            first,
            second,
            presence,
            inbox,
            publishing,
            tokens: parts.tokens,
            readiness,
            drains,
            client: http_client(),
            folder,
            _cancel: cancel.drop_guard(),
        }
    }

    /// A request to the client listener.
    pub fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.clients))
    }

    /// A publish request with the key of the publisher who may do everything.
    pub fn publish(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.ask(Method::POST, "/v1/notifications").bearer_auth(KEY).body(body)
    }

    /// Nothing is written before what this returns is closed.
    pub async fn hold_store(&self) -> SqliteConnection {
        let url = format!("sqlite://{}/inbox.db", self.folder.path().display());
        let mut other = SqliteConnection::connect(&url).await.expect("the file");
        other.execute("begin immediate").await.expect("the lock is taken");
        other
    }

    /// Publishes this, which must be accepted; answers the id.
    pub async fn published(&self, body: &Value) -> String {
        let answer = got(self.publish(body.to_string())).await;
        assert_eq!(answer.status, 202, "{}", answer.json);
        answer.json["id"].as_str().expect("an id").to_owned()
    }

    /// A device of `user` has acknowledged everything in the user's stream.
    pub async fn acknowledge(&self, user: &str) {
        let user = UserId::new(user).expect("an id");
        let head = self.inbox.heads(&[Stream::User(user.clone())]).await.expect("it answers").remove(0);
        let entry = |seq| Delivered { user: user.clone(), epoch: head.epoch, seq: Seq(seq) };
        let entries = (1..=head.head.0).map(entry).collect();
        self.inbox.delivered(entries, Clock::system().now()).await.expect("it is written");
    }

    /// A request with the token of `user`.
    pub fn ask_as(&self, user: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.ask(method, path).bearer_auth(user_token(user))
    }

    /// A request to the admin listener, with the administrator's token.
    pub fn operate(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.operators)).bearer_auth(ADMIN)
    }

    /// A connection of `user`, by its id; it lasts as long as the node.
    pub async fn connect(&self, to: &Arc<Delivery>, user: &str, device: &str) -> (String, Arc<Sink>) {
        let claims = UserClaims {
            user: UserId::new(user).expect("an id"),
            expires_at: Clock::system().now().after(Duration::from_secs(600)),
            topics: vec![],
            issued_at: None,
            token_id: None,
        };
        let mut hello = Hello::default();
        hello.device = Some(DeviceId::new(device).expect("an id"));
        let attach = Attach {
            claims,
            hello,
            peer: SocketAddr::from(([127, 0, 0, 1], 9)),
            accepted_at: Clock::system().now(),
        };
        let sink = Arc::new(Sink::default());
        let attached = to.attach(attach, sink.clone(), |_| {}).await;
        attached.unwrap_or_else(|error| panic!("{user} is attached: {error}"));
        let route = Route::User(UserId::new(user).expect("an id"));
        let located = self.presence.locate(&[route]).await.expect("it answers").remove(0);
        let is_it = |member: &&Member| member.device.as_ref().is_some_and(|one| one.as_str() == device);
        let member = located.members.iter().find(is_it).expect("it was announced before it was welcomed");
        (member.connection.to_string(), sink)
    }
}

/// The status, the headers' text by name, and the JSON (null if there is none).
pub struct Got {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub json: Value,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// A problem with this status and code, whose detail has `word`, in the right content type.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str, word: &str) -> &Self {
        let of = |name: &str| self.json[name].as_str().unwrap_or_default();
        assert_eq!((self.status, of("code")), (status, code), "{}", self.json);
        assert_eq!(self.json["status"], status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert!(!of("title").is_empty() && !of("type").is_empty(), "{}", self.json);
        assert!(of("detail").contains(word), "{:?} has no {word:?}", of("detail"));
        self
    }
}

pub async fn got(request: reqwest::RequestBuilder) -> Got {
    let response: Response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("a body");
    Got { status, headers, json: serde_json::from_slice(&body).unwrap_or(Value::Null) }
}

/// A token of `sub` with these further claims, from so many seconds ago, for an hour.
pub fn token(grant: Grant, seconds_ago: u64) -> String {
    let mut from = Clock::system().now();
    from.0 -= 1_000 * seconds_ago;
    signing_key().sign(&grant, Duration::from_secs(3_600), from).expect("HS256 signs any claims")
}

pub fn user_token(user: &str) -> String {
    token(Grant { sub: user.to_owned(), topics: vec!["news.#".to_owned()], ..Grant::default() }, 0)
}

pub fn signing_key() -> SigningKey {
    SigningKey::new(&key()).expect("the secret is long enough")
}

fn key() -> KeySettings {
    KeySettings { id: None, algorithm: Algorithm::HS256, key: Secret::new(SECRET) }
}

fn tokens() -> UserTokens {
    let leeway = Duration::from_secs(5);
    let settings = TokenSettings { keys: vec![key()], issuer: None, audience: vec![], leeway };
    UserTokens::new(settings).expect("the key is in order")
}

fn publishers(tokens: &Arc<UserTokens>) -> Publishers {
    let publisher = |id: &str, key: &str, limits, rate| PublisherSettings {
        id: PublisherId::new(id).expect("an id"),
        key_hashes: vec![KeyHash::of(key)],
        amqp_user: None,
        limits,
        rate,
    };
    let bob = "bob".parse().expect("a pattern");
    let limits = Limits { users: Some(vec![bob]), topics: None, everyone: None };
    let slow = PublishRate { per_second: 1, burst: 5 };
    let all = vec![
        publisher("shop", KEY, Limits::default(), None),
        publisher("desk", LIMITED_KEY, limits, None),
        publisher("slow", SLOW_KEY, Limits::default(), Some(slow)),
    ];
    Publishers::new(all, None, Arc::clone(tokens))
}

pub fn all_well() -> Readiness {
    Readiness {
        started: true,
        draining: false,
        inbox: Check::Up,
        presence: Check::Up,
        broker: Health::Up,
        skew_ms: Some(3),
        blind: false,
    }
}

async fn open_inbox(folder: &TempDir, clock: &Clock, metrics: &Metrics) -> SqliteInbox {
    let settings = inbox::Settings {
        url: format!("sqlite://{}/inbox.db", folder.path().display()),
        max_connections: 4,
        timeout: Duration::from_secs(10),
        max_devices: 32,
        receipt_events: false,
        undelivered_after: None,
    };
    inbox::migrate(&settings.url).await.expect("tables are made");
    SqliteInbox::open(&settings, clock.clone(), metrics.inbox.clone()).await.expect("the file opens")
}

/// What both nodes share.
struct Parts {
    bus: EmbeddedBus,
    inbox: Arc<SqliteInbox>,
    presence: EmbeddedPresence,
    clock: Clock,
    tokens: Arc<UserTokens>,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Parts {
    async fn node(&self, id: &str) -> (Arc<Delivery>, Arc<Publishing>, NodeLease) {
        let node = NodeId::new(id).expect("an id");
        let lease = lease(id);
        let (broker, inlets) = self.bus.join(node.clone(), self.metrics.broker.clone());
        let broker: Arc<dyn Broker> = Arc::new(broker);
        let presence: Arc<dyn Presence> = Arc::new(self.presence.clone());
        let inbox: Arc<dyn Inbox> = self.inbox.clone();
        let metrics = self.metrics.publish.clone();
        let timeout = Duration::from_secs(5);
        let router =
            Arc::new(Router::new(node.clone(), presence.clone(), broker.clone(), timeout, metrics.clone()));
        let parts = delivery::Parts {
            node,
            settings: delivery_settings(),
            clock: self.clock.clone(),
            inbox: inbox.clone(),
            inbox_up: tokio::sync::watch::channel(true).1,
            presence: presence.clone(),
            broker,
            router: router.clone(),
            tokens: self.tokens.clone(),
            metrics: self.metrics.delivery.clone(),
            tracker: self.tracker.clone(),
            cancel: self.cancel.clone(),
        };
        let delivery = Delivery::new(parts, lease.clone());
        presence.lease(&lease, Duration::from_secs(60), true).await.expect("nobody else has it");
        delivery.run(inlets.envelopes, inlets.control);
        let limits = fanfare::wire::publish::Limits {
            max_recipients: 10_000,
            max_notification_bytes: 64 << 10,
            max_ttl: Duration::from_secs(30 * 86_400),
            max_schedule: Duration::from_secs(90 * 86_400),
        };
        let settings =
            publish::Settings { limits, queue: 64, group: 16, workers: 1, linger: Duration::from_millis(10) };
        let (clock, tracker) = (self.clock.clone(), &self.tracker);
        let publishing = Publishing::start(settings, inbox, router, clock, metrics, tracker, &self.cancel);
        (delivery, publishing, lease)
    }

    async fn listen(&self, routes: BoxedFilter<(warp::reply::Response,)>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let service = TowerToHyperService::new(warp::service(routes));
        let lifetime = Lifetime { tracker: self.tracker.clone(), stop: self.cancel.clone() };
        let metrics = self.metrics.gateway.clone();
        self.tracker.spawn(serve(listener, service, AcceptSettings::default(), lifetime, metrics));
        address
    }
}

pub fn lease(id: &str) -> NodeLease {
    NodeLease {
        node: NodeId::new(id).expect("an id"),
        boot: format!("boot-of-{id}"),
        http: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:9191".to_owned(),
        version: "0.1.0".to_owned(),
        connections: 0,
        draining: false,
    }
}

fn delivery_settings() -> delivery::Settings {
    delivery::Settings {
        heartbeat: Duration::from_secs(25),
        presence_ttl: Duration::from_secs(90),
        lease_ttl: Duration::from_secs(60),
        window: Window { entries: 256, bytes: 1 << 20 },
        page_entries: 256,
        head_check: Duration::from_secs(30),
        blind_check: Duration::from_secs(1),
        recovery_check: Duration::from_secs(1),
        gap_grace: Duration::from_millis(5),
        cursor_flush: Duration::from_secs(1),
        conflation: Duration::ZERO,
        max_topics: 100,
        crowd: Crowd { limit: 64, over_limit: OverLimit::DisplaceOldest },
        recycling: None,
        rules: Rules::SOUND,
    }
}

/// Remembers the frames that it took, and how it was closed.
#[derive(Debug, Default)]
pub struct Sink {
    frames: watch::Sender<Vec<Value>>,
    closed: Mutex<Option<CloseCode>>,
}

impl Sink {
    pub fn closed(&self) -> Option<CloseCode> {
        *self.closed.lock().expect("nobody panicked")
    }

    /// The first frame of this type, as soon as it is there.
    pub async fn frame(&self, kind: &str) -> Value {
        let mut frames = self.frames.subscribe();
        let of_kind = |frames: &Vec<Value>| frames.iter().find(|frame| frame["type"] == kind).cloned();
        let what = format!("a frame {kind}");
        within(DEADLINE, &what, frames.wait_for(|frames| of_kind(frames).is_some()))
            .await
            .map(|frames| of_kind(&frames).expect("it was waited for"))
            .expect("the sink is there")
    }
}

impl Outlet for Sink {
    fn push(&self, frame: Frame) -> Flow {
        let bytes = [&frame.head[..], &frame.body[..]].concat();
        // What comes before the JSON is the WebSocket's header; pings have no JSON.
        if let Some(start) = bytes.iter().position(|byte| *byte == b'{') {
            let json = serde_json::from_slice(&bytes[start..]).expect("text frames are JSON");
            self.frames.send_modify(|frames| frames.push(json));
        }
        Flow::Open
    }

    fn close(&self, code: CloseCode) {
        self.closed.lock().expect("nobody panicked").get_or_insert(code);
    }
}

/// Presence that is away.
pub struct Away;

fn away<T>() -> Result<T, PresenceError> {
    Err(PresenceError::Timeout(Duration::from_millis(1)))
}

#[async_trait]
impl Presence for Away {
    async fn lease(&self, _: &NodeLease, _: Duration, _: bool) -> Result<Lease, PresenceError> {
        away()
    }
    async fn release(&self, _: &NodeId, _: &str) -> Result<(), PresenceError> {
        away()
    }
    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        away()
    }
    async fn announce(&self, _: &[Member], _: Duration) -> Result<Vec<Vec<Member>>, PresenceError> {
        away()
    }
    async fn refresh(
        &self,
        _: &[Member],
        _: &[TopicName],
        _: &NodeId,
        _: Duration,
    ) -> Result<(), PresenceError> {
        away()
    }
    async fn announce_topics(&self, _: &[TopicName], _: &NodeId, _: Duration) -> Result<(), PresenceError> {
        away()
    }
    async fn withdraw(&self, _: &[Member]) -> Result<(), PresenceError> {
        away()
    }
    async fn locate(&self, _: &[Route]) -> Result<Vec<Located>, PresenceError> {
        away()
    }
    async fn skew_ms(&self) -> Result<i64, PresenceError> {
        away()
    }
    async fn put_ticket(&self, _: &str, _: &str, _: Duration) -> Result<(), PresenceError> {
        away()
    }
    async fn take_ticket(&self, _: &str) -> Result<Option<String>, PresenceError> {
        away()
    }
}
