//! Revocations: tokens that are refused from now on, on all nodes, although they have not run out.
//!
//! ```text
//! POST   {"user":"alice"}   or {"token_id":"…"} or {"everyone":true,"issued_before":"2026-12-01T09:00:00Z"}
//!        200 {"revocation":{"token_id":null,"user":"alice","everyone":false,"issued_before":null,…},
//!             "connections":2,"no_answer":[],"partial":false}
//! GET    200 {"revocations":[…],"truncated":false}
//! DELETE ?user=alice or ?token_id=… or ?everyone=true    204
//! ```
//! First it is kept, then nodes are told. One that cannot be told finds it in the inbox within a second.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::info;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::connections::ask_all;
use super::{Nodes, admin};
use crate::domain::revocation::{ALWAYS, Revocation, Revoked, TokenId};
use crate::domain::{NodeId, UnixMillis, UserId};
use crate::http::State;
use crate::http::body::{self, check_type};
use crate::http::call::{Call, call, json, with_body, without_body};
use crate::http::paths::get;
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::wire::control::{Answer as Told, Ask};

/// How many revocations there may be: each node keeps all of them in memory.
const MAX_REVOCATIONS: u32 = 100_000;
/// How many are listed unless `limit` says otherwise, and at most.
const DEFAULT_LIMIT: u32 = 1_000;
/// How far the clock of whoever says `issued_before` may be ahead.
const MAX_AHEAD: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let list = warp::path!("admin" / "revocations")
        .and(get())
        .and(call(state, "/admin/revocations"))
        .then(|call| without_body(call, list));
    let revoke = warp::path!("admin" / "revocations")
        .and(warp::post())
        .and(call(state, "/admin/revocations"))
        .and(warp::body::stream())
        .then(|call, body| with_body(call, body, admit, revoke));
    let lift = warp::path!("admin" / "revocations")
        .and(warp::delete())
        .and(call(state, "/admin/revocations"))
        .then(|call| without_body(call, lift));
    list.boxed().or(revoke.boxed()).unify().or(lift.boxed()).unify().boxed()
}

/// What is to be revoked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    token_id: Option<TokenId>,
    user: Option<UserId>,
    #[serde(default)]
    everyone: bool,
    /// RFC 3339, or `now`.
    issued_before: Option<String>,
}

/// A revocation as operators see it.
#[derive(Debug, Serialize)]
struct Shape {
    token_id: Option<TokenId>,
    user: Option<UserId>,
    everyone: bool,
    /// Null: all.
    issued_before: Option<UnixMillis>,
    created_at: UnixMillis,
    lapses_at: UnixMillis,
}

impl From<Revocation> for Shape {
    fn from(revocation: Revocation) -> Self {
        let (token_id, user) = match revocation.of {
            Revoked::Token(id) => (Some(id), None),
            Revoked::User(user) => (None, Some(user)),
            Revoked::Everyone => (None, None),
        };
        Self {
            everyone: token_id.is_none() && user.is_none(),
            token_id,
            user,
            issued_before: (revocation.issued_before < ALWAYS).then_some(revocation.issued_before),
            created_at: revocation.created_at,
            lapses_at: revocation.lapses_at,
        }
    }
}

/// Exactly one of the three.
fn of(token_id: Option<TokenId>, user: Option<UserId>, everyone: bool) -> Result<Revoked, Problem> {
    match (token_id, user, everyone) {
        (Some(id), None, false) => Ok(Revoked::Token(id)),
        (None, Some(user), false) => Ok(Revoked::User(user)),
        (None, None, true) => Ok(Revoked::Everyone),
        _ => {
            let detail = "exactly one of token_id, user and everyone must be given";
            Err(Problem::invalid("invalid_request", detail))
        }
    }
}

impl Ordered {
    /// Whose tokens, and those issued before when.
    fn read(self, now: UnixMillis) -> Result<(Revoked, UnixMillis), Problem> {
        let of = of(self.token_id, self.user, self.everyone)?;
        let before = self.issued_before.as_deref().map(|text| time(text, now)).transpose()?;
        match (&of, before) {
            (Revoked::Token(_), Some(_)) => {
                Err(Problem::invalid("invalid_request", "issued_before is not for a token_id"))
            }
            (Revoked::Everyone, None) => {
                let detail = "everyone needs issued_before, or nobody would get in any more";
                Err(Problem::invalid("invalid_request", detail))
            }
            (_, before) => Ok((of, before.unwrap_or(ALWAYS))),
        }
    }
}

fn time(text: &str, now: UnixMillis) -> Result<UnixMillis, Problem> {
    if text == "now" {
        return Ok(now);
    }
    let invalid = |detail: String| Problem::invalid("invalid_request", detail);
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| invalid(format!("issued_before must be a time as of RFC 3339, or now; got {text:?}")))?;
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    let at = UnixMillis(u64::try_from(millis).unwrap_or_default());
    match at > now.after(MAX_AHEAD) {
        true => Err(invalid(format!("issued_before must not be in the future; got {text:?} at {now}"))),
        false => Ok(at),
    }
}

