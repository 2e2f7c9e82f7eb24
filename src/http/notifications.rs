//! `POST /v1/notifications`.
//!
//! ```text
//! 202 {"id":"…","status":"accepted","recipients":1,"online":1} + Location
//! 200 {"id":"…","status":"sent",…} for ttl 0
//! ```
//! A replayed idempotency key is answered as the first time, with `Idempotent-Replayed: true`.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::bearer::bearer;
use super::body::check_type;
use super::call::{Call, call, json, with_body};
use super::problem::{Answer, Problem};
use crate::auth::Publisher;
use crate::domain::NotificationId;
use crate::publish::{Accepted, How, Request};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The longest idempotency key, in bytes: as long as an AMQP short string (0-9-1, section 4.2.5.3).
const MAX_KEY_BYTES: usize = 255;

#[derive(Serialize)]
struct Shape {
    id: NotificationId,
    status: &'static str,
    recipients: Option<u32>,
    online: Option<u32>,
}

/// What the head of a request says.
struct Head {
    publisher: Publisher,
    idempotency_key: Option<String>,
}

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("v1" / "notifications")
        .and(warp::post())
        .and(call(state, "/v1/notifications"))
        .and(warp::body::stream())
        .then(|call, body| with_body(call, body, admit, publish))
        .boxed()
}

fn admit(call: &Call) -> Result<Head, Problem> {
    let publisher = publisher(call)?;
    check_type(&call.headers)?;
    Ok(Head { publisher, idempotency_key: idempotency_key(&call.headers)? })
}

/// The publisher whose key or token came.
pub(super) fn publisher(call: &Call) -> Result<Publisher, Problem> {
    let credential = bearer(&call.headers, "a publisher's key")?;
    Ok(call.state.publishers.authenticate(credential, call.state.clock.now())?)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let refuse = |got: String| {
        let detail =
            format!("Idempotency-Key must be 1..={MAX_KEY_BYTES} visible ASCII characters, once; got {got}");
        Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail))
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return refuse("several".to_owned());
    }
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_KEY_BYTES {
        return refuse(format!("{} bytes", bytes.len()));
    }
    match value.to_str() {
        Ok(key) if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(key.to_owned())),
        _ => refuse("another character".to_owned()),
    }
}

async fn publish(call: Arc<Call>, head: Head, json: Bytes) -> Answer {
    let request = Request {
        publisher: head.publisher,
        json,
        idempotency_key: head.idempotency_key,
        default_ttl: None,
        source: "http",
    };
    Ok(accepted(&call.state.publishing.publish(request).await?))
}

fn accepted(accepted: &Accepted) -> Response {
    let Accepted { id, recipients, online, how } = *accepted;
    let (status, word) = match how {
        How::Stored | How::Replayed => (StatusCode::ACCEPTED, "accepted"),
        How::Sent => (StatusCode::OK, "sent"),
    };
    let mut response = json(status, &Shape { id, status: word, recipients, online });
    let headers = response.headers_mut();
    if how != How::Sent
        && let Ok(location) = HeaderValue::from_str(&format!("/v1/notifications/{id}"))
    {
        headers.insert(LOCATION, location);
    }
    if how == How::Replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
