//! An echo server on the gateway's parts, which notes what its peers are told.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use fanfare::clock::Clock;
use fanfare::delivery::outlet::Outlet;
use fanfare::gateway::accept::{self, AcceptSettings, Lifetime};
use fanfare::gateway::handshake::Handshake;
use fanfare::gateway::upgrade::{Decision, upgrade};
use fanfare::gateway::{Closed, Peer, Socket, SocketSettings, Sockets};
use fanfare::metrics::Metrics;
use fanfare::metrics::gateway::GatewayMetrics;
use fanfare::wire::{CloseCode, Frame};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;

use super::client::PATIENCE;

/// How many events of one server may wait to be looked at.
const EVENTS: usize = 65_536;

/// What a peer was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Offered(Option<String>),
    Text(String),
    Pong,
    Drained,
    Closed(Closed),
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) stop: CancellationToken,
    sockets: Sockets,
    tracker: TaskTracker,
    /// Far more than any test causes; one more is lost, and the test that waits for it fails.
    events: Mutex<mpsc::Receiver<Event>>,
    opened: Mutex<mpsc::Receiver<Arc<Socket>>>,
}

impl Server {
    pub(crate) async fn start(settings: SocketSettings) -> Self {
        Self::start_with(settings, AcceptSettings::default()).await
    }

    pub(crate) async fn start_with(settings: SocketSettings, accept_settings: AcceptSettings) -> Self {
        Self::start_at(settings, accept_settings, Clock::system()).await
    }

    pub(crate) async fn start_at(
        settings: SocketSettings,
        accept_settings: AcceptSettings,
        clock: Clock,
    ) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let metrics = Metrics::new().gateway;
        let sockets = Sockets::start(settings, clock, metrics.clone(), tracker.clone(), stop.clone());
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (opened, opened_receiver) = mpsc::channel(EVENTS);
        let hook = move |handshake: Handshake| {
            let (events, opened) = (events.clone(), opened.clone());
            async move { decide(handshake, events, opened) }
        };
        let routes = warp::get().and(upgrade(sockets.clone(), hook));
        let listener =
            accept::bind(([127, 0, 0, 1], 0).into()).and_then(accept::listen).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tracker.spawn(accept::serve(
            listener,
            TowerToHyperService::new(warp::service(routes)),
            accept_settings,
            Lifetime { tracker: tracker.clone(), stop: stop.clone() },
            metrics.clone(),
        ));
        Self {
            address,
            metrics,
            stop,
            sockets,
            tracker,
            events: Mutex::new(event_receiver),
            opened: Mutex::new(opened_receiver),
        }
    }

    /// The next thing a peer was told, but for the start.
    pub(crate) async fn event(&self) -> Event {
        loop {
            let event = timeout(PATIENCE, async { self.events.lock().await.recv().await });
            match event.await.expect("an event in time") {
                Some(Event::Offered(None)) => {}
                event => return event.expect("the server runs"),
            }
        }
    }

    /// The next end of a connection that a peer was told.
    pub(crate) async fn outcome(&self) -> Closed {
        loop {
            if let Event::Closed(how) = self.event().await {
                return how;
            }
        }
    }

    /// The next socket that was opened.
    pub(crate) async fn socket(&self) -> Arc<Socket> {
        let socket = timeout(PATIENCE, async { self.opened.lock().await.recv().await });
        socket.await.expect("a socket in time").expect("it runs")
    }

    /// Waits until no more than `count` sockets' tasks are left.
    pub(crate) async fn has_sockets(&self, count: usize) {
        let gone = async {
            while self.sockets.open() > count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.expect("sockets end in time");
    }

    /// Waits until no socket's task is left.
    pub(crate) async fn has_no_sockets(&self) {
        self.has_sockets(0).await;
        assert_eq!(self.metrics.sockets.get(), 0);
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn ends(&self) {
        self.tracker.close();
        timeout(PATIENCE, self.tracker.wait()).await.expect("all tasks end in time");
    }
}

fn decide(handshake: Handshake, events: mpsc::Sender<Event>, opened: mpsc::Sender<Arc<Socket>>) -> Decision {
    if handshake.headers.contains_key("x-reject") {
        let mut response = http::Response::new(String::new());
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        return Decision::Reject(response);
    }
    let _ = events.try_send(Event::Offered(handshake.offer.token));
    Decision::Accept(Box::new(move |socket| {
        let _ = opened.try_send(socket.clone());
        Arc::new(Echo { socket, events })
    }))
}

struct Echo {
    socket: Arc<Socket>,
    events: mpsc::Sender<Event>,
}

impl Echo {
    fn note(&self, event: Event) {
        let _ = self.events.try_send(event);
    }
}

impl Peer for Echo {
    fn on_text(&self, text: &str) -> Result<(), CloseCode> {
        self.note(Event::Text(text.to_owned()));
        if text == "refuse me" {
            return Err(CloseCode::InvalidFrame);
        }
        let body = Bytes::copy_from_slice(text.as_bytes());
        let _ = self.socket.push(Frame::text(b"", body));
        Ok(())
    }

    fn on_pong(&self) {
        self.note(Event::Pong);
    }

    fn on_drained(&self) {
        self.note(Event::Drained);
    }

    fn on_closed(&self, how: Closed) {
        self.note(Event::Closed(how));
    }

    fn farewell(&self, code: CloseCode) -> Option<Frame> {
        (code.code() >= 4000).then(|| {
            let bye = format!("bye {}", code.code());
            Frame::text(bye.as_bytes(), Bytes::new())
        })
    }
}
