//! CloudEvents 1.0.2 in place of a plain request: what `data` holds is published.
//!
//! Owns the two forms in which an event comes over HTTP (its HTTP binding, sections 3.1 and 3.2) and what its attributes
//! mean here: `source` and `id` together are the idempotency key, `type` is that of a notification that has none.
//! Everything else that it may say is passed over. It must never look into the notification.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Problem;
use crate::publish::PublishError;
use crate::wire::publish::with_type;

/// The only one there is.
const VERSION: &str = "1.0";

/// How a request comes.
pub(super) enum Form {
    /// The body is the notification.
    Plain,
    /// The body is the notification, and headers say the rest.
    Binary(Context),
    /// The body is an event with the notification in it.
    Structured,
}

/// What is needed of an event's attributes.
pub(super) struct Context {
    id: String,
    source: String,
    kind: String,
}

/// An event as JSON (its JSON format, section 2 and 3).
#[derive(Deserialize)]
struct Structured<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
}

/// What the head of a request says about its form.
///
/// # Errors
/// 400 `invalid_cloudevent`; 415 for a batch of events.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/cloudevents+json" => return Ok(Form::Structured),
        "application/cloudevents-batch+json" => {
            let detail = "events are taken one by one: application/cloudevents+json; got a batch";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        _ => {}
    }
    if !headers.contains_key("ce-specversion") {
        return Ok(Form::Plain);
    }
    let attribute = |name: &'static str| {
        // Section 3.1.3.2: what is not printable ASCII is percent-encoded.
        let value = headers.get(name)?.to_str().ok()?;
        percent_decode_str(value).decode_utf8().ok()
    };
    let [version, id, source, kind] = ["ce-specversion", "ce-id", "ce-source", "ce-type"].map(attribute);
    context(version, id, source, kind).map(Form::Binary)
}

impl Form {
    /// The notification's JSON, and the key that the event brings.
    ///
    /// # Errors
    /// 400 `invalid_cloudevent`, `invalid_json`.
    pub(super) fn open(self, body: Bytes) -> Result<(Bytes, Option<String>), Problem> {
        match self {
            Self::Plain => Ok((body, None)),
            Self::Binary(context) => context.publish(&body),
            Self::Structured => {
                let event: Structured<'_> =
                    serde_json::from_slice(&body).map_err(|error| invalid(&error.to_string()))?;
                let context = context(event.specversion, event.id, event.source, event.kind)?;
                match (event.data, event.data_base64) {
                    (Some(data), None) => context.publish(data.get().as_bytes()),
                    (None, Some(data)) => {
                        let data = STANDARD.decode(data.as_bytes());
                        context.publish(&data.map_err(|error| invalid(&format!("data_base64: {error}")))?)
                    }
                    (None, None) => Err(invalid("data must hold the notification; there is none")),
                    (Some(_), Some(_)) => Err(invalid("one of data and data_base64; got both")),
                }
            }
        }
    }
}

impl Context {
    fn publish(&self, data: &[u8]) -> Result<(Bytes, Option<String>), Problem> {
        let json = with_type(data, &self.kind).map_err(PublishError::from)?;
        // Both may be of any length, and hold anything.
        let digest =
            Sha256::new().chain_update(&self.source).chain_update([0]).chain_update(&self.id).finalize();
        Ok((json, Some(format!("cloudevent-{}", URL_SAFE_NO_PAD.encode(digest)))))
    }
}

fn context(
    version: Option<Cow<'_, str>>,
    id: Option<Cow<'_, str>>,
    source: Option<Cow<'_, str>>,
    kind: Option<Cow<'_, str>>,
) -> Result<Context, Problem> {
    let needed = |name: &str, value: Option<Cow<'_, str>>| {
        let value = value.filter(|value| !value.is_empty());
        value.map(Cow::into_owned).ok_or_else(|| invalid(&format!("{name} must be there and not empty")))
    };
    let version = needed("specversion", version)?;
    if version != VERSION {
        return Err(invalid(&format!("specversion must be {VERSION:?}; got {version:.32?}")));
    }
    Ok(Context { id: needed("id", id)?, source: needed("source", source)?, kind: needed("type", kind)? })
}

fn invalid(detail: &str) -> Problem {
    let detail: String = detail.chars().take(200).collect();
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cloudevent", detail)
}
