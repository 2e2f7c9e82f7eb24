//! `POST /v1/tickets`: a single-use secret for browsers that can send no header with a handshake.
//!
//! ```text
//! {"ticket":"…","expires_in_ms":30000,"expires_at":"2026-12-01T09:00:30Z"}
//! ```
//! It stands for the user's token, and is bound to the `Origin` that asked.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::ORIGIN;
use serde::{Deserialize, Serialize};
use tracing::debug;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::{claims, to_page};
use crate::auth::UserClaims;
use crate::auth::ticket::{TICKET_TTL, Ticket};
use crate::domain::{DeviceId, UnixMillis};
use crate::http::State;
use crate::http::body::{self, check_type};
use crate::http::call::{Call, call, json, with_body};
use crate::http::problem::{Answer, Problem};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// Which device it is for. Checked only: the handshake names the device again, and any of the user's is as good.
    #[serde(default, rename = "device")]
    _device: Option<DeviceId>,
}

#[derive(Debug, Serialize)]
struct Shape {
    ticket: String,
    /// For clients whose clock is wrong.
    expires_in_ms: u64,
    expires_at: UnixMillis,
}

pub(super) fn route(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    warp::path!("v1" / "tickets")
        .and(warp::post())
        .and(call(state, "/v1/tickets"))
        .and(warp::body::stream())
        .then(|call, body| {
            to_page(call, |call, site| {
                let admit = |call: Arc<Call>| async move {
                    site?;
                    let claims = claims(&call).await?;
                    check_type(&call.headers)?;
                    Ok(claims)
                };
                with_body(call, body, admit, ticket)
            })
        })
        .boxed()
}

async fn ticket(call: Arc<Call>, claims: UserClaims, body: Bytes) -> Answer {
    if !body.is_empty() {
        body::json::<Ask>(&body)?;
    }
    let state = &call.state;
    let now = state.clock.now();
    let ttl = TICKET_TTL.min(claims.expires_at.since(now));
    let origin = call.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    let secret = Ticket::secret();
    let kept = state.presence.put_ticket(&secret, &Ticket::new(&claims, origin).encode(), ttl).await;
    kept.map_err(|error| {
        debug!(%error, "a ticket was not kept");
        Problem::unavailable("presence_unavailable", "tickets cannot be kept now")
    })?;
    let expires_in_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Ok(json(StatusCode::OK, &Shape { ticket: secret, expires_in_ms, expires_at: now.after(ttl) }))
}
