//! Jobs: what goes on in the background of the cluster, on every node.
//!
//! Owns when and how much at a time; what each step does is the inbox's, presence's and publishing's to say. Any
//! node does any of it: claims in SQL and in Redis settle who does what, and a node that dies in the middle
//! is replaced by the next round of another one. No job must ever hold up a publisher or a connection.
//!
//! | file | what it does |
//! |---|---|
//! | `round` | the loop that all share: pace, jitter, backoff, end |
//! | `schedule` | publishes what is due |
//! | `expiry` | notes what is past its time |
//! | `retention` | cuts streams by age and by count |
//! | `revocations` | compares which revocations this node knows with which are stored |
//! | `sweep` | removes keys, what expired long ago, idle devices, cursors of topics left long ago, lapsed revocations |
//! | `undelivered` | looks for what nobody acknowledged |
//! | `events` | tells backends what is in the outbox |
//! | `online` | tells them who came and went, after a grace |
//! | `survivor` | takes over the users of dead nodes |
//! | `reconcile` | compares who is believed to be online with who is |
//! | `witness` | whether presence can be believed |
//! | `key_set` | fetches the keys of users' tokens, if there is a URL of them; each node for itself |

mod events;
mod expiry;
pub mod key_set;
mod online;
mod reconcile;
mod retention;
mod revocations;
mod round;
mod schedule;
mod survivor;
mod sweep;
mod undelivered;
mod witness;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::online::{Comings, Online};
use self::reconcile::Reconcile;
use self::round::{Job, Runner};
use self::survivor::Survivor;
use self::witness::Witness;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::domain::Stream;
use crate::inbox::Inbox;
use crate::metrics::jobs::JobMetrics;
use crate::presence::{NodeLease, Presence};
use crate::publish::Publishing;
use crate::routing::Router;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Idempotency keys.
    pub keys: Duration,
    /// Notifications.
    pub age: Duration,
    /// Entries of a stream.
    pub max_entries: u64,
    /// What has expired, for whoever asks for its receipts.
    pub receipts: Duration,
    /// Devices that are not used.
    pub idle_devices: Duration,
}

/// What the jobs are to do.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long things are kept.
    pub retention: Retention,
    /// Whether backends are told anything.
    pub events: bool,
    /// Whether they are told who comes and goes.
    pub presence: bool,
    /// Whether they are told what nobody acknowledged.
    pub undelivered: bool,
    /// How long somebody may be away without being called offline: a heartbeat.
    pub grace: Duration,
    /// How long presence believes in a connection.
    pub presence_ttl: Duration,
    /// How long a node's lease lasts.
    pub lease_ttl: Duration,
}

/// What the jobs are made of.
pub struct Parts {
    /// What they are to do.
    pub settings: Settings,
    /// This node.
    pub lease: NodeLease,
    /// The time.
    pub clock: Clock,
    /// The truth.
    pub inbox: Arc<dyn Inbox>,
    /// Whether it is there.
    pub inbox_up: watch::Receiver<bool>,
    /// Who is where.
    pub presence: Arc<dyn Presence>,
    /// Takes events.
    pub broker: Arc<dyn Broker>,
    /// Knows who is blind.
    pub router: Arc<Router>,
    /// Publishes what was scheduled.
    pub publishing: Arc<Publishing>,
    /// Knows who is here.
    pub delivery: Arc<Delivery>,
    /// Streams that have grown by a part of what they may hold.
    pub grown: mpsc::Receiver<Stream>,
    /// What is counted.
    pub metrics: JobMetrics,
    /// Owns the tasks.
    pub tracker: TaskTracker,
    /// Ends them.
    pub cancel: CancellationToken,
}

