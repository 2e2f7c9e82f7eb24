//! A publisher's rate over HTTP: 429 beyond it, and on each of its answers how much is left.
//!
//! Owns the headers of draft-ietf-httpapi-ratelimit-headers-10. Who has no rate never sees any.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::call::Call;
use super::problem::Problem;
use crate::auth::Publisher;
use crate::metrics::publish::PublishLabels;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Takes `count` notifications off what `publisher` may send now.
///
/// # Errors
/// 429 `rate_limited`, with the time until they could be sent.
pub(super) fn take(call: &Call, publisher: &Publisher, count: u32) -> Result<(), Problem> {
    let Some(allowance) = call.state.publishers.allowance(&publisher.id) else { return Ok(()) };
    let Err(wait) = allowance.take(count, call.state.clock.now()) else { return Ok(()) };
    let labels = PublishLabels { source: "http", outcome: "rate_limited" };
    call.state.metrics.publish.requests.get_or_create(&labels).inc();
    let (rate, seconds) = (allowance.rate(), wait.as_secs() + 1);
    let detail = format!(
        "this publisher may send {} notifications a second, {} at once; got {count}, for which there is room in \
         {seconds} s",
        rate.per_second, rate.burst
    );
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
    Err(problem.with_header(RETRY_AFTER, &seconds.to_string()))
}

/// Says how much is left to the publisher that asked, if it has a rate.
pub(super) fn tell(call: &Call, headers: &mut HeaderMap) {
    let allowance = call.publisher.get().and_then(|id| call.state.publishers.allowance(id));
    let Some(allowance) = allowance else { return };
    let rate = allowance.rate();
    let (left, full_in) = allowance.left(call.state.clock.now());
    let window = rate.burst.div_ceil(rate.per_second.max(1));
    let reset = full_in.as_millis().div_ceil(1_000);
    for (name, value) in [
        (POLICY, format!("\"publisher\";q={};w={window}", rate.burst)),
        (LEFT, format!("\"publisher\";r={left};t={reset}")),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}
