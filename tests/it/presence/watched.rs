//! What a node tells of who comes and goes while presence fails it and comes back: one node in this process, on a
//! presence that the test holds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fanfare::auth::{TokenSettings, UserClaims, UserTokens};
use fanfare::broker::embedded::EmbeddedBus;
use fanfare::clock::Clock;
use fanfare::delivery::outlet::{Flow, Outlet};
use fanfare::delivery::{self, Attach, Connection, Crowd, Delivery, OverLimit, Watcher};
use fanfare::domain::{DeviceId, NodeId, TopicName, UserId};
use fanfare::inbox;
use fanfare::inbox::sqlite::SqliteInbox;
use fanfare::metrics::Metrics;
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::{Lease, Located, Member, NodeLease, Presence, PresenceError, Route};
use fanfare::routing::Router;
use fanfare::session::{Rules, Window};
use fanfare::wire::{CloseCode, Frame, Hello};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::{DEADLINE, eventually, within};

/// Long: no lease is refreshed by itself while a test lasts.
const LEASE_TTL: Duration = Duration::from_secs(600);

/// How presence is, as the test says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Away,
    /// It takes announces, and keeps whoever announces waiting.
    Slow,
}

#[derive(Clone)]
struct Held {
    store: EmbeddedPresence,
    mood: watch::Sender<Mood>,
    /// How many announces it has kept waiting.
    waited: watch::Sender<usize>,
}

impl Held {
    fn there(&self) -> Result<&EmbeddedPresence, PresenceError> {
        match *self.mood.borrow() {
            Mood::Away => Err(PresenceError::Timeout(Duration::from_millis(1))),
            Mood::Well | Mood::Slow => Ok(&self.store),
        }
    }
}

#[async_trait]
impl Presence for Held {
    async fn lease(&self, lease: &NodeLease, ttl: Duration, first: bool) -> Result<Lease, PresenceError> {
        self.there()?.lease(lease, ttl, first).await
    }
    async fn release(&self, node: &NodeId, boot: &str) -> Result<(), PresenceError> {
        self.there()?.release(node, boot).await
    }
    async fn nodes(&self) -> Result<Vec<NodeLease>, PresenceError> {
        self.there()?.nodes().await
    }
    async fn announce(&self, members: &[Member], ttl: Duration) -> Result<Vec<Vec<Member>>, PresenceError> {
        let answer = self.there()?.announce(members, ttl).await;
        if *self.mood.borrow() == Mood::Slow {
            self.waited.send_modify(|waited| *waited += 1);
            let mut mood = self.mood.subscribe();
            mood.wait_for(|mood| *mood != Mood::Slow).await.expect("the test holds it");
        }
        answer
    }
    async fn refresh(
        &self,
        members: &[Member],
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        self.there()?.refresh(members, topics, node, ttl).await
    }
    async fn announce_topics(
        &self,
        topics: &[TopicName],
        node: &NodeId,
        ttl: Duration,
    ) -> Result<(), PresenceError> {
        self.there()?.announce_topics(topics, node, ttl).await
    }
    async fn withdraw(&self, members: &[Member]) -> Result<(), PresenceError> {
        self.there()?.withdraw(members).await
    }
    async fn locate(&self, routes: &[Route]) -> Result<Vec<Located>, PresenceError> {
        self.there()?.locate(routes).await
    }
    async fn skew_ms(&self) -> Result<i64, PresenceError> {
        Ok(0)
    }
    async fn put_ticket(&self, ticket: &str, value: &str, ttl: Duration) -> Result<(), PresenceError> {
        self.there()?.put_ticket(ticket, value, ttl).await
    }
    async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, PresenceError> {
        self.there()?.take_ticket(ticket).await
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Came(String),
    Went(String),
    Forgotten,
}

#[derive(Default)]
struct Record(Mutex<Vec<Told>>);

impl Record {
    fn note(&self, told: Told) {
        self.0.lock().expect("nobody panicked").push(told);
    }

    /// What was told since it was last asked.
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock().expect("nobody panicked"))
    }
}

impl Watcher for Record {
    fn came(&self, user: &UserId) {
        self.note(Told::Came(user.to_string()));
    }
    fn went(&self, user: &UserId) {
        self.note(Told::Went(user.to_string()));
    }
    fn forgotten(&self) {
        self.note(Told::Forgotten);
    }
}

struct Nowhere;

impl Outlet for Nowhere {
    fn push(&self, _: Frame) -> Flow {
        Flow::Open
    }
    fn close(&self, _: CloseCode) {}
}

struct Rig {
    delivery: Arc<Delivery>,
    presence: Held,
    told: Arc<Record>,
    _folder: TempDir,
    _cancel: DropGuard,
}

fn lease() -> NodeLease {
    NodeLease {
        node: NodeId::new("n1").expect("an id"),
        boot: "boot".to_owned(),
        http: String::new(),
        admin: String::new(),
        version: String::new(),
        connections: 0,
        draining: false,
    }
}

fn settings() -> delivery::Settings {
    let hour = Duration::from_secs(3_600);
    delivery::Settings {
        heartbeat: hour,
        presence_ttl: 4 * hour,
        lease_ttl: LEASE_TTL,
        window: Window { entries: 256, bytes: 1 << 20 },
        page_entries: 256,
        head_check: hour,
        blind_check: hour,
        recovery_check: hour,
        gap_grace: Duration::from_millis(5),
        cursor_flush: hour,
        conflation: Duration::ZERO,
        max_topics: 100,
        crowd: Crowd { limit: 64, over_limit: OverLimit::DisplaceOldest },
        recycling: None,
        rules: Rules::SOUND,
    }
}

