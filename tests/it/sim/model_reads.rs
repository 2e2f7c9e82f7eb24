//! The model of the inbox: receipts and read state.
//!
//! Owns what is marked as delivered and read, and checks that nothing is marked that did not happen.

use async_trait::async_trait;
use fanfare::domain::{NotificationId, PublisherId, Stream, UnixMillis, UserId};
use fanfare::inbox::{
    AfterRecipient, Cancelled, Counts, Delivered, DeliveredShared, InboxError, InboxPage, Look, Mark, Marked,
    ReadChange, ReadState, Receipt, Receipts, RecipientReceipt, Unread,
};

use super::books;
use super::ledger::{Ledger, Life, Marking};
use super::plan::Plant;
use super::stage::Kind;
use super::store::{ModelInbox, Store};

impl Store {
    /// Nothing is delivered that no device of the user has acknowledged.
    fn check_delivered(&self, ledger: &Ledger, one: &Delivered) {
        let stream = Stream::User(one.user.clone());
        let acked = ledger.holders.iter().filter(|holder| holder.user == one.user).any(|holder| {
            holder.got.get(&stream).is_some_and(|got| {
                // What it had of another life of the stream is forgotten here.
                got.epoch != one.epoch
                    || got.received.contains(&one.seq.0) && (holder.auto || one.seq.0 <= got.acked)
            })
        });
        // Whoever names no device begins anew with each connection: the ledger has forgotten what it had.
        let nameless = ledger.holders.iter().any(|holder| holder.user == one.user && holder.device.is_none());
        if !acked && !nameless {
            self.stage.find(Kind::Receipt, format_args!("{stream} {} is delivered to nobody", one.seq));
        }
    }

    /// Marks, and says what that changed: places and ids.
    fn mark(&self, ledger: &mut Ledger, user: &UserId, mark: &Mark, now: UnixMillis) -> (Marked, Unread) {
        let life = ledger.life();
        let own = mark.stream == Stream::User(user.clone());
        let (reads, head) = {
            let head = life.logs.get(&Stream::User(user.clone())).map_or(0, |log| log.head);
            (life.readers.get(user).map_or(0, |reader| reader.reads) + 1, head)
        };
        let version = life.version_base + head + reads;
        let places: Vec<(u64, NotificationId)> = unread_places(life, user, mark);
        if places.is_empty() {
            return (Marked::Ids(Vec::new()), books::unread(life, user, now));
        }
        let reader = life.readers.entry(user.clone()).or_default();
        reader.reads = reads;
        for (seq, _) in &places {
            reader.marks.insert((mark.stream.clone(), *seq), (reads, version));
        }
        if own && let Some(log) = life.logs.get_mut(&mark.stream) {
            for (seq, _) in &places {
                if let Some(kept) = log.entries.get_mut(seq) {
                    kept.read = Some((reads, version));
                }
            }
        }
        let unread = books::unread(life, user, now);
        let last = Marking { version: unread.version, unread: unread.unread };
        life.readers.entry(user.clone()).or_default().last = Some(last);
        self.stage.say(format_args!("inbox: {user} reads {:?} of {}: {unread:?}", mark.marked, mark.stream));
        let marked = match &mark.marked {
            Marked::UpTo(seq) => Marked::UpTo(*seq),
            Marked::Ids(_) => Marked::Ids(places.into_iter().map(|(_, id)| id).collect()),
        };
        (marked, unread)
    }

    fn since(&self, ledger: &Ledger, user: &UserId, reads: u64) -> Vec<ReadChange> {
        let life = ledger.now();
        let Some(reader) = life.readers.get(user) else {
            return Vec::new();
        };
        let later = reader.marks.iter().filter(|(_, (of, _))| *of > reads);
        let change = |((stream, seq), _): (&(Stream, u64), &(u64, u64))| {
            let kept = life.logs.get(stream)?.entries.get(seq)?;
            Some(ReadChange { stream: stream.clone(), marked: Marked::Ids(vec![kept.id]) })
        };
        later.filter_map(change).collect()
    }
}

