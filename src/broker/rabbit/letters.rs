//! Looking through `fanfare.dead`, and taking one letter out of it.
//!
//! Owns one task a session, which does one errand after the other. A queue cannot be read without taking from it: an errand
//! consumes from the front on a channel of its own and hands back what it does not settle; an exclusive queue stands for
//! the turn among all nodes. RabbitMQ counts those deliveries (`fanfare.dead` has no delivery limit) and puts what comes back
//! behind what came back before: so lists are sorted here. A letter is acknowledged only once its successor in the lane is
//! confirmed. It must never hold letters between errands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::epitaph;
use super::open::Link;
use super::shared::{SessionError, Shared};
use super::topology::{DEAD, Declarer, LETTERS_LOCK, lane_queue, short};
use crate::broker::{DeadLetter, DeadLetterError, Health};

/// Errands that wait for their turn; one more waits at the door.
pub(super) const WAITING: usize = 16;
/// How long a caller waits, for those before it too.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long other nodes may have their turn before this one gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How long a walk may take, and putting everything back.
const WALK_PATIENCE: Duration = Duration::from_secs(10);
/// How often the letters are counted.
const COUNT: Duration = Duration::from_secs(15);
/// How many letters can be reached.
const REACH: u16 = 10_000;
/// How many are taken at a time on the way to one of them. The first is alone, so that whoever goes through a list from its
/// beginning takes one letter each time.
const STRETCHES: [u16; 4] = [1, 31, 968, REACH - 1_000];
/// Silence after which the queue is asked whether it is empty.
const QUIET: Duration = Duration::from_millis(50);
/// The pause before another node is asked for its turn again.
const TURN: Duration = Duration::from_millis(50);

/// What is to be done.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A page of letters.
    Page {
        /// The letter before the first.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// One letter with its body.
    Body(String),
    /// One letter back into its lane.
    Requeue(String),
    /// One letter away.
    Delete(String),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The page, or the one.
    pub(super) letters: Vec<DeadLetter>,
    /// Of the one.
    pub(super) body: Bytes,
    /// Whether there are more behind the page.
    pub(super) more: bool,
}

/// Something to do, and who waits for it.
pub(super) struct Errand {
    wanted: Wanted,
    done: oneshot::Sender<Result<Found, DeadLetterError>>,
}

/// Has an errand done by the current session.
pub(super) async fn ask(shared: &Shared, wanted: Wanted) -> Result<Found, DeadLetterError> {
    if *shared.health.borrow() == Health::Down {
        return Err(DeadLetterError::Unavailable);
    }
    let doors = shared.doors().ok_or(DeadLetterError::Unavailable)?;
    let (done, answered) = oneshot::channel();
    let asking = async {
        let sent = doors.letters.send(Errand { wanted, done }).await;
        sent.map_err(|_| DeadLetterError::Unavailable)?;
        answered.await.unwrap_or(Err(DeadLetterError::Unavailable))
    };
    timeout(PATIENCE, asking).await.unwrap_or(Err(DeadLetterError::Unavailable))
}

/// Does errands, and counts the letters now and then.
pub(super) struct Clerk {
    /// What all share.
    pub(super) shared: Arc<Shared>,
    /// For requeueing; not read under an alarm.
    pub(super) publishing: Arc<Link>,
    /// For everything else.
    pub(super) consuming: Arc<Link>,
}

