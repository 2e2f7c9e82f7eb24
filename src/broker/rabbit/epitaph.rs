//! What is written on a dead letter: the `fanfare-…` headers and how they are believed.
//!
//! Owns their names, their writing, their reading, and the way back. A header can be written by anybody who may publish,
//! so these count only on messages whose `user_id` is this node's own login, which RabbitMQ checks; and in a lane only if
//! they came by the default exchange too, where backends may not write. All others lose them here. It must never copy
//! what RabbitMQ would act upon again: `expiration`, `CC`/`BCC`, its own death certificates (`x-death`, …).

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use sha2::{Digest, Sha256};

use super::topology::short;
use crate::broker::DeadLetter;
use crate::clock::Clock;
use crate::domain::{NotificationId, Priority, UnixMillis};

/// The longest text kept in a header, in bytes: all headers must fit one AMQP frame.
const HEADER_BYTES: usize = 1024;
/// Headers of the original that are kept.
const HEADERS: usize = 32;

const OURS: &str = "fanfare-";
const ID: &str = "fanfare-id";
const CODE: &str = "fanfare-reason-code";
const REASON: &str = "fanfare-reason";
const EXCHANGE: &str = "fanfare-exchange";
const ROUTING_KEY: &str = "fanfare-routing-key";
const LANE: &str = "fanfare-lane";
const USER_ID: &str = "fanfare-user-id";
const EXPIRATION: &str = "fanfare-expiration";
const FIRST_FAILED: &str = "fanfare-first-failed-ms";
const LAST_FAILED: &str = "fanfare-last-failed-ms";
const FAILURES: &str = "fanfare-failures";
/// RabbitMQ's own ("Intercepting Messages", `set_header_timestamp`).
const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";

/// A message as it was published.
#[derive(Debug, Clone)]
pub struct Original {
    /// Where to.
    pub exchange: String,
    /// With which key.
    pub routing_key: String,
    /// The lane that it came by.
    pub lane: Priority,
    /// As they came.
    pub properties: BasicProperties,
    /// The JSON, or what should have been.
    pub body: Bytes,
}

impl Original {
    /// Whether a node put it there again: then its `fanfare-…` headers are ours. `login` is this node's.
    fn is_requeued(&self, login: Option<&str>) -> bool {
        self.exchange.is_empty() && is_by(&self.properties, login) && text(&self.properties, ID).is_some()
    }

    /// The user that the broker vouched for when it was first published.
    pub fn user_id(&self, login: Option<&str>) -> Option<String> {
        match self.is_requeued(login) {
            true => text(&self.properties, USER_ID),
            false => self.properties.user_id().as_ref().map(ToString::to_string),
        }
    }

    /// Its TTL in milliseconds.
    pub fn expiration(&self, login: Option<&str>) -> Option<String> {
        match self.is_requeued(login) {
            true => text(&self.properties, EXPIRATION),
            false => self.properties.expiration().as_ref().map(ToString::to_string),
        }
    }

    /// When it came, if that is said: by RabbitMQ in `timestamp_in_ms` (its timestamp interceptor, or the plugin of that
    /// name), else by the publisher in `timestamp`, in seconds. What an operator put back counts from when it is taken.
    pub(super) fn sent_at(&self, login: Option<&str>) -> Option<UnixMillis> {
        if self.is_requeued(login) {
            return None;
        }
        let noted = number(&self.properties, TIMESTAMP_IN_MS).and_then(|millis| u64::try_from(millis).ok());
        let said = || self.properties.timestamp().as_ref().map(|seconds| seconds.saturating_mul(1_000));
        noted.or_else(said).filter(|millis| *millis > 0).map(UnixMillis)
    }
}

/// Whether RabbitMQ vouches that `login` published it.
fn is_by(properties: &BasicProperties, login: Option<&str>) -> bool {
    let user_id = properties.user_id().as_ref().map(|user| user.as_str());
    user_id.is_some() && user_id == login
}

/// The properties of a dead letter. `login` is this node's.
pub fn epitaph(
    original: &Original,
    code: &str,
    reason: &str,
    login: Option<&str>,
    clock: &Clock,
) -> BasicProperties {
    let from = &original.properties;
    let now = clock.now();
    let again = original.is_requeued(login);
    let mut headers = kept_headers(from, again);
    set(&mut headers, CODE, code);
    set(&mut headers, REASON, reason);
    set(&mut headers, LANE, original.lane.as_str());
    headers.insert(short(LAST_FAILED), AMQPValue::LongLongInt(now.as_i64()));
    let failures = if again { number(from, FAILURES).unwrap_or(1) } else { 0 };
    headers.insert(short(FAILURES), AMQPValue::LongLongInt(failures.saturating_add(1)));
    if !again {
        set(&mut headers, ID, &NotificationId::new(now, clock.random()).to_string());
        set(&mut headers, EXCHANGE, &original.exchange);
        set(&mut headers, ROUTING_KEY, &original.routing_key);
        if let Some(user) = from.user_id() {
            set(&mut headers, USER_ID, user.as_str());
        }
        if let Some(expiration) = from.expiration() {
            set(&mut headers, EXPIRATION, expiration.as_str());
        }
    }
    if !headers.contains_key(FIRST_FAILED) {
        headers.insert(short(FIRST_FAILED), AMQPValue::LongLongInt(now.as_i64()));
    }
    signed(from, headers, login)
}

