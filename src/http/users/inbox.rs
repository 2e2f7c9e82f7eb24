//! The inbox as people look at it.
//!
//! ```text
//! GET  /v1/inbox?stream=user&before=120&limit=50&unread=true
//!      {"stream":"user","epoch":"k3","unread":2,"version":45,
//!       "entries":[{"seq":119,"read":false,"device":null,"notification":{…}}],"next":null}
//! GET  /v1/inbox/unread {"unread":2,"version":45,"streams":[{"stream":"everyone","unread":1}]}
//! POST /v1/inbox/read   {"ids":["…"]} or {"up_to":119,"stream":"user"} -> {"unread":1,"version":46}
//! ```
//! Reading is not acknowledging. Topics only as the token lists them.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::{claims, to_page};
use crate::auth::UserClaims;
use crate::domain::{DeviceId, NotificationId, Seq, Stream, TopicName};
use crate::http::State;
use crate::http::body::{self, check_type};
use crate::http::call::{Call, call, json, with_body, without_body};
use crate::http::paths::get;
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::inbox::{InboxEntry, Look, Mark, Marked, Unread};

/// How many entries a page has unless `limit` says otherwise, and at most: a body has up to 64 KiB.
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;
/// How many ids one request may mark.
const MAX_IDS: usize = 1_000;
/// What the user's own stream is called.
const OWN: &str = "user";

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let look = warp::path!("v1" / "inbox").and(get()).and(call(state, "/v1/inbox"));
    let look = look.then(|call| {
        to_page(call, |call, site| {
            without_body(call, |call| async move {
                site?;
                look_at(&call).await
            })
        })
    });
    let unread = warp::path!("v1" / "inbox" / "unread").and(get()).and(call(state, "/v1/inbox/unread"));
    let unread = unread.then(|call| {
        to_page(call, |call, site| {
            without_body(call, |call| async move {
                site?;
                count(&call).await
            })
        })
    });
    let read = warp::path!("v1" / "inbox" / "read")
        .and(warp::post())
        .and(call(state, "/v1/inbox/read"))
        .and(warp::body::stream())
        .then(|call, body| {
            to_page(call, |call, site| {
                let admit = |call| async move {
                    site?;
                    admit(call).await
                };
                with_body(call, body, admit, mark)
            })
        });
    look.boxed().or(unread.boxed()).unify().or(read.boxed()).unify().boxed()
}

/// The stream of that name, if the user may follow it.
fn stream(claims: &UserClaims, name: &str) -> Result<Stream, Problem> {
    let topic = match name {
        OWN => return Ok(Stream::User(claims.user.clone())),
        "everyone" => return Ok(Stream::Everyone),
        name => name.strip_prefix("topic:").ok_or_else(|| {
            let detail = format!("stream must be user, everyone or topic:<name>; got {name:?}");
            Problem::invalid("invalid_request", detail)
        })?,
    };
    let topic = TopicName::new(topic)
        .map_err(|error| Problem::invalid("invalid_request", format!("stream: {error}")))?;
    if !may_follow(claims, &topic) {
        let detail = format!("the token does not list the topic {topic}");
        return Err(Problem::new(StatusCode::FORBIDDEN, "topic_forbidden", detail));
    }
    Ok(Stream::Topic(topic))
}

fn may_follow(claims: &UserClaims, topic: &TopicName) -> bool {
    claims.topics.iter().any(|pattern| pattern.matches(topic))
}

fn wanted(claims: &UserClaims, query: &str) -> Result<Look, Problem> {
    let pairs = query::pairs(query, &["stream", "before", "limit", "unread"])?;
    let name = query::one(&pairs, "stream", |text| Ok::<_, String>(text.to_owned()))?;
    let seq = |text: &str| match text.parse() {
        Ok(seq) if seq > 0 => Ok(Seq(seq)),
        _ => Err(format!("must be a seq from 1; got {text:?}")),
    };
    Ok(Look {
        user: claims.user.clone(),
        stream: stream(claims, name.as_deref().unwrap_or(OWN))?,
        before: query::one(&pairs, "before", seq)?,
        limit: query::one(&pairs, "limit", query::within(1..=MAX_LIMIT))?.unwrap_or(DEFAULT_LIMIT),
        unread_only: query::one(&pairs, "unread", query::flag)?.unwrap_or(false),
    })
}

