//! The HTTP endpoints: publishing, presence, the user's own, the demo page; health, metrics, administration.
//!
//! Owns the shapes of requests and answers and their status codes. It decides nothing about
//! notifications: it asks `publish`, `delivery`, `presence` and `auth`. It must not know of sockets
//! (the gateway adds `GET /v1/connect` to the same listener) and not of the configuration.
//!
//! | file | what it does |
//! |---|---|
//! | `call` | one request: its id, span, deadline, metrics; how its answer is finished |
//! | `paths` | all paths and their methods: 404, 405, OPTIONS |
//! | `problem` | errors as `application/problem+json` |
//! | `body`, `query`, `bearer`, `origin` | what is read from requests |
//! | `notifications`, `presence`, `users`, `demo` | the client listener |
//! | `health`, `admin` | the admin listener |

mod admin;
mod allowance;
mod bearer;
mod body;
mod call;
mod demo;
mod health;
mod notifications;
mod origin;
mod paths;
mod presence;
mod problem;
mod query;
mod users;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::auth::{Admins, Publishers, Secret, SigningKey, UserTokens};
use crate::broker::Graveyard;
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::presence::{NodeLease, Presence};
use crate::publish::Publishing;

pub use health::{Check, Readiness, Status, starting_routes};
use problem::Problem;

/// Bounds of requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest body, in bytes: 2 MiB unless configured.
    pub max_body_bytes: usize,
    /// How long a client may take to send a body.
    pub body_timeout: Duration,
    /// How long an endpoint may take once the body is there; then it is 503.
    pub answer_timeout: Duration,
    /// How long another node may take to answer an operator's question.
    pub ask_timeout: Duration,
    /// How long a revocation is kept.
    pub revocation_life: Duration,
    /// Origins of other sites whose pages may use what is a user's, as browsers send them (`https://example.org`).
    pub allowed_origins: Vec<String>,
}

/// Whether there is a demo page.
#[derive(Debug)]
pub enum Demo {
    /// No.
    Off,
    /// It is there, and asks for a token and a key.
    On,
    /// It is there, and gets a token and a key from the node: a trial set-up only.
    Trial(Trial),
}

/// What the demo page of a trial set-up is given.
#[derive(Debug)]
pub struct Trial {
    /// Signs tokens for whatever user the page asks for.
    pub key: SigningKey,
    /// How long they last.
    pub token_ttl: Duration,
    /// The trial's API key.
    pub publisher_key: Secret,
}

/// What the endpoints ask.
pub struct State {
    /// Bounds.
    pub settings: Settings,
    /// This node as others see it; its number of connections and whether it drains are asked of `delivery`.
    pub node: NodeLease,
    /// The time.
    pub clock: Clock,
    /// Takes notifications in.
    pub publishing: Arc<Publishing>,
    /// Knows the connections of this node, and asks other nodes.
    pub delivery: Arc<Delivery>,
    /// Who is where.
    pub presence: Arc<dyn Presence>,
    /// Where dead letters are kept.
    pub graveyard: Arc<dyn Graveyard>,
    /// What became of notifications, what users have and have read, when they were last seen.
    pub inbox: Arc<dyn Inbox>,
    /// Who may publish, and see presence.
    pub publishers: Arc<Publishers>,
    /// Whose a user's token is.
    pub tokens: Arc<UserTokens>,
    /// Who may use `/admin`.
    pub admins: Arc<Admins>,
    /// Printed, and counted in.
    pub metrics: Arc<Metrics>,
    /// The demo page.
    pub demo: Demo,
    /// What the node knows of itself and its dependencies. The composition root keeps it up to date; that
    /// the node drains or is blind is also asked of `delivery`, so that it shows at once.
    pub readiness: watch::Receiver<Readiness>,
    /// Starts the drain of this node; returns at once; more calls do nothing.
    pub drain: Box<dyn Fn() + Send + Sync>,
}

/// Everything on the client listener but `GET /v1/connect`, which has to come before it with `.or()`:
/// this answers every request, with 404 and 405 for what it does not know.
pub fn client_routes(state: Arc<State>) -> BoxedFilter<(Response,)> {
    let api = notifications::routes(&state)
        .or(presence::route(&state))
        .unify()
        .or(users::routes(&state))
        .unify()
        .boxed();
    match state.demo {
        Demo::Off => api.or(paths::rest(&state, &[paths::CLIENT])).unify().boxed(),
        Demo::On | Demo::Trial(_) => {
            let rest = paths::rest(&state, &[paths::CLIENT, paths::DEMO]);
            api.or(demo::routes(&state)).unify().or(rest).unify().boxed()
        }
    }
}

/// Everything on the admin listener. It answers every request.
pub fn admin_routes(state: Arc<State>) -> BoxedFilter<(Response,)> {
    health::routes(&state)
        .or(admin::routes(&state))
        .unify()
        .or(paths::rest(&state, &[paths::ADMIN]))
        .unify()
        .boxed()
}

/// What to make of a rejection that nobody answered: a problem, as for everything else. The routes
/// above reject nothing; this is for those that are composed with them.
///
/// # Errors
/// None.
pub async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    // A filter that wants another method has found its path; the 405 with `Allow` is up to `paths`.
    if !rejection.is_not_found() && rejection.find::<warp::reject::MethodNotAllowed>().is_none() {
        tracing::error!(?rejection, "a route rejected a request instead of answering it");
        return Ok(Problem::internal().into_response(None));
    }
    Ok(Problem::not_found("there is no such path").into_response(None))
}