/// A letter as it lies in `fanfare.dead`, whoever put it there.
pub fn read(properties: &BasicProperties, routing_key: &str, body: &[u8], login: Option<&str>) -> DeadLetter {
    let shown = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let (message_id, size) = (shown(properties.message_id()), body.len());
    if !is_by(properties, login) {
        // Not put there by a node of this login: by hand, by a policy, by a shovel.
        return DeadLetter {
            id: derived_id(properties, routing_key, body),
            code: "foreign".to_owned(),
            reason: foreign_reason(properties),
            first_failed_at: None,
            last_failed_at: None,
            failures: 1,
            lane: lane(routing_key),
            routing_key: routing_key.to_owned(),
            publisher: shown(properties.user_id()),
            message_id,
            expiration: shown(properties.expiration()),
            size,
        };
    }
    let of = |name| text(properties, name).unwrap_or_default();
    let time = |name| number(properties, name).map(UnixMillis::from_i64);
    DeadLetter {
        id: text(properties, ID).unwrap_or_else(|| derived_id(properties, routing_key, body)),
        code: of(CODE),
        reason: of(REASON),
        first_failed_at: time(FIRST_FAILED),
        last_failed_at: time(LAST_FAILED),
        failures: number(properties, FAILURES)
            .and_then(|count| u64::try_from(count).ok())
            .unwrap_or(1)
            .max(1),
        lane: lane(&of(LANE)),
        routing_key: of(ROUTING_KEY),
        publisher: text(properties, USER_ID),
        message_id,
        expiration: text(properties, EXPIRATION),
        size,
    }
}

/// The properties with which a letter goes back into its lane. It has no `expiration` there, as an operator
/// wants it to be taken: its TTL counts from then.
pub fn requeued(properties: &BasicProperties, letter: &DeadLetter, login: &str) -> BasicProperties {
    let mut headers = kept_headers(properties, is_by(properties, Some(login)));
    set(&mut headers, ID, &letter.id);
    set(&mut headers, ROUTING_KEY, &letter.routing_key);
    headers
        .insert(short(FAILURES), AMQPValue::LongLongInt(i64::try_from(letter.failures).unwrap_or(i64::MAX)));
    for (name, value) in [(USER_ID, &letter.publisher), (EXPIRATION, &letter.expiration)] {
        if let Some(value) = value {
            set(&mut headers, name, value);
        }
    }
    signed(properties, headers, Some(login))
}

/// `from` with other headers, persistent, by `login`, and with nothing that RabbitMQ acts upon.
fn signed(from: &BasicProperties, headers: FieldTable, login: Option<&str>) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    if let Some(login) = login {
        properties = properties.with_user_id(short(login));
    }
    if let Some(id) = from.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    if let Some(kind) = from.content_type() {
        properties = properties.with_content_type(kind.clone());
    }
    if let Some(app) = from.app_id() {
        properties = properties.with_app_id(app.clone());
    }
    if let Some(timestamp) = from.timestamp() {
        properties = properties.with_timestamp(*timestamp);
    }
    properties
}

/// The headers that are small and mean nothing to RabbitMQ; `fanfare-…` only if they are ours.
fn kept_headers(from: &BasicProperties, ours: bool) -> FieldTable {
    let mut kept = FieldTable::default();
    let all = from.headers().iter().flat_map(|headers| headers.inner());
    let wanted = all.filter(|(name, value)| {
        let name = name.as_str();
        let acts = matches!(name, "CC" | "BCC" | "x-death" | "x-delivery-count")
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-");
        let small = match value {
            AMQPValue::LongString(text) => text.len() <= HEADER_BYTES,
            AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) | AMQPValue::ByteArray(_) => false,
            _ => true,
        };
        !acts && small && !name.starts_with(OURS)
    });
    for (name, value) in wanted.take(HEADERS) {
        kept.insert(name.clone(), value.clone());
    }
    let all = from.headers().iter().flat_map(|headers| headers.inner());
    for (name, value) in all.filter(|(name, _)| ours && name.as_str().starts_with(OURS)) {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

fn set(headers: &mut FieldTable, name: &str, value: &str) {
    let mut end = value.len().min(HEADER_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    headers.insert(short(name), AMQPValue::LongString(value[..end].into()));
}

fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn number(properties: &BasicProperties, name: &str) -> Option<i64> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

/// The lane of a routing key or of a lane's name; anything else is normal, as it is for publishers.
fn lane(key: &str) -> Priority {
    Priority::ALL.into_iter().find(|lane| lane.as_str() == key).unwrap_or_default()
}

fn foreign_reason(properties: &BasicProperties) -> String {
    match (text(properties, "x-first-death-queue"), text(properties, "x-first-death-reason")) {
        (Some(queue), Some(reason)) => format!("RabbitMQ moved it here from {queue}: {reason}"),
        _ => "no node put it here".to_owned(),
    }
}

/// The same for as long as the message lies there; equal messages share it.
fn derived_id(properties: &BasicProperties, routing_key: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    for value in [properties.message_id(), properties.user_id(), properties.app_id()] {
        hash.update(value.as_ref().map_or("", |value| value.as_str()));
        hash.update([0]);
    }
    hash.update(properties.timestamp().unwrap_or_default().to_be_bytes());
    hash.update(routing_key);
    hash.update([0]);
    hash.update(body);
    let hex = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("x-{hex}")
}