async fn open_inbox(folder: &TempDir, clock: &Clock, metrics: &Metrics) -> SqliteInbox {
    let settings = inbox::Settings {
        url: format!("sqlite://{}/inbox.db", folder.path().display()),
        max_connections: 2,
        timeout: Duration::from_secs(10),
        max_devices: 32,
        receipt_events: false,
        undelivered_after: None,
    };
    inbox::migrate(&settings.url).await.expect("tables are made");
    SqliteInbox::open(&settings, clock.clone(), metrics.inbox.clone()).await.expect("the file opens")
}

impl Rig {
    async fn start() -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let folder = TempDir::new().expect("a folder");
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let presence = Held {
            store: EmbeddedPresence::new(clock.clone()),
            mood: watch::Sender::new(Mood::Well),
            waited: watch::Sender::new(0),
        };
        let door: Arc<dyn Presence> = Arc::new(presence.clone());
        let node = lease().node;
        let (broker, inlets) = EmbeddedBus::new().join(node.clone(), metrics.broker.clone());
        let broker = Arc::new(broker);
        let second = Duration::from_secs(1);
        let router = Router::new(node.clone(), door.clone(), broker.clone(), second, metrics.publish.clone());
        let tokens = TokenSettings { keys: vec![], issuer: None, audience: vec![], leeway: second };
        let parts = delivery::Parts {
            node,
            settings: settings(),
            clock: clock.clone(),
            inbox: Arc::new(open_inbox(&folder, &clock, &metrics).await),
            inbox_up: watch::channel(true).1,
            presence: door.clone(),
            broker,
            router: Arc::new(router),
            tokens: Arc::new(UserTokens::new(tokens).expect("no keys are in order")),
            metrics: metrics.delivery.clone(),
            tracker,
            cancel: cancel.clone(),
        };
        let delivery = Delivery::new(parts, lease());
        let told = Arc::new(Record::default());
        delivery.watch_users(told.clone());
        door.lease(&lease(), LEASE_TTL, true).await.expect("nobody else has it");
        delivery.run(inlets.envelopes, inlets.control);
        Self { delivery, presence, told, _folder: folder, _cancel: cancel.drop_guard() }
    }

    async fn connect(&self, user: &str) -> Arc<Connection> {
        let now = Clock::system().now();
        let claims = UserClaims {
            user: UserId::new(user).expect("an id"),
            expires_at: now.after(Duration::from_secs(600)),
            topics: vec![],
            issued_at: None,
            token_id: None,
        };
        let mut hello = Hello::default();
        hello.device = Some(DeviceId::new("phone").expect("an id"));
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let attach = Attach { claims, hello, peer, accepted_at: now };
        self.delivery.attach(attach, Arc::new(Nowhere), |_| {}).await.expect("it is attached")
    }

    /// A goodbye that presence does not take makes the node blind.
    async fn goes_blind_over(&self, goodbye: &Arc<Connection>) {
        self.presence.mood.send_replace(Mood::Away);
        goodbye.on_closed();
        eventually(DEADLINE, "the node is blind", async || self.delivery.is_blind()).await;
    }

    async fn sees(&self) {
        eventually(DEADLINE, "the node sees again", async || !self.delivery.is_blind()).await;
    }
}

/// It is blind for a second only: nobody may have asked meanwhile whether presence is to be believed.
#[tokio::test]
async fn a_node_that_finds_presence_emptied_after_a_blind_spell_takes_it_for_no_witness() {
    let rig = Rig::start().await;
    let _alice = rig.connect("alice").await;
    let bob = rig.connect("bob").await;
    rig.told.take();
    rig.goes_blind_over(&bob).await;
    assert_eq!(rig.told.take(), [Told::Went("bob".to_owned()), Told::Forgotten], "it may have been emptied");
    rig.presence.store.forget_everything();
    rig.presence.mood.send_replace(Mood::Well);
    rig.sees().await;
    let expected = [Told::Forgotten, Told::Came("alice".to_owned())];
    assert_eq!(rig.told.take().last_chunk(), Some(&expected), "others are yet to announce their own");
}

#[tokio::test]
async fn whoever_leaves_while_everybody_is_announced_again_has_left() {
    let rig = Rig::start().await;
    let _alice = rig.connect("alice").await;
    let [bob, carol] = [rig.connect("bob").await, rig.connect("carol").await];
    rig.goes_blind_over(&bob).await;
    rig.told.take();
    rig.presence.mood.send_replace(Mood::Slow);
    let mut waited = rig.presence.waited.subscribe();
    let waiting = waited.wait_for(|waited| *waited == 1);
    within(DEADLINE, "everybody is being announced", waiting).await.expect("the test holds it");
    carol.on_closed();
    let carol = |told: &Told| [Told::Came("carol".to_owned()), Told::Went("carol".to_owned())].contains(told);
    rig.presence.mood.send_replace(Mood::Well);
    rig.sees().await;
    let told = rig.told.take();
    assert_eq!(told.iter().rfind(|told| carol(told)), Some(&Told::Went("carol".to_owned())), "{told:?}");
    assert!(told.contains(&Told::Came("alice".to_owned())), "{told:?}");
}
