//! The model of the inbox: the truth in memory, by the contract in `fanfare::inbox`.
//!
//! Each call takes a while before and after the one moment at which it is done. It must keep the
//! whole contract, unless a plant says which part it breaks. Receipts and read state are in `model_reads`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare::domain::{NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis};
use fanfare::inbox::{
    Append, Appended, Appender, Cancelled, Cursor, FirstAnswer, Head, InboxError, Open, Opened, Page,
    Place as At, Read, Streams,
};

use super::books;
use super::ledger::{Body, Ended, Kept, Ledger};
use super::plan::Plant;
use super::stage::Kind;
use super::store::{ModelInbox, Store, unavailable};

impl Store {
    fn put(&self, ledger: &mut Ledger, append: &Append, now: UnixMillis) -> Appended {
        if let Some(answer) = self.recall(ledger, append) {
            return answer;
        }
        let id = append.notification.id;
        if append.scheduled
            && ledger.life().schedules.remove(&id).is_none()
            && !self.has(Plant::UnguardedFiring)
        {
            return Appended::NotScheduled;
        }
        if ledger.life().bodies.contains_key(&id) || ledger.life().unscheduled.contains(&id) {
            self.stage.find(Kind::Twice, format_args!("{id} is published again, or after it was cancelled"));
        }
        if self.has(Plant::HastyCommit) && self.stage.chance(5) {
            let epoch = ledger.epoch;
            return Appended::Stored(append.recipients.iter().map(|_| At { epoch, seq: Seq(1) }).collect());
        }
        self.check_key(ledger, append);
        let places: Vec<At> =
            append.recipients.iter().map(|recipient| self.enter(ledger, append, recipient, now)).collect();
        let streams = append.recipients.iter().map(|recipient| recipient.stream.clone());
        let body = Body {
            publisher: append.publisher.clone(),
            recipients: streams.zip(places.iter().map(|place| place.seq.0)).collect(),
            is_shared: append.recipients.iter().any(|recipient| recipient.stream.is_shared()),
            expires_at: append.notification.expires_at,
        };
        ledger.life().bodies.insert(id, body);
        Appended::Stored(places)
    }

    /// What the first request with the same key was told; else the key is taken.
    fn recall(&self, ledger: &mut Ledger, append: &Append) -> Option<Appended> {
        let own = append.idempotency.as_ref()?;
        let key = format!("{}/{}", own.publisher, own.key);
        let first = FirstAnswer { id: append.notification.id, answered: false, online: None };
        let known = ledger.life().keys.entry(key).or_insert((own.request_hash, first.clone())).clone();
        if known.1.id == first.id {
            return None;
        }
        if self.has(Plant::ForgottenKeys) {
            return None;
        }
        Some(if known.0 == own.request_hash { Appended::Replayed(known.1) } else { Appended::KeyReused })
    }

    /// One key stands for one notification.
    fn check_key(&self, ledger: &mut Ledger, append: &Append) {
        let Some(own) = &append.idempotency else {
            return;
        };
        let (key, id) = (format!("{}/{}", own.publisher, own.key), append.notification.id);
        let first = *ledger.life().by_key.entry(key).or_insert(id);
        if first != id {
            self.stage.find(Kind::Twice, format_args!("{first} and {id} under one key"));
        }
    }

    fn enter(&self, ledger: &mut Ledger, append: &Append, recipient: &Recipient, now: UnixMillis) -> At {
        let kept = Kept {
            id: append.notification.id,
            cancels: None,
            device: recipient.device.clone(),
            expires_at: append.notification.expires_at,
            json: append.notification.json.clone(),
            collapse: append.collapse_key.clone(),
            ended: None,
            read: None,
            entered_at: now,
            replicated_at: now,
        };
        let log = ledger.life().logs.entry(recipient.stream.clone()).or_default();
        let seq = log.head + 1;
        if let Some(key) = append.collapse_key.clone()
            && let Some(older) = log.newest.insert((recipient.device.clone(), key), seq)
            && let Some(older) = log.entries.get_mut(&older)
        {
            older.ended.get_or_insert((Ended::Superseded, now));
        }
        self.enter_kept(ledger, &recipient.stream, kept, now)
    }

    fn enter_kept(&self, ledger: &mut Ledger, stream: &Stream, mut kept: Kept, now: UnixMillis) -> At {
        kept.entered_at = now;
        kept.replicated_at = now.after(Duration::from_millis(self.stage.pick(0..=1_000)));
        let epoch = ledger.epoch;
        let log = ledger.life().logs.entry(stream.clone()).or_default();
        log.head += 1;
        self.stage.say(format_args!("inbox: {stream} {} = {}", log.head, describe(&kept)));
        log.entries.insert(log.head, kept);
        At { epoch, seq: Seq(log.head) }
    }

    fn take_back(
        &self,
        ledger: &mut Ledger,
        id: NotificationId,
        publisher: &PublisherId,
        now: UnixMillis,
    ) -> Cancelled {
        let life = ledger.life();
        if life.schedules.get(&id).is_some_and(|kept| kept.publisher == *publisher) {
            life.schedules.remove(&id);
            life.unscheduled.insert(id);
            return Cancelled::Unscheduled;
        }
        let Some(body) = life.bodies.get(&id).filter(|body| body.publisher == *publisher).cloned() else {
            return Cancelled::Unknown;
        };
        let mut entries = Vec::new();
        for (stream, seq) in &body.recipients {
            let log = ledger.life().logs.entry(stream.clone()).or_default();
            let Some(kept) = log.entries.get_mut(seq) else {
                continue;
            };
            if kept.ended.is_some() || kept.is_expired(now) {
                continue;
            }
            kept.ended = Some((Ended::Cancelled, now));
            let device = kept.device.clone();
            let entry = Kept {
                cancels: Some(*seq),
                json: Bytes::new(),
                collapse: None,
                ended: None,
                read: None,
                ..kept.clone()
            };
            if !self.has(Plant::UnenteredCancel) {
                let place = self.enter_kept(ledger, stream, entry, now);
                entries.push((Recipient { stream: stream.clone(), device }, place));
            }
        }
        let recipients = (!body.is_shared).then_some(body.recipients.len() as u64);
        Cancelled::Stored { recipients, expires_at: body.expires_at, entries }
    }

