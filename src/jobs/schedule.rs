//! Schedules: publishes what is due.
//!
//! Owns how soon and how much at a time. Whether something fires at all is decided by the statement that
//! appends it, so a claim is only about not doing things twice for nothing.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::warn;

use super::round::{Job, JobError, Round};
use crate::clock::Clock;
use crate::inbox::Inbox;
use crate::metrics::jobs::JobMetrics;
use crate::publish::{Fired, Publishing};

/// How many are fired together: a group of commits.
const GROUP: u32 = 64;
/// After so long another node may try, should this one have died: who is killed between taking one up and its commit
/// delays it so much.
const LEASE: Duration = Duration::from_secs(10);

pub(super) struct Schedule {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) publishing: Arc<Publishing>,
    pub(super) clock: Clock,
    pub(super) metrics: JobMetrics,
}

impl Job for Schedule {
    const NAME: &'static str = "schedule";

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(250)..Duration::from_millis(500)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let due = self.inbox.claim_schedules(self.clock.now(), LEASE, GROUP).await?;
        let more = due.len() >= GROUP as usize;
        let publishing = &self.publishing;
        let firing =
            due.into_iter().map(|due| async move { (due.id, due.fire_at, publishing.fire(due).await) });
        let (mut done, mut failure) = (0, None);
        for (id, fire_at, fired) in join_all(firing).await {
            match fired {
                Fired::Published => {
                    done += 1;
                    self.metrics.schedule_late.observe(self.clock.now().since(fire_at).as_secs_f64());
                }
                Fired::Ended => {}
                Fired::Refused(error) => {
                    warn!(notification.id = %id, %error, "a schedule was dropped: it can never be published");
                }
                Fired::Later(error) => failure = Some(error),
            }
        }
        match failure {
            // Those that failed are there again when their claim runs out.
            Some(error) => Err(error.into()),
            None => Ok(Round { done, more }),
        }
    }
}
