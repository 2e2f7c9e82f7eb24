//! `GET` and `DELETE /v1/notifications/{id}`: what became of one, and taking it back.
//!
//! ```text
//! GET    200 {"id":"…","status":"stored","created_at":"…","deliver_at":null,"recipients":2,
//!             "counts":{"stored":1,"delivered":1,"read":0,"expired":0,"superseded":0,"cancelled":0,"dropped":0}}
//!        with ?recipients=true&after=…&limit=… also "recipients_list":[…] and "next"
//! DELETE 200 {"id":"…","status":"cancelled","recipients":2}
//! ```
//! For the publisher that sent it: to any other it is not there.

use std::str::FromStr;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use tracing::debug;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::publisher;
use crate::domain::{DeviceId, NotificationId, UnixMillis, UserId};
use crate::http::State;
use crate::http::call::{Call, call, json, without_body};
use crate::http::paths::get;
use crate::http::problem::{Answer, Problem};
use crate::http::query;
use crate::inbox::{AfterRecipient, Cancelled, Counts, Receipt, RecipientReceipt};

/// How many recipients a page has unless `limit` says otherwise, and at most.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

const ROUTE: &str = "/v1/notifications/{id}";

pub(super) fn routes(state: &Arc<State>) -> BoxedFilter<(Response,)> {
    let receipt = warp::path!("v1" / "notifications" / Segment)
        .and(get())
        .and(call(state, ROUTE))
        .then(|Segment(id), call| without_body(call, |call| receipt(call, id)));
    let cancel = warp::path!("v1" / "notifications" / Segment)
        .and(warp::delete())
        .and(call(state, ROUTE))
        .then(|Segment(id), call| without_body(call, |call| cancel(call, id)));
    receipt.boxed().or(cancel.boxed()).unify().boxed()
}

/// Where an id stands; `batch` is a path of its own.
struct Segment(String);

impl FromStr for Segment {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "batch" { Err(()) } else { Ok(Self(text.to_owned())) }
    }
}

fn read_id(text: &str) -> Result<NotificationId, Problem> {
    query::decode(text)?.parse().map_err(|error| Problem::not_found(format!("there is none: {error}")))
}

fn unknown(id: NotificationId) -> Problem {
    Problem::not_found(format!("this publisher has no notification {id}, or none any more"))
}

/// Which recipients are to be listed.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    after: Option<AfterRecipient>,
    limit: u32,
}

impl Page {
    /// `None`: none are wanted.
    fn parse(query: &str) -> Result<Option<Self>, Problem> {
        let pairs = query::pairs(query, &["recipients", "after", "limit"])?;
        let wanted = query::one(&pairs, "recipients", query::flag)?.unwrap_or(false);
        let after = query::one(&pairs, "after", after)?;
        let limit = query::one(&pairs, "limit", query::within(1..=MAX_LIMIT))?;
        if !wanted && (after.is_some() || limit.is_some()) {
            let detail = "after and limit are about recipients: they need recipients=true";
            return Err(Problem::invalid("invalid_request", detail));
        }
        Ok(wanted.then_some(Self { after, limit: limit.unwrap_or(DEFAULT_LIMIT) }))
    }
}

/// `next` of a page: a user, or a user and a device (ids have no slash).
fn after(text: &str) -> Result<AfterRecipient, crate::domain::id::IdError> {
    match text.split_once('/') {
        Some((user, device)) => Ok((UserId::new(user)?, Some(DeviceId::new(device)?))),
        None => Ok((UserId::new(text)?, None)),
    }
}

fn next(last: &RecipientReceipt) -> String {
    match &last.device {
        Some(device) => format!("{}/{device}", last.user),
        None => last.user.to_string(),
    }
}

#[derive(Serialize)]
struct Shape {
    id: NotificationId,
    status: &'static str,
    created_at: UnixMillis,
    deliver_at: Option<UnixMillis>,
    recipients: Option<u64>,
    counts: Counts,
    #[serde(flatten)]
    listed: Option<Listed>,
}

#[derive(Serialize)]
struct Listed {
    recipients_list: Vec<One>,
    /// What `after` is for the next page; null: this is the last.
    next: Option<String>,
}

