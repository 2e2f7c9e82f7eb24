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

/// Starts the tasks that send.
pub(super) fn start(
    settings: &Settings,
    router: &Arc<Router>,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) -> Sends {
    let Settings { queue: bound, group, workers, linger, .. } = *settings;
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
    let send_one = |(one, whereabouts): (&Unstored, _)| {
        router.send_unstored(&Tail::of(&one.notification.json), &one.recipients, &whereabouts);
        whereabouts.online(&one.recipients)
    };
    group.iter().zip(located).map(send_one).collect()
}
