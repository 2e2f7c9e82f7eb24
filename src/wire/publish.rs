//! The publish request: the JSON of `POST /v1/notifications` and of AMQP messages alike.
//!
//! Owns its shape, its bounds and the errors that name the field, the value and the limit;
//! and the encoding of an accepted notification as clients get it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::brief::brief;
use crate::domain::{
    DeviceId, Notification, NotificationId, Priority, Publication, Target, TopicName, Ttl, UnixMillis, UserId,
};

/// The longest `type` and `collapse_key`, in bytes.
pub const MAX_WORD_BYTES: usize = 128;

/// How many arrays and objects of `data` may lie within one another. A few more lie around it, and readers of JSON take no
/// more than 64 (.NET), 100 (Ruby) or 127 (serde_json) if nobody tells them otherwise.
pub const MAX_DATA_DEPTH: usize = 32;

/// The bounds of a request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many users or devices `to` may name.
    pub max_recipients: usize,
    /// How large a notification may be as clients get it, in bytes.
    pub max_notification_bytes: usize,
    /// The longest `ttl`.
    pub max_ttl: Duration,
    /// How far ahead `deliver_at` may be.
    pub max_schedule: Duration,
}

impl Limits {
    /// None: for what was accepted before, under whatever limits there were then.
    pub const NONE: Self = Self {
        max_recipients: usize::MAX,
        max_notification_bytes: usize::MAX,
        max_ttl: Duration::MAX,
        max_schedule: Duration::MAX,
    };
}

/// Why a request is refused. The code is stable; the detail names the value and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// Such as `invalid_ttl`.
    pub code: &'static str,
    /// A sentence of at most [`MAX_BYTES`](super::brief::MAX_BYTES).
    pub detail: String,
}

fn refused<T>(code: &'static str, detail: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, detail: brief(detail.into()) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    to: To,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    priority: Option<Priority>,
    #[serde(default)]
    ttl: Option<i64>,
    #[serde(default)]
    collapse_key: Option<String>,
    #[serde(default)]
    deliver_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    #[serde(default)]
    users: Option<Vec<UserId>>,
    #[serde(default)]
    devices: Option<Vec<DeviceAddress>>,
    #[serde(default)]
    topic: Option<TopicName>,
    #[serde(default)]
    everyone: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceAddress {
    user: UserId,
    device: DeviceId,
}

/// Reads a request.
///
/// # Errors
/// [`Refused`] with code `invalid_json`, `invalid_request` (a field is unknown, missing or of the
/// wrong type), `invalid_target`, `too_many_recipients`, `invalid_ttl`, `invalid_text`, `data_too_deep` or `invalid_deliver_at`
/// (no time, or for what is not stored; [`check_schedule`] compares it with the clock).
pub fn parse(json: &[u8], limits: &Limits) -> Result<Publication, Refused> {
    let text = std::str::from_utf8(json).or_else(|error| {
        refused("invalid_json", format!("the request is not UTF-8 from byte {}", error.valid_up_to()))
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let request: Request<'_> = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let code = if inner.is_data() { "invalid_request" } else { "invalid_json" };
        let place = if path == "." || path == "?" { String::new() } else { format!("{path}: ") };
        Refused { code, detail: brief(format!("{place}{inner}")) }
    })?;
    if let Err(error) = deserializer.end() {
        return refused("invalid_json", error.to_string());
    }
    check_texts(&request)?;
    check_depth(request.data)?;
    let ttl = ttl(request.ttl, limits)?;
    Ok(Publication {
        target: target(request.to, limits)?,
        kind: request.kind,
        title: request.title,
        body: request.body,
        data: request.data.map(ToOwned::to_owned),
        priority: request.priority.unwrap_or_default(),
        ttl,
        collapse_key: request.collapse_key,
        deliver_at: request.deliver_at.map(|text| deliver_at(&text, ttl)).transpose()?,
    })
}

/// A time as RFC 3339 has it; what is beyond milliseconds is cut off.
fn deliver_at(text: &str, ttl: Ttl) -> Result<UnixMillis, Refused> {
    let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) else {
        let detail =
            format!("deliver_at must be a time such as 2026-12-01T09:00:00Z (RFC 3339); got {text:?}");
        return refused("invalid_deliver_at", detail);
    };
    if ttl == Ttl::NowOrNever {
        let detail = format!("deliver_at cannot be together with a ttl of 0: now or never; got {text:?}");
        return refused("invalid_deliver_at", detail);
    }
    // A time before 1970 is as past as any.
    Ok(UnixMillis(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)))
}

