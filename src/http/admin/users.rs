//! `DELETE /admin/users/{id}`: closes all connections of a user, erases what is stored of them, and says what.
//!
//! ```text
//! 200 {"user":"alice","erased":{"entries":12,"notifications":9,…},"connections":2,"no_answer":[],"partial":false}
//! ```
//! Erased twice, there is nothing the second time. A token that is still good opens the door again: whoever
//! issues tokens must have stopped before.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use tracing::info;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::connections::ask_all;
use super::{Nodes, admin};
use crate::domain::{NodeId, UserId};
use crate::http::State;
use crate::http::call::{Call, call, json, without_body};
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::inbox::Erased;
use crate::wire::control::{Answer as Told, Ask};

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("admin" / "users" / String)
        .and(warp::delete())
        .and(call(state, "/admin/users/{id}"))
        .then(|user, call| without_body(call, |call| erase(call, user)))
        .boxed()
}

async fn erase(call: Arc<Call>, user: String) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        user: UserId,
        erased: Erased,
        /// How many connections were closed.
        connections: u64,
        /// The nodes that were asked to close theirs and did not answer.
        no_answer: Vec<NodeId>,
        /// Whether there may be further nodes, since presence cannot be asked.
        partial: bool,
    }
    let admin = admin(&call)?;
    query::pairs(&call.query, &[])?;
    let user = UserId::new(query::decode(&user)?)
        .map_err(|error| Problem::invalid("invalid_request", format!("user: {error}")))?;
    let state = &call.state;
    let nodes = Nodes::of(state).await;
    let partial = nodes.partial;
    // First the connections: what they do would be stored anew.
    let ask = Ask::Remove { user: user.clone(), device: None };
    let (mut connections, mut no_answer) = (0, Vec::new());
    for (node, told) in ask_all(state, nodes.ids().cloned().collect(), &ask).await {
        match told {
            Some(Told::Removed { connections: closed }) => connections += closed,
            Some(Told::Closed { .. } | Told::Connections { .. }) | None => no_answer.push(node),
        }
    }
    let erased = state.inbox.erase(&user).await.map_err(Problem::inbox)?;
    info!(admin.id = admin.id, connections, ?erased, "an administrator erased a user");
    Ok(json(StatusCode::OK, &Shape { user, erased, connections, no_answer, partial }))
}
