//! The two listeners: clients and publishers on one, operators on the other.
//!
//! The operators' one is served from the beginning, so that a start that takes its time can be watched.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use hyper::service::Service;
use hyper::{Request, body::Incoming};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::config::Config;
use crate::gateway::accept::{self, AcceptSettings, Lifetime};
use crate::gateway::{Clients, Sockets};
use crate::http::{self, Readiness};
use crate::metrics::gateway::GatewayMetrics;

/// Opens the admin listener to everything, once there is everything.
pub(super) type Open = Box<dyn FnOnce(BoxedFilter<(Response,)>) + Send>;

/// Serves operators: at first only how the start is going. Goes on until the very end, to say how the stop is.
pub(super) fn serve_operators(
    listener: TcpListener,
    readiness: watch::Receiver<Readiness>,
    settings: AcceptSettings,
    lifetime: Lifetime,
    metrics: GatewayMetrics,
) -> Open {
    let starting = TowerToHyperService::new(warp::service(http::starting_routes(readiness)));
    let everything = Arc::new(OnceLock::new());
    let door = Door { everything: Arc::clone(&everything), starting };
    lifetime.tracker.clone().spawn(accept::serve(listener, door, settings, lifetime, metrics));
    Box::new(move |routes| {
        // Called once: it is consumed.
        let _ = everything.set(TowerToHyperService::new(warp::service(routes)));
    })
}

/// Serves clients and publishers.
pub(super) fn serve_clients(
    listener: TcpListener,
    clients: Arc<Clients>,
    sockets: Sockets,
    rest: BoxedFilter<(Response,)>,
    settings: AcceptSettings,
    lifetime: Lifetime,
    metrics: GatewayMetrics,
) {
    let connect = clients.routes(sockets).map(warp::reply::Reply::into_response);
    let routes = connect.or(rest).unify().recover(http::recover).unify();
    let service = TowerToHyperService::new(warp::service(routes));
    lifetime.tracker.clone().spawn(accept::serve(listener, service, settings, lifetime, metrics));
}

pub(super) fn lifetime(tracker: &TaskTracker, stop: &CancellationToken) -> Lifetime {
    Lifetime { tracker: tracker.clone(), stop: stop.clone() }
}

pub(super) fn accept_settings(config: &Config) -> AcceptSettings {
    AcceptSettings {
        max_connections: config.http.max_connections,
        header_timeout: config.http.header_timeout,
        drain_timeout: (config.drain.deadline - config.drain.window) / 2,
        ..AcceptSettings::default()
    }
}

/// Leads to one service first, and to another as soon as there is one.
#[derive(Clone)]
struct Door<S> {
    everything: Arc<OnceLock<S>>,
    starting: S,
}

impl<S: Service<Request<Incoming>, Error = Infallible>> Service<Request<Incoming>> for Door<S> {
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.everything.get().unwrap_or(&self.starting).call(request)
    }
}
