//! One request from its head to its answer.
//!
//! Owns what all endpoints share: the request id, the span, the deadline, the metrics, and the headers
//! that every answer has. A client that goes away drops all of it at any await.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode};
use rand::RngExt;
use serde::Serialize;
use tokio::time::timeout;
use tracing::{Instrument, Span, debug_span, field};
use warp::Filter;
use warp::reply::Response;

use super::problem::{Answer, Problem};
use super::{State, allowance, body};
use crate::domain::PublisherId;
use crate::metrics::http::{HttpMetrics, RequestLabels, RouteLabels};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// A request without its body.
pub(super) struct Call {
    pub(super) state: Arc<State>,
    /// The template of its path, for metrics.
    pub(super) route: &'static str,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// The query string, as it came.
    pub(super) query: String,
    /// How much longer than others the answer may take, because the client wants to wait.
    pub(super) patience: Duration,
    /// The publisher that asks, once it has shown who it is.
    pub(super) publisher: OnceLock<PublisherId>,
    request_id: String,
}

/// Takes a request's head. It rejects nothing.
pub(super) fn call(
    state: &Arc<State>,
    route: &'static str,
) -> impl Filter<Extract = (Call,), Error = Infallible> + Clone + use<> {
    let state = Arc::clone(state);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method().and(warp::header::headers_cloned()).and(query).map(move |method, headers, query| {
        let request_id = request_id(&headers);
        Call {
            state: Arc::clone(&state),
            route,
            method,
            headers,
            query,
            patience: Duration::ZERO,
            publisher: OnceLock::new(),
            request_id,
        }
    })
}

/// Answers a request that has no body, or whose body nobody looks at.
pub(super) async fn without_body<F>(call: Call, run: impl FnOnce(Arc<Call>) -> F) -> Response
where
    F: Future<Output = Answer>,
{
    let (call, mut observed) = call.begin();
    let answer = call.within_deadline(run(Arc::clone(&call)));
    let answer = answer.instrument(call.span()).await;
    observed.end(call.finish(answer))
}

/// Answers a request with a body. `admit` looks at the head; only what it lets in is read.
pub(super) async fn with_body<A, S, B, W, F>(
    call: Call,
    body: S,
    admit: impl FnOnce(Arc<Call>) -> W,
    run: impl FnOnce(Arc<Call>, A, Bytes) -> F,
) -> Response
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
    W: Future<Output = Result<A, Problem>>,
    F: Future<Output = Answer>,
{
    let (call, mut observed) = call.begin();
    let mut body = std::pin::pin!(body);
    let settings = &call.state.settings;
    let read = async {
        let admitted = admit(Arc::clone(&call)).await?;
        let limit = settings.max_body_bytes;
        Ok((admitted, body::collect(&call.headers, &mut body, limit, settings.body_timeout).await?))
    };
    let answer = match read.await {
        Ok((admitted, bytes)) => {
            let answer = call.within_deadline(run(Arc::clone(&call), admitted, bytes));
            answer.instrument(call.span()).await
        }
        Err(problem) => {
            body::discard(&call.headers, &mut body).await;
            Err(problem)
        }
    };
    observed.end(call.finish(answer))
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("answers have text keys only");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Call {
    fn begin(self) -> (Arc<Self>, Observed) {
        let observed = Observed {
            metrics: self.state.metrics.http.clone(),
            started: Instant::now(),
            labels: RequestLabels { route: self.route, method: label(&self.method), status: "gone" },
        };
        (Arc::new(self), observed)
    }

    fn span(&self) -> Span {
        let traceparent = self.headers.get("traceparent").and_then(|value| value.to_str().ok());
        let span = debug_span!(
            "request",
            http.route = self.route,
            http.method = label(&self.method),
            request.id = self.request_id,
            traceparent = field::Empty
        );
        if let Some(traceparent) = traceparent.filter(|text| is_traceparent(text)) {
            span.record("traceparent", traceparent);
        }
        span
    }

    async fn within_deadline(&self, answer: impl Future<Output = Answer>) -> Answer {
        let deadline = self.state.settings.answer_timeout + self.patience;
        timeout(deadline, answer).await.unwrap_or_else(|_| Err(Problem::timeout()))
    }

    fn finish(&self, answer: Answer) -> Response {
        let answer = answer.unwrap_or_else(|problem| problem.into_response(Some(&self.request_id)));
        let mut response = answer;
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        allowance::tell(self, headers);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // Answers are about one person or moment; assets say otherwise themselves.
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }
}

/// Counts a request when it ends, answered or not.
struct Observed {
    metrics: HttpMetrics,
    started: Instant,
    labels: RequestLabels,
}

impl Observed {
    fn end(&mut self, response: Response) -> Response {
        self.labels.status = match response.status().as_u16() {
            0..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        response
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.metrics.requests.get_or_create(&self.labels).inc();
        let route = RouteLabels { route: self.labels.route };
        self.metrics.seconds.get_or_create(&route).observe(self.started.elapsed().as_secs_f64());
    }
}

/// One of few words: whatever a client writes there must not become a label.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The client's, if it can stand in a log line as it is; else a random one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_sane = |id: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@|:/+=-".contains(&byte);
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)
    };
    given.filter(is_sane).map_or_else(random_id, str::to_owned)
}

fn random_id() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    bytes.iter().fold(String::with_capacity(32), |mut id, byte| {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// W3C Trace Context section 3.2: version, trace id, parent id, flags, in lower-case hexadecimal.
fn is_traceparent(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    text.len() == 55 && lengths.eq([2, 32, 16, 2]) && text.bytes().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let of = |id: &'static str| {
            request_id(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(id))]))
        };
        assert_eq!(of("abc-1.2"), "abc-1.2");
        for bad in ["", "a b", "a\"b", "<script>"] {
            let id = of(bad);
            assert!(id.len() == 32 && id != bad, "{bad:?}: {id}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_traceparent_is_told_from_other_text() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7-01-",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
