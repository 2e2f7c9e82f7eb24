//! Revocations: what this node knows of them is compared with what is stored.
//!
//! Owns how soon. Whoever revokes tells all nodes at once; this is for the node that was not reached. A look costs
//! one number, all are read only where that has changed, and now and then in any case. It must never forget what is
//! known because the store cannot be asked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::round::{Job, JobError, Round};
use crate::delivery::Delivery;
use crate::inbox::Inbox;

/// After so long all are read whatever their version is: one that was lifted may have been told of late.
const ANYWAY: Duration = Duration::from_secs(60);

pub(super) struct Revocations {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) delivery: Arc<Delivery>,
    /// The version that was read last, and when.
    pub(super) read: Option<(u64, Instant)>,
}

impl Job for Revocations {
    const NAME: &'static str = "revocations";

    /// A pause and a read are within the second that a revocation may take.
    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(300)..Duration::from_millis(500)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let version = self.inbox.revocations_version().await?;
        if self.read.is_some_and(|(read, at)| read == version && at.elapsed() < ANYWAY) {
            return Ok(Round::IDLE);
        }
        let version = self.delivery.read_revocations().await?;
        self.read = Some((version, Instant::now()));
        Ok(Round { done: 1, more: false })
    }
}
