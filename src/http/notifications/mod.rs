//! `POST /v1/notifications`.
//!
//! ```text
//! 202 {"id":"…","status":"accepted","recipients":1,"online":1} + Location
//! 202 {"id":"…","status":"scheduled",…} + Location, for deliver_at
//! 200 {"id":"…","status":"sent",…} for ttl 0
//! ```
//! A replayed idempotency key is answered as the first time, with `Idempotent-Replayed: true`. With
//! `Prefer: wait=N` the answer to what is stored says in `receipts` what became of it meanwhile.
//!
//! | file | what it does |
//! |---|---|
//! | `one` | one notification: its receipt, its cancellation |
//! | `batch` | many at once |
//! | `cloudevent` | a notification in a CloudEvent |
//! | `prefer` | how long to wait |

mod batch;
mod cloudevent;
mod one;
mod prefer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use serde::Serialize;
use tokio::time::Instant;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::allowance;
use super::bearer::bearer;
use super::body::check_type;
use super::call::{Call, call, json, with_body};
use super::problem::{Answer, Problem};
use super::query;
use crate::auth::Publisher;
use crate::domain::NotificationId;
use crate::inbox::Counts;
use crate::publish::{Accepted, How, Request, Waited};
use cloudevent::Form;

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
    /// Only for who waited; null: the inbox did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<Option<Counts>>,
}

/// What the head of a request says.
struct Head {
    publisher: Publisher,
    idempotency_key: Option<String>,
    /// Whether the notification is in an event.
    form: Form,
    /// How long the answer may take, and until when that is.
    wait: Option<(Duration, Instant)>,
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let publish = warp::path!("v1" / "notifications")
        .and(warp::post())
        .and(call(state, "/v1/notifications"))
        .and(warp::body::stream())
        .then(|mut call: Call, body| {
            call.patience = prefer::wait(&call.headers).unwrap_or_default();
            with_body(call, body, admit, publish)
        });
    publish.boxed().or(batch::route(state)).unify().or(one::routes(state)).unify().boxed()
}

async fn admit(call: Arc<Call>) -> Result<Head, Problem> {
    let publisher = publisher(&call).await?;
    check_type(&call.headers)?;
    query::pairs(&call.query, &[])?;
    let wait = (!call.patience.is_zero()).then(|| (call.patience, Instant::now() + call.patience));
    let idempotency_key = idempotency_key(&call.headers)?;
    let form = cloudevent::form(&call.headers)?;
    // Before the body is read.
    allowance::take(&call, &publisher, 1)?;
    Ok(Head { publisher, idempotency_key, form, wait })
}

/// The publisher whose key or token came.
pub(super) async fn publisher(call: &Call) -> Result<Publisher, Problem> {
    let credential = bearer(&call.headers, "a publisher's key")?;
    let state = &call.state;
    let publisher = state.publishers.authenticate_or_learn(credential, || state.clock.now()).await?;
    // The first: there is one credential.
    let _ = call.publisher.set(publisher.id.clone());
    Ok(publisher)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad_key("several"));
    }
    check_key(value.as_bytes()).map(|key| Some(key.to_owned()))
}

/// # Errors
/// 400 `invalid_idempotency_key`.
fn check_key(key: &[u8]) -> Result<&str, Problem> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(bad_key(&format!("{} bytes", key.len())));
    }
    match std::str::from_utf8(key) {
        Ok(text) if key.iter().all(u8::is_ascii_graphic) => Ok(text),
        _ => Err(bad_key("another character")),
    }
}

fn bad_key(got: &str) -> Problem {
    let detail =
        format!("Idempotency-Key must be 1..={MAX_KEY_BYTES} visible ASCII characters, once; got {got}");
    Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail)
}

async fn publish(call: Arc<Call>, head: Head, body: Bytes) -> Answer {
    let (json, key_of_event) = head.form.open(body)?;
    let request = Request {
        publisher: head.publisher,
        json,
        idempotency_key: head.idempotency_key.or(key_of_event),
        default_ttl: None,
        sent_at: None,
        source: "http",
    };
    let publishing = &call.state.publishing;
    let done = publishing.publish(request).await?;
    let waited = match head.wait {
        // What is not stored (yet) has no receipts to wait for.
        Some((wait, until)) if matches!(done.how, How::Stored | How::Replayed) => {
            match publishing.outcome(done.id, until).await {
                Waited::Stands(counts) => Some((wait, counts)),
                Waited::TooMany => None,
            }
        }
        _ => None,
    };
    Ok(accepted(&done, waited))
}

/// The status of an answer, and the word in it.
fn word(how: How) -> (StatusCode, &'static str) {
    match how {
        How::Stored | How::Replayed => (StatusCode::ACCEPTED, "accepted"),
        How::Scheduled | How::ScheduleReplayed => (StatusCode::ACCEPTED, "scheduled"),
        How::Sent => (StatusCode::OK, "sent"),
    }
}

fn accepted(accepted: &Accepted, waited: Option<(Duration, Option<Counts>)>) -> Response {
    let Accepted { id, recipients, online, how } = *accepted;
    let (status, word) = word(how);
    let receipts = waited.map(|(_, counts)| counts);
    let mut response = json(status, &Shape { id, status: word, recipients, online, receipts });
    let headers = response.headers_mut();
    if how != How::Sent
        && let Ok(location) = HeaderValue::from_str(&format!("/v1/notifications/{id}"))
    {
        headers.insert(LOCATION, location);
    }
    if matches!(how, How::Replayed | How::ScheduleReplayed) {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some((wait, _)) = waited
        && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
    {
        headers.insert(prefer::PREFERENCE_APPLIED, applied);
    }
    response
}
