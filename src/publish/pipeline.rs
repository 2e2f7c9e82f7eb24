//! One group on its way: committed, located, sent, in this order.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::appends::Appends;
use super::growth::Growth;
use crate::clock::Clock;
use crate::domain::{Notification, NotificationId, PublisherId, Recipient, Stream};
use crate::inbox::{Append, Appended, FirstAnswer, Idempotency, Inbox, InboxError, Place};
use crate::metrics::publish::PublishMetrics;
use crate::routing::{Router, Whereabouts};
use crate::wire::Tail;

/// One notification to be committed.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) notification: Notification,
    pub(super) recipients: Vec<Recipient>,
    pub(super) publisher: PublisherId,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) collapse_key: Option<String>,
    /// It was scheduled, and its time has come.
    pub(super) scheduled: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Committed {
    Stored {
        id: NotificationId,
        online: Option<u32>,
    },
    Replayed {
        id: NotificationId,
        online: Option<u32>,
    },
    KeyReused,
    /// Its schedule has ended meanwhile.
    NotScheduled,
    /// Its TTL ran out before it was committed: nothing was.
    Expired,
}

/// Carries groups.
pub(super) struct Pipeline {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) router: Arc<Router>,
    pub(super) clock: Clock,
    pub(super) metrics: PublishMetrics,
    /// Who is told of streams that have grown, if anybody is.
    pub(super) growth: Arc<OnceLock<Growth>>,
    /// Who watches the inbox is told how appends go.
    pub(super) appends: watch::Sender<Appends>,
}

impl Pipeline {
    /// What is past its time is dropped before it costs anything.
    pub(super) async fn commit(
        &self,
        jobs: Vec<Job>,
        tracker: &TaskTracker,
    ) -> Vec<Result<Committed, InboxError>> {
        let now = self.clock.now();
        let is_late: Vec<bool> = jobs.iter().map(|job| job.notification.is_expired(now)).collect();
        let live: Vec<Job> = jobs.into_iter().filter(|job| !job.notification.is_expired(now)).collect();
        let mut committed = match live.is_empty() {
            true => Vec::new(),
            false => self.commit_live(live, tracker).await,
        }
        .into_iter();
        let each = is_late.into_iter().map(|late| match late {
            true => Ok(Committed::Expired),
            false => committed.next().expect("one for each that was appended"),
        });
        each.collect()
    }

    async fn commit_live(&self, jobs: Vec<Job>, tracker: &TaskTracker) -> Vec<Result<Committed, InboxError>> {
        let appends = jobs.iter().map(|job| Append {
            notification: job.notification.clone(),
            recipients: job.recipients.clone(),
            publisher: job.publisher.clone(),
            idempotency: job.idempotency.clone(),
            collapse_key: job.collapse_key.clone(),
            scheduled: job.scheduled,
        });
        let appended = self.inbox.append(appends.collect()).await;
        Appends::note(&self.appends, &appended);
        let located = self.locate(&jobs, &appended).await;
        let mut results = Vec::with_capacity(jobs.len());
        for ((job, appended), whereabouts) in jobs.into_iter().zip(appended).zip(located) {
            results.push(match appended {
                Ok(Appended::Stored(places)) => Ok(self.stored(job, &places, &whereabouts, tracker)),
                Ok(Appended::Replayed(first)) => Ok(self.replayed(&job, &first, &whereabouts, tracker)),
                Ok(Appended::KeyReused) => Ok(Committed::KeyReused),
                Ok(Appended::NotScheduled) => Ok(Committed::NotScheduled),
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Only after the commit: who registers later than this lookup finds the entry in the inbox.
    async fn locate(&self, jobs: &[Job], appended: &[Result<Appended, InboxError>]) -> Vec<Whereabouts> {
        let mut recipients: Vec<&[Recipient]> = Vec::with_capacity(jobs.len());
        for (job, appended) in jobs.iter().zip(appended) {
            recipients.push(match appended {
                Ok(Appended::Stored(_) | Appended::Replayed(_)) => &job.recipients,
                Ok(Appended::KeyReused | Appended::NotScheduled) | Err(_) => &[],
            });
        }
        self.router.locate(&recipients).await
    }

    fn stored(
        &self,
        job: Job,
        places: &[Place],
        whereabouts: &Whereabouts,
        tracker: &TaskTracker,
    ) -> Committed {
        self.metrics.entries.inc_by(places.len() as u64);
        if let Some(growth) = self.growth.get() {
            growth.appended(&job.recipients, places);
        }
        let Job { notification, recipients, idempotency, .. } = job;
        let tail = Tail::of(&notification.json);
        self.router.send_stored(&tail, notification.expires_at, &recipients, places, whereabouts);
        let online = whereabouts.online(&recipients);
        if let Some(key) = idempotency {
            self.record_answer(key, online, tracker);
        }
        Committed::Stored { id: notification.id, online }
    }

    /// A replay of the key later answers what this answer said; if this is lost, it answers anew.
    fn record_answer(&self, key: Idempotency, online: Option<u32>, tracker: &TaskTracker) {
        let inbox = Arc::clone(&self.inbox);
        tracker.spawn(async move {
            if let Err(error) = inbox.answered(&key.publisher, &key.key, online).await {
                // Counted with the failures of the inbox; that it is away is told elsewhere, once.
                debug!(%error, "the answer to an idempotency key was not recorded; a replay may name another online count");
            }
        });
    }

    /// The first request may have died between its commit and its sending: whoever missed it reads it.
    fn replayed(
        &self,
        job: &Job,
        first: &FirstAnswer,
        whereabouts: &Whereabouts,
        tracker: &TaskTracker,
    ) -> Committed {
        let (inbox, router) = (Arc::clone(&self.inbox), Arc::clone(&self.router));
        let (recipients, whereabouts_then) = (job.recipients.clone(), whereabouts.clone());
        tracker.spawn(async move {
            let streams: Vec<Stream> = recipients.iter().map(|recipient| recipient.stream.clone()).collect();
            match inbox.heads(&streams).await {
                Ok(heads) => {
                    let places: Vec<Place> =
                        heads.iter().map(|head| Place { epoch: head.epoch, seq: head.head }).collect();
                    router.send_heads(&recipients, &places, &whereabouts_then);
                }
                Err(error) => {
                    debug!(%error, "a replayed request was not sent again; head checks bring its entries")
                }
            }
        });
        let online = if first.answered { first.online } else { whereabouts.online(&job.recipients) };
        Committed::Replayed { id: first.id, online }
    }
}
