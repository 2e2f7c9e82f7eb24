//! Routing: from a committed notification to one envelope a node.
//!
//! Owns the question «who holds someone for this» (asked of presence, with a short deadline), the
//! nodes that said they are blind, and the sorting of entries by node. It must never wait for the
//! broker, and never be trusted with delivery: whatever it misses, a head check brings.

mod blind;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::broker::{Broker, Destination};
use crate::domain::{NodeId, NotificationId, Recipient, Stream, UnixMillis, UserId};
use crate::inbox::{Place, Unread};
use crate::metrics::publish::{PublishMetrics, RouteLabels};
use crate::presence::{Located, Presence, Route};
use crate::wire::envelope::{EntryRef, Item};
use crate::wire::{Marked, Tail};

pub use blind::BlindNodes;

/// This node's own connections. Implemented by delivery.
pub trait Local: Send + Sync {
    /// Delivers to them; never waits.
    fn deliver(&self, item: Item);
}

/// Where the recipients of one notification are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// For each recipient, in order: where it is.
    Known(Vec<Located>),
    /// Presence did not answer in time: everywhere.
    Unknown,
}

impl Whereabouts {
    /// How many of the recipients are connected; `None` if that is unknown or no question (shared streams).
    pub fn online(&self, recipients: &[Recipient]) -> Option<u32> {
        let Self::Known(located) = self else {
            return None;
        };
        if recipients.iter().any(|recipient| recipient.stream.is_shared()) {
            return None;
        }
        let is_online = |(recipient, located): &(&Recipient, &Located)| match &recipient.device {
            None => !located.members.is_empty(),
            Some(device) => located.members.iter().any(|member| member.device.as_ref() == Some(device)),
        };
        u32::try_from(recipients.iter().zip(located).filter(is_online).count()).ok()
    }
}

/// Sends notifications to the nodes that hold someone for them.
pub struct Router {
    node: NodeId,
    presence: Arc<dyn Presence>,
    broker: Arc<dyn Broker>,
    local: OnceLock<Arc<dyn Local>>,
    blind: BlindNodes,
    locate_timeout: Duration,
    metrics: PublishMetrics,
}

impl Router {
    /// A router that knows no local connections yet.
    pub fn new(
        node: NodeId,
        presence: Arc<dyn Presence>,
        broker: Arc<dyn Broker>,
        locate_timeout: Duration,
        metrics: PublishMetrics,
    ) -> Self {
        Self {
            node,
            presence,
            broker,
            local: OnceLock::new(),
            blind: BlindNodes::default(),
            locate_timeout,
            metrics,
        }
    }

    /// Tells it of this node's own connections; the first call counts.
    pub fn attach_local(&self, local: Arc<dyn Local>) {
        // A second call would be a mistake of the composition root; the first one stays.
        let _ = self.local.set(local);
    }

    /// The nodes that said they are blind.
    pub fn blind(&self) -> &BlindNodes {
        &self.blind
    }

    /// Where the recipients of several notifications are, asked in one go. Call it only after they are committed.
    pub async fn locate(&self, notifications: &[&[Recipient]]) -> Vec<Whereabouts> {
        let routes: Vec<Route> = notifications.iter().copied().flatten().filter_map(route).collect();
        let asked = async {
            match routes.is_empty() {
                true => Ok(Vec::new()),
                false => self.presence.locate(&routes).await,
            }
        };
        match tokio::time::timeout(self.locate_timeout, asked).await {
            Ok(Ok(located)) => {
                let mut located = located.into_iter();
                let of_one = |recipients: &&[Recipient]| {
                    let each = recipients.iter().map(|recipient| match route(recipient) {
                        Some(_) => located.next().unwrap_or_default(),
                        None => Located::default(),
                    });
                    Whereabouts::Known(each.collect())
                };
                notifications.iter().map(of_one).collect()
            }
            Ok(Err(_)) | Err(_) => {
                self.metrics.locate_failures.inc();
                vec![Whereabouts::Unknown; notifications.len()]
            }
        }
    }

    /// Sends a stored notification: `places` belongs to `recipients`, one each.
    pub fn send_stored(
        &self,
        tail: &Tail,
        expires_at: Option<UnixMillis>,
        recipients: &[Recipient],
        places: &[Place],
        whereabouts: &Whereabouts,
    ) {
        let item = |entries| Item::Stored { tail: tail.clone(), expires_at, entries };
        self.spread(recipients, entries(recipients, places), whereabouts, item);
    }

