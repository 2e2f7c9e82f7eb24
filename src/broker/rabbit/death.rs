//! Why RabbitMQ dropped a message: the newest entry of its `x-death` header (RabbitMQ, "Dead letter exchanges").
//!
//! Owns the reading of it. Anybody who may publish can write such a header, so it must never say who somebody is.

use lapin::BasicProperties;
use lapin::types::AMQPValue;

/// A node gave it up: it was to be a dead letter, and RabbitMQ took none.
pub(super) const REFUSED: &str = "rejected";

/// The newest entry; its texts are empty where there is none, or something else.
#[derive(Debug)]
pub struct Death {
    /// Such as `expired` or `delivery_limit`.
    pub reason: String,
    /// The queue that dropped it.
    pub queue: String,
    /// Where it was published.
    pub exchange: String,
    /// The `expiration` that RabbitMQ took off it.
    pub expiration: String,
}

impl Death {
    /// As a message tells it.
    pub fn of(properties: &BasicProperties) -> Self {
        let deaths = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-death"));
        let newest = match deaths {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
            _ => None,
        };
        let read = |name: &str| match newest {
            Some(AMQPValue::FieldTable(death)) => match death.inner().get(name) {
                Some(AMQPValue::LongString(text)) => text.to_string(),
                _ => String::new(),
            },
            _ => String::new(),
        };
        Self {
            reason: read("reason"),
            queue: read("queue"),
            exchange: read("exchange"),
            expiration: read("original-expiration"),
        }
    }

    /// The code and the sentence for operators.
    pub fn explained(&self) -> (&'static str, String) {
        let queue = &self.queue;
        match self.reason.as_str() {
            "delivery_limit" => {
                ("delivery_limit", format!("{queue} delivered it too often and it was never settled"))
            }
            REFUSED => (
                "dropped",
                "it was refused while RabbitMQ took nothing, and no node could say why later".to_owned(),
            ),
            other => ("dropped", format!("{queue} dropped it: {other:?}")),
        }
    }
}
