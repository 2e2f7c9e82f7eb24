//! All paths and the methods of each: what is 404, what is 405, and what OPTIONS says.
//!
//! Owns the tables; a path that is not in one is answered 404 whatever routes there are.

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::State;
use super::call::{Call, call, without_body};
use super::origin;
use super::problem::{Answer, Problem};

/// One path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// Its segments; one in braces stands for any.
    template: &'static str,
    /// Its `Allow` header (RFC 9110 section 10.2.1).
    allow: &'static str,
    /// The method that pages of other, listed sites may use.
    cors: Option<&'static str>,
}

const READ: &str = "GET, HEAD, OPTIONS";
const WRITE: &str = "POST, OPTIONS";
const LOOK_OR_WRITE: &str = "GET, HEAD, POST, OPTIONS";
const LOOK_OR_REMOVE: &str = "GET, HEAD, DELETE, OPTIONS";
const REMOVE: &str = "DELETE, OPTIONS";
/// What a path is called in metrics that is in no table.
const UNMATCHED: &str = "unmatched";

const fn path(template: &'static str, allow: &'static str) -> Path {
    Path { template, allow, cors: None }
}

/// What pages of other sites may use with the user's token.
const fn for_pages(template: &'static str, allow: &'static str, method: &'static str) -> Path {
    Path { template, allow, cors: Some(method) }
}

/// The client listener.
pub(super) const CLIENT: &[Path] = &[
    path("/v1/notifications", WRITE),
    path("/v1/notifications/batch", WRITE),
    path("/v1/notifications/{id}", "GET, HEAD, DELETE, OPTIONS"),
    path("/v1/presence", READ),
    for_pages("/v1/tickets", WRITE, "POST"),
    for_pages("/v1/inbox", READ, "GET"),
    for_pages("/v1/inbox/unread", READ, "GET"),
    for_pages("/v1/inbox/read", WRITE, "POST"),
    for_pages("/v1/devices/{id}", REMOVE, "DELETE"),
    // The WebSocket handshake (the gateway's; RFC 6455 section 4.1: GET only).
    path("/v1/connect", "GET, OPTIONS"),
];

/// The demo page, where there is one.
pub(super) const DEMO: &[Path] =
    &[path("/", READ), path("/demo/config", READ), path("/demo/token", WRITE), path("/demo/{asset}", READ)];

/// The admin listener.
pub(super) const ADMIN: &[Path] = &[
    path("/livez", READ),
    path("/readyz", READ),
    path("/metrics", READ),
    path("/admin/nodes", READ),
    path("/admin/connections", READ),
    path("/admin/connections/{id}", REMOVE),
    path("/admin/presence/{user}", READ),
    path("/admin/users/{id}", REMOVE),
    path("/admin/dead-letters", READ),
    path("/admin/dead-letters/{id}", LOOK_OR_REMOVE),
    path("/admin/dead-letters/{id}/requeue", WRITE),
    path("/admin/revocations", "GET, HEAD, POST, DELETE, OPTIONS"),
    path("/admin/drain", LOOK_OR_WRITE),
];

/// GET, and HEAD, which hyper answers as GET without the body.
pub(super) fn get() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// Answers whatever no route before it has taken. `tables`: what paths there are.
pub(super) fn rest(state: &Arc<State>, tables: &'static [&'static [Path]]) -> BoxedFilter<(Response,)> {
    warp::path::full()
        .and(call(state, UNMATCHED))
        .then(move |path: FullPath, mut call: Call| {
            let found = tables.iter().find_map(|table| find(table, path.as_str()));
            if let Some(found) = found {
                call.route = found.template;
            }
            without_body(call, move |call| async move { answer(&call, found) })
        })
        .boxed()
}

fn answer(call: &Call, found: Option<&Path>) -> Answer {
    let Some(path) = found else { return Err(Problem::not_found("there is no such path")) };
    match path.cors {
        Some(method) if call.method == Method::OPTIONS && origin::is_preflight(&call.headers) => {
            origin::preflight(&call.headers, &call.state.settings.allowed_origins, method)
        }
        _ if call.method == Method::OPTIONS => Ok(options(path)),
        // A route for it is in the table but not there: as for assets that there are not.
        _ if path.allow.split(", ").any(|allowed| allowed == call.method.as_str()) => {
            Err(Problem::not_found("there is no such path"))
        }
        _ => Err(Problem::method_not_allowed(call.method.as_str(), path.allow)),
    }
}

fn options(path: &Path) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(path.allow));
    response
}

/// As warp does, this takes a path with one slash more at its end for the same.
fn find<'a>(table: &'a [Path], path: &str) -> Option<&'a Path> {
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    table.iter().find(|entry| {
        let (mut wanted, mut given) = (entry.template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(wanted), Some(given)) if wanted == given => {}
                (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_methods_and_others_are_not_there() {
        let allow = |table, path| find(table, path).map(|path| path.allow);
        assert_eq!(allow(CLIENT, "/v1/notifications"), Some("POST, OPTIONS"));
        assert_eq!(allow(CLIENT, "/v1/notifications/"), Some("POST, OPTIONS"));
        assert_eq!(allow(CLIENT, "/v1/connect"), Some("GET, OPTIONS"));
        assert_eq!(allow(CLIENT, "/v1/notifications/x"), Some("GET, HEAD, DELETE, OPTIONS"));
        assert_eq!(allow(CLIENT, "/v1/notifications/batch"), Some("POST, OPTIONS"));
        assert_eq!(allow(CLIENT, "/v1/inbox/read"), Some("POST, OPTIONS"));
        assert_eq!(allow(DEMO, "/"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allow(DEMO, "/demo/token"), Some("POST, OPTIONS"));
        assert_eq!(allow(DEMO, "/demo/demo.js"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allow(ADMIN, "/admin/connections"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(allow(ADMIN, "/admin/connections/0123"), Some("DELETE, OPTIONS"));
        for absent in
            ["", "/", "//", "/v1", "/v1/notifications/x/y", "/v1//notifications", "/livez", "/demo/x"]
        {
            assert_eq!(allow(CLIENT, absent), None, "{absent:?}");
        }
        assert_eq!(allow(ADMIN, "/admin/presence/"), None);
    }
}
