//! The exchanges and queues, and who may find what where.
//!
//! Owns every name and argument (the table in the operators' handbook repeats them). Declaring is idempotent; what
//! exists with other arguments is an error (406), never deleted. No binding per user or connection.

use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ExchangeKind};
use tokio::time::timeout;

use super::open::{OpenError, explain_declare};
use super::settings::{Bounds, Settings};
use crate::domain::{NodeId, Priority};

/// Backends publish here.
pub(super) const NOTIFICATIONS: &str = "fanfare.notifications";
/// Where notifications with an unknown routing key go on their way to the normal lane.
pub(super) const OTHER: &str = "fanfare.notifications.other";
/// To one node.
pub(super) const NODES: &str = "fanfare.nodes";
/// To all nodes.
pub(super) const BROADCAST: &str = "fanfare.broadcast";
/// Receipts and presence changes.
pub(super) const EVENTS: &str = "fanfare.events";
/// Exchange and queue of what the lanes dropped: expired, or delivered too often.
pub(super) const DROPPED: &str = "fanfare.ingress.dropped";
/// Refused input.
pub(super) const DEAD: &str = "fanfare.dead";
/// Exclusive to the node that goes through the dead letters, and there only while it does.
pub(super) const LETTERS_LOCK: &str = "fanfare.dead.turn";

/// Times that a quorum queue delivers a message before it drops it.
const DELIVERY_LIMIT: i64 = 20;

/// The queue of a lane.
pub(super) fn lane_queue(lane: Priority) -> &'static str {
    match lane {
        Priority::High => "fanfare.ingress.high",
        Priority::Normal => "fanfare.ingress.normal",
        Priority::Low => "fanfare.ingress.low",
    }
}

/// The lane of such a queue; of any other, normal.
pub(super) fn lane_of_queue(queue: &str) -> Priority {
    Priority::ALL.into_iter().find(|lane| lane_queue(*lane) == queue).unwrap_or_default()
}

/// Routing key of control requests to a node. Ids have no `/`, so no node's id is ever this key.
pub(super) fn control_key(node: &NodeId) -> String {
    format!("control/{}", node.as_str())
}

/// Routing key of answers to this run of a node.
pub(super) fn reply_key(settings: &Settings) -> String {
    format!("reply/{}/{}", settings.node.as_str(), settings.boot)
}

/// A name as AMQP wants it.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::try_new(name).expect("ids, boots and fixed names together are under 255 bytes")
}

/// Declares through one channel; an error closes that channel (AMQP 0-9-1, channel exceptions).
pub(super) struct Declarer<'a> {
    /// Where.
    pub(super) channel: &'a Channel,
    /// For each answer.
    pub(super) patience: Duration,
}

