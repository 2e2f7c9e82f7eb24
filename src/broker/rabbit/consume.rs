//! Taking envelopes off this node's queue.
//!
//! Owns the consumer of `fanfare.node.<id>.<boot>.<n>`. A full inlet (bound 256) stops it, and the queue's drop-head
//! holds. When the queue is deleted under it lapin's stream just ends: then the next `n` is declared, on the
//! same channel, and consuming goes on.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use lapin::options::BasicAckOptions;
use lapin::{Channel, Consumer};
use tokio_util::sync::CancellationToken;

use super::shared::{SessionError, Shared};
use super::topology::Declarer;

/// Messages unacknowledged at a time.
const PREFETCH: u16 = 128;
/// Messages acknowledged together while more are waiting.
const ACK_EVERY: u32 = 32;

/// The consuming end of the node queue.
pub(super) struct Envelopes {
    channel: Channel,
    consumer: Consumer,
    /// The last delivery handed on and not acknowledged, and how many there are.
    unacked: Option<u64>,
    count: u32,
}

impl Envelopes {
    /// Declares the next node queue and starts consuming it.
    pub(super) async fn declare(shared: &Shared, channel: Channel) -> Result<Self, SessionError> {
        let declarer = Declarer { channel: &channel, patience: shared.settings.operation_timeout };
        let queue = declarer.node_queue(&shared.settings, shared.next_queue()).await?;
        let consumer = declarer.consume(&queue, PREFETCH).await?;
        tracing::info!(queue.name = %queue, "consuming envelopes");
        Ok(Self { channel, consumer, unacked: None, count: 0 })
    }

    /// Hands envelopes to the node until cancelled or broken.
    pub(super) async fn run(
        mut self,
        shared: Arc<Shared>,
        cancel: CancellationToken,
    ) -> Result<(), SessionError> {
        loop {
            if self.count >= ACK_EVERY {
                self.acknowledge().await?;
            }
            // Nothing more at hand: nobody waits for the acknowledgement of the last few but the prefetch.
            let ready = self.consumer.next().now_or_never();
            let delivery = match ready {
                Some(delivery) => delivery,
                None => {
                    self.acknowledge().await?;
                    tokio::select! {
                        () = cancel.cancelled() => return Ok(()),
                        delivery = self.consumer.next() => delivery,
                    }
                }
            };
            let Some(delivery) = delivery else {
                tracing::warn!("the node queue was deleted; declaring the next one");
                self = Self::declare(&shared, self.channel).await?;
                // What it held is lost, and what came before the next one was there went nowhere.
                shared.say_again();
                continue;
            };
            let delivery = delivery?;
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                handed = shared.envelopes.send(Bytes::from(delivery.data)) => {
                    if handed.is_err() {
                        shared.metrics.drop_for("inlet_full", 1);
                    }
                }
            }
            shared.metrics.arrived.inc();
            self.unacked = Some(delivery.delivery_tag);
            self.count += 1;
        }
    }

    async fn acknowledge(&mut self) -> Result<(), SessionError> {
        if let Some(tag) = self.unacked.take() {
            self.count = 0;
            let options = BasicAckOptions { multiple: true };
            self.channel.basic_ack(tag, options).await?;
        }
        Ok(())
    }
}