    fn keep_cursors(&self, ledger: &mut Ledger, mut cursors: Vec<Cursor>, now: UnixMillis) {
        cursors.sort_by(|a, b| (&a.user, &a.device, &a.stream).cmp(&(&b.user, &b.device, &b.stream)));
        for cursor in cursors {
            let key = (cursor.user, cursor.device, cursor.stream);
            let head = ledger.log(&key.2, cursor.epoch).map_or(0, |log| log.head);
            let acked = if self.has(Plant::GreedyCursor) { head } else { cursor.acked.0 };
            let passed = ledger.unacknowledged(&key, cursor.epoch, acked, now);
            let Some(place) = ledger.life().cursors.get_mut(&key) else {
                continue;
            };
            if place.epoch != cursor.epoch || place.acked >= acked {
                continue;
            }
            place.acked = acked;
            self.stage.say(format_args!("inbox: cursor {}/{} {} at {acked}", key.0, key.1, key.2));
            if !passed.is_empty() || acked > head {
                let text = format!("cursor of {}/{} in {} at {acked} passes {passed:?}", key.0, key.1, key.2);
                self.stage.find(Kind::Cursor, text);
            }
        }
    }
}

fn describe(kept: &Kept) -> String {
    let id = kept.id.to_string();
    let device = kept.device.as_ref().map_or(String::new(), |device| format!(" for {device}"));
    let ttl = kept.expires_at.map_or(String::new(), |at| format!(" until {at}"));
    let key = kept.collapse.as_ref().map_or(String::new(), |key| format!(" as {key}"));
    let cancels = kept.cancels.map_or(String::new(), |seq| format!(" cancels {seq}"));
    format!("{}{device}{ttl}{key}{cancels}", &id[id.len() - 6..])
}

/// The same failure for each of a group.
fn each_failed<T>(size: usize, error: &InboxError) -> Vec<Result<T, InboxError>> {
    let again = || match error {
        InboxError::Timeout(after) => InboxError::Timeout(*after),
        _ => unavailable(),
    };
    (0..size).map(|_| Err(again())).collect()
}

#[async_trait]
impl Appender for ModelInbox {
    async fn append(&self, group: Vec<Append>) -> Vec<Result<Appended, InboxError>> {
        let size = group.len();
        let done = self
            .call(move |store, ledger, now| {
                group.iter().map(|append| store.put(ledger, append, now)).collect::<Vec<_>>()
            })
            .await;
        match done {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(error) => each_failed(size, &error),
        }
    }

    async fn answered(
        &self,
        publisher: &PublisherId,
        key: &str,
        online: Option<u32>,
    ) -> Result<(), InboxError> {
        let key = format!("{publisher}/{key}");
        self.call(move |_, ledger, _| {
            if let Some((_, first)) = ledger.life().keys.get_mut(&key) {
                (first.answered, first.online) = (true, online);
            }
        })
        .await
    }
}

impl ModelInbox {
    /// Cancels, as `Receipts::cancel` says.
    pub async fn take_back(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
    ) -> Result<Cancelled, InboxError> {
        let publisher = publisher.clone();
        self.call(move |store, ledger, now| store.take_back(ledger, id, &publisher, now)).await
    }
}

#[async_trait]
impl Streams for ModelInbox {
    async fn open(&self, requests: Vec<Open>) -> Vec<Result<Opened, InboxError>> {
        let size = requests.len();
        let done = self
            .call(move |store, ledger, now| {
                let behind = store.has(Plant::StaleReads) || store.has(Plant::ReadFirst);
                let open = |request: &Open| {
                    let plant = store.plan.plant;
                    let opened = books::open(ledger, request, now, behind.then_some(now), plant);
                    store.stage.say(format_args!(
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
            Err(error) => each_failed(size, &error),
        }
    }

    async fn read(&self, requests: Vec<Read>, now: UnixMillis) -> Result<Vec<Page>, InboxError> {
        let streams: Vec<Stream> = requests.iter().map(|request| request.stream.clone()).collect();
        let mut pages = self
            .call(move |store, ledger, then| {
                let stale = store.has(Plant::StaleReads).then_some(then);
                let read = |request: &Read| {
                    let page = books::page(ledger, request, now, stale, store.plan.plant);
                    store.stage.say(format_args!(
                        "inbox: read {} after {}: {:?} through {} of {}",
                        request.stream,
                        request.after,
                        page.entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(),
                        page.through,
                        page.head
                    ));
                    page
                };
                requests.iter().map(read).collect::<Vec<_>>()
            })
            .await?;
        if self.store.has(Plant::TornPages) {
            for (page, head) in pages.iter_mut().zip(self.heads(&streams).await?) {
                if page.through == page.head {
                    page.through = head.head;
                }
                page.head = head.head;
            }
        }
        Ok(pages)
    }

    async fn heads(&self, streams: &[Stream]) -> Result<Vec<Head>, InboxError> {
        let streams = streams.to_vec();
        self.call(move |store, ledger, _| books::heads(ledger, streams.iter(), store.plan.plant)).await
    }

    async fn commit(&self, cursors: Vec<Cursor>) -> Result<(), InboxError> {
        self.call(move |store, ledger, now| store.keep_cursors(ledger, cursors, now)).await
    }
}
