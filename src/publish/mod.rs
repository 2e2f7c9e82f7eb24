//! Publishing: from a request to a committed notification on its way.
//!
//! Owns the order that loses nothing: validate, **append (commit), then locate**, answer, send. The
//! answer never waits for the broker. The same path serves HTTP ([`Publishing::publish`]) and AMQP
//! ([`ingress`]). It must never deliver to a connection itself, and never answer before the commit.

mod growth;
pub mod ingress;
mod pipeline;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Publisher;
use crate::batch::{BatchError, Batcher, Shape};
use crate::clock::Clock;
use crate::domain::{NotificationId, Publication, Stream, Ttl};
use crate::inbox::{Idempotency, Inbox, InboxError};
use crate::metrics::publish::{PublishLabels, PublishMetrics};
use crate::routing::Router;
use crate::wire::Tail;
use crate::wire::publish::{Limits, Refused, accept, parse};
use growth::Growth;
use pipeline::{Committed, Job, Pipeline};

/// How publishing works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bounds of a request.
    pub limits: Limits,
    /// How many requests may wait for a commit, for each priority; one more is told to retry.
    pub queue: usize,
    /// How many notifications are committed together at most.
    pub group: usize,
    /// How many groups may be in flight.
    pub workers: usize,
}

/// A request to publish.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub publisher: Publisher,
    /// The JSON.
    pub json: Bytes,
    /// The publisher's own name for the request.
    pub idempotency_key: Option<String>,
    /// The TTL where the JSON has none (AMQP `expiration`).
    pub default_ttl: Option<Duration>,
    /// `http` or `amqp`, for metrics.
    pub source: &'static str,
}

/// What an accepted request is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The notification's id.
    pub id: NotificationId,
    /// How many recipients it has; `None` for a topic or everyone.
    pub recipients: Option<u32>,
    /// How many of them are connected; `None` where that is unknown.
    pub online: Option<u32>,
    /// What was done.
    pub how: How,
}

/// What was done with an accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Committed.
    Stored,
    /// Sent to who is connected (`ttl: 0`).
    Sent,
    /// It had been committed before under the same key; sent again.
    Replayed,
}

/// Why a request was not accepted. [`PublishError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The request is not acceptable.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The publisher may not publish to that target.
    #[error("{0}")]
    Forbidden(String),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used before for another request")]
    KeyReused,
    /// A request with the same key is still being committed.
    #[error("a request with this idempotency key is still in progress")]
    KeyInProgress,
    /// Too much is waiting to be committed.
    #[error("too many requests are waiting to be stored")]
    Overloaded,
    /// The inbox is away; whether the request was committed is unknown. Safe to retry with the same key.
    #[error("the inbox is not available")]
    Unavailable(#[source] Option<InboxError>),
}

impl PublishError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.code,
            Self::Forbidden(_) => "forbidden_target",
            Self::KeyReused => "idempotency_key_reused",
            Self::KeyInProgress => "idempotency_key_in_progress",
            Self::Overloaded => "overloaded",
            Self::Unavailable(_) => "inbox_unavailable",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::KeyInProgress | Self::Overloaded | Self::Unavailable(_))
    }
}

/// Takes notifications in.
pub struct Publishing {
    settings: Settings,
    router: Arc<Router>,
    clock: Clock,
    metrics: PublishMetrics,
    tracker: TaskTracker,
    commits: Batcher<Job, Result<Committed, InboxError>>,
    shared_commits: Batcher<Job, Result<Committed, InboxError>>,
    growth: Arc<OnceLock<Growth>>,
}

