//! Every call to a store has a deadline and is measured.
//!
//! Owns both. It must never retry: what failed may have been done.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;
use crate::metrics::inbox::{CallLabels, FailureLabels, InboxFailure, InboxMetrics};

/// The deadline, and where calls are counted.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) timeout: Duration,
    pub(super) metrics: InboxMetrics,
}

impl Calls {
    /// Does `work` within the deadline. When that passes, `work` is dropped: it must leave
    /// nothing half done.
    pub(super) async fn within<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let result = match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Timeout(self.timeout)),
        };
        self.metrics
            .call_seconds
            .get_or_create(&CallLabels { call })
            .observe(start.elapsed().as_secs_f64());
        if let Err(failure) = &result {
            let kind = match failure {
                Failure::Unavailable(_) => InboxFailure::Unavailable,
                Failure::Timeout(_) => InboxFailure::Timeout,
                Failure::Refused(_) => InboxFailure::Refused,
            };
            self.metrics
                .failures
                .get_or_create(&FailureLabels { call, kind })
                .inc();
        }
        result
    }
}
