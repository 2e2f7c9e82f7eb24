//! The warp filter that makes a WebSocket of a request.
//!
//! Owns the way from the request to a running socket. Who may connect is decided by the hook, and
//! before the 101: a refused client gets an HTTP status. `warp::ws()` is not used: its read buffer
//! of 128 KiB a connection cannot be set.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::net::TcpStream;
use warp::Filter;
use warp::filters::BoxedFilter;

use super::accept::Remote;
use super::accept::head_clock::HeadClock;
use super::handshake::{self, Handshake, Refusal, SUBPROTOCOL};
use super::sockets::{Place, Seat, Sockets};

/// What the hook says to a handshake.
pub enum Decision {
    /// Answer 101, then let this make the peer of the socket.
    Accept(Seat),
    /// Answer this instead.
    Reject(Response<String>),
}

/// A filter that answers every request it gets: put it behind a path and `warp::get()`.
///
/// `hook` decides on each handshake that is in order; it is dropped if the client goes away
/// meanwhile. It should answer before a few seconds are over, as the client waits. Something that
/// the client must say first over the socket is waited for with
/// [`Socket::expect_within`](super::Socket::expect_within).
///
/// Needs the [accept loop](super::accept::serve), which puts the address and the HTTP version of
/// the connection into the request; without it everything is answered 426.
pub fn upgrade<H, F>(sockets: Sockets, hook: H) -> BoxedFilter<(Response<String>,)>
where
    H: Fn(Handshake) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Decision> + Send,
{
    warp::header::headers_cloned()
        .and(raw_query())
        .and(warp::ext::optional::<Remote>())
        .and(warp::ext::optional::<Version>())
        .and(warp::ext::optional::<OnUpgrade>())
        .then(
            move |headers: HeaderMap, query, remote: Option<Remote>, version: Option<Version>, on_upgrade| {
                let request = Request {
                    headers,
                    query,
                    remote: remote.map(|Remote(address)| address),
                    version: version.unwrap_or(Version::HTTP_09),
                    on_upgrade,
                };
                answer(sockets.clone(), request, hook.clone())
            },
        )
        .boxed()
}

struct Request {
    headers: HeaderMap,
    query: String,
    remote: Option<SocketAddr>,
    version: Version,
    on_upgrade: Option<OnUpgrade>,
}

fn raw_query() -> impl Filter<Extract = (String,), Error = std::convert::Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

async fn answer<H, F>(sockets: Sockets, request: Request, hook: H) -> Response<String>
where
    H: Fn(Handshake) -> F,
    F: Future<Output = Decision>,
{
    let (accept, on_upgrade, place) = match admit(&sockets, &request) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            sockets.metrics().handshake(refusal.outcome());
            return refusal.response();
        }
    };
    let offer = handshake::offer(&request.headers);
    let fanfare = offer.fanfare;
    let decision =
        hook(Handshake { headers: request.headers, query: request.query, peer: request.remote, offer });
    match decision.await {
        Decision::Reject(response) => {
            sockets.metrics().handshake("rejected");
            response
        }
        Decision::Accept(seat) => {
            let tracker = sockets.tracker().clone();
            // A task of its own only until the socket's is spawned: together they would be as
            // large as the larger one for as long as the socket lives.
            tracker.spawn(take_over(sockets, place, on_upgrade, seat));
            switching_protocols(accept, fanfare)
        }
    }
}

fn admit(sockets: &Sockets, request: &Request) -> Result<(HeaderValue, OnUpgrade, Place), Refusal> {
    let accept = handshake::check(request.version, &request.headers)?;
    let on_upgrade = request.on_upgrade.clone().ok_or(Refusal::NotAnUpgrade)?;
    // The accept loop puts it there, as it does the version, without which nothing gets here.
    let peer = request.remote.ok_or(Refusal::NotAnUpgrade)?;
    let place = sockets.reserve(sockets.client(peer.ip(), &request.headers))?;
    Ok((accept, on_upgrade, place))
}

/// Extensions are never agreed to, and of the subprotocols only Fanfare's: the token that may be
/// among them is not sent back.
fn switching_protocols(accept: HeaderValue, fanfare: bool) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if fanfare {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// Waits until the 101 is written, takes the TCP stream out of hyper, and starts the socket.
async fn take_over(sockets: Sockets, place: Place, on_upgrade: OnUpgrade, seat: Seat) {
    let stream = match on_upgrade.await {
        Ok(upgraded) => to_tcp(upgraded),
        Err(_) => None,
    };
    match stream {
        Some((stream, first)) => {
            sockets.metrics().handshake("accepted");
            sockets.run(place, stream, first, seat);
        }
        // The client went away before it had the answer.
        None => sockets.metrics().handshake("lost"),
    }
}

/// The stream, and what hyper had read of the first frames already.
fn to_tcp(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<HeadClock>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}
