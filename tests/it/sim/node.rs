//! One node of the simulated cluster: the real delivery, routing and publishing on modelled parts.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::auth::{TokenSettings, UserTokens};
use fanfare::clock::Clock;
use fanfare::delivery::{self, Crowd, Delivery, Parts};
use fanfare::domain::NodeId;
use fanfare::inbox::Inbox;
use fanfare::metrics::Metrics;
use fanfare::metrics::delivery::DeliveryMetrics;
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::{Lease, NodeLease, Presence};
use fanfare::publish::{self, Publishing};
use fanfare::routing::Router;
use fanfare::session::Window;
use fanfare::wire::publish::Limits;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::freeze::Freezer;
use super::model_broker::Exchange;
use super::model_presence::{ModelPresence, Mood};
use super::plan::{Plan, Plant};
use super::roll::Roll;
use super::stage::Stage;
use super::store::{ModelInbox, Store};

/// What all nodes share.
#[derive(Clone)]
pub struct Shared {
    pub stage: Stage,
    pub plan: Plan,
    pub store: Store,
    pub presence: EmbeddedPresence,
    pub presence_mood: Arc<Mutex<Mood>>,
    pub exchange: Exchange,
    pub roll: Roll,
    /// Window and page sizes, of chance.
    pub window: Window,
    pub page: u32,
}

/// One life of a node.
#[derive(Clone)]
pub struct Node {
    pub id: NodeId,
    pub delivery: Arc<Delivery>,
    pub publishing: Arc<Publishing>,
    pub router: Arc<Router>,
    pub inbox: Arc<dyn Inbox>,
    pub clock: Clock,
    pub metrics: DeliveryMetrics,
    /// It stands still while this is on.
    pub freezer: Freezer,
    /// Connections are accepted one after the other, a millisecond each.
    pub door: Arc<tokio::sync::Mutex<()>>,
    /// Fires at `kill -9`: nothing that it asks for is answered any more.
    pub death: CancellationToken,
    /// Ends its tasks.
    pub cancel: CancellationToken,
}

impl Node {
    /// Starts a node, as soon as it gets its lease.
    pub async fn boot(shared: &Shared, id: &NodeId, life: u64) -> Self {
        let (tracker, cancel, death) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let freezer = Freezer::new();
        let ahead_ms = shared.stage.pick(0..=shared.plan.weather.skew_ms);
        let (inbox, presence) = doors(shared, ahead_ms, &freezer, &death);
        let (broker, inlets) = shared.exchange.join(id, &freezer);
        let (metrics, clock, broker) =
            (Metrics::new(), clock_of(shared, id, life, ahead_ms), Arc::new(broker));
        let router = Arc::new(Router::new(
            id.clone(),
            Arc::clone(&presence),
            broker.clone(),
            Duration::from_millis(250),
            metrics.publish.clone(),
        ));
        let publishing = Publishing::start(
            publishing_settings(),
            Arc::clone(&inbox),
            Arc::clone(&router),
            clock.clone(),
            metrics.publish.clone(),
            &tracker,
            &cancel,
        );
        let parts = Parts {
            node: id.clone(),
            settings: settings(shared),
            clock: clock.clone(),
            inbox: Arc::clone(&inbox),
            inbox_up: tokio::sync::watch::channel(true).1,
            presence,
            broker,
            router: Arc::clone(&router),
            tokens: Arc::new(no_tokens()),
            metrics: metrics.delivery.clone(),
            tracker: tracker.clone(),
            cancel: cancel.clone(),
        };
        let (claim, ttl) = (Arc::clone(&parts.presence), parts.settings.lease_ttl);
        let delivery = Delivery::new(parts, lease(id, life));
        let node = Self {
            id: id.clone(),
            delivery,
            publishing,
            router,
            inbox,
            clock,
            metrics: metrics.delivery.clone(),
            freezer,
            door: Arc::default(),
            death,
            cancel,
        };
        // As the composition root does before anything runs.
        while !matches!(claim.lease(&lease(id, life), ttl, true).await, Ok(Lease::Kept | Lease::Renewed)) {
            shared.stage.say(format_args!("{id}: no lease yet"));
            shared.stage.pause(500..=1_500).await;
        }
        node.delivery.run(inlets.envelopes, inlets.control);
        tracker.spawn(node.clone().fire_schedules(shared.stage.clone()));
        // It has asked presence for the time before it takes anybody.
        shared.stage.pause(200..=200).await;
        shared.stage.say(format_args!("{id}: up"));
        node
    }

