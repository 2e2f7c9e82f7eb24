//! The demo page: its files, and what it asks of the node.
//!
//! ```text
//! GET  /demo/config -> {"trial":true,"node":"n1"}
//! POST /demo/token  {"user":"alice","topics":["#"]} -> {"token":"…","expires_at":"…","publisher_key":"ffk_…"}
//! ```
//! The second is there in a trial set-up only; elsewhere a person brings token and key.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::body::{self, check_type};
use super::call::{Call, call, json, with_body, without_body};
use super::origin::{self, Site};
use super::paths::get;
use super::problem::{Answer, Problem};
use super::{Demo, State, Trial};
use crate::auth::{Grant, TopicPattern};
use crate::domain::{UnixMillis, UserId};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, content type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("index.html", "text/html; charset=utf-8", include_str!("demo/index.html")),
    ("demo.css", "text/css; charset=utf-8", include_str!("demo/demo.css")),
    ("cards.js", SCRIPT, include_str!("demo/cards.js")),
    ("connection.js", SCRIPT, include_str!("demo/connection.js")),
    ("demo.js", SCRIPT, include_str!("demo/demo.js")),
    ("dom.js", SCRIPT, include_str!("demo/dom.js")),
    ("log.js", SCRIPT, include_str!("demo/log.js")),
    ("panel.js", SCRIPT, include_str!("demo/panel.js")),
    ("positions.js", SCRIPT, include_str!("demo/positions.js")),
    ("protocol.js", SCRIPT, include_str!("demo/protocol.js")),
    ("publish.js", SCRIPT, include_str!("demo/publish.js")),
    ("session.js", SCRIPT, include_str!("demo/session.js")),
];

/// What the page may load and do. Not every browser takes `'self'` for WebSockets, so they are named.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The files with their hashes, by name.
type Assets = BTreeMap<&'static str, Asset>;

#[derive(Debug)]
struct Asset {
    content_type: &'static str,
    content: &'static str,
    etag: HeaderValue,
}

/// The name of a file that there is; any other is no business of its route.
struct Name(&'static str);

impl FromStr for Name {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        FILES.iter().find(|(name, ..)| *name == text).map(|(name, ..)| Self(name)).ok_or(())
    }
}

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let assets = Arc::new(assets());
    let page = {
        let assets = Arc::clone(&assets);
        warp::path::end().and(get()).and(call(state, "/")).then(move |call| {
            let assets = Arc::clone(&assets);
            without_body(call, move |call| async move { asset(&assets, "index.html", &call.headers) })
        })
    };
    let config = warp::path!("demo" / "config")
        .and(get())
        .and(call(state, "/demo/config"))
        .then(|call| without_body(call, config));
    let token = warp::path!("demo" / "token")
        .and(warp::post())
        .and(call(state, "/demo/token"))
        .and(warp::body::stream())
        .then(|call, body| with_body(call, body, admit, token));
    let file = warp::path!("demo" / Name).and(get()).and(call(state, "/demo/{asset}")).then(
        move |Name(name), call: Call| {
            let assets = Arc::clone(&assets);
            without_body(call, move |call| async move { asset(&assets, name, &call.headers) })
        },
    );
    page.boxed().or(config.boxed()).unify().or(token.boxed()).unify().or(file.boxed()).unify().boxed()
}

fn assets() -> Assets {
    let with_hash = |(name, content_type, content): &(&'static str, &'static str, &'static str)| {
        let hash = Sha256::digest(content.as_bytes());
        let etag: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{etag}\"")).expect("hexadecimal digits in quotes");
        (*name, Asset { content_type, content, etag })
    };
    FILES.iter().map(with_hash).collect()
}

