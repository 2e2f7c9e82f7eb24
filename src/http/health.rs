//! `/livez`, `/readyz`, `/metrics`: for orchestrators, balancers and Prometheus. No credentials.
//!
//! Owns the rule when a node is ready. Redis or RabbitMQ away is not a reason to leave it: it serves on,
//! degraded, and every other node would be in the same state.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde::Serialize;
use tokio::sync::watch;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::call::{Call, call, json, without_body};
use super::paths::get;
use super::problem::Answer;
use crate::broker::Health;

/// A clock that is further off than this makes deadlines in presence wrong.
const MAX_SKEW_MS: u64 = 1_000;

/// One dependency, as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It works.
    Up,
    /// It does not: why, for operators. Never holds a credential.
    Down(String),
}

/// What a node knows of itself and its dependencies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the start is complete.
    pub started: bool,
    /// Whether the node is being stopped.
    pub draining: bool,
    /// SQL.
    pub inbox: Check,
    /// Redis.
    pub presence: Check,
    /// RabbitMQ.
    pub broker: Health,
    /// How far the clock is ahead of presence's, in milliseconds; `None` while that is not known.
    pub skew_ms: Option<i64>,
    /// Whether this node cannot refresh its presence.
    pub blind: bool,
}

impl Readiness {
    /// Before anything is known: starting, everything down.
    pub fn starting() -> Self {
        let unknown = || Check::Down("not asked yet".to_owned());
        Self {
            started: false,
            draining: false,
            inbox: unknown(),
            presence: unknown(),
            broker: Health::Down,
            skew_ms: None,
            blind: false,
        }
    }

    /// What follows from it.
    pub fn status(&self) -> Status {
        let is_skewed = self.skew_ms.is_some_and(|skew| skew.unsigned_abs() > MAX_SKEW_MS);
        match self {
            Self { draining: true, .. } => Status::Draining,
            Self { started: false, .. } => Status::Starting,
            Self { inbox: Check::Down(_), .. } => Status::NotReady,
            _ if is_skewed => Status::NotReady,
            Self { presence: Check::Up, broker: Health::Up, blind: false, .. } => Status::Ready,
            _ => Status::Degraded,
        }
    }
}

/// Whether traffic should come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Yes.
    Ready,
    /// Yes: it works, though pushing is slower or presence is not known.
    Degraded,
    /// Not yet.
    Starting,
    /// Not any more.
    Draining,
    /// No: without SQL, or with a wrong clock.
    NotReady,
}

impl Status {
    /// Whether `/readyz` is 200.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let livez = warp::path!("livez").and(get()).and(call(state, "/livez"));
    let livez = livez.then(|call| without_body(call, |_| async { Ok(Response::new("ok".into())) }));
    let readyz = warp::path!("readyz").and(get()).and(call(state, "/readyz"));
    let readyz = readyz.then(|call| without_body(call, readyz_answer));
    let metrics = warp::path!("metrics").and(get()).and(call(state, "/metrics"));
    let metrics = metrics.then(|call| without_body(call, metrics_answer));
    livez.boxed().or(readyz.boxed()).unify().or(metrics.boxed()).unify().boxed()
}

/// The admin listener before the start is complete: `/livez` says that the process lives, everything else how the
/// start is going.
pub fn starting_routes(readiness: watch::Receiver<Readiness>) -> BoxedFilter<(Response,)> {
    let answer = move |path: warp::path::FullPath| match path.as_str() {
        "/livez" => Response::new("ok".into()),
        _ => answer(&readiness.borrow()),
    };
    warp::path::full().map(answer).boxed()
}

async fn readyz_answer(call: Arc<Call>) -> Answer {
    let mut readiness = call.state.readiness.borrow().clone();
    readiness.draining |= call.state.delivery.is_draining();
    readiness.blind |= call.state.delivery.is_blind();
    Ok(answer(&readiness))
}

fn answer(readiness: &Readiness) -> Response {
    let status = readiness.status();
    let shape = Shape {
        status,
        checks: Checks {
            inbox: dependency(&readiness.inbox),
            presence: presence(readiness),
            broker: Dependency { status: health(readiness.broker), detail: None },
            clock: Clock { skew_ms: readiness.skew_ms },
        },
    };
    if status.is_ready() {
        return json(StatusCode::OK, &shape);
    }
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &shape);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[derive(Serialize)]
struct Shape<'a> {
    status: Status,
    checks: Checks<'a>,
}

#[derive(Serialize)]
struct Checks<'a> {
    inbox: Dependency<'a>,
    presence: Dependency<'a>,
    broker: Dependency<'a>,
    clock: Clock,
}

#[derive(Serialize)]
struct Dependency<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Clock {
    skew_ms: Option<i64>,
}

fn dependency(check: &Check) -> Dependency<'_> {
    match check {
        Check::Up => Dependency { status: "up", detail: None },
        Check::Down(why) => Dependency { status: "down", detail: Some(why) },
    }
}

fn presence(readiness: &Readiness) -> Dependency<'_> {
    let mut presence = dependency(&readiness.presence);
    if readiness.blind {
        presence.detail.get_or_insert("this node is blind: it cannot refresh its presence");
    }
    presence
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Up => "up",
        Health::Blocked => "blocked",
        Health::Down => "down",
    }
}

async fn metrics_answer(call: Arc<Call>) -> Answer {
    let mut response = Response::new(call.state.metrics.encode().into());
    // The OpenMetrics text format, version 1.0.0.
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Readiness {
        Readiness {
            started: true,
            draining: false,
            inbox: Check::Up,
            presence: Check::Up,
            broker: Health::Up,
            skew_ms: Some(-12),
            blind: false,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Readiness), status: Status, code: u16) {
        let mut readiness = ready();
        change(&mut readiness);
        assert_eq!(readiness.status(), status);
        assert_eq!(answer(&readiness).status().as_u16(), code);
    }

    #[test]
    fn only_sql_the_clock_the_start_and_the_end_make_a_node_not_ready() {
        let down = || Check::Down("gone".to_owned());
        check(|_| {}, Status::Ready, 200);
        check(|it| it.skew_ms = None, Status::Ready, 200);
        check(|it| it.skew_ms = Some(1_000), Status::Ready, 200);
        check(|it| it.presence = down(), Status::Degraded, 200);
        check(|it| it.broker = Health::Down, Status::Degraded, 200);
        check(|it| it.broker = Health::Blocked, Status::Degraded, 200);
        check(|it| it.blind = true, Status::Degraded, 200);
        check(|it| it.skew_ms = Some(1_001), Status::NotReady, 503);
        check(|it| it.skew_ms = Some(i64::MIN), Status::NotReady, 503);
        check(|it| it.inbox = down(), Status::NotReady, 503);
        check(|it| it.started = false, Status::Starting, 503);
        check(|it| it.draining = true, Status::Draining, 503);
        assert_eq!(Readiness::starting().status(), Status::Starting);
    }
}
