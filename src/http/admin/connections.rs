//! Connections, as the nodes that hold them describe them.
//!
//! Each node is asked through the broker, all at once. A node that does not answer in time is named in
//! `no_answer`: that, too, is an answer.

use std::sync::Arc;

use futures_util::future::join_all;
use http::StatusCode;
use serde::Serialize;
use tracing::info;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::{Nodes, admin};
use crate::domain::{ConnectionId, NodeId, UserId};
use crate::http::State;
use crate::http::call::{Call, call, json, without_body};
use crate::http::paths::get;
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::wire::control::{Answer as Told, Ask, ConnectionState};

/// How many connections are listed unless `limit` says otherwise.
const DEFAULT_LIMIT: u32 = 1_000;
/// The highest `limit`: an answer of a node travels as one message.
const MAX_LIMIT: u32 = 10_000;

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let list = warp::path!("admin" / "connections")
        .and(get())
        .and(call(state, "/admin/connections"))
        .then(|call| without_body(call, list));
    let close = warp::path!("admin" / "connections" / String)
        .and(warp::delete())
        .and(call(state, "/admin/connections/{id}"))
        .then(|id, call| without_body(call, |call| close(call, id)));
    list.boxed().or(close.boxed()).unify().boxed()
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Filters {
    user: Option<UserId>,
    node: Option<NodeId>,
    limit: u32,
}

impl Filters {
    fn parse(query: &str) -> Result<Self, Problem> {
        let pairs = query::pairs(query, &["user", "node", "limit"])?;
        let limit = query::within(1..=MAX_LIMIT);
        Ok(Self {
            user: query::one(&pairs, "user", |text| UserId::new(text))?,
            node: query::one(&pairs, "node", |text| NodeId::new(text))?,
            limit: query::one(&pairs, "limit", limit)?.unwrap_or(DEFAULT_LIMIT),
        })
    }
}

#[derive(Debug, Serialize)]
struct Shape {
    connections: Vec<ConnectionState>,
    /// Whether there are more than `limit`.
    truncated: bool,
    /// The nodes that were asked and did not answer.
    no_answer: Vec<NodeId>,
    /// Whether there may be further nodes, since presence cannot be asked.
    partial: bool,
}

async fn list(call: Arc<Call>) -> Answer {
    admin(&call)?;
    let filters = Filters::parse(&call.query)?;
    let (nodes, partial) = match filters.node {
        Some(node) => (vec![node], false),
        None => {
            let nodes = Nodes::of(&call.state).await;
            (nodes.ids().cloned().collect(), nodes.partial)
        }
    };
    let limit = filters.limit as usize;
    // One more than wanted tells whether there are more.
    let ask = Ask::Connections { user: filters.user, limit: filters.limit + 1 };
    let (mut connections, mut no_answer) = (Vec::new(), Vec::new());
    for (node, told) in ask_all(&call.state, nodes, &ask).await {
        match told {
            Some(Told::Connections { connections: more }) => connections.extend(more),
            Some(Told::Closed { .. } | Told::Removed { .. }) | None => no_answer.push(node),
        }
    }
    let truncated = connections.len() > limit;
    connections.truncate(limit);
    Ok(json(StatusCode::OK, &Shape { connections, truncated, no_answer, partial }))
}

/// Asks all of them at once; each has the same time.
pub(super) async fn ask_all(state: &State, nodes: Vec<NodeId>, ask: &Ask) -> Vec<(NodeId, Option<Told>)> {
    let one = |node: NodeId| async {
        let told = state.delivery.ask(&node, ask, state.settings.ask_timeout).await.ok();
        (node, told)
    };
    join_all(nodes.into_iter().map(one)).await
}

async fn close(call: Arc<Call>, id: String) -> Answer {
    let admin = admin(&call)?;
    let state = &call.state;
    let id = query::decode(&id)?;
    if id.parse::<ConnectionId>().is_err() {
        return Err(Problem::not_found(format!("no connection is {id:?}: it has 16 hexadecimal digits")));
    }
    let ask = Ask::Close { connection: id.clone() };
    let own = ask_all(state, vec![state.node.node.clone()], &ask).await;
    if closed(&own) {
        return Ok(gone(&admin.id, &id));
    }
    let nodes = Nodes::of(state).await;
    let others = nodes.ids().filter(|node| **node != state.node.node).cloned().collect();
    let told = ask_all(state, others, &ask).await;
    if closed(&told) {
        return Ok(gone(&admin.id, &id));
    }
    let silent: Vec<String> =
        told.iter().filter(|(_, told)| told.is_none()).map(|(node, _)| node.to_string()).collect();
    if !silent.is_empty() {
        let detail =
            format!("no connection {id} on the nodes that answered; no answer from {}", silent.join(", "));
        let problem = Problem::new(StatusCode::BAD_GATEWAY, "no_answer", detail);
        return Err(problem.with_member("no_answer", silent));
    }
    if nodes.partial {
        let detail = "no such connection on this node, and presence cannot be asked for the others";
        return Err(Problem::unavailable("presence_unavailable", detail));
    }
    Err(Problem::not_found(format!("there is no connection {id} on any node")))
}

fn closed(told: &[(NodeId, Option<Told>)]) -> bool {
    told.iter().any(|(_, told)| matches!(told, Some(Told::Closed { found: true })))
}

fn gone(admin: &str, connection: &str) -> Response {
    info!(admin.id = admin, connection.id = connection, "an administrator closed a connection");
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_bounded() {
        let parse = |query| Filters::parse(query).ok();
        let all = Filters { user: None, node: None, limit: DEFAULT_LIMIT };
        assert_eq!(parse(""), Some(all));
        let some = Filters {
            user: Some(UserId::new("a|b").expect("an id")),
            node: Some(NodeId::new("n2").expect("an id")),
            limit: 10,
        };
        assert_eq!(parse("limit=10&node=n2&user=a%7Cb"), Some(some));
        for bad in ["limit=0", "limit=10001", "limit=x", "user=a/b", "node=", "users=a", "user=a&user=b"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