impl Declarer<'_> {
    /// Everything that is durable.
    pub(super) async fn durable(&self, bounds: &Bounds) -> Result<(), OpenError> {
        let alternate = table([("alternate-exchange", text(OTHER))]);
        self.exchange(OTHER, ExchangeKind::Fanout, FieldTable::default()).await?;
        self.exchange(NOTIFICATIONS, ExchangeKind::Topic, alternate).await?;
        for (name, kind) in [
            (NODES, ExchangeKind::Direct),
            (BROADCAST, ExchangeKind::Fanout),
            (EVENTS, ExchangeKind::Topic),
            (DROPPED, ExchangeKind::Fanout),
        ] {
            self.exchange(name, kind, FieldTable::default()).await?;
        }
        self.graves(bounds).await?;
        for lane in Priority::ALL {
            self.lane(lane, bounds).await?;
        }
        Ok(())
    }

    /// A lane and its bindings.
    pub(super) async fn lane(&self, lane: Priority, bounds: &Bounds) -> Result<(), OpenError> {
        let queue = lane_queue(lane);
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-max-length", number(bounds.ingress_messages)),
            // At-least-once dead-lettering demands it, and a publisher is told instead of losing the oldest.
            ("x-overflow", text("reject-publish")),
            ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
            ("x-dead-letter-exchange", text(DROPPED)),
            ("x-dead-letter-strategy", text("at-least-once")),
        ]);
        self.queue(queue, durable(), arguments).await?;
        self.bind(queue, NOTIFICATIONS, lane.as_str()).await?;
        if lane == Priority::Normal {
            self.bind(queue, OTHER, "").await?;
        }
        Ok(())
    }

    /// Where dropped and refused messages go.
    pub(super) async fn graves(&self, bounds: &Bounds) -> Result<(), OpenError> {
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-max-length", number(bounds.ingress_messages)),
            ("x-overflow", text("reject-publish")),
        ]);
        self.queue(DROPPED, durable(), arguments).await?;
        self.bind(DROPPED, DROPPED, "").await?;
        self.dead().await.map(drop)
    }

    /// Where dead letters lie; returns how many are not being looked at.
    pub(super) async fn dead(&self) -> Result<u32, OpenError> {
        let quorum = table([("x-queue-type", text("quorum"))]);
        let declaring = self.channel.queue_declare(short(DEAD), durable(), quorum);
        Ok(self.within(DEAD, declaring).await?.message_count())
    }

    /// This node's queue, of the `n`th try; returns its name.
    pub(super) async fn node_queue(&self, settings: &Settings, n: u32) -> Result<String, OpenError> {
        let node = settings.node.as_str();
        let name = format!("fanfare.node.{node}.{}.{n}", settings.boot);
        let arguments = table([
            ("x-max-length", number(settings.bounds.node_messages)),
            ("x-overflow", text("drop-head")),
        ]);
        self.queue(&name, QueueDeclareOptions::exclusive(), arguments).await?;
        self.bind(&name, NODES, node).await?;
        self.bind(&name, BROADCAST, "").await?;
        Ok(name)
    }

    /// This node's control queue; every try but the first has its number in the name, as the one before may
    /// still be held by a dying connection (405) or a dead cluster member.
    pub(super) async fn control_queue(&self, settings: &Settings, n: u32) -> Result<String, OpenError> {
        let first = format!("fanfare.control.{}.{}", settings.node.as_str(), settings.boot);
        let name = if n == 0 { first } else { format!("{first}.{n}") };
        let arguments = table([
            ("x-max-length", number(settings.bounds.control_messages)),
            ("x-overflow", text("reject-publish")),
        ]);
        self.queue(&name, QueueDeclareOptions::exclusive(), arguments).await?;
        self.bind(&name, NODES, &control_key(&settings.node)).await?;
        self.bind(&name, NODES, &reply_key(settings)).await?;
        Ok(name)
    }

    /// Starts consuming a queue with manual acknowledgements.
    pub(super) async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, OpenError> {
        let qos = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        self.within(queue, qos).await?;
        let consuming = self.channel.basic_consume(
            short(queue),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        self.within(queue, consuming).await
    }

    async fn exchange(&self, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), OpenError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declaring = self.channel.exchange_declare(short(name), kind, options, arguments);
        self.within(name, declaring).await
    }

    async fn queue(
        &self,
        name: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<(), OpenError> {
        let declaring = self.channel.queue_declare(short(name), options, arguments);
        self.within(name, declaring).await.map(drop)
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), OpenError> {
        let binding = self.channel.queue_bind(
            short(queue),
            short(exchange),
            short(key),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        self.within(queue, binding).await
    }

    async fn within<T>(
        &self,
        what: &str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, OpenError> {
        match timeout(self.patience, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(explain_declare(&error, what)),
            Err(_) => Err(OpenError::Other(format!("{what}: no answer within {:?}", self.patience))),
        }
    }
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions::durable()
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(short(key), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn number(value: u32) -> AMQPValue {
    AMQPValue::LongLongInt(i64::from(value))
}