/// Whether `deliver_at` is a time that may be scheduled at `now`.
///
/// # Errors
/// [`Refused`] with code `invalid_deliver_at`: it is past, or too far ahead.
pub fn check_schedule(deliver_at: UnixMillis, now: UnixMillis, limits: &Limits) -> Result<(), Refused> {
    let last = now.after(limits.max_schedule);
    if now < deliver_at && deliver_at <= last {
        return Ok(());
    }
    let days = limits.max_schedule.as_secs() / 86_400;
    let detail =
        format!("deliver_at must be after {now} (now) and within {days} days ({last}); got {deliver_at}");
    refused("invalid_deliver_at", detail)
}

/// The same request with this `ttl`, in whole seconds (a part counts as one), byte for byte otherwise.
///
/// # Errors
/// [`Refused`] with code `invalid_json` if it is no JSON object.
pub fn with_ttl(json: &[u8], ttl: Duration) -> Result<Bytes, Refused> {
    let seconds = RawValue::from_string(ttl.as_millis().div_ceil(1_000).to_string()).map_err(no_json)?;
    let mut members = members(json)?;
    members.insert(Cow::Borrowed("ttl"), &seconds);
    written(&members)
}

/// The same request with this `type`, unless it has one; byte for byte otherwise.
///
/// # Errors
/// [`Refused`] with code `invalid_json` if it is no JSON object.
pub fn with_type(json: &[u8], word: &str) -> Result<Bytes, Refused> {
    let word = serde_json::value::to_raw_value(word).map_err(no_json)?;
    let mut members = members(json)?;
    members.entry(Cow::Borrowed("type")).or_insert(&word);
    written(&members)
}

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

fn members(json: &[u8]) -> Result<Members<'_>, Refused> {
    serde_json::from_slice(json).map_err(no_json)
}

fn written(members: &Members<'_>) -> Result<Bytes, Refused> {
    serde_json::to_vec(members).map(Bytes::from).map_err(no_json)
}

fn no_json(error: serde_json::Error) -> Refused {
    Refused { code: "invalid_json", detail: brief(error.to_string()) }
}

fn target(to: To, limits: &Limits) -> Result<Target, Refused> {
    let given = [to.users.is_some(), to.devices.is_some(), to.topic.is_some(), to.everyone == Some(true)];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => {
            return refused(
                "invalid_target",
                "to must name one of users, devices, topic or everyone: true; got none",
            );
        }
        several => {
            return refused(
                "invalid_target",
                format!("to must name one of users, devices, topic or everyone: true; got {several} of them"),
            );
        }
    }
    if let Some(users) = to.users {
        check_count("to.users", users.len(), limits.max_recipients)?;
        return Ok(Target::Users(without_doubles(users)));
    }
    if let Some(devices) = to.devices {
        check_count("to.devices", devices.len(), limits.max_recipients)?;
        return Ok(Target::Devices(without_doubles(
            devices.into_iter().map(|at| (at.user, at.device)).collect(),
        )));
    }
    Ok(to.topic.map_or(Target::Everyone, Target::Topic))
}

fn check_count(field: &str, count: usize, limit: usize) -> Result<(), Refused> {
    match count {
        0 => refused("invalid_target", format!("{field} must name at least one; got an empty list")),
        _ if count > limit => {
            refused("too_many_recipients", format!("{field} may name at most {limit}; got {count}"))
        }
        _ => Ok(()),
    }
}

/// Keeps the first of equal ones, in order.
fn without_doubles<T: Clone + Eq + std::hash::Hash>(list: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(list.len());
    list.into_iter().filter(|one| seen.insert(one.clone())).collect()
}

