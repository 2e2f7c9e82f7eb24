//! `DELETE /v1/devices/{id}`: forgets a device of the user: its cursors, its place among the devices, and its
//! live connection, wherever that is. 204, also when there is no such device.

use std::sync::Arc;

use http::StatusCode;
use tracing::debug;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::{claims, to_page};
use crate::domain::{DeviceId, NodeId, UserId};
use crate::http::State;
use crate::http::call::{Call, call, without_body};
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::presence::Route;
use crate::wire::control::Ask;

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("v1" / "devices" / String)
        .and(warp::delete())
        .and(call(state, "/v1/devices/{id}"))
        .then(|id: String, call| {
            to_page(call, |call, site| {
                without_body(call, |call| async move {
                    site?;
                    remove(&call, &id).await
                })
            })
        })
        .boxed()
}

async fn remove(call: &Call, id: &str) -> Answer {
    let claims = claims(call).await?;
    query::pairs(&call.query, &[])?;
    let device = DeviceId::new(query::decode(id)?)
        .map_err(|error| Problem::invalid("invalid_request", format!("device: {error}")))?;
    let state = &call.state;
    // First the row: a connection that is closed before it could come back and find it.
    let was_there = state.inbox.remove_device(&claims.user, &device).await.map_err(Problem::inbox)?;
    debug!(was_there, "a user removed a device");
    close(state, &claims.user, &device).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Closes the device's connection here and on the nodes where presence knows one.
async fn close(state: &State, user: &UserId, device: &DeviceId) -> Result<(), Problem> {
    let ask = Ask::Remove { user: user.clone(), device: Some(device.clone()) };
    let own = &state.node.node;
    // This node always answers.
    let _ = state.delivery.ask(own, &ask, state.settings.ask_timeout).await;
    let located = state.presence.locate(&[Route::User(user.clone())]).await.map_err(|error| {
        debug!(%error, "presence was asked for and is away");
        let detail = "the device is forgotten; whether it is connected elsewhere cannot be asked now";
        Problem::unavailable("presence_unavailable", detail)
    })?;
    let members = located.into_iter().flat_map(|located| located.members);
    let holders = members.filter(|member| member.device.as_ref() == Some(device) && member.node != *own);
    let nodes: std::collections::BTreeSet<NodeId> = holders.map(|member| member.node).collect();
    for node in nodes {
        state.delivery.ask(&node, &ask, state.settings.ask_timeout).await.map_err(|_| {
            let detail = format!("the device is forgotten; node {node}, which holds it, did not answer");
            Problem::new(StatusCode::BAD_GATEWAY, "no_answer", detail)
                .with_member("no_answer", vec![node.to_string()])
        })?;
    }
    Ok(())
}
