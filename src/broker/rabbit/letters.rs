//! Looking through `fanfare.dead`, and taking one letter out of it.
//!
//! Owns one task a session, which does one errand after the other. A queue cannot be read without taking from it: an errand
//! consumes from the front on a channel of its own and hands back what it does not settle; an exclusive queue stands for
//! the turn among all nodes. RabbitMQ counts those deliveries (`fanfare.dead` has no delivery limit) and puts what comes back
//! behind what came back before: so lists are sorted here. A letter is acknowledged only once its successor in the lane is
//! confirmed. It must never hold letters between errands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::epitaph;
use super::open::Link;
use super::shared::{SessionError, Shared};
use super::topology::{DEAD, Declarer, LETTERS_LOCK, lane_queue, short};
use super::walk::{Failed, Walk};
use crate::broker::{DeadLetter, DeadLetterError, Health};

/// Errands that wait for their turn; one more waits at the door.
pub(super) const WAITING: usize = 16;
/// How long a caller waits, for those before it too.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long other nodes may have their turn before this one gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How long a walk may take, and putting everything back.
pub(super) const WALK_PATIENCE: Duration = Duration::from_secs(10);
/// How often the letters are counted, at least.
const COUNT: Duration = Duration::from_secs(15);
/// How long that may take: shorter than [`LOCK_PATIENCE`], so that others get their turn.
const COUNT_PATIENCE: Duration = Duration::from_secs(2);
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
                        _ = timeout(WALK_PATIENCE, self.count_in_turn()) => {}
                    }
                    // Nodes that began together must not meet for ever.
                    count.reset_after(COUNT.mul_f64(rand::random_range(0.5..1.0)));
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

    /// Not while letters are out on another node's errand, which counts them when it is done.
    async fn count_in_turn(&self) -> Result<(), Failed> {
        match self.try_lock().await? {
            Some(turn) => self.end_turn(turn, true).await,
            None => Ok(()),
        }
    }

    /// Declares the queue, so that a lost one is there again, and notes its length.
    async fn count(&self) -> Result<(), Failed> {
        let channel = self.consuming.connection.create_channel().await?;
        let declarer = Declarer { channel: &channel, patience: WALK_PATIENCE };
        let mut letters = declarer.dead().await.map_err(|_| Failed::Broker)?;
        // A queue that does not answer within 250 ms is called empty; `basic.get` waits for it, and says how many there are
        // beside the one that it takes. That goes back with the channel.
        if letters == 0
            && let Some(got) = channel.basic_get(short(DEAD), BasicGetOptions::default()).await?
        {
            letters = got.message_count + 1;
        }
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
        let walked = timeout(WALK_PATIENCE, self.go(wanted)).await;
        // After a walk that was broken off letters may still be out.
        let is_whole = !matches!(walked, Err(_) | Ok(Err(Failed::Broker)));
        let ending = self.end_turn(turn, is_whole);
        if !matches!(timeout(WALK_PATIENCE, ending).await, Ok(Ok(()))) {
            // The connection is as good as gone, and the turn with it.
            self.shared.metrics.failures.inc();
        }
        Ok(walked.unwrap_or(Err(Failed::Broker))?)
    }

    /// Takes letters out and puts them back. Dropped, its channel closes, and that puts them back, too.
    async fn go(&self, wanted: &Wanted) -> Result<Found, Failed> {
        let channel = self.consuming.connection.create_channel().await?;
        let mut walk = Walk::new(channel, self.shared.login());
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
            if let Some(turn) = self.try_lock().await? {
                return Ok(turn);
            }
            contended.store(true, Ordering::Relaxed);
            sleep(TURN).await;
        }
    }

    /// `None`: it is another connection's turn (RESOURCE_LOCKED: AMQP 0-9-1, 405).
    async fn try_lock(&self) -> Result<Option<Channel>, Failed> {
        let channel = self.consuming.connection.create_channel().await?;
        let options = QueueDeclareOptions::exclusive();
        match channel.queue_declare(short(LETTERS_LOCK), options, FieldTable::default()).await {
            Ok(_) => Ok(Some(channel)),
            Err(error) if is_locked(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn end_turn(&self, turn: Channel, counts: bool) -> Result<(), Failed> {
        let counted = match counts {
            true => timeout(COUNT_PATIENCE, self.count()).await.unwrap_or(Err(Failed::Broker)),
            false => Ok(()),
        };
        turn.queue_delete(short(LETTERS_LOCK), QueueDeleteOptions::default()).await?;
        turn.close(200, ShortString::default()).await?;
        counted
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

fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(refusal) if refusal.get_id() == 405)
}
