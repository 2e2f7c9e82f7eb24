//! Dead letters: AMQP messages that were refused for good, for operators to look at and settle.
//!
//! Whichever node is asked, the letters are the same: they lie in the broker. A body is shown only one at a time, and
//! never logged.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use tracing::info;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::admin;
use crate::broker::{DeadLetter, DeadLetterError};
use crate::domain::{Priority, UnixMillis};
use crate::http::State;
use crate::http::call::{Call, call, json, without_body};
use crate::http::paths::get;
use crate::http::problem::{Answer, Problem};
use crate::http::query;

/// How many letters are listed unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// The highest `limit`.
const MAX_LIMIT: usize = 1_000;

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let list = warp::path!("admin" / "dead-letters")
        .and(get())
        .and(call(state, "/admin/dead-letters"))
        .then(|call| without_body(call, list));
    let show = warp::path!("admin" / "dead-letters" / String)
        .and(get())
        .and(call(state, "/admin/dead-letters/{id}"))
        .then(|id, call| without_body(call, |call| show(call, id)));
    let delete = warp::path!("admin" / "dead-letters" / String)
        .and(warp::delete())
        .and(call(state, "/admin/dead-letters/{id}"))
        .then(|id, call| without_body(call, |call| delete(call, id)));
    let requeue = warp::path!("admin" / "dead-letters" / String / "requeue")
        .and(warp::post())
        .and(call(state, "/admin/dead-letters/{id}/requeue"))
        .then(|id, call| without_body(call, |call| requeue(call, id)));
    let one = show.boxed().or(delete.boxed()).unify();
    list.boxed().or(one).unify().or(requeue.boxed()).unify().boxed()
}

/// A letter as operators see it.
#[derive(Debug, Serialize)]
struct Shape<'a> {
    id: &'a str,
    code: &'a str,
    reason: &'a str,
    first_failed_at: Option<UnixMillis>,
    last_failed_at: Option<UnixMillis>,
    failures: u64,
    lane: Priority,
    routing_key: &'a str,
    publisher: Option<&'a str>,
    message_id: Option<&'a str>,
    expiration: Option<&'a str>,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> Shape<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        Self {
            id: &letter.id,
            code: &letter.code,
            reason: &letter.reason,
            first_failed_at: letter.first_failed_at,
            last_failed_at: letter.last_failed_at,
            failures: letter.failures,
            lane: letter.lane,
            routing_key: &letter.routing_key,
            publisher: letter.publisher.as_deref(),
            message_id: letter.message_id.as_deref(),
            expiration: letter.expiration.as_deref(),
            size: letter.size,
            body: None,
            body_base64: None,
        }
    }

    /// As text if it is one.
    fn with_body(self, body: &'a Bytes) -> Self {
        match std::str::from_utf8(body) {
            Ok(text) => Self { body: Some(text), ..self },
            Err(_) => Self { body_base64: Some(STANDARD.encode(body)), ..self },
        }
    }
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    dead_letters: Vec<Shape<'a>>,
    /// `after` of the next page.
    next: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Requeued<'a> {
    id: &'a str,
    status: &'static str,
    lane: Priority,
}

async fn list(call: Arc<Call>) -> Answer {
    admin(&call)?;
    let pairs = query::pairs(&call.query, &["limit", "after"])?;
    let limit = |text: &str| match text.parse() {
        Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(format!("must be in 1..={MAX_LIMIT}; got {text:?}")),
    };
    let limit = query::one(&pairs, "limit", limit)?.unwrap_or(DEFAULT_LIMIT);
    let after = query::one(&pairs, "after", |text| Ok::<_, String>(text.to_owned()))?;
    let found = call.state.graveyard.list(after.as_deref(), limit).await?;
    let last = found.letters.last().filter(|_| found.more);
    let next = last.map(|letter| letter.id.as_str());
    Ok(json(StatusCode::OK, &Page { dead_letters: found.letters.iter().map(Shape::of).collect(), next }))
}

async fn show(call: Arc<Call>, id: String) -> Answer {
    admin(&call)?;
    let (letter, body) = call.state.graveyard.find(&query::decode(&id)?).await?;
    Ok(json(StatusCode::OK, &Shape::of(&letter).with_body(&body)))
}

async fn requeue(call: Arc<Call>, id: String) -> Answer {
    let admin = admin(&call)?;
    let letter = call.state.graveyard.requeue(&query::decode(&id)?).await?;
    info!(
        admin.id = admin.id,
        letter.id, letter.code, "an administrator put a dead letter back into its lane"
    );
    let shape = Requeued { id: &letter.id, status: "requeued", lane: letter.lane };
    Ok(json(StatusCode::OK, &shape))
}

async fn delete(call: Arc<Call>, id: String) -> Answer {
    let admin = admin(&call)?;
    let letter = call.state.graveyard.delete(&query::decode(&id)?).await?;
    info!(admin.id = admin.id, letter.id, letter.code, "an administrator deleted a dead letter");
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        let detail = error.to_string();
        match error {
            DeadLetterError::Unknown(_) => Self::not_found(detail),
            DeadLetterError::Unavailable => Self::unavailable("broker_unavailable", detail),
            DeadLetterError::Busy => Self::unavailable("dead_letters_busy", detail),
            DeadLetterError::NotRequeued(_) => Self::unavailable("not_requeued", detail),
        }
    }
}