#[derive(Serialize)]
struct Page {
    stream: String,
    epoch: String,
    /// Of this stream; null for a shared one that no device of the user follows.
    unread: Option<u64>,
    version: u64,
    entries: Vec<One>,
    /// What `before` is for the next page; null: this is the last.
    next: Option<u64>,
}

#[derive(Serialize)]
struct One {
    seq: u64,
    read: bool,
    /// The only device that it is for.
    device: Option<DeviceId>,
    notification: Box<RawValue>,
}

impl One {
    fn of(entry: InboxEntry) -> Result<Self, Problem> {
        let InboxEntry { seq, is_read, device, json } = entry;
        let notification = serde_json::from_slice(&json).map_err(|error| {
            tracing::error!(%error, seq = seq.0, "a stored notification is no JSON");
            Problem::internal()
        })?;
        Ok(Self { seq: seq.0, read: is_read, device, notification })
    }
}

async fn look_at(call: &Call) -> Answer {
    let claims = claims(call).await?;
    let look = wanted(&claims, &call.query)?;
    let (inbox, now) = (&call.state.inbox, call.state.clock.now());
    let (page, unread) = tokio::join!(inbox.look(&look, now), inbox.unread(&claims.user, now));
    let (page, (own, shared)) = (page.map_err(Problem::inbox)?, unread.map_err(Problem::inbox)?);
    let unread = match look.stream.is_shared() {
        false => Some(own.unread),
        true => shared.into_iter().find(|(stream, _)| *stream == look.stream).map(|(_, unread)| unread),
    };
    let next = page.entries.last().filter(|_| page.more).map(|entry| entry.seq.0);
    let entries = page.entries.into_iter().map(One::of).collect::<Result<_, _>>()?;
    let (stream, epoch) = (look.stream.client_name().to_string(), page.epoch.to_string());
    Ok(json(StatusCode::OK, &Page { stream, epoch, unread, version: own.version, entries, next }))
}

async fn count(call: &Call) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        unread: u64,
        version: u64,
        streams: Vec<OfStream>,
    }
    #[derive(Serialize)]
    struct OfStream {
        stream: String,
        unread: u64,
    }
    let claims = claims(call).await?;
    query::pairs(&call.query, &[])?;
    let counted = call.state.inbox.unread(&claims.user, call.state.clock.now()).await;
    let (Unread { unread, version, .. }, shared) = counted.map_err(Problem::inbox)?;
    let is_listed = |(stream, _): &(Stream, u64)| match stream {
        Stream::Topic(topic) => may_follow(&claims, topic),
        Stream::User(_) | Stream::Everyone => true,
    };
    let of = |(stream, unread): (Stream, u64)| OfStream { stream: stream.client_name().to_string(), unread };
    let streams = shared.into_iter().filter(is_listed).map(of).collect();
    Ok(json(StatusCode::OK, &Shape { unread, version, streams }))
}

async fn admit(call: Arc<Call>) -> Result<UserClaims, Problem> {
    let claims = claims(&call).await?;
    query::pairs(&call.query, &[])?;
    check_type(&call.headers)?;
    Ok(claims)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    #[serde(default)]
    ids: Option<Vec<String>>,
    #[serde(default)]
    up_to: Option<u64>,
    #[serde(default)]
    stream: Option<String>,
}

