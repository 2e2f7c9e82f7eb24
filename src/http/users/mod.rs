//! What a user's own token opens: tickets, the inbox, the user's devices.
//!
//! Owns who it is, and that pages of other, listed sites may read the answers (CORS), refusals included.
//!
//! | file | what it does |
//! |---|---|
//! | `tickets` | a secret for browsers that can send no header |
//! | `inbox` | what there is, what is unread, marking it read |
//! | `devices` | forgetting a device |

mod devices;
mod inbox;
mod tickets;

use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::State;
use super::bearer::bearer;
use super::call::Call;
use super::origin::{self, Site};
use super::problem::Problem;
use crate::auth::UserClaims;

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let rest = devices::route(state).or(inbox::routes(state)).unify();
    tickets::route(state).or(rest).unify().boxed()
}

/// Whose token came.
async fn claims(call: &Call) -> Result<UserClaims, Problem> {
    let token = bearer(&call.headers, "a user's token")?;
    let state = &call.state;
    Ok(state.tokens.verify_or_learn(token, || state.clock.now()).await?)
}

/// Answers a page of this site, of a listed one, or no page at all. `answer` gets what is wrong with any other.
async fn to_page<F>(call: Call, answer: impl FnOnce(Call, Result<(), Problem>) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let site = origin::site(&call.headers, &call.state.settings.allowed_origins);
    let seen_by = site.as_ref().ok().cloned().unwrap_or(Site::Same);
    let mut response = answer(call, site.map(drop)).await;
    origin::permit(response.headers_mut(), seen_by);
    response
}
