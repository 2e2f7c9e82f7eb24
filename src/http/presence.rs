//! `GET /v1/presence?user=a&user=b`: who is connected, for publishers.
//!
//! ```text
//! {"users":[{"user":"alice","online":true,"last_seen":null,
//!            "devices":[{"device":"web-1","node":"n1","connection":"…"}]}]}
//! ```
//! A hint: right within one heartbeat, and within one TTL after a node died.

use std::sync::Arc;

use serde::Serialize;
use tracing::debug;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::call::{Call, call, json, without_body};
use super::notifications::publisher;
use super::paths::get;
use super::problem::{Answer, Problem};
use super::query;
use crate::domain::{DeviceId, NodeId, Target, UnixMillis, UserId};
use crate::presence::{Located, Route};

/// How many users one request may ask for.
const MAX_USERS: usize = 100;

/// One user's presence.
#[derive(Debug, Serialize)]
pub(super) struct UserPresence {
    user: UserId,
    online: bool,
    devices: Vec<DevicePresence>,
    /// Null: never, or the inbox cannot be asked now.
    last_seen: Option<UnixMillis>,
}

#[derive(Debug, Serialize)]
struct DevicePresence {
    /// Null for a connection that names no device.
    device: Option<DeviceId>,
    node: NodeId,
    connection: String,
}

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("v1" / "presence")
        .and(get())
        .and(call(state, "/v1/presence"))
        .then(|call| without_body(call, presence))
        .boxed()
}

async fn presence(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        users: Vec<UserPresence>,
    }
    let publisher = publisher(&call).await?;
    let users = users(&call.query)?;
    // Who may not send to a user has no business with their comings and goings either.
    let may = publisher.may.publish_to(&Target::Users(users.clone()));
    may.map_err(|forbidden| {
        Problem::new(http::StatusCode::FORBIDDEN, "forbidden_target", forbidden.to_string())
    })?;
    let users = of_users(&call.state, &users).await?;
    Ok(json(http::StatusCode::OK, &Shape { users }))
}

fn users(query: &str) -> Result<Vec<UserId>, Problem> {
    let mut users: Vec<UserId> = Vec::new();
    for (_, value) in query::pairs(query, &["user"])? {
        let user = UserId::new(&value)
            .map_err(|error| Problem::invalid("invalid_request", format!("user: {error}")))?;
        if !users.contains(&user) {
            users.push(user);
        }
        if users.len() > MAX_USERS {
            let detail = format!("user may be there at most {MAX_USERS} times");
            return Err(Problem::invalid("too_many_users", detail));
        }
    }
    if users.is_empty() {
        let detail = format!("user must be there 1..={MAX_USERS} times; got none");
        return Err(Problem::invalid("invalid_request", detail));
    }
    Ok(users)
}

/// Asks for each user, in order.
///
/// # Errors
/// 503 `presence_unavailable`.
pub(super) async fn of_users(state: &State, users: &[UserId]) -> Result<Vec<UserPresence>, Problem> {
    let routes: Vec<Route> = users.iter().cloned().map(Route::User).collect();
    let (located, last_seen) = tokio::join!(state.presence.locate(&routes), state.inbox.last_seen(users));
    let located = located.map_err(|error| {
        debug!(%error, "presence was asked for and is away");
        Problem::unavailable("presence_unavailable", "presence cannot be asked now")
    })?;
    let last_seen = last_seen.unwrap_or_else(|error| {
        debug!(%error, "last-seen times were asked for and the inbox is away");
        vec![None; users.len()]
    });
    let one = |((user, located), last_seen): ((&UserId, Located), Option<UnixMillis>)| UserPresence {
        user: user.clone(),
        online: !located.members.is_empty(),
        devices: located.members.into_iter().map(device).collect(),
        last_seen,
    };
    Ok(users.iter().zip(located).zip(last_seen).map(one).collect())
}

fn device(member: crate::presence::Member) -> DevicePresence {
    DevicePresence { device: member.device, node: member.node, connection: member.connection.to_string() }
}
