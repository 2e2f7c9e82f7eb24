//! Delivery: brings what is in the inbox to the connections of this node, and heals what was missed.
//!
//! Owns the order that loses nothing (**register in the hub, announce presence and wait for it, then
//! read the inbox**), the reads that close gaps, head checks, heartbeats, presence refreshes and
//! cursors. It speaks to connections only through an [`outlet::Outlet`], and must never append.
//!
//! | file | what it does |
//! |---|---|
//! | `attach` | a new connection: registered, announced, opened, welcomed |
//! | `connection` | one connection: its session, its frames, its end |
//! | `feed` | what a connection is sent, in the session's order |
//! | `requests` | client frames that need a round trip: subscribe, unsubscribe, refresh, read |
//! | `intake` | envelopes: offered to sessions |
//! | `conflation` | when what sessions keep back for a moment is written |
//! | `parcel` | what an entry brings: a notification or a cancellation |
//! | `shared` | topics and everyone: one position and a small tail a node |
//! | `followed` | one of them: the order in it, and its last entries |
//! | `reader` | reads that close gaps, batched |
//! | `reads` | what a user read on one device, shown on all |
//! | `heads` | compares positions with the inbox |
//! | `pulse` | heartbeats, token expiry |
//! | `keeper` | presence refreshed, blind spells, lease |
//! | `cursors` | acks and last-seen times, merged and committed |
//! | `receipts` | which notifications were acknowledged, noted in the inbox |
//! | `control` | what other nodes ask |
//! | `revoked` | connections by tokens that are revoked |
//! | `displace` | one connection a device, whichever nodes hold them |
//! | `crowd` | no more connections of one user than allowed |
//! | `recycle` | who has been connected for long is sent to come back |
//! | `drain` | the end, in order |

mod attach;
mod conflation;
mod connection;
mod control;
mod crowd;
mod cursors;
mod displace;
mod drain;
mod feed;
mod followed;
mod heads;
mod intake;
mod keeper;
pub mod outlet;
mod parcel;
mod pulse;
mod reader;
mod reads;
mod receipts;
mod recycle;
mod requests;
mod revoked;
mod shared;
mod sight;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::UserTokens;
use crate::batch::{Batcher, Shape};
use crate::broker::{Broker, ControlRequest, Health};
use crate::clock::Clock;
use crate::domain::{NodeId, TopicName};
use crate::hub::Hub;
use crate::inbox::{Inbox, InboxError, Open, Opened};
use crate::metrics::delivery::DeliveryMetrics;
use crate::presence::{Member, NodeLease, Presence, PresenceError};
use crate::routing::{Local, Router};
use crate::session::{Rules, Window};

pub use attach::{Attach, AttachError};
pub use connection::Connection;
pub use crowd::{Crowd, OverLimit};
pub use drain::{Drain, DrainProgress, DrainReport};
pub use keeper::Watcher;
pub use recycle::Recycling;

/// How delivery works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often each connection is pinged.
    pub heartbeat: Duration,
    /// How long an announced connection is believed in; at least three heartbeats.
    pub presence_ttl: Duration,
    /// How long the node's lease lasts.
    pub lease_ttl: Duration,
    /// What may be unacknowledged, for each stream of each connection.
    pub window: Window,
    /// How many entries a page has at most.
    pub page_entries: u32,
    /// How often the heads of all streams are compared.
    pub head_check: Duration,
    /// The same while this node is blind or without a broker.
    pub blind_check: Duration,
    /// Over how long the check after an outage is spread.
    pub recovery_check: Duration,
    /// How long a gap is given to close by itself.
    pub gap_grace: Duration,
    /// How often merged cursors are committed.
    pub cursor_flush: Duration,
    /// How far apart a connection is sent updates of one collapse key, at least; those in between are merged into the
    /// newest. Zero: as they come.
    pub conflation: Duration,
    /// How many topics a connection may follow.
    pub max_topics: usize,
    /// How many connections a user may have.
    pub crowd: Crowd,
    /// How long connections last; `None`: as long as they like.
    pub recycling: Option<Recycling>,
    /// The rules that hold ([`Rules::SOUND`] but in simulations).
    pub rules: Rules,
}

/// Delivers to the connections of one node.
pub struct Delivery {
    pub(crate) node: NodeId,
    settings: Settings,
    clock: Clock,
    hub: Hub<Connection>,
    inbox: Arc<dyn Inbox>,
    inbox_up: watch::Receiver<bool>,
    presence: Arc<dyn Presence>,
    broker: Arc<dyn Broker>,
    router: Arc<Router>,
    tokens: Arc<UserTokens>,
    metrics: DeliveryMetrics,
    tracker: TaskTracker,
    cancel: CancellationToken,
    opens: Batcher<Open, Result<Opened, InboxError>>,
    announces: Batcher<Member, Result<Vec<Member>, Arc<PresenceError>>>,
    routes: Batcher<TopicName, Result<(), Arc<PresenceError>>>,
    shared: shared::SharedStreams,
    reader: reader::Reader,
    cursors: cursors::Cursors,
    receipts: receipts::Receipts,
    keeper: keeper::Keeper,
    pulse: pulse::Pulse,
    waits: conflation::Waits,
    check_soon: Notify,
    draining: AtomicBool,
    drain_progress: Mutex<Option<DrainProgress>>,
}

/// What delivery is made of.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// How it works.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
    /// The truth.
    pub inbox: Arc<dyn Inbox>,
    /// Whether it is there and takes what is new.
    pub inbox_up: watch::Receiver<bool>,
    /// Who is where.
    pub presence: Arc<dyn Presence>,
    /// To other nodes.
    pub broker: Arc<dyn Broker>,
    /// Who else is blind; also told of this node's connections.
    pub router: Arc<Router>,
    /// For refreshed tokens.
    pub tokens: Arc<UserTokens>,
    /// What is counted.
    pub metrics: DeliveryMetrics,
    /// Owns the tasks.
    pub tracker: TaskTracker,
    /// Ends them.
    pub cancel: CancellationToken,
}

