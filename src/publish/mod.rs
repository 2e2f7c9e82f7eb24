//! Publishing: from a request to a committed notification on its way.
//!
//! Owns the order that loses nothing: validate, **append (commit), then locate**, answer, send. The
//! answer never waits for the broker. The same path serves HTTP ([`Publishing::publish`]) and AMQP
//! ([`ingress`]). It must never deliver to a connection itself, and never answer before the commit.
//!
//! | file | what it does |
//! |---|---|
//! | `answer` | what publishers are told |
//! | `pipeline` | a group on its way: committed, located, sent |
//! | `unstored` | notifications for now or never |
//! | `schedule` | notifications for later |
//! | `cancel` | taking one back |
//! | `outcomes` | waiting for what becomes of one |
//! | `growth` | streams that have grown, for retention |
//! | `appends` | whether appends get through, for whoever watches the inbox |
//! | `ingress` | what comes over AMQP |

mod answer;
mod appends;
mod cancel;
mod growth;
pub mod ingress;
mod outcomes;
mod pipeline;
mod schedule;
mod unstored;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Publisher;
use crate::batch::{Batcher, Shape};
use crate::clock::Clock;
use crate::domain::{NOW, NotificationId, Priority, Publication, Stream, Ttl, UnixMillis};
use crate::inbox::{Idempotency, Inbox, InboxError};
use crate::metrics::publish::{PublishLabels, PublishMetrics};
use crate::routing::Router;
use crate::wire::publish::{Limits, Refused, accept, parse};
use growth::Growth;
use outcomes::Outcomes;
use pipeline::{Committed, Job, Pipeline};
use unstored::{Sends, Unstored};

pub use answer::{Accepted, How, PublishError};
pub use appends::Appends;
pub use outcomes::Waited;
pub use schedule::Fired;

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
    /// How long a group may wait for more, under load.
    pub linger: Duration,
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
    /// When it was sent, if it has waited since: its TTL counts from then. A time that is to come counts as now.
    pub sent_at: Option<UnixMillis>,
    /// `http` or `amqp`, for metrics.
    pub source: &'static str,
}

impl Request {
    /// The key and what it stands for.
    fn idempotency(&self) -> Option<Idempotency> {
        self.idempotency_key.as_ref().map(|key| Idempotency {
            publisher: self.publisher.id.clone(),
            key: key.clone(),
            request_hash: Sha256::digest(&self.json).into(),
        })
    }
}

