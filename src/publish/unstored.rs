//! `ttl: 0`: to whoever is connected, and nothing is kept.
//!
//! Owns the groups in which such notifications go: one question to presence and one envelope for each node serve all that
//! came together. It must never store anything, and never wait for the inbox.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Settings;
use crate::batch::{Batcher, Shape};
use crate::domain::{Notification, Recipient};
use crate::routing::Router;
use crate::wire::Tail;

/// One notification for now or never.
#[derive(Debug)]
pub(super) struct Unstored {
    pub(super) notification: Notification,
    pub(super) recipients: Vec<Recipient>,
}

/// Queues them; answers how many of the recipients are connected, if that is known.
pub(super) type Sends = Batcher<Unstored, Option<u32>>;

/// How many groups for users may be under way: each waits for presence for as long as its deadline while that hangs.
pub(super) const WORKERS: usize = 8;

/// Starts the tasks that send.
pub(super) fn start(
    settings: &Settings,
    workers: usize,
    router: &Arc<Router>,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) -> Sends {
    let Settings { queue: bound, group, linger, .. } = *settings;
    let shape = Shape { lanes: 3, bound, group, workers, linger };
    let router = Arc::clone(router);
    Batcher::start(shape, tracker, cancel, move |group| {
        let router = Arc::clone(&router);
        async move { send(&router, group).await }
    })
}

async fn send(router: &Router, group: Vec<Unstored>) -> Vec<Option<u32>> {
    let recipients: Vec<&[Recipient]> = group.iter().map(|one| one.recipients.as_slice()).collect();
    let located = router.locate(&recipients).await;
    let mut online = Vec::with_capacity(group.len());
    for (one, whereabouts) in group.iter().zip(located) {
        router.send_unstored(&Tail::of(&one.notification.json), &one.recipients, &whereabouts);
        online.push(whereabouts.online(&one.recipients));
        // Each may go to thousands: let others run in between.
        tokio::task::yield_now().await;
    }
    online
}
