//! Notifications for later: kept now, published at their time.
//!
//! Owns both ends of a schedule. It must never publish one in two steps: the statement that appends it ends
//! its schedule, so it fires once, whichever node dies on the way.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{NotificationId, Priority, Publication, Ttl, UnixMillis};
use crate::inbox::{DueSchedule, Schedule, Scheduled};
use crate::metrics::publish::PublishLabels;
use crate::wire::publish::{Limits, accept, check_schedule, parse, with_ttl};

use super::pipeline::{Committed, Job};
use super::{Accepted, How, PublishError, Publishing, Request, count};

/// How late an AMQP message may be for its `deliver_at`, and is published at once: so long it may have waited
/// in its lane for SQL to come back. An idempotency key is remembered as long, by default.
const LATE: Duration = Duration::from_secs(24 * 3_600);

/// What became of a schedule whose time has come.
#[derive(Debug)]
pub enum Fired {
    /// It is published, under the id that it had all along.
    Published,
    /// It was cancelled, or had been published before: nothing is to be done.
    Ended,
    /// It can never be published. It is dropped.
    Refused(PublishError),
    /// Not now. It is there again when its claim runs out.
    Later(PublishError),
}

impl Fired {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Published => "accepted",
            Self::Ended => "ended",
            Self::Refused(error) | Self::Later(error) => error.code(),
        }
    }
}

impl Publishing {
    /// Publishes a schedule that the caller has claimed. `created_at` and the TTL count from now. Runs to its end
    /// in a task of its own, so dropping the future stops nothing half-way.
    pub async fn fire(self: &Arc<Self>, due: DueSchedule) -> Fired {
        let publishing = Arc::clone(self);
        let task = self.tracker.spawn(async move { publishing.run_due(due).await });
        let fired = task.await.unwrap_or(Fired::Later(PublishError::Unavailable(None)));
        let labels = PublishLabels { source: "schedule", outcome: fired.outcome() };
        self.metrics.requests.get_or_create(&labels).inc();
        fired
    }

    async fn run_due(&self, due: DueSchedule) -> Fired {
        let id = due.id;
        match self.append_due(due).await {
            Ok(Committed::Stored { .. } | Committed::Replayed { .. }) => Fired::Published,
            Ok(Committed::NotScheduled) => Fired::Ended,
            Ok(Committed::KeyReused) => Fired::Later(PublishError::KeyReused),
            Ok(Committed::Expired) => Fired::Later(PublishError::Expired),
            Err(error) if error.is_retryable() => Fired::Later(error),
            Err(error) => match self.inbox.drop_schedule(id).await {
                Ok(()) => Fired::Refused(error),
                Err(error) => Fired::Later(PublishError::Unavailable(Some(error))),
            },
        }
    }

    /// Who may publish to whom was checked when it was accepted, and so were the limits of then.
    async fn append_due(&self, due: DueSchedule) -> Result<Committed, PublishError> {
        let publication = parse(&due.request, &Limits::NONE)?;
        let notification = accept(&publication, due.id, self.clock.now(), &Limits::NONE)?;
        let job = Job {
            notification,
            recipients: publication.target.recipients(),
            publisher: due.publisher,
            idempotency: None,
            collapse_key: publication.collapse_key,
            scheduled: true,
        };
        // Its time has come: it waits behind nothing that may wait, and the others of its round not for it. A round is a
        // few, so low ones that come this way hold up nobody.
        self.commit(job, publication.priority.min(Priority::Normal)).await
    }

    /// When a publication is to be kept for; `None`: it is published now.
    pub(super) fn time_of(
        &self,
        publication: &Publication,
        has_waited: bool,
    ) -> Result<Option<UnixMillis>, PublishError> {
        let Some(at) = publication.deliver_at else { return Ok(None) };
        let now = self.clock.now();
        if has_waited && at <= now && now.since(at) <= LATE {
            return Ok(None);
        }
        check_schedule(at, now, &self.settings.limits)?;
        Ok(Some(at))
    }

    /// Keeps a publication until its time.
    pub(super) async fn keep(
        &self,
        publication: &Publication,
        fire_at: UnixMillis,
        request: Request,
    ) -> Result<Accepted, PublishError> {
        let now = self.clock.now();
        let id = NotificationId::new(now, self.clock.random());
        // Made now so that what is too large is refused now.
        accept(publication, id, now, &self.settings.limits)?;
        let json = match (publication.ttl, request.default_ttl) {
            (Ttl::Lives(_), Some(ttl)) if publication.ttl == Ttl::Lives(ttl) => with_ttl(&request.json, ttl)?,
            _ => request.json.clone(),
        };
        let idempotency = request.idempotency();
        let keyed = idempotency.is_some();
        let recipients = count(&publication.target.recipients());
        let publisher = request.publisher.id;
        let schedule = Schedule { id, fire_at, publisher, request: json, created_at: now, idempotency };
        let kept = self.inbox.schedule(schedule).await;
        let accepted = |id, how| Accepted { id, recipients, online: None, how };
        match kept.map_err(|error| PublishError::of_inbox(error, keyed))? {
            Scheduled::Kept => Ok(accepted(id, How::Scheduled)),
            Scheduled::Replayed(first) => Ok(accepted(first.id, How::ScheduleReplayed)),
            Scheduled::KeyReused => Err(PublishError::KeyReused),
        }
    }
}