impl Delivery {
    /// Puts it together; nothing runs before [`Delivery::run`]. `lease` describes this node.
    pub fn new(parts: Parts, lease: NodeLease) -> Arc<Self> {
        let Parts { tracker, cancel, inbox, presence, settings, .. } = &parts;
        let linger = Duration::ZERO;
        let shape = Shape { lanes: 1, bound: 65_536, group: 64, workers: 4, linger };
        let opens = {
            let inbox = Arc::clone(inbox);
            Batcher::start(shape, tracker, cancel, move |requests| {
                let inbox = Arc::clone(&inbox);
                async move { inbox.open(requests).await }
            })
        };
        let shape = Shape { group: 500, workers: 2, ..shape };
        let announces = {
            let (presence, ttl) = (Arc::clone(presence), settings.presence_ttl);
            Batcher::start(shape, tracker, cancel, move |members: Vec<Member>| {
                let presence = Arc::clone(&presence);
                async move { each(members.len(), presence.announce(&members, ttl).await) }
            })
        };
        let routes = {
            let (presence, ttl, node) = (Arc::clone(presence), settings.presence_ttl, parts.node.clone());
            Batcher::start(shape, tracker, cancel, move |topics: Vec<TopicName>| {
                let (presence, node) = (Arc::clone(&presence), node.clone());
                async move {
                    let announced = presence.announce_topics(&topics, &node, ttl).await;
                    each(topics.len(), announced.map(|()| vec![(); topics.len()]))
                }
            })
        };
        let router = Arc::clone(&parts.router);
        let delivery = Arc::new(Self {
            hub: Hub::default(),
            shared: shared::SharedStreams::new(parts.metrics.shared_streams.clone()),
            reader: reader::Reader::default(),
            cursors: cursors::Cursors::default(),
            receipts: receipts::Receipts::default(),
            keeper: keeper::Keeper::new(lease, parts.metrics.blind.clone()),
            pulse: pulse::Pulse::default(),
            waits: conflation::Waits::default(),
            check_soon: Notify::new(),
            draining: AtomicBool::new(false),
            drain_progress: Mutex::default(),
            opens,
            announces,
            routes,
            node: parts.node,
            settings: parts.settings,
            clock: parts.clock,
            inbox: parts.inbox,
            inbox_up: parts.inbox_up,
            presence: parts.presence,
            broker: parts.broker,
            router: parts.router,
            tokens: parts.tokens,
            metrics: parts.metrics,
            tracker: parts.tracker,
            cancel: parts.cancel,
        });
        let local: Arc<dyn Local> = Arc::new(intake::LocalDoor(Arc::downgrade(&delivery)));
        router.attach_local(local);
        delivery
    }

    /// Starts everything that goes on beside connections. Call once.
    pub fn run(self: &Arc<Self>, envelopes: mpsc::Receiver<Bytes>, control: mpsc::Receiver<ControlRequest>) {
        self.tracker.spawn(Arc::clone(self).take_envelopes(envelopes));
        self.tracker.spawn(Arc::clone(self).take_shared());
        self.tracker.spawn(Arc::clone(self).answer_control(control));
        self.tracker.spawn(Arc::clone(self).read_gaps());
        self.tracker.spawn(Arc::clone(self).check_heads());
        self.tracker.spawn(Arc::clone(self).keep_pulse());
        self.tracker.spawn(Arc::clone(self).recycle());
        if !self.settings.conflation.is_zero() {
            self.tracker.spawn(Arc::clone(self).end_waits());
        }
        self.tracker.spawn(Arc::clone(self).keep_presence());
        self.tracker.spawn(Arc::clone(self).keep_lease());
        self.tracker.spawn(Arc::clone(self).flush_cursors());
        self.tracker.spawn(Arc::clone(self).write_receipts());
        self.tracker.spawn(Arc::clone(self).watch_broker());
    }

    /// Compare all heads soon: something was away and is back.
    pub fn check_heads_soon(&self) {
        self.check_soon.notify_one();
    }

    /// Whether something that this node depends on does not work: it is blind, or without a working broker or inbox.
    pub fn is_degraded(&self) -> bool {
        self.keeper.is_blind() || *self.broker.health().borrow() != Health::Up || !*self.inbox_up.borrow()
    }

    /// Whether this node cannot refresh its presence now.
    pub fn is_blind(&self) -> bool {
        self.keeper.is_blind()
    }

    /// Whether it takes no new connections any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many connections are attached.
    pub fn connections(&self) -> usize {
        self.hub.len()
    }

    /// While the broker is away only heads tell what others publish, and after it came back what it lost has to be
    /// found, here and elsewhere.
    async fn watch_broker(self: Arc<Self>) {
        let mut health = self.broker.health();
        health.mark_unchanged();
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                changed = health.changed() => if changed.is_err() { return },
            }
            // Also when it is up as before: then this node's queue was lost and replaced.
            if *health.borrow_and_update() != Health::Up {
                self.check_heads_soon();
                continue;
            }
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                () = self.check_heads_everywhere() => {}
            }
        }
    }
}

/// One answer for each of a group: its own, or the failure that they share.
fn each<T>(count: usize, answers: Result<Vec<T>, PresenceError>) -> Vec<Result<T, Arc<PresenceError>>> {
    match answers {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) => {
            let error = Arc::new(error);
            (0..count).map(|_| Err(Arc::clone(&error))).collect()
        }
    }
}
