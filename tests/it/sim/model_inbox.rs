//! The model of the inbox: the truth in memory, by the contract in `fanfare::inbox`.
//!
//! Each call takes a while before and after the one moment at which it is done. It must keep the
//! whole contract, unless a plant says which part it breaks.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fanfare::domain::{DeviceId, PublisherId, Seq, Stream, UnixMillis, UserId};
use fanfare::inbox::{
    Append, Appended, Appender, Cursor, Erased, FirstAnswer, Head, InboxError, Open, Opened, OutOfDate, Page,
    Place as At, Read, Streams, Upkeep,
};
use tokio_util::sync::CancellationToken;

use super::books;
use super::ledger::{Kept, Ledger};
use super::plan::{Plan, Plant};
use super::stage::{Kind, Stage};

/// One node's door to the store.
pub struct ModelInbox {
    pub stage: Stage,
    pub plan: Plan,
    pub ledger: Arc<Mutex<Ledger>>,
    /// The store is away while this is true.
    pub away: Arc<Mutex<bool>>,
    /// Fires when the node dies: whatever it asked for then is never answered.
    pub death: CancellationToken,
}

fn unavailable() -> InboxError {
    InboxError::Unavailable("the simulated store is away".into())
}

impl ModelInbox {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic under it")
    }

    /// Does `work` at one moment of a call.
    async fn call<T>(&self, work: impl FnOnce(&mut Ledger, UnixMillis) -> T) -> Result<T, InboxError> {
        self.stage.trip().await;
        self.fail_if_away().await?;
        let (done, epoch) = {
            let mut ledger = self.lock();
            (work(&mut ledger, self.stage.clock().now()), ledger.epoch)
        };
        self.stage.trip().await;
        self.fail_if_away().await?;
        // A restore cuts every connection to the store.
        if self.lock().epoch == epoch { Ok(done) } else { Err(unavailable()) }
    }

    async fn fail_if_away(&self) -> Result<(), InboxError> {
        if self.death.is_cancelled() {
            std::future::pending::<()>().await;
        }
        if *self.away.lock().expect("no panic under it") {
            return Err(unavailable());
        }
        if self.stage.is_faulty() && self.stage.chance(self.plan.weather.failing) {
            return Err(InboxError::Timeout(Duration::from_secs(5)));
        }
        Ok(())
    }

    fn put(&self, ledger: &mut Ledger, append: Append, now: UnixMillis) -> Appended {
        let key = append.idempotency.as_ref().map(|own| format!("{}/{}", own.publisher, own.key));
        if let (Some(key), Some(own)) = (&key, &append.idempotency) {
            if let Some((hash, first)) = ledger.life().keys.get(key) {
                let same = *hash == own.request_hash;
                return if same { Appended::Replayed(first.clone()) } else { Appended::KeyReused };
            }
            let first = FirstAnswer { id: append.notification.id, answered: false, online: None };
            ledger.life().keys.insert(key.clone(), (own.request_hash, first));
        }
        let hasty = self.plan.plant == Plant::HastyCommit && self.stage.chance(5);
        let lag = self.stage.pick(0..=1_000);
        let epoch = ledger.epoch;
        let mut places = Vec::new();
        for recipient in &append.recipients {
            let log = ledger.life().logs.entry(recipient.stream.clone()).or_default();
            if hasty {
                places.push(At { epoch, seq: Seq(log.head + 1) });
                continue;
            }
            log.head += 1;
            let kept = Kept {
                id: append.notification.id.to_string(),
                device: recipient.device.clone(),
                expires_at: append.notification.expires_at,
                json: append.notification.json.clone(),
                replicated_at: now.after(Duration::from_millis(lag)),
            };
            self.stage.say(format_args!("inbox: {} {} = {}", recipient.stream, log.head, describe(&kept)));
            log.entries.insert(log.head, kept);
            places.push(At { epoch, seq: Seq(log.head) });
        }
        if !hasty {
            ledger.stored.insert(append.notification.id.to_string());
        }
        Appended::Stored(places)
    }

    fn keep_cursors(&self, ledger: &mut Ledger, mut cursors: Vec<Cursor>) {
        cursors.sort_by(|a, b| (&a.user, &a.device, &a.stream).cmp(&(&b.user, &b.device, &b.stream)));
        for cursor in cursors {
            let key = (cursor.user, cursor.device, cursor.stream);
            let head = ledger.log(&key.2, cursor.epoch).map_or(0, |log| log.head);
            let greedy = self.plan.plant == Plant::GreedyCursor;
            let acked = if greedy { head } else { cursor.acked.0 };
            let passed = ledger.unacknowledged(&key, cursor.epoch, acked);
            let Some(place) = ledger.life().cursors.get_mut(&key) else { continue };
            if place.epoch != cursor.epoch || place.acked >= acked {
                continue;
            }
            place.acked = acked;
            self.stage.say(format_args!("inbox: cursor {}/{} {} at {acked}", key.0, key.1, key.2));
            // One of an earlier life says nothing any more: the next open moves it to the floor.
            if cursor.epoch == ledger.epoch && (!passed.is_empty() || acked > head) {
                let text = format!("cursor of {}/{} in {} at {acked} passes {passed:?}", key.0, key.1, key.2);
                self.stage.find(Kind::Cursor, text);
            }
        }
    }
}