/// Starts all jobs that are switched on.
pub fn start(parts: Parts) {
    let Parts { settings, clock, inbox, metrics, tracker, .. } = &parts;
    let runner = Runner {
        clock: clock.clone(),
        metrics: metrics.clone(),
        inbox_up: parts.inbox_up.clone(),
        cancel: parts.cancel.clone(),
    };
    let kept = settings.retention;
    let starter = Starter { runner, tracker: tracker.clone() };
    let inbox = || Arc::clone(inbox);
    let (clock, metrics) = (|| clock.clone(), || metrics.clone());
    let publishing = Arc::clone(&parts.publishing);
    starter.start(schedule::Schedule { inbox: inbox(), publishing, clock: clock(), metrics: metrics() });
    starter.start(expiry::Expiry { inbox: inbox(), clock: clock() });
    starter.start(retention::ByAge { inbox: inbox(), clock: clock(), age: kept.age });
    starter.start(retention::Overfull { inbox: inbox(), max_entries: kept.max_entries });
    let undelivered = settings.undelivered;
    starter.start(sweep::Sweep { inbox: inbox(), clock: clock(), kept, undelivered, at: None });
    let delivery = Arc::clone(&parts.delivery);
    starter.start(revocations::Revocations { inbox: inbox(), delivery, read: None });
    if settings.undelivered {
        starter.start(undelivered::Undelivered { inbox: inbox(), clock: clock() });
    }
    if settings.events {
        let broker = Arc::clone(&parts.broker);
        starter.start(events::Relay { inbox: inbox(), broker, clock: clock() });
        starter.start(events::Backlog { inbox: inbox(), clock: clock(), metrics: metrics() });
    }
    if settings.presence {
        start_presence(&parts, &starter);
    }
    starter.start(retention::Grown { inbox: inbox(), grown: parts.grown, max_entries: kept.max_entries });
}

fn start_presence(parts: &Parts, starter: &Starter) {
    let Parts { settings, lease, clock, inbox, presence, broker, router, delivery, metrics, .. } = parts;
    let witness = Arc::new(Witness::new(
        Arc::clone(broker),
        Arc::clone(delivery),
        Arc::clone(router),
        Arc::clone(presence),
        lease.clone(),
        settings.lease_ttl,
    ));
    let comings = Arc::new(Comings::new(Arc::clone(&witness), settings.grace, metrics.watch_dropped.clone()));
    delivery.watch_users(Arc::clone(&comings) as _);
    starter.start(Online {
        comings: Arc::clone(&comings),
        witness: Arc::clone(&witness),
        inbox: Arc::clone(inbox),
        presence: Arc::clone(presence),
        delivery: Arc::clone(delivery),
        clock: clock.clone(),
        metrics: metrics.clone(),
    });
    starter.start(Survivor {
        node: lease.node.clone(),
        comings: Arc::clone(&comings),
        witness,
        presence: Arc::clone(presence),
        lease_ttl: settings.lease_ttl,
        settled: HashSet::new(),
    });
    starter.start(Reconcile {
        node: lease.node.clone(),
        comings,
        inbox: Arc::clone(inbox),
        presence: Arc::clone(presence),
        delivery: Arc::clone(delivery),
        presence_ttl: settings.presence_ttl,
        after: None,
    });
}

struct Starter {
    runner: Runner,
    tracker: TaskTracker,
}

impl Starter {
    fn start(&self, job: impl Job) {
        self.tracker.spawn(self.runner.clone().run(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::jobs::JOBS;

    #[test]
    fn every_job_has_its_counters_from_the_beginning() {
        let mut names = [
            events::Backlog::NAME,
            events::Relay::NAME,
            expiry::Expiry::NAME,
            Online::NAME,
            Reconcile::NAME,
            retention::ByAge::NAME,
            retention::Grown::NAME,
            retention::Overfull::NAME,
            revocations::Revocations::NAME,
            schedule::Schedule::NAME,
            Survivor::NAME,
            sweep::Sweep::NAME,
            undelivered::Undelivered::NAME,
        ];
        names.sort_unstable();
        assert_eq!(names, JOBS);
    }
}