async fn admit(call: Arc<Call>) -> Result<String, Problem> {
    let admin = admin(&call)?;
    check_type(&call.headers)?;
    query::pairs(&call.query, &[])?;
    Ok(admin.id)
}

#[derive(Serialize)]
struct Done {
    revocation: Shape,
    /// How many connections were ended.
    connections: u64,
    /// The nodes that were told and did not answer.
    no_answer: Vec<NodeId>,
    /// Whether there may be further nodes, since presence cannot be asked.
    partial: bool,
}

async fn revoke(call: Arc<Call>, admin: String, body: Bytes) -> Answer {
    let state = &call.state;
    let now = state.clock.now();
    let (of, issued_before) = body::json::<Ordered>(&body)?.read(now)?;
    let lapses_at = now.after(state.settings.revocation_life);
    let wanted = Revocation { of, issued_before, created_at: now, lapses_at };
    let kept = state.inbox.revoke(&wanted, MAX_REVOCATIONS).await.map_err(Problem::inbox)?;
    let Some(kept) = kept else {
        let detail = format!("there are {MAX_REVOCATIONS} revocations, and no more are kept: lift some");
        return Err(Problem::invalid("too_many_revocations", detail));
    };
    let mut done =
        Done { connections: 0, no_answer: Vec::new(), partial: false, revocation: kept.clone().into() };
    tell(state, &kept, &mut done).await;
    info!(
        admin.id = admin,
        revoked = ?kept.of,
        connections = done.connections,
        "an administrator revoked tokens"
    );
    Ok(json(StatusCode::OK, &done))
}

/// This node first: it waits for nobody.
async fn tell(state: &State, kept: &Revocation, done: &mut Done) {
    let own = state.node.node.clone();
    let ask = Ask::Revoke { of: kept.of.clone(), issued_before_ms: kept.issued_before.0 };
    let mut told = ask_all(state, vec![own.clone()], &ask).await;
    let nodes = Nodes::of(state).await;
    let others = nodes.ids().filter(|node| **node != own).cloned().collect();
    told.extend(ask_all(state, others, &ask).await);
    done.partial = nodes.partial;
    for (node, told) in told {
        match told {
            Some(Told::Removed { connections }) => done.connections += connections,
            Some(Told::Closed { .. } | Told::Connections { .. }) | None => done.no_answer.push(node),
        }
    }
}

async fn list(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Page {
        /// The newest first.
        revocations: Vec<Shape>,
        /// Whether there are more than `limit`.
        truncated: bool,
    }
    admin(&call)?;
    let pairs = query::pairs(&call.query, &["limit"])?;
    let limit = query::one(&pairs, "limit", query::within(1..=MAX_REVOCATIONS))?.unwrap_or(DEFAULT_LIMIT);
    let state = &call.state;
    let mut all = state.inbox.revocations(state.clock.now()).await.map_err(Problem::inbox)?.all;
    all.sort_by_key(|one| std::cmp::Reverse(one.created_at));
    let truncated = all.len() > limit as usize;
    all.truncate(limit as usize);
    Ok(json(StatusCode::OK, &Page { revocations: all.into_iter().map(Shape::from).collect(), truncated }))
}

async fn lift(call: Arc<Call>) -> Answer {
    let admin = admin(&call)?;
    let pairs = query::pairs(&call.query, &["token_id", "user", "everyone"])?;
    let of = of(
        query::one(&pairs, "token_id", |text| TokenId::new(text))?,
        query::one(&pairs, "user", |text| UserId::new(text))?,
        query::one(&pairs, "everyone", query::flag)?.unwrap_or(false),
    )?;
    if !call.state.inbox.lift(&of).await.map_err(Problem::inbox)? {
        return Err(Problem::not_found("there is no such revocation"));
    }
    info!(admin.id = admin.id, lifted = ?of, "an administrator lifted a revocation");
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_764_547_200_000);

    #[test]
    fn what_is_to_be_revoked_is_one_thing_with_the_times_that_fit_it() {
        let read = |text: &str| serde_json::from_str::<Ordered>(text).ok()?.read(NOW).ok();
        let alice = Revoked::User(UserId::new("alice").expect("an id"));
        let token = Revoked::Token(TokenId::new("a b").expect("an id"));
        assert_eq!(read(r#"{"token_id":"a b"}"#), Some((token, ALWAYS)));
        assert_eq!(read(r#"{"user":"alice"}"#), Some((alice.clone(), ALWAYS)));
        assert_eq!(read(r#"{"user":"alice","issued_before":"now"}"#), Some((alice, NOW)));
        let before = r#"{"everyone":true,"issued_before":"2025-12-01T01:00:00+01:00"}"#;
        assert_eq!(read(before), Some((Revoked::Everyone, NOW)));
        for bad in [
            "{}",
            r#"{"everyone":true}"#,
            r#"{"everyone":true,"issued_before":"2025-12-01T00:01:01Z"}"#,
            r#"{"user":"alice","issued_before":"yesterday"}"#,
            r#"{"user":"alice","token_id":"x"}"#,
            r#"{"user":"a/b"}"#,
            r#"{"token_id":""}"#,
            r#"{"token_id":"x","issued_before":"now"}"#,
            r#"{"users":"alice"}"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