    /// Publishes what is due, as the schedule job does.
    async fn fire_schedules(self, stage: Stage) {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = stage.pause(200..=900) => {}
            }
            self.freezer.thawed().await;
            let due = self.inbox.claim_schedules(self.clock.now(), Duration::from_secs(10), 8).await;
            for due in due.unwrap_or_default() {
                let (id, fired) = (due.id, self.publishing.fire(due).await);
                stage.say(format_args!("{}: fires {id}: {fired:?}", self.id));
            }
        }
    }
}

/// Its ways to the store and to presence.
fn doors(
    shared: &Shared,
    ahead_ms: u64,
    freezer: &Freezer,
    death: &CancellationToken,
) -> (Arc<dyn Inbox>, Arc<dyn Presence>) {
    let inbox = ModelInbox { store: shared.store.clone(), freezer: freezer.clone(), death: death.clone() };
    let presence = ModelPresence {
        stage: shared.stage.clone(),
        plan: shared.plan,
        store: shared.presence.clone(),
        mood: Arc::clone(&shared.presence_mood),
        freezer: freezer.clone(),
        ahead_ms: i64::try_from(ahead_ms).expect("a second or less"),
        death: death.clone(),
        doubt: AtomicBool::new(false),
        routes: Mutex::default(),
        known: Mutex::default(),
    };
    (Arc::new(inbox), Arc::new(presence))
}

/// Each life of a node has its own deviation from the true time.
fn clock_of(shared: &Shared, id: &NodeId, life: u64, ahead_ms: u64) -> Clock {
    let number = id.as_str().bytes().fold(life, |sum, byte| sum * 31 + u64::from(byte));
    shared.stage.clock_of(number, Duration::from_millis(ahead_ms))
}

fn publishing_settings() -> publish::Settings {
    let day = Duration::from_secs(86_400);
    let limits =
        Limits { max_recipients: 100, max_notification_bytes: 65_536, max_ttl: day, max_schedule: day };
    publish::Settings { limits, queue: 1_000, group: 8, workers: 3, linger: Duration::from_millis(10) }
}

/// As good as none.
const WIDE: Window = Window { entries: 10_000, bytes: 1 << 30 };

fn settings(shared: &Shared) -> delivery::Settings {
    delivery::Settings {
        heartbeat: Duration::from_secs(4),
        presence_ttl: Duration::from_secs(14),
        lease_ttl: Duration::from_secs(6),
        window: if shared.plan.plant == Plant::NoWindow { WIDE } else { shared.window },
        page_entries: shared.page,
        head_check: shared.plan.head_check,
        blind_check: Duration::from_millis(1_500),
        recovery_check: Duration::from_secs(10),
        gap_grace: Duration::from_millis(15),
        cursor_flush: Duration::from_secs(2),
        conflation: shared.plan.conflation,
        max_topics: 8,
        recycling: shared.plan.recycling,
        crowd: if shared.plan.plant == Plant::NoLimit {
            Crowd { limit: 0, ..shared.plan.crowd }
        } else {
            shared.plan.crowd
        },
        rules: shared.plan.rules,
    }
}

fn no_tokens() -> UserTokens {
    let settings =
        TokenSettings { keys: Vec::new(), issuer: None, audience: Vec::new(), leeway: Duration::ZERO };
    UserTokens::new(settings).unwrap_or_else(|_| panic!("no key is wrong where there is none"))
}

fn lease(id: &NodeId, life: u64) -> NodeLease {
    NodeLease {
        node: id.clone(),
        boot: format!("{id}-{life}"),
        http: String::new(),
        admin: String::new(),
        version: String::new(),
        connections: 0,
        draining: false,
    }
}
