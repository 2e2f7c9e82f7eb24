//! Online: who came and went, told to backends once a change.
//!
//! Owns the grace: whoever is back within it was never away. What is written is compared with what is there in
//! one statement, so several nodes may say the same. Nobody is called offline while presence is in doubt.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::round::{Job, JobError, Round};
use super::witness::Witness;
use crate::clock::Clock;
use crate::delivery::{Delivery, Watcher};
use crate::domain::UserId;
use crate::inbox::{Inbox, InboxError, PresenceChange};
use crate::metrics::jobs::{ChangeLabels, JobMetrics};
use crate::presence::{Presence, Route};

/// How many users are looked at at a time.
const GROUP: usize = 500;
/// How many may wait. One more is dropped and counted: [`super::reconcile`] finds it.
const MAX_WAITING: usize = 100_000;
/// How soon to look again while presence is in doubt.
const DOUBT: Duration = Duration::from_secs(1);

/// What is to be done about a user.
#[derive(Debug, Default)]
struct Look {
    /// They came: they are online, or were.
    came: bool,
    /// When to look whether they are still somewhere.
    at: Option<Instant>,
}

/// Who is to be looked at, and when.
pub(super) struct Comings {
    looks: Mutex<HashMap<UserId, Look>>,
    witness: Arc<Witness>,
    grace: Duration,
    dropped: Counter,
}

impl Comings {
    pub(super) fn new(witness: Arc<Witness>, grace: Duration, dropped: Counter) -> Self {
        Self { looks: Mutex::default(), witness, grace, dropped }
    }

    /// They are here, as far as this node knows; a look that is due stays due.
    pub(super) fn is_here(&self, user: &UserId) {
        self.note(user, |look| look.came = true);
    }

    /// They are nowhere to be seen: look again after the grace, unless that is planned already.
    pub(super) fn is_missed(&self, user: &UserId) {
        let at = Instant::now() + self.grace;
        self.note(user, |look| {
            look.at.get_or_insert(at);
        });
    }

    fn note(&self, user: &UserId, change: impl FnOnce(&mut Look)) {
        let mut looks = self.lock();
        if looks.len() >= MAX_WAITING && !looks.contains_key(user) {
            self.dropped.inc();
            return;
        }
        change(looks.entry(user.clone()).or_default());
    }

    fn take_came(&self) -> Vec<UserId> {
        let mut looks = self.lock();
        let came: Vec<UserId> = looks.iter().filter(|(_, look)| look.came).map(of_user).take(GROUP).collect();
        for user in &came {
            if let Some(look) = looks.get_mut(user) {
                look.came = false;
            }
        }
        looks.retain(|_, look| look.came || look.at.is_some());
        came
    }

    fn take_due(&self) -> Vec<UserId> {
        let now = Instant::now();
        let mut looks = self.lock();
        let is_due = |(_, look): &(&UserId, &Look)| !look.came && look.at.is_some_and(|at| at <= now);
        let due: Vec<UserId> = looks.iter().filter(is_due).map(of_user).take(GROUP).collect();
        for user in &due {
            looks.remove(user);
        }
        due
    }

    /// What could not be done; whatever was noted meanwhile is newer.
    fn put_back(&self, users: &[UserId], after: Duration) {
        let at = Instant::now() + after;
        for user in users {
            self.note(user, |look| {
                if !look.came {
                    look.at.get_or_insert(at);
                }
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Look>> {
        // Nothing under this lock can panic half-way.
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Comings {
    fn came(&self, user: &UserId) {
        self.note(user, |look| *look = Look { came: true, at: None });
    }

    fn went(&self, user: &UserId) {
        let at = Instant::now() + self.grace;
        self.note(user, |look| look.at = Some(at));
    }

    fn forgotten(&self) {
        self.witness.doubt();
    }
}

fn of_user((user, _): (&UserId, &Look)) -> UserId {
    user.clone()
}

/// Looks, and tells.
pub(super) struct Online {
    pub(super) comings: Arc<Comings>,
    pub(super) witness: Arc<Witness>,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) presence: Arc<dyn Presence>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) clock: Clock,
    pub(super) metrics: JobMetrics,
}

impl Job for Online {
    const NAME: &'static str = "presence";

    fn pace(&self) -> Range<Duration> {
        Duration::from_millis(150)..Duration::from_millis(250)
    }

    async fn round(&mut self) -> Result<Round, JobError> {
        let came = self.comings.take_came();
        let told = self.tell(came.iter().map(|user| (user.clone(), true))).await;
        let told = told.inspect_err(|_| came.iter().for_each(|user| self.comings.is_here(user)))?;
        let due = self.comings.take_due();
        let looked = match due.is_empty() {
            true => 0,
            false => self.look(&due).await.inspect_err(|_| self.comings.put_back(&due, DOUBT))?,
        };
        Ok(Round { done: told.len() as u64 + looked, more: came.len() >= GROUP || due.len() >= GROUP })
    }
}

impl Online {
    /// Looks whether those are still somewhere; answers how many changed.
    async fn look(&self, due: &[UserId]) -> Result<u64, JobError> {
        if !self.witness.is_sure().await? {
            self.comings.put_back(due, DOUBT);
            return Ok(0);
        }
        let routes: Vec<Route> = due.iter().cloned().map(Route::User).collect();
        let located = self.presence.locate(&routes).await?;
        // It may have been emptied since: then this finds nobody, and would not have been asked.
        if !self.witness.is_sure().await? {
            self.comings.put_back(due, DOUBT);
            return Ok(0);
        }
        let seen = due.iter().zip(located).map(|(user, located)| {
            let is_online = !located.members.is_empty() || self.delivery.holds(user);
            (user.clone(), is_online)
        });
        let changed = self.tell(seen).await?;
        let offline = changed.iter().filter(|(_, is_online)| !is_online).map(|(user, _)| user.clone());
        let back = self.come_back(offline.collect()).await?;
        Ok(changed.len() as u64 + back)
    }

    /// Somebody may have come to another node between the look and the word: that node found nothing to change.
    /// So whoever was called offline is looked at once more; now only who is there is told of.
    async fn come_back(&self, offline: Vec<UserId>) -> Result<u64, JobError> {
        if offline.is_empty() {
            return Ok(0);
        }
        let routes: Vec<Route> = offline.iter().cloned().map(Route::User).collect();
        let located = self.presence.locate(&routes).await?;
        let back = offline.into_iter().zip(located).filter(|(_, located)| !located.members.is_empty());
        let told = self.tell(back.map(|(user, _)| (user, true))).await?;
        Ok(told.len() as u64)
    }

    /// Writes how things are; answers for whom that was news.
    async fn tell(
        &self,
        users: impl Iterator<Item = (UserId, bool)>,
    ) -> Result<Vec<(UserId, bool)>, InboxError> {
        let at = self.clock.now();
        let changes: Vec<PresenceChange> =
            users.map(|(user, is_online)| PresenceChange { user, is_online, at }).collect();
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let changed = self.inbox.presence_changed(&changes).await?;
        let news = changes.into_iter().zip(changed).filter(|(_, changed)| *changed);
        let news: Vec<_> = news.map(|(change, _)| (change.user, change.is_online)).collect();
        for (_, is_online) in &news {
            let change = if *is_online { "online" } else { "offline" };
            self.metrics.presence_changes.get_or_create(&ChangeLabels { change }).inc();
        }
        Ok(news)
    }
}