#[derive(Serialize)]
struct One {
    user: UserId,
    device: Option<DeviceId>,
    state: &'static str,
    delivered_at: Option<UnixMillis>,
    read_at: Option<UnixMillis>,
}

async fn receipt(call: Arc<Call>, id: String) -> Answer {
    let publisher = publisher(&call).await?;
    let id = read_id(&id)?;
    let page = Page::parse(&call.query)?;
    let (inbox, now) = (&call.state.inbox, call.state.clock.now());
    let receipt = inbox.receipt(id, &publisher.id, now).await.map_err(Problem::inbox)?;
    let receipt = receipt.ok_or_else(|| unknown(id))?;
    let listed = match page {
        None => None,
        Some(Page { after, limit }) => {
            // One more than wanted tells whether there are more.
            let list = inbox.recipients(id, &publisher.id, after.as_ref(), limit + 1, now).await;
            Some(listed(list.map_err(Problem::inbox)?, limit as usize))
        }
    };
    let Receipt { created_at, deliver_at, is_cancelled, recipients, counts } = receipt;
    let status = match (deliver_at, is_cancelled) {
        (Some(_), _) => "scheduled",
        (None, true) => "cancelled",
        (None, false) => "stored",
    };
    Ok(json(StatusCode::OK, &Shape { id, status, created_at, deliver_at, recipients, counts, listed }))
}

fn listed(mut list: Vec<RecipientReceipt>, limit: usize) -> Listed {
    let has_more = list.len() > limit;
    list.truncate(limit);
    let next = list.last().filter(|_| has_more).map(next);
    let one = |RecipientReceipt { user, device, state, delivered_at, read_at }| One {
        user,
        device,
        state: state.as_str(),
        delivered_at,
        read_at,
    };
    Listed { recipients_list: list.into_iter().map(one).collect(), next }
}

async fn cancel(call: Arc<Call>, id: String) -> Answer {
    #[derive(Serialize)]
    struct Shape {
        id: NotificationId,
        status: &'static str,
        recipients: Option<u64>,
    }
    let publisher = publisher(&call).await?;
    let id = read_id(&id)?;
    query::pairs(&call.query, &[])?;
    let recipients = match call.state.publishing.cancel(id, &publisher.id).await? {
        Cancelled::Unknown => return Err(unknown(id)),
        Cancelled::Unscheduled => None,
        Cancelled::Stored { recipients, entries, .. } => {
            debug!(notification.id = %id, entries = entries.len(), "a notification is cancelled");
            recipients
        }
    };
    Ok(json(StatusCode::OK, &Shape { id, status: "cancelled", recipients }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_recipients_are_asked_for_by_name_and_bounded() {
        let parse = |query| Page::parse(query).ok();
        assert_eq!(parse(""), Some(None));
        assert_eq!(parse("recipients=false"), Some(None));
        let first = Page { after: None, limit: DEFAULT_LIMIT };
        assert_eq!(parse("recipients=true"), Some(Some(first)));
        let user = UserId::new("a|b").expect("an id");
        let phone = DeviceId::new("phone").expect("an id");
        let later = Page { after: Some((user, Some(phone))), limit: 7 };
        assert_eq!(parse("recipients=true&after=a%7Cb%2Fphone&limit=7"), Some(Some(later)));
        for bad in [
            "limit=7",
            "recipients=yes",
            "recipients=true&limit=0",
            "recipients=true&limit=1001",
            "recipients=true&after=",
            "recipients=true&after=a/b/c",
            "receipts=true",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_page_names_the_beginning_of_the_next() {
        let receipt = |user, device: Option<&str>| RecipientReceipt {
            user: UserId::new(user).expect("an id"),
            device: device.map(|device| DeviceId::new(device).expect("an id")),
            state: crate::inbox::State::Stored,
            delivered_at: None,
            read_at: None,
        };
        let list = || vec![receipt("a", Some("phone")), receipt("b", None)];
        assert_eq!(listed(list(), 2).next, None);
        let cut = listed(list(), 1);
        assert_eq!((cut.recipients_list.len(), cut.next.as_deref()), (1, Some("a/phone")));
        let read = after("a/phone").expect("what was written");
        assert_eq!((read.0.as_str(), read.1.as_ref().map(DeviceId::as_str)), ("a", Some("phone")));
    }
}