fn ttl(seconds: Option<i64>, limits: &Limits) -> Result<Ttl, Refused> {
    let max = limits.max_ttl.as_secs();
    match seconds.map(u64::try_from) {
        None => Ok(Ttl::UntilRetention),
        Some(Ok(0)) => Ok(Ttl::NowOrNever),
        Some(Ok(seconds)) if seconds <= max => Ok(Ttl::Lives(Duration::from_secs(seconds))),
        Some(_) => {
            refused("invalid_ttl", format!("ttl must be in 0..={max} seconds; got {}", seconds.unwrap_or(0)))
        }
    }
}

fn check_texts(request: &Request<'_>) -> Result<(), Refused> {
    for (field, text, longest) in [
        ("type", &request.kind, MAX_WORD_BYTES),
        ("collapse_key", &request.collapse_key, MAX_WORD_BYTES),
        ("title", &request.title, usize::MAX),
        ("body", &request.body, usize::MAX),
    ] {
        let Some(text) = text else { continue };
        if text.contains('\0') {
            return refused("invalid_text", format!("{field} must not contain \\u0000"));
        }
        if text.len() > longest {
            return refused(
                "invalid_text",
                format!("{field} may have at most {longest} bytes; got {}", text.len()),
            );
        }
    }
    match request.data {
        Some(data) if has_null_character(data.get()) => {
            refused("invalid_text", "data must not contain \\u0000")
        }
        _ => Ok(()),
    }
}

fn check_depth(data: Option<&RawValue>) -> Result<(), Refused> {
    match data.map_or(0, |data| depth(data.get())) {
        ..=MAX_DATA_DEPTH => Ok(()),
        deep => refused(
            "data_too_deep",
            format!(
                "data may have at most {MAX_DATA_DEPTH} arrays and objects within one another; got {deep}"
            ),
        ),
    }
}

/// How many arrays and objects of a JSON text lie within one another at most.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text) = (0_usize, 0, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_text = !in_text,
            // Only texts have escapes; what is escaped ends nothing.
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether a JSON text has the escape `\u0000` (an escaped backslash before `u0000` is another thing).
fn has_null_character(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with("u0000") {
            return true;
        }
        // Skips the escaped character, so that the second of two backslashes starts nothing.
        rest = escape.get(1..).unwrap_or("");
    }
    false
}

/// Makes an accepted notification: gives it its id and times and encodes it for clients.
///
/// # Errors
/// [`Refused`] with code `notification_too_large`.
pub fn accept(
    publication: &Publication,
    id: NotificationId,
    now: UnixMillis,
    limits: &Limits,
) -> Result<Notification, Refused> {
    #[derive(Serialize)]
    struct Shape<'a> {
        id: NotificationId,
        #[serde(rename = "type")]
        kind: Option<&'a str>,
        title: Option<&'a str>,
        body: Option<&'a str>,
        data: Option<&'a RawValue>,
        priority: Priority,
        collapse_key: Option<&'a str>,
        created_at: UnixMillis,
        expires_at: Option<UnixMillis>,
    }
    let expires_at = match publication.ttl {
        Ttl::Lives(ttl) => Some(now.after(ttl)),
        Ttl::UntilRetention | Ttl::NowOrNever => None,
    };
    let json = serde_json::to_vec(&Shape {
        id,
        kind: publication.kind.as_deref(),
        title: publication.title.as_deref(),
        body: publication.body.as_deref(),
        data: publication.data.as_deref(),
        priority: publication.priority,
        collapse_key: publication.collapse_key.as_deref(),
        created_at: now,
        expires_at,
    })
    .expect("a notification has text keys only");
    if json.len() > limits.max_notification_bytes {
        let limit = limits.max_notification_bytes;
        let detail =
            format!("a notification without its `to` may have at most {limit} bytes; got {}", json.len());
        return refused("notification_too_large", detail);
    }
    Ok(Notification { id, created_at: now, expires_at, json: Bytes::from(json) })
}

#[cfg(test)]
mod tests;