/// Takes notifications in.
pub struct Publishing {
    settings: Settings,
    inbox: Arc<dyn Inbox>,
    router: Arc<Router>,
    clock: Clock,
    metrics: PublishMetrics,
    tracker: TaskTracker,
    commits: Batcher<Job, Result<Committed, InboxError>>,
    shared_commits: Batcher<Job, Result<Committed, InboxError>>,
    low_commits: Batcher<Job, Result<Committed, InboxError>>,
    sends: Sends,
    shared_sends: Sends,
    outcomes: Arc<Outcomes>,
    growth: Arc<OnceLock<Growth>>,
    appends: watch::Receiver<Appends>,
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
        let (noted, appends) = watch::channel(Appends::default());
        let pipeline = Arc::new(Pipeline {
            inbox: Arc::clone(&inbox),
            router: Arc::clone(&router),
            clock: clock.clone(),
            metrics: metrics.clone(),
            growth: Arc::clone(&growth),
            appends: noted,
        });
        let start = |workers| {
            let (pipeline, tracker_of_tails) = (Arc::clone(&pipeline), tracker.clone());
            let Settings { queue: bound, group, linger, .. } = settings;
            let shape = Shape { lanes: 3, bound, group, workers, linger };
            Batcher::start(shape, tracker, cancel, move |jobs| {
                let (pipeline, tracker) = (Arc::clone(&pipeline), tracker_of_tails.clone());
                async move { pipeline.commit(jobs, &tracker).await }
            })
        };
        // Shared streams apart: their counters are contended, and nobody's own stream should wait for them.
        // What may wait apart, too: however much of it there is, nothing else waits for a group of it.
        let (commits, shared_commits, low_commits) = (start(settings.workers), start(1), start(1));
        let start = |workers| unstored::start(&settings, workers, &router, tracker, cancel);
        let (sends, shared_sends) = (start(unstored::WORKERS), start(1));
        let outcomes = Outcomes::start(&inbox, &clock, &metrics, tracker, cancel);
        let tracker = tracker.clone();
        Arc::new(Self {
            settings,
            inbox,
            router,
            clock,
            metrics,
            tracker,
            commits,
            shared_commits,
            low_commits,
            sends,
            shared_sends,
            outcomes,
            growth,
            appends,
        })
    }

    /// Streams that have grown beyond `max_entries`, each named once in every tenth of that. Bounded; what finds no
    /// room is not named. The first call counts: a second one gets nothing.
    pub fn watch_growth(&self, max_entries: u64) -> mpsc::Receiver<Stream> {
        let (growth, grown) = Growth::new(max_entries);
        let _ = self.growth.set(growth);
        grown
    }

    /// How appends go, now and at each change.
    pub fn watch_appends(&self) -> watch::Receiver<Appends> {
        self.appends.clone()
    }

    /// Publishes. Runs to its end in a task of its own, so dropping the future stops nothing half-way.
    ///
    /// # Errors
    /// [`PublishError`] says what to change or that a retry may help.
    pub async fn publish(self: &Arc<Self>, request: Request) -> Result<Accepted, PublishError> {
        self.take(request, None).await
    }

    /// The same for what has waited in an ingress lane: it goes on in that lane, and its `deliver_at` may have
    /// passed there.
    ///
    /// # Errors
    /// As [`Publishing::publish`].
    pub async fn publish_from_lane(
        self: &Arc<Self>,
        request: Request,
        lane: Priority,
    ) -> Result<Accepted, PublishError> {
        self.take(request, Some(lane)).await
    }

    async fn take(
        self: &Arc<Self>,
        request: Request,
        lane: Option<Priority>,
    ) -> Result<Accepted, PublishError> {
        let (publishing, source) = (Arc::clone(self), request.source);
        let task = self.tracker.spawn(async move { publishing.run(request, lane).await });
        let result = task.await.unwrap_or(Err(PublishError::Unavailable(None)));
        let outcome = match &result {
            Ok(accepted) => accepted.how.outcome(),
            Err(error) => error.code(),
        };
        self.metrics.requests.get_or_create(&PublishLabels { source, outcome }).inc();
        result
    }

    async fn run(&self, request: Request, lane: Option<Priority>) -> Result<Accepted, PublishError> {
        let mut publication = parse(&request.json, &self.settings.limits)?;
        if let (Ttl::UntilRetention, Some(ttl)) = (publication.ttl, request.default_ttl) {
            publication.ttl = self.within_limit(ttl)?;
        }
        let may = request.publisher.may.publish_to(&publication.target);
        may.map_err(|forbidden| PublishError::Forbidden(forbidden.to_string()))?;
        if let Some(at) = self.time_of(&publication, lane.is_some())? {
            return self.keep(&publication, at, request).await;
        }
        self.count_the_wait(&mut publication, request.sent_at)?;
        match publication.ttl {
            Ttl::NowOrNever => self.send(&publication, lane).await,
            _ => self.store(&publication, request, lane).await,
        }
    }

    /// Takes from the TTL how long the request has waited; that of one for later counts from its time. What is for now or
    /// never may wait for a moment.
    fn count_the_wait(
        &self,
        publication: &mut Publication,
        sent_at: Option<UnixMillis>,
    ) -> Result<(), PublishError> {
        let (Some(sent_at), None) = (sent_at, publication.deliver_at) else { return Ok(()) };
        let waited = self.clock.now().since(sent_at);
        match publication.ttl {
            Ttl::Lives(ttl) if ttl <= waited => return Err(PublishError::Expired),
            Ttl::NowOrNever if NOW <= waited => return Err(PublishError::Expired),
            Ttl::Lives(ttl) => publication.ttl = Ttl::Lives(ttl.saturating_sub(waited)),
            Ttl::NowOrNever | Ttl::UntilRetention => {}
        }
        Ok(())
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
    async fn send(
        &self,
        publication: &Publication,
        lane: Option<Priority>,
    ) -> Result<Accepted, PublishError> {
        let notification = self.accept(publication)?;
        let recipients = publication.target.recipients();
        let (id, of) = (notification.id, count(&recipients));
        let lane = lane.unwrap_or(publication.priority);
        // Apart, as commits are: what goes to thousands holds up nobody's own.
        let shared = recipients.iter().any(|recipient| recipient.stream.is_shared());
        let sends = if shared { &self.shared_sends } else { &self.sends };
        let online = sends.call(lane as usize, Unstored { notification, recipients }).await?;
        Ok(Accepted { id, recipients: of, online, how: How::Sent })
    }

    async fn store(
        &self,
        publication: &Publication,
        request: Request,
        lane: Option<Priority>,
    ) -> Result<Accepted, PublishError> {
        let job = Job {
            notification: self.accept(publication)?,
            recipients: publication.target.recipients(),
            idempotency: request.idempotency(),
            publisher: request.publisher.id,
            collapse_key: publication.collapse_key.clone(),
            scheduled: false,
        };
        let recipients = count(&job.recipients);
        match self.commit(job, lane.unwrap_or(publication.priority)).await? {
            Committed::Stored { id, online } => Ok(Accepted { id, recipients, online, how: How::Stored }),
            Committed::Replayed { id, online } => Ok(Accepted { id, recipients, online, how: How::Replayed }),
            Committed::KeyReused => Err(PublishError::KeyReused),
            Committed::Expired => Err(PublishError::Expired),
            // No schedule was asked for.
            Committed::NotScheduled => Err(PublishError::Unavailable(None)),
        }
    }

    /// Queues a job and waits for its commit.
    async fn commit(&self, job: Job, lane: Priority) -> Result<Committed, PublishError> {
        let started = Instant::now();
        let keyed = job.idempotency.is_some();
        let shared = job.recipients.iter().any(|recipient| recipient.stream.is_shared());
        let commits = match lane {
            Priority::Low => &self.low_commits,
            _ if shared => &self.shared_commits,
            _ => &self.commits,
        };
        let committed = commits.call(lane as usize, job).await?;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        committed.map_err(|error| PublishError::of_inbox(error, keyed))
    }

    /// Waits until every recipient of a stored notification has a device's acknowledgement or will have none,
    /// at most until `until`. Dropping the future frees its place.
    pub async fn outcome(&self, id: NotificationId, until: tokio::time::Instant) -> Waited {
        self.outcomes.wait(id, until).await
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
