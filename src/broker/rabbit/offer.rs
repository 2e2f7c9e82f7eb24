//! What the node is shown of a published message.
//!
//! Owns the reading of properties and headers for it. It must never believe what only this login may say: that is for
//! [`super::epitaph`] to tell.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

use super::epitaph::Original;
use super::shared::Shared;
use crate::broker::{Ingress, Settle};

/// A message as the node gets it; `settle` is its answer.
pub(super) fn offered(shared: &Shared, original: &Original, settle: Settle) -> Ingress {
    let (properties, login) = (&original.properties, shared.login());
    Ingress {
        lane: original.lane,
        body: original.body.clone(),
        message_id: properties.message_id().as_ref().map(ShortString::to_string),
        expiration: original.expiration(login.as_deref()),
        sent_at: original.sent_at(login.as_deref()),
        user_id: original.user_id(login.as_deref()),
        traceparent: traceparent(properties),
        settle,
    }
}

fn traceparent(properties: &BasicProperties) -> Option<String> {
    let headers = properties.headers().as_ref()?;
    match headers.inner().get("traceparent")? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}
