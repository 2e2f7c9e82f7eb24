//! `POST /v1/notifications/batch`: up to 1 000 at once, each with a key and a result of its own.
//!
//! ```text
//! {"notifications":[{"idempotency_key":"order-42","notification":{"to":{"users":["alice"]},…}},…]}
//! 200 {"results":[{"status":202,"id":"…","recipients":1,"online":1},
//!                 {"status":422,"code":"invalid_ttl","detail":"…"},…]}
//! ```
//! The items are independent: what one is told says nothing of the others, and they are stored in no particular
//! order. Those of one batch share commits.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::{check_key, publisher, word};
use crate::auth::Publisher;
use crate::domain::NotificationId;
use crate::http::State;
use crate::http::allowance;
use crate::http::body::{self, check_type};
use crate::http::call::{Call, call, json, with_body};
use crate::http::problem::{Answer, Problem};
use crate::publish::{Accepted, How, Request};

/// How many notifications one request may have.
const MAX_ITEMS: usize = 1_000;

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("v1" / "notifications" / "batch")
        .and(warp::post())
        .and(call(state, "/v1/notifications/batch"))
        .and(warp::body::stream())
        .then(|call, body| with_body(call, body, admit, batch))
        .boxed()
}

async fn admit(call: Arc<Call>) -> Result<Publisher, Problem> {
    let publisher = publisher(&call).await?;
    check_type(&call.headers)?;
    if call.headers.contains_key(super::IDEMPOTENCY_KEY) {
        let detail = "a batch has no Idempotency-Key: each item may have an idempotency_key";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail));
    }
    Ok(publisher)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    notifications: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(default)]
    idempotency_key: Option<String>,
    notification: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Told {
    Accepted {
        status: u16,
        #[serde(rename = "result")]
        word: &'static str,
        id: NotificationId,
        recipients: Option<u32>,
        online: Option<u32>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    Refused {
        status: u16,
        code: &'static str,
        detail: String,
    },
}

async fn batch(call: Arc<Call>, publisher: Publisher, bytes: Bytes) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        results: Vec<Told>,
    }
    let batch: Batch = body::json(&bytes)?;
    let count = batch.notifications.len();
    if !(1..=MAX_ITEMS).contains(&count) {
        let detail = format!("notifications must have 1..={MAX_ITEMS} items; got {count}");
        return Err(Problem::invalid("invalid_request", detail));
    }
    allowance::take(&call, &publisher, u32::try_from(count).unwrap_or(u32::MAX))?;
    let items = batch.notifications.into_iter().map(|item| one(&call.state, publisher.clone(), item));
    Ok(json(StatusCode::OK, &Shape { results: join_all(items).await }))
}

async fn one(state: &State, publisher: Publisher, item: Item) -> Told {
    let told = async {
        if let Some(key) = &item.idempotency_key {
            check_key(key.as_bytes())?;
        }
        let json = Bytes::copy_from_slice(item.notification.get().as_bytes());
        let idempotency_key = item.idempotency_key;
        let request =
            Request { publisher, json, idempotency_key, default_ttl: None, sent_at: None, source: "http" };
        Ok(state.publishing.publish(request).await?)
    };
    match told.await {
        Ok(Accepted { id, recipients, online, how }) => {
            let (status, word) = word(how);
            let replayed = matches!(how, How::Replayed | How::ScheduleReplayed);
            Told::Accepted { status: status.as_u16(), word, id, recipients, online, replayed }
        }
        Err(problem) => {
            let problem: Problem = problem;
            let (status, code, detail) = problem.into_parts();
            Told::Refused { status, code, detail }
        }
    }
}
