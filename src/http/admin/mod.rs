//! `/admin`: what operators see and do. A bearer token is needed for all of it.
//!
//! | | |
//! |---|---|
//! | `GET /admin/nodes` | every live node, this one first |
//! | `GET /admin/connections?user=&node=&limit=` | connections, asked of the nodes themselves |
//! | `DELETE /admin/connections/{id}` | closes one, on whichever node it is |
//! | `GET /admin/presence/{user}` | what presence knows of a user |
//! | `DELETE /admin/users/{id}` | erases what is stored of a user |
//! | `GET /admin/dead-letters?limit=&after=` | AMQP messages that were refused for good |
//! | `GET, DELETE /admin/dead-letters/{id}` | one of them, with its body; away with it |
//! | `POST /admin/dead-letters/{id}/requeue` | back into its lane |
//! | `GET, POST, DELETE /admin/revocations` | tokens that are refused before they run out |
//! | `GET, POST /admin/drain` | sends this node's clients away, and says how far that is |

mod connections;
mod dead_letters;
mod revocations;
mod users;

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use tracing::{debug, info};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::bearer::bearer;
use super::call::{Call, call, json, without_body};
use super::paths::get;
use super::presence::of_users;
use super::problem::{Answer, Problem};
use super::query;
use crate::auth::Admin;
use crate::domain::{NodeId, UnixMillis, UserId};
use crate::presence::NodeLease;

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let nodes = warp::path!("admin" / "nodes").and(get()).and(call(state, "/admin/nodes"));
    let nodes = nodes.then(|call| without_body(call, nodes_answer));
    let presence = warp::path!("admin" / "presence" / String)
        .and(get())
        .and(call(state, "/admin/presence/{user}"))
        .then(|user, call| without_body(call, |call| presence_answer(call, user)));
    let drain = warp::path!("admin" / "drain").and(warp::post()).and(call(state, "/admin/drain"));
    let drain = drain.then(|call| without_body(call, drain_answer));
    let progress = warp::path!("admin" / "drain").and(get()).and(call(state, "/admin/drain"));
    let progress = progress.then(|call| without_body(call, progress_answer));
    let drain = drain.boxed().or(progress.boxed()).unify();
    let rest = presence.boxed().or(drain).unify().or(users::route(state)).unify();
    let rest = rest.or(dead_letters::routes(state)).unify().or(revocations::routes(state)).unify();
    nodes.boxed().or(connections::routes(state)).unify().or(rest).unify().boxed()
}

/// The administrator whose token came.
fn admin(call: &Call) -> Result<Admin, Problem> {
    let token = bearer(&call.headers, "an admin token")?;
    let admin = call.state.admins.authenticate(token);
    admin.ok_or_else(|| Problem::bad_credential("invalid_key", "the admin token is not known"))
}

/// The nodes that are known to live.
struct Nodes {
    /// This one first, then the others in order of id.
    leases: Vec<NodeLease>,
    /// Whether there may be others, since presence cannot be asked.
    partial: bool,
}

impl Nodes {
    async fn of(state: &State) -> Self {
        let mut own = state.node.clone();
        own.connections = state.delivery.connections() as u64;
        own.draining = state.delivery.is_draining();
        let asked = tokio::time::timeout(state.settings.ask_timeout, state.presence.nodes()).await;
        let others = match asked {
            Ok(Ok(nodes)) => Some(nodes),
            Ok(Err(error)) => {
                debug!(%error, "the nodes were asked for and presence is away");
                None
            }
            Err(_) => None,
        };
        let partial = others.is_none();
        let others = others.into_iter().flatten().filter(|lease| lease.node != own.node);
        let others: Vec<_> = others.collect();
        Self { leases: std::iter::once(own).chain(others).collect(), partial }
    }

    fn ids(&self) -> impl Iterator<Item = &NodeId> {
        self.leases.iter().map(|lease| &lease.node)
    }
}

async fn nodes_answer(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        nodes: Vec<One>,
        partial: bool,
    }
    #[derive(Serialize)]
    struct One {
        #[serde(flatten)]
        lease: NodeLease,
        #[serde(rename = "self")]
        is_self: bool,
    }
    admin(&call)?;
    let Nodes { leases, partial } = Nodes::of(&call.state).await;
    let own = &call.state.node.node;
    let nodes = leases.into_iter().map(|lease| One { is_self: lease.node == *own, lease }).collect();
    Ok(json(StatusCode::OK, &Shape { nodes, partial }))
}

async fn presence_answer(call: Arc<Call>, user: String) -> Answer {
    admin(&call)?;
    let user = UserId::new(query::decode(&user)?)
        .map_err(|error| Problem::invalid("invalid_request", format!("user: {error}")))?;
    let presence = of_users(&call.state, &[user]).await?;
    Ok(json(StatusCode::OK, &presence.first()))
}

async fn drain_answer(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        status: &'static str,
    }
    let admin = admin(&call)?;
    info!(admin.id = admin.id, "an administrator drains this node");
    (call.state.drain)();
    Ok(json(StatusCode::ACCEPTED, &Shape { status: "draining" }))
}

async fn progress_answer(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        status: &'static str,
        connections: usize,
        #[serde(flatten)]
        drain: Option<OfDrain>,
    }
    #[derive(Serialize)]
    struct OfDrain {
        connections_at_start: usize,
        since: UnixMillis,
        window_ms: u64,
    }
    admin(&call)?;
    let delivery = &call.state.delivery;
    let drain = delivery.drain_progress().map(|progress| OfDrain {
        connections_at_start: progress.connections,
        since: progress.since,
        window_ms: u64::try_from(progress.window.as_millis()).unwrap_or(u64::MAX),
    });
    let status = if delivery.is_draining() { "draining" } else { "serving" };
    Ok(json(StatusCode::OK, &Shape { status, connections: delivery.connections(), drain }))
}
