//! Taking dead letters out of `fanfare.dead`, from the front, until the one that is wanted or all within reach.
//!
//! Owns one channel and what is out on it. It must never settle a letter by itself: what is not settled goes back when the
//! walk ends or is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::ShortString;
use lapin::{Channel, Consumer};
use tokio::time::timeout;

use super::epitaph;
use super::letters::{Found, WALK_PATIENCE};
use super::topology::{DEAD, Declarer, short};
use crate::broker::{DeadLetter, DeadLetterError};

/// How many letters can be reached.
const REACH: u16 = 10_000;
/// How many are taken at a time on the way to one of them. The first is alone, so that whoever goes through a list from its
/// beginning takes one letter each time.
const STRETCHES: [u16; 4] = [1, 31, 968, REACH - 1_000];
/// Silence after which the queue is asked whether it is empty.
const QUIET: Duration = Duration::from_millis(50);
/// How a letter came out of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By its consumer.
    Consumed,
    /// By `basic.get`.
    Asked,
}

/// Letters that are out of the queue, on one channel.
pub(super) struct Walk {
    channel: Channel,
    consumers: Vec<ShortString>,
    /// What came as an answer rather than to a consumer.
    spare: VecDeque<Delivery>,
    login: Option<String>,
}

impl Walk {
    pub(super) fn new(channel: Channel, login: Option<String>) -> Self {
        Self { channel, consumers: Vec::new(), spare: VecDeque::new(), login }
    }

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
            let mut consumed = 0;
            while consumed < stretch {
                let Some((delivery, how)) = self.next(&mut consumer).await? else {
                    return Ok(());
                };
                // What was asked for is not of the consumer's share, all of which may be under way to it.
                consumed += u16::from(how == How::Consumed);
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

    pub(super) async fn page(&mut self, after: Option<&str>, limit: usize) -> Result<Found, Failed> {
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

    pub(super) async fn find(&mut self, id: &str) -> Result<(Delivery, DeadLetter), Failed> {
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

    /// The next letter, and how it came; `None` when there is no more.
    async fn next(&mut self, consumer: &mut Consumer) -> Result<Option<(Delivery, How)>, Failed> {
        if let Ok(delivery) = timeout(QUIET, consumer.next()).await {
            return Ok(Some((delivery.ok_or(Failed::Broker)??, How::Consumed)));
        }
        // Only `basic.get` knows whether a quorum queue is empty: asked for its length, one that does not answer within
        // 250 ms is called empty. The answer may still overtake what was on its way to this channel; that to a second
        // question does not, as the channel then had both in its hands.
        for _ in 0..2 {
            let got = self.channel.basic_get(short(DEAD), BasicGetOptions::default()).await?;
            self.spare.extend(got.map(|message| message.delivery));
        }
        match consumer.next().now_or_never() {
            Some(delivery) => Ok(Some((delivery.ok_or(Failed::Broker)??, How::Consumed))),
            None => Ok(self.spare.pop_front().map(|delivery| (delivery, How::Asked))),
        }
    }

    pub(super) async fn settle(&self, delivery: &Delivery) -> Result<(), Failed> {
        Ok(self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?)
    }

    /// Hands all others back, in their order; the answer to closing says that all of it was done.
    pub(super) async fn end(self) -> Result<(), Failed> {
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

/// Why an errand failed.
pub(super) enum Failed {
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