fn describe(kept: &Kept) -> String {
    let device = kept.device.as_ref().map_or(String::new(), |device| format!(" for {device}"));
    let ttl = if kept.expires_at.is_some() { " with ttl" } else { "" };
    format!("{}{device}{ttl}", &kept.id[kept.id.len() - 6..])
}

#[async_trait]
impl Appender for ModelInbox {
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>> {
        let size = group.len();
        let done = self
            .call(|ledger, now| {
                group.into_iter().map(|append| self.put(ledger, append, now)).collect::<Vec<_>>()
            })
            .await;
        match done {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(InboxError::Timeout(after)) => (0..size).map(|_| Err(InboxError::Timeout(after))).collect(),
            Err(_) => (0..size).map(|_| Err(unavailable())).collect(),
        }
    }

    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError> {
        let key = format!("{publisher}/{key}");
        self.call(|ledger, _| {
            if let Some((_, first)) = ledger.life().keys.get_mut(&key) {
                (first.answered, first.online) = (true, online);
            }
        })
        .await
    }
}

#[async_trait]
impl Streams for ModelInbox {
    async fn open(&self, requests: Vec<Open>) -> Vec<Result<Opened, InboxError>> {
        let later = self.plan.plant == Plant::CursorLater;
        let stale = self.plan.plant == Plant::StaleReads;
        let done = self
            .call(|ledger, now| {
                let open = |request: &Open| {
                    let opened = books::open(ledger, request, stale.then_some(now), !later);
                    self.stage.say(format_args!(
                        "inbox: open {} of {}/{:?} at {} of {} gap {:?}",
                        request.stream,
                        request.user,
                        request.device,
                        opened.position,
                        opened.head,
                        opened.gap_from
                    ));
                    opened
                };
                requests.iter().map(open).collect::<Vec<_>>()
            })
            .await;
        match done {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(_) => requests.iter().map(|_| Err(unavailable())).collect(),
        }
    }

    async fn read(&self, requests: Vec<Read>, now: UnixMillis) -> Result<Vec<Page>, InboxError> {
        let stale = self.plan.plant == Plant::StaleReads;
        let mut pages = self
            .call(|ledger, then| {
                let read = |request: &Read| books::page(ledger, request, now, stale.then_some(then));
                requests.iter().map(read).collect::<Vec<_>>()
            })
            .await?;
        if self.plan.plant == Plant::TornPages {
            let heads =
                self.call(|ledger, _| books::heads(ledger, requests.iter().map(|one| &one.stream))).await?;
            for (page, head) in pages.iter_mut().zip(heads) {
                if page.through == page.head {
                    page.through = head.head;
                }
                page.head = head.head;
            }
        }
        for (request, page) in requests.iter().zip(&pages) {
            self.stage.say(format_args!(
                "inbox: read {} after {}: {:?} through {} of {}",
                request.stream,
                request.after,
                page.entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(),
                page.through,
                page.head
            ));
        }
        Ok(pages)
    }

    async fn heads(&self, streams: &[Stream]) -> Result<Vec<Head>, InboxError> {
        self.call(|ledger, _| books::heads(ledger, streams.iter())).await
    }

    async fn commit(&self, cursors: Vec<Cursor>) -> Result<(), InboxError> {
        self.call(|ledger, _| self.keep_cursors(ledger, cursors)).await
    }
}

#[async_trait]
impl Upkeep for ModelInbox {
    async fn check(&self) -> Result<(), InboxError> {
        self.call(|_, _| ()).await
    }

    async fn seen(&self, _: Vec<(UserId, UnixMillis)>) -> Result<(), InboxError> {
        self.call(|_, _| ()).await
    }

    async fn last_seen(&self, users: &[UserId]) -> Result<Vec<Option<UnixMillis>>, InboxError> {
        Ok(vec![None; users.len()])
    }

    async fn sweep(&self, _: &OutOfDate, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn expire(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn retain_by_age(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn retain_by_count(&self, _: &[Stream], _: u64) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn overfull(&self, _: u64, _: u32) -> Result<Vec<Stream>, InboxError> {
        unimplemented!("overfull")
    }

    async fn look_for_undelivered(&self, _: UnixMillis, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }

    async fn remove_device(&self, _: &UserId, _: &DeviceId) -> Result<bool, InboxError> {
        unimplemented!("remove_device")
    }

    async fn used(&self, _: &[(UserId, DeviceId)], _: UnixMillis) -> Result<(), InboxError> {
        Ok(())
    }

    async fn erase(&self, _: &UserId) -> Result<Erased, InboxError> {
        unimplemented!("erase")
    }

    async fn close(&self) {}
}