    /// Sends the cancellations of a notification, each at its place: `places` belongs to `recipients`.
    pub fn send_cancelled(
        &self,
        id: NotificationId,
        expires_at: Option<UnixMillis>,
        recipients: &[Recipient],
        places: &[Place],
        whereabouts: &Whereabouts,
    ) {
        let item = |entries| Item::Cancelled { id, expires_at, entries };
        self.spread(recipients, entries(recipients, places), whereabouts, item);
    }

    /// Tells all connections of a user what was read on one of them. Waits for presence, with the short deadline.
    pub async fn send_read(&self, user: &UserId, stream: &Stream, marked: &Marked, now: Unread) {
        let recipients = [Recipient { stream: Stream::User(user.clone()), device: None }];
        let whereabouts = self.locate(&[&recipients]).await.remove(0);
        let item = |_| Item::Read {
            user: user.clone(),
            stream: stream.clone(),
            marked: marked.clone(),
            unread: now.unread,
            version: now.version,
            reads: now.reads,
        };
        self.spread(&recipients, vec![()], &whereabouts, item);
    }

    /// Sends a notification for now or never.
    pub fn send_unstored(&self, tail: &Tail, recipients: &[Recipient], whereabouts: &Whereabouts) {
        let each = recipients.iter().map(|one| (one.stream.clone(), one.device.clone())).collect();
        let item = |recipients| Item::Unstored { tail: tail.clone(), origin: self.node.clone(), recipients };
        self.spread(recipients, each, whereabouts, item);
    }

    /// Tells the holders of these streams where they stand: whoever missed something reads it.
    pub fn send_heads(&self, recipients: &[Recipient], places: &[Place], whereabouts: &Whereabouts) {
        let head =
            |(recipient, place): (&Recipient, &Place)| (recipient.stream.clone(), place.epoch, place.seq);
        let heads = recipients.iter().zip(places).map(head).collect();
        self.spread(recipients, heads, whereabouts, Item::Heads);
    }

    /// One item for each node with what concerns it. Own connections get theirs at once.
    fn spread<T: Clone>(
        &self,
        recipients: &[Recipient],
        things: Vec<T>,
        whereabouts: &Whereabouts,
        item: impl Fn(Vec<T>) -> Item,
    ) {
        let everyone = recipients.iter().any(|recipient| recipient.stream == Stream::Everyone);
        let Whereabouts::Known(located) = whereabouts else {
            return self.send_to_all(item(things));
        };
        if everyone {
            return self.send_to_all(item(things));
        }
        let blind = self.blind.now();
        let mut by_node: BTreeMap<&NodeId, Vec<T>> = BTreeMap::new();
        for (thing, located) in things.iter().zip(located) {
            for node in &located.nodes {
                by_node.entry(node).or_default().push(thing.clone());
            }
        }
        for node in &blind {
            by_node.insert(node, things.clone());
        }
        // Own connections are found in the hub, so this node needs no presence to serve them.
        by_node.remove(&self.node);
        for (node, things) in by_node {
            self.send(Destination::Node(node.clone()), &item(things));
        }
        self.deliver(item(things));
    }

    fn send_to_all(&self, item: Item) {
        self.send(Destination::All, &item);
        self.deliver(item);
    }

    fn deliver(&self, item: Item) {
        self.metrics.envelopes.get_or_create(&RouteLabels { destination: "local" }).inc();
        if let Some(local) = self.local.get() {
            local.deliver(item);
        }
    }

    fn send(&self, to: Destination, item: &Item) {
        let destination = match &to {
            Destination::Node(_) => "node",
            Destination::All => "all",
        };
        match self.broker.send(to, item.encode()) {
            Ok(()) => self.metrics.envelopes.get_or_create(&RouteLabels { destination }).inc(),
            Err(_) => self.metrics.envelopes_not_taken.inc(),
        };
    }
}

/// Each recipient's entry.
fn entries(recipients: &[Recipient], places: &[Place]) -> Vec<EntryRef> {
    let entry = |(recipient, place): (&Recipient, &Place)| EntryRef {
        stream: recipient.stream.clone(),
        epoch: place.epoch,
        seq: place.seq,
        device: recipient.device.clone(),
    };
    recipients.iter().zip(places).map(entry).collect()
}

fn route(recipient: &Recipient) -> Option<Route> {
    match &recipient.stream {
        Stream::User(user) => Some(Route::User(user.clone())),
        Stream::Topic(topic) => Some(Route::Topic(topic.clone())),
        Stream::Everyone => None,
    }
}
