//! A WebSocket echo server on the gateway's own parts: a target for conformance suites.
//!
//! `cargo run --example echo -- 127.0.0.1:9101 [FRAMES_PER_SECOND]`. Says back every text message;
//! limits, deadlines and close codes are those of the node. Binary frames are refused as there.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use fanfare::clock::Clock;
use fanfare::delivery::outlet::Outlet;
use fanfare::gateway::accept::{self, AcceptSettings, Lifetime};
use fanfare::gateway::upgrade::{Decision, upgrade};
use fanfare::gateway::{Closed, Peer, Socket, SocketSettings, Sockets};
use fanfare::metrics::Metrics;
use fanfare::wire::{CloseCode, Frame};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;

struct Echo(Arc<Socket>);

impl Peer for Echo {
    fn on_text(&self, text: &str) -> Result<(), CloseCode> {
        // An echo has nowhere to stop: the rate bound of the socket keeps the queue small.
        let _ = self.0.push(Frame::text(b"", Bytes::copy_from_slice(text.as_bytes())));
        Ok(())
    }
    fn on_pong(&self) {}
    fn on_drained(&self) {}
    fn on_closed(&self, _: Closed) {}
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:9101".to_owned())
        .parse()
        .context("the first argument is the address to listen on")?;
    let mut settings = SocketSettings::default();
    if let Some(rate) = arguments.next() {
        settings.frames_per_second = rate.parse().context("the second is frames a second")?;
        settings.frame_burst = settings.frames_per_second.saturating_mul(2);
    }
    let lifetime = Lifetime { tracker: TaskTracker::new(), stop: CancellationToken::new() };
    let metrics = Metrics::new().gateway;
    let sockets = Sockets::start(
        settings,
        Clock::system(),
        metrics.clone(),
        lifetime.tracker.clone(),
        lifetime.stop.clone(),
    );
    let routes = warp::get().and(upgrade(sockets, |_handshake| async {
        Decision::Accept(Box::new(|socket| Arc::new(Echo(socket))))
    }));
    let service = TowerToHyperService::new(warp::service(routes));
    let listener = accept::bind(address)
        .and_then(accept::listen)
        .with_context(|| format!("cannot listen on {address}"))?;
    println!("echo on ws://{}/", listener.local_addr()?);
    let serving = accept::serve(listener, service, AcceptSettings::default(), lifetime.clone(), metrics);
    tokio::select! {
        () = serving => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}
