//! One node of the simulated cluster: the real delivery, routing and publishing on modelled parts.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::auth::{TokenSettings, UserTokens};
use fanfare::delivery::{self, Delivery, Parts};
use fanfare::domain::NodeId;
use fanfare::inbox::Inbox;
use fanfare::metrics::Metrics;
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::{Lease, NodeLease, Presence};
use fanfare::publish::{self, Publishing};
use fanfare::routing::Router;
use fanfare::session::Window;
use fanfare::wire::publish::Limits;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ledger::Ledger;
use super::model_broker::Exchange;
use super::model_inbox::ModelInbox;
use super::model_presence::ModelPresence;
use super::plan::Plan;
use super::stage::Stage;

/// What all nodes share.
#[derive(Clone)]
pub struct Shared {
    pub stage: Stage,
    pub plan: Plan,
    pub ledger: Arc<Mutex<Ledger>>,
    pub inbox_away: Arc<Mutex<bool>>,
    pub presence: EmbeddedPresence,
    pub presence_away: Arc<Mutex<bool>>,
    pub exchange: Exchange,
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
        let inbox: Arc<dyn Inbox> = Arc::new(ModelInbox {
            stage: shared.stage.clone(),
            plan: shared.plan,
            ledger: Arc::clone(&shared.ledger),
            away: Arc::clone(&shared.inbox_away),
            death: death.clone(),
        });
        let presence: Arc<dyn Presence> = Arc::new(ModelPresence {
            stage: shared.stage.clone(),
            plan: shared.plan,
            store: shared.presence.clone(),
            away: Arc::clone(&shared.presence_away),
            death: death.clone(),
            doubt: AtomicBool::new(false),
            routes: Mutex::default(),
        });
        let (broker, inlets) = shared.exchange.join(id);
        let metrics = Metrics::new();
        let (clock, broker) = (shared.stage.clock(), Arc::new(broker));
        let locate = Duration::from_millis(250);
        let router = Arc::new(Router::new(
            id.clone(),
            Arc::clone(&presence),
            broker.clone(),
            locate,
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
            clock,
            inbox: Arc::clone(&inbox),
            presence,
            broker,
            router: Arc::clone(&router),
            tokens: Arc::new(no_tokens()),
            metrics: metrics.delivery.clone(),
            tracker,
            cancel: cancel.clone(),
        };
        let (claim, ttl) = (Arc::clone(&parts.presence), parts.settings.lease_ttl);
        let delivery = Delivery::new(parts, lease(id, life));
        let node = Self { id: id.clone(), delivery, publishing, router, inbox, death, cancel };
        // As the composition root does before anything runs.
        while !matches!(claim.lease(&lease(id, life), ttl, true).await, Ok(Lease::Kept | Lease::Renewed)) {
            shared.stage.say(format_args!("{id}: no lease yet"));
            shared.stage.pause(500..=1_500).await;
        }
        node.delivery.run(inlets.envelopes, inlets.control);
        shared.stage.say(format_args!("{id}: up"));
        node
    }
}

fn publishing_settings() -> publish::Settings {
    let day = Duration::from_secs(86_400);
    let limits =
        Limits { max_recipients: 100, max_notification_bytes: 65_536, max_ttl: day, max_schedule: day };
    publish::Settings { limits, queue: 1_000, group: 8, workers: 3 }
}

fn settings(shared: &Shared) -> delivery::Settings {
    delivery::Settings {
        heartbeat: Duration::from_secs(4),
        presence_ttl: Duration::from_secs(14),
        lease_ttl: Duration::from_secs(6),
        window: shared.window,
        page_entries: shared.page,
        head_check: shared.plan.head_check,
        blind_check: Duration::from_millis(1_500),
        recovery_check: Duration::from_secs(10),
        gap_grace: Duration::from_millis(15),
        cursor_flush: Duration::from_secs(2),
        max_topics: 8,
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