fn asset(assets: &Assets, name: &str, asked: &HeaderMap) -> Answer {
    let asset = assets.get(name).ok_or_else(|| Problem::not_found("there is no such path"))?;
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|etags| names(etags, &asset.etag));
    let mut response = Response::default();
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = asset.content.into();
    }
    let headers = response.headers_mut();
    let put = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // Paths have no version in them: kept, but asked for each time.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_TYPE, asset.content_type),
    ];
    headers.extend(put.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.insert(header::ETAG, asset.etag.clone());
    Ok(response)
}

/// Whether an `If-None-Match` names this one (RFC 9110 section 13.1.2: compared weakly).
fn names(etags: &HeaderValue, etag: &HeaderValue) -> bool {
    let mut etags = etags.to_str().unwrap_or_default().split(',').map(str::trim);
    etags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == etag.as_bytes())
}

async fn config(call: Arc<Call>) -> Answer {
    #[derive(Serialize)]
    struct Shape<'a> {
        trial: bool,
        node: &'a str,
    }
    let trial = matches!(call.state.demo, Demo::Trial(_));
    Ok(json(StatusCode::OK, &Shape { trial, node: call.state.node.node.as_str() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    user: UserId,
    #[serde(default)]
    topics: Vec<String>,
}

fn trial(state: &State) -> Result<&Trial, Problem> {
    match &state.demo {
        Demo::Trial(trial) => Ok(trial),
        Demo::On | Demo::Off => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "not_a_trial",
            "this node is no trial set-up: it hands out no tokens",
        )),
    }
}

/// Not for pages of other sites, listed or not.
async fn admit(call: Arc<Call>) -> Result<(), Problem> {
    trial(&call.state)?;
    match origin::site(&call.headers, &[])? {
        Site::Same | Site::Listed(_) => check_type(&call.headers),
    }
}

async fn token(call: Arc<Call>, (): (), body: Bytes) -> Answer {
    #[derive(Serialize)]
    struct Shape<'a> {
        token: String,
        expires_at: UnixMillis,
        publisher_key: &'a str,
    }
    let ask: Ask = body::json(&body)?;
    for (at, topic) in ask.topics.iter().enumerate() {
        TopicPattern::new(topic)
            .map_err(|error| Problem::invalid("invalid_request", format!("topics[{at}]: {error}")))?;
    }
    let trial = trial(&call.state)?;
    let now = call.state.clock.now();
    let grant = Grant { sub: ask.user.to_string(), topics: ask.topics, ..Grant::default() };
    let token = trial.key.sign(&grant, trial.token_ttl, now).map_err(|error| {
        tracing::error!(%error, "the trial's key signs no tokens");
        Problem::internal()
    })?;
    let expires_at = now.after(trial.token_ttl);
    Ok(json(StatusCode::OK, &Shape { token, expires_at, publisher_key: trial.publisher_key.expose() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_there() {
        let assets = assets();
        for asset in assets.values() {
            for quoted in
                asset.content.split('"').filter(|text| text.starts_with("./") || text.starts_with("/demo/"))
            {
                let name = quoted.trim_start_matches("./").trim_start_matches("/demo/");
                let is_endpoint = matches!(name, "config" | "token");
                assert!(is_endpoint || assets.contains_key(name), "{quoted}");
            }
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let assets = assets();
        let fetch = |etags: Option<&HeaderValue>| {
            let headers = etags.map(|etags| (header::IF_NONE_MATCH, etags.clone()));
            asset(&assets, "demo.js", &HeaderMap::from_iter(headers)).expect("it is there")
        };
        let first = fetch(None);
        assert_eq!(first.status(), 200);
        let etag = first.headers()[header::ETAG].clone();
        assert_eq!(fetch(Some(&etag)).status(), 304);
        assert_eq!(fetch(Some(&HeaderValue::from_static("\"other\""))).status(), 200);
        let weak = format!("\"other\", W/{}", etag.to_str().expect("ASCII"));
        assert_eq!(fetch(Some(&HeaderValue::from_str(&weak).expect("ASCII"))).status(), 304);
    }
}