impl Publishing {
    /// Starts the tasks that commit. When `cancel` fires they finish what is queued.
    pub fn start(
        settings: Settings,
        inbox: Arc<dyn Inbox>,
        router: Arc<Router>,
        clock: Clock,
        metrics: PublishMetrics,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Arc<Self> {
        let growth = Arc::<OnceLock<Growth>>::default();
        let pipeline = Arc::new(Pipeline {
            inbox,
            router: Arc::clone(&router),
            metrics: metrics.clone(),
            growth: Arc::clone(&growth),
        });
        let start = |workers| {
            let (pipeline, tracker_of_tails) = (Arc::clone(&pipeline), tracker.clone());
            let shape = Shape { lanes: 3, bound: settings.queue, group: settings.group, workers };
            Batcher::start(shape, tracker, cancel, move |jobs| {
                let (pipeline, tracker) = (Arc::clone(&pipeline), tracker_of_tails.clone());
                async move { pipeline.commit(jobs, &tracker).await }
            })
        };
        // Shared streams apart: their counters are contended, and nobody's own stream should wait for them.
        let (commits, shared_commits) = (start(settings.workers), start(1));
        let tracker = tracker.clone();
        Arc::new(Self { settings, router, clock, metrics, tracker, commits, shared_commits, growth })
    }

    /// Streams that have grown beyond `max_entries`, each named once in every tenth of that. Bounded; what finds no
    /// room is not named. The first call counts: a second one gets nothing.
    pub fn watch_growth(&self, max_entries: u64) -> mpsc::Receiver<Stream> {
        let (growth, grown) = Growth::new(max_entries);
        let _ = self.growth.set(growth);
        grown
    }

    /// Publishes. Runs to its end in a task of its own, so dropping the future stops nothing half-way.
    ///
    /// # Errors
    /// [`PublishError`] says what to change or that a retry may help.
    pub async fn publish(self: &Arc<Self>, request: Request) -> Result<Accepted, PublishError> {
        let (publishing, source) = (Arc::clone(self), request.source);
        let task = self.tracker.spawn(async move { publishing.run(request).await });
        let result = task.await.unwrap_or(Err(PublishError::Unavailable(None)));
        let outcome = match &result {
            Ok(Accepted { how: How::Stored, .. }) => "accepted",
            Ok(Accepted { how: How::Sent, .. }) => "sent",
            Ok(Accepted { how: How::Replayed, .. }) => "replayed",
            Err(error) => error.code(),
        };
        self.metrics.requests.get_or_create(&PublishLabels { source, outcome }).inc();
        result
    }

    async fn run(&self, request: Request) -> Result<Accepted, PublishError> {
        let mut publication = parse(&request.json, &self.settings.limits)?;
        if let (Ttl::UntilRetention, Some(ttl)) = (publication.ttl, request.default_ttl) {
            publication.ttl = self.within_limit(ttl)?;
        }
        let may = request.publisher.may.publish_to(&publication.target);
        may.map_err(|forbidden| PublishError::Forbidden(forbidden.to_string()))?;
        match publication.ttl {
            Ttl::NowOrNever => self.send(&publication).await,
            _ => self.store(&publication, request).await,
        }
    }

    fn within_limit(&self, ttl: Duration) -> Result<Ttl, Refused> {
        let max = self.settings.limits.max_ttl;
        if ttl <= max {
            return Ok(Ttl::Lives(ttl));
        }
        let detail =
            format!("expiration must be at most {} milliseconds; got {}", max.as_millis(), ttl.as_millis());
        Err(Refused { code: "invalid_ttl", detail })
    }

    /// `ttl: 0`: to whoever is connected, and nothing is kept.
    async fn send(&self, publication: &Publication) -> Result<Accepted, PublishError> {
        let notification = self.accept(publication)?;
        let recipients = publication.target.recipients();
        let whereabouts = self.router.locate(&[&recipients]).await.remove(0);
        self.router.send_unstored(&Tail::of(&notification.json), &recipients, &whereabouts);
        Ok(Accepted {
            id: notification.id,
            recipients: count(&recipients),
            online: whereabouts.online(&recipients),
            how: How::Sent,
        })
    }

    async fn store(&self, publication: &Publication, request: Request) -> Result<Accepted, PublishError> {
        let started = Instant::now();
        let recipients = publication.target.recipients();
        let idempotency = request.idempotency_key.map(|key| Idempotency {
            publisher: request.publisher.id.clone(),
            key,
            request_hash: Sha256::digest(&request.json).into(),
        });
        let job = Job {
            notification: self.accept(publication)?,
            recipients,
            publisher: request.publisher.id.clone(),
            idempotency,
            collapse_key: publication.collapse_key.clone(),
            scheduled: false,
        };
        let (recipients, keyed) = (count(&job.recipients), job.idempotency.is_some());
        let shared = job.recipients.iter().any(|recipient| recipient.stream.is_shared());
        let commits = if shared { &self.shared_commits } else { &self.commits };
        let committed =
            commits.call(publication.priority as usize, job).await.map_err(|error| match error {
                BatchError::Full => PublishError::Overloaded,
                BatchError::Stopped => PublishError::Unavailable(None),
            })?;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        match committed {
            Ok(Committed::Stored { id, online }) => Ok(Accepted { id, recipients, online, how: How::Stored }),
            Ok(Committed::Replayed { id, online }) => {
                Ok(Accepted { id, recipients, online, how: How::Replayed })
            }
            Ok(Committed::KeyReused) => Err(PublishError::KeyReused),
            Ok(Committed::NotScheduled) => Err(PublishError::Unavailable(None)),
            Err(InboxError::Timeout(_)) if keyed => Err(PublishError::KeyInProgress),
            Err(error) => Err(PublishError::Unavailable(Some(error))),
        }
    }

    fn accept(&self, publication: &Publication) -> Result<crate::domain::Notification, Refused> {
        let now = self.clock.now();
        accept(publication, NotificationId::new(now, self.clock.random()), now, &self.settings.limits)
    }
}

/// `recipients` of an answer.
fn count(recipients: &[crate::domain::Recipient]) -> Option<u32> {
    let shared = recipients.iter().any(|recipient| !matches!(recipient.stream, Stream::User(_)));
    (!shared).then(|| u32::try_from(recipients.len()).unwrap_or(u32::MAX))
}