/// What of `mark` is there and not marked yet.
fn unread_places(life: &Life, user: &UserId, mark: &Mark) -> Vec<(u64, NotificationId)> {
    let Some(log) = life.logs.get(&mark.stream) else {
        return Vec::new();
    };
    let known = life.readers.get(user);
    let is_read =
        |seq: u64| known.is_some_and(|reader| reader.marks.contains_key(&(mark.stream.clone(), seq)));
    let of_it = log.entries.iter().filter(|(_, kept)| kept.cancels.is_none());
    let named = of_it.filter(|(seq, kept)| match &mark.marked {
        Marked::Ids(ids) => ids.contains(&kept.id),
        Marked::UpTo(up_to) => **seq <= up_to.0,
    });
    named.filter(|(seq, _)| !is_read(**seq)).map(|(seq, kept)| (*seq, kept.id)).collect()
}

#[async_trait]
impl Receipts for ModelInbox {
    async fn delivered(&self, entries: Vec<Delivered>, _: UnixMillis) -> Result<(), InboxError> {
        self.call(move |store, ledger, _| entries.iter().for_each(|one| store.check_delivered(ledger, one)))
            .await
    }

    async fn delivered_shared(&self, _: Vec<DeliveredShared>, _: UnixMillis) -> Result<(), InboxError> {
        self.call(|_, _, _| ()).await
    }

    async fn cancel(
        &self,
        id: NotificationId,
        publisher: &PublisherId,
        _: UnixMillis,
    ) -> Result<Cancelled, InboxError> {
        self.take_back(id, publisher).await
    }

    async fn receipt(
        &self,
        _: NotificationId,
        _: &PublisherId,
        _: UnixMillis,
    ) -> Result<Option<Receipt>, InboxError> {
        unimplemented!("nobody asks for receipts here")
    }

    async fn recipients(
        &self,
        _: NotificationId,
        _: &PublisherId,
        _: Option<&AfterRecipient>,
        _: u32,
        _: UnixMillis,
    ) -> Result<Vec<RecipientReceipt>, InboxError> {
        unimplemented!("nobody asks for receipts here")
    }

    async fn counts(&self, _: &[NotificationId], _: UnixMillis) -> Result<Vec<Counts>, InboxError> {
        unimplemented!("nobody waits for outcomes here")
    }
}

#[async_trait]
impl ReadState for ModelInbox {
    async fn mark_read(
        &self,
        user: &UserId,
        mark: &Mark,
        now: UnixMillis,
    ) -> Result<(Marked, Unread), InboxError> {
        let (whose, mark) = (user.clone(), mark.clone());
        let (marked, at_once) =
            self.call(move |store, ledger, _| store.mark(ledger, &whose, &mark, now)).await?;
        // A store may mark and count one after the other: marks of others come between.
        let user = user.clone();
        let unread = self.call(move |_, ledger, _| books::unread(ledger.now(), &user, now)).await?;
        let numbered = !marked.is_empty() && !self.store.has(Plant::MarksUnnumbered);
        let reads = if numbered { at_once.reads } else { unread.reads };
        Ok((marked, Unread { reads, ..unread }))
    }

    async fn read_since(
        &self,
        user: &UserId,
        reads: u64,
        _: u32,
        now: UnixMillis,
    ) -> Result<(Vec<ReadChange>, Unread), InboxError> {
        let user = user.clone();
        self.call(move |store, ledger, _| {
            let unread = books::unread(ledger.now(), &user, now);
            let changes =
                if store.has(Plant::MarksForgotten) { Vec::new() } else { store.since(ledger, &user, reads) };
            (changes, unread)
        })
        .await
    }

    async fn unread(
        &self,
        user: &UserId,
        now: UnixMillis,
    ) -> Result<(Unread, Vec<(Stream, u64)>), InboxError> {
        let user = user.clone();
        self.call(move |_, ledger, _| (books::unread(ledger.now(), &user, now), Vec::new())).await
    }

    async fn look(&self, _: &Look, _: UnixMillis) -> Result<InboxPage, InboxError> {
        unimplemented!("nobody looks at pages here")
    }
}