impl Clerk {
    /// Does what comes through the door until cancelled. What fails fails for who asked; whether the connections
    /// live is for others to see.
    pub(super) async fn run(
        self,
        mut errands: mpsc::Receiver<Errand>,
        cancel: CancellationToken,
    ) -> Result<(), SessionError> {
        let mut count = interval(COUNT);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Some(errand) = errands.recv() => {
                    tokio::select! {
                        () = cancel.cancelled() => return Ok(()),
                        () = self.serve(errand) => {}
                    }
                }
                _ = count.tick() => {
                    tokio::select! {
                        () = cancel.cancelled() => return Ok(()),
                        _ = timeout(WALK_PATIENCE, self.count()) => {}
                    }
                }
            }
        }
    }

    async fn serve(&self, errand: Errand) {
        let Errand { wanted, done } = errand;
        if done.is_closed() {
            return;
        }
        let requeues = matches!(wanted, Wanted::Requeue(_));
        let answer = if requeues && *self.shared.health.borrow() != Health::Up {
            Err(DeadLetterError::Unavailable)
        } else {
            self.take_turn(&wanted).await
        };
        // Who asked may have given up just now.
        let _ = done.send(answer);
    }

    /// Declares the queue, so that a lost one is there again, and notes its length.
    async fn count(&self) -> Result<(), Failed> {
        let channel = self.consuming.connection.create_channel().await?;
        let declarer = Declarer { channel: &channel, patience: WALK_PATIENCE };
        let letters = declarer.dead().await.map_err(|_| Failed::Broker)?;
        self.shared.metrics.dead_letters_kept.set(i64::from(letters));
        channel.close(200, ShortString::default()).await?;
        Ok(())
    }

    async fn take_turn(&self, wanted: &Wanted) -> Result<Found, DeadLetterError> {
        let contended = AtomicBool::new(false);
        let turn = match timeout(LOCK_PATIENCE, self.lock(&contended)).await {
            Ok(turn) => turn?,
            Err(_) if contended.into_inner() => return Err(DeadLetterError::Busy),
            Err(_) => return Err(DeadLetterError::Unavailable),
        };
        let found = timeout(WALK_PATIENCE, self.go(wanted)).await.unwrap_or(Err(Failed::Broker));
        let unlocking = async {
            turn.queue_delete(short(LETTERS_LOCK), QueueDeleteOptions::default()).await?;
            turn.close(200, ShortString::default()).await?;
            self.count().await
        };
        if !matches!(timeout(WALK_PATIENCE, unlocking).await, Ok(Ok(()))) {
            // The connection is as good as gone, and the turn with it.
            self.shared.metrics.failures.inc();
        }
        Ok(found?)
    }

    /// Takes letters out and puts them back. Dropped, its channel closes, and that puts them back, too.
    async fn go(&self, wanted: &Wanted) -> Result<Found, Failed> {
        let channel = self.consuming.connection.create_channel().await?;
        let mut walk =
            Walk { channel, consumers: Vec::new(), spare: VecDeque::new(), login: self.shared.login() };
        let found = self.walk(&mut walk, wanted).await;
        // Before the turn ends: who comes next finds the letters in their places.
        if let Err(error) = walk.end().await {
            return found.and(Err(error));
        }
        found
    }

    /// Waits for the turn; it lasts until the queue is deleted, or this connection is gone.
    async fn lock(&self, contended: &AtomicBool) -> Result<Channel, Failed> {
        loop {
            let channel = self.consuming.connection.create_channel().await?;
            let options = QueueDeclareOptions::exclusive();
            match channel.queue_declare(short(LETTERS_LOCK), options, FieldTable::default()).await {
                Ok(_) => return Ok(channel),
                // RESOURCE_LOCKED (AMQP 0-9-1, 405): another connection's turn.
                Err(error) if is_locked(&error) => {
                    contended.store(true, Ordering::Relaxed);
                    sleep(TURN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn walk(&self, walk: &mut Walk, wanted: &Wanted) -> Result<Found, Failed> {
        match wanted {
            Wanted::Page { after, limit } => walk.page(after.as_deref(), *limit).await,
            Wanted::Body(id) => {
                let (delivery, letter) = walk.find(id).await?;
                Ok(Found { letters: vec![letter], body: Bytes::from(delivery.data), more: false })
            }
            Wanted::Requeue(id) => {
                let (delivery, letter) = walk.find(id).await?;
                self.requeue(&delivery, &letter).await?;
                walk.settle(&delivery).await?;
                self.shared.metrics.dead_letter_settled("requeued");
                Ok(Found { letters: vec![letter], ..Found::default() })
            }
            Wanted::Delete(id) => {
                let (delivery, letter) = walk.find(id).await?;
                walk.settle(&delivery).await?;
                self.shared.metrics.dead_letter_settled("deleted");
                Ok(Found { letters: vec![letter], ..Found::default() })
            }
        }
    }

    /// Publishes it straight into its lane, where backends cannot write; returns once that is confirmed.
    async fn requeue(&self, delivery: &Delivery, letter: &DeadLetter) -> Result<(), Failed> {
        let lane = lane_queue(letter.lane);
        let Some(login) = self.shared.login() else {
            return Err(Failed::NotRequeued(
                "the node does not know its own AMQP user, so nobody could vouch for the publisher"
                    .to_owned(),
            ));
        };
        let channel = self.publishing.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = epitaph::requeued(&delivery.properties, letter, &login);
        let publishing = async {
            let key = short(lane);
            let exchange = ShortString::default();
            channel.basic_publish(exchange, key, options, &delivery.data, properties).await?.await
        };
        let confirmation = publishing.await.inspect_err(|error| self.shared.on_refusal(error))?;
        let _ = channel.close(200, ShortString::default()).await;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            _ => Err(Failed::NotRequeued(format!("{lane} is full or missing: the letter stays where it is"))),
        }
    }
}

/// Letters that are out of the queue, on one channel.
struct Walk {
    channel: Channel,
    consumers: Vec<ShortString>,
    /// What came as an answer rather than to a consumer.
    spare: VecDeque<Delivery>,
    login: Option<String>,
}

impl Walk {
    /// Goes from the front until `stop` says so, or no letter is left within reach.
    async fn until(
        &mut self,
        stretches: &[u16],
        mut stop: impl FnMut(Delivery, DeadLetter) -> bool,
    ) -> Result<(), Failed> {
        for stretch in stretches.iter().copied() {
            let declarer = Declarer { channel: &self.channel, patience: WALK_PATIENCE };
            let mut consumer = declarer.consume(DEAD, stretch).await.map_err(|_| Failed::Broker)?;
            self.consumers.push(consumer.tag());
            for _ in 0..stretch {
                let Some(delivery) = self.next(&mut consumer).await? else {
                    return Ok(());
                };
                let login = self.login.as_deref();
                let key = delivery.routing_key.as_str();
                let letter = epitaph::read(&delivery.properties, key, &delivery.data, login);
                if stop(delivery, letter) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn page(&mut self, after: Option<&str>, limit: usize) -> Result<Found, Failed> {
        let mut letters = Vec::new();
        let keep = |_, letter| {
            letters.push(letter);
            false
        };
        self.until(&[REACH], keep).await?;
        letters.sort_by(|one, other| (one.last_failed_at, &one.id).cmp(&(other.last_failed_at, &other.id)));
        if let Some(after) = after {
            let last = letters.iter().rposition(|letter| letter.id == after);
            letters.drain(..=last.ok_or_else(|| Failed::Unknown(after.to_owned()))?);
        }
        let more = letters.len() > limit;
        letters.truncate(limit);
        Ok(Found { letters, more, ..Found::default() })
    }

    async fn find(&mut self, id: &str) -> Result<(Delivery, DeadLetter), Failed> {
        let mut found = None;
        let stop = |delivery, letter: DeadLetter| {
            let is_it = letter.id == id;
            if is_it {
                found = Some((delivery, letter));
            }
            is_it
        };
        self.until(&STRETCHES, stop).await?;
        found.ok_or_else(|| Failed::Unknown(id.to_owned()))
    }

    /// The next letter; `None` when there is no more.
    async fn next(&mut self, consumer: &mut Consumer) -> Result<Option<Delivery>, Failed> {
        if let Ok(delivery) = timeout(QUIET, consumer.next()).await {
            return Ok(Some(delivery.ok_or(Failed::Broker)??));
        }
        // Only `basic.get` knows whether a quorum queue is empty: asked for its length, one that does not answer within
        // 250 ms is called empty. The answer may still overtake what was on its way to this channel; that to a second
        // question does not, as the channel then had both in its hands.
        for _ in 0..2 {
            let got = self.channel.basic_get(short(DEAD), BasicGetOptions::default()).await?;
            self.spare.extend(got.map(|message| message.delivery));
        }
        match consumer.next().now_or_never() {
            Some(delivery) => Ok(Some(delivery.ok_or(Failed::Broker)??)),
            None => Ok(self.spare.pop_front()),
        }
    }

    async fn settle(&self, delivery: &Delivery) -> Result<(), Failed> {
        Ok(self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?)
    }

    /// Hands all others back, in their order; the answer to closing says that all of it was done.
    async fn end(self) -> Result<(), Failed> {
        for tag in &self.consumers {
            self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default()).await?;
        }
        // Tag 0 with `multiple`: all that are out (AMQP 0-9-1, basic.nack in RabbitMQ).
        let all = BasicNackOptions { multiple: true, requeue: true };
        self.channel.basic_nack(0, all).await?;
        self.channel.close(200, ShortString::default()).await?;
        Ok(())
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(refusal) if refusal.get_id() == 405)
}

/// Why an errand failed.
enum Failed {
    Unknown(String),
    NotRequeued(String),
    Broker,
}

impl From<lapin::Error> for Failed {
    fn from(error: lapin::Error) -> Self {
        tracing::debug!(%error, "an errand for dead letters failed");
        Self::Broker
    }
}

impl From<Failed> for DeadLetterError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unknown(id) => Self::Unknown(id),
            Failed::NotRequeued(why) => Self::NotRequeued(why),
            Failed::Broker => Self::Unavailable,
        }
    }
}