impl Ask {
    fn marked(&self) -> Result<Marked, Problem> {
        match (&self.ids, self.up_to) {
            (Some(ids), None) => {
                if !(1..=MAX_IDS).contains(&ids.len()) {
                    let detail = format!("ids must have 1..={MAX_IDS} ids; got {}", ids.len());
                    return Err(Problem::invalid("invalid_request", detail));
                }
                let read = |(at, id): (usize, &String)| {
                    let id = id.parse::<NotificationId>();
                    id.map_err(|error| Problem::invalid("invalid_request", format!("ids[{at}]: {error}")))
                };
                ids.iter().enumerate().map(read).collect::<Result<_, _>>().map(Marked::Ids)
            }
            (None, Some(seq)) => Ok(Marked::UpTo(Seq(seq))),
            (given, _) => {
                let got = if given.is_some() { "both" } else { "neither" };
                let detail = format!("one of ids and up_to is needed; got {got}");
                Err(Problem::invalid("invalid_request", detail))
            }
        }
    }
}

async fn mark(call: Arc<Call>, claims: UserClaims, bytes: Bytes) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        unread: u64,
        version: u64,
    }
    let ask: Ask = body::json(&bytes)?;
    let stream = stream(&claims, ask.stream.as_deref().unwrap_or(OWN))?;
    let mark = Mark { stream, marked: ask.marked()? };
    // Through delivery, which tells the user's connections at once.
    let marked = call.state.delivery.mark_read(&claims.user, &mark).await;
    let (_, Unread { unread, version, .. }) = marked.map_err(Problem::inbox)?;
    Ok(json(StatusCode::OK, &Shape { unread, version }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TopicPattern;
    use crate::domain::{UnixMillis, UserId};

    fn claims() -> UserClaims {
        UserClaims {
            user: UserId::new("alice").expect("an id"),
            expires_at: UnixMillis(9),
            topics: vec![TopicPattern::new("news.#").expect("a pattern")],
            issued_at: None,
            token_id: None,
        }
    }

    #[test]
    fn a_page_is_asked_for_by_name_and_bounded() {
        let wanted = |query| wanted(&claims(), query).ok();
        let user = claims().user;
        let first = Look {
            user: user.clone(),
            stream: Stream::User(user.clone()),
            before: None,
            limit: DEFAULT_LIMIT,
            unread_only: false,
        };
        assert_eq!(wanted(""), Some(first.clone()));
        let topic = Stream::Topic(TopicName::new("news.eu").expect("an id"));
        let later =
            Look { stream: topic, before: Some(Seq(120)), limit: 7, unread_only: true, ..first.clone() };
        assert_eq!(wanted("stream=topic:news.eu&before=120&limit=7&unread=true"), Some(later));
        assert_eq!(wanted("stream=everyone"), Some(Look { stream: Stream::Everyone, ..first }));
        for bad in [
            "stream=alice",
            "stream=user:bob",
            "stream=topic:alarms",
            "stream=topic:a%2Fb",
            "before=0",
            "before=x",
            "limit=0",
            "limit=101",
            "unread=1",
            "page=2",
            "limit=1&limit=2",
        ] {
            assert_eq!(wanted(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_to_mark_is_ids_or_a_place() {
        let marked = |json: &str| serde_json::from_str::<Ask>(json).ok().and_then(|ask| ask.marked().ok());
        assert_eq!(marked(r#"{"up_to":119,"stream":"user"}"#), Some(Marked::UpTo(Seq(119))));
        let id = "019ab3f0-c7d2-7f04-a1b2-0123456789ab";
        let ids = vec![id.parse().expect("a UUID")];
        assert_eq!(marked(&format!(r#"{{"ids":["{id}"]}}"#)), Some(Marked::Ids(ids)));
        let both = format!(r#"{{"ids":["{id}"],"up_to":1}}"#);
        for bad in ["{}", r#"{"ids":[]}"#, r#"{"ids":["x"]}"#, r#"{"up_to":-1}"#, r#"{"upto":1}"#, &both] {
            assert_eq!(marked(bad), None, "{bad}");
        }
    }
}
