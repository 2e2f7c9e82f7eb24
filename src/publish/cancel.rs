//! Taking a notification back.

use std::sync::Arc;

use super::{PublishError, Publishing};
use crate::domain::{NotificationId, PublisherId, Recipient};
use crate::inbox::{Cancelled, Place};

impl Publishing {
    /// Cancels a notification of this publisher, stored or scheduled: committed, then located and sent like any
    /// entry. Cancelling twice changes nothing. Runs to its end in a task of its own.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`]: whether it was cancelled is unknown.
    pub async fn cancel(
        self: &Arc<Self>,
        id: NotificationId,
        publisher: &PublisherId,
    ) -> Result<Cancelled, PublishError> {
        let (publishing, publisher) = (Arc::clone(self), publisher.clone());
        let task = self.tracker.spawn(async move { publishing.run_cancel(id, &publisher).await });
        task.await.unwrap_or(Err(PublishError::Unavailable(None)))
    }

    async fn run_cancel(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
    ) -> Result<Cancelled, PublishError> {
        let cancelled = self.inbox.cancel(id, publisher, self.clock.now()).await;
        let cancelled = cancelled.map_err(|error| PublishError::Unavailable(Some(error)))?;
        if let Cancelled::Stored { expires_at, entries, .. } = &cancelled
            && !entries.is_empty()
        {
            let (recipients, places): (Vec<Recipient>, Vec<Place>) = entries.iter().cloned().unzip();
            // Only after the commit: who registers later than this lookup finds the entries in the inbox.
            let whereabouts = self.router.locate(&[&recipients]).await.remove(0);
            self.router.send_cancelled(id, *expires_at, &recipients, &places, &whereabouts);
        }
        Ok(cancelled)
    }
}
