//! A WebSocket echo server on the gateway's own parts: a target for conformance suites.
//!
//! `cargo run --example echo -- 127.0.0.1:9101 [FRAMES_PER_SECOND] [--node-limits]`. Says back every message,
//! text and binary, up to 16 MiB; deadlines, rates and close codes are those of the node. With `--node-limits`
//! so is what it takes: text only, up to 16 KiB in 256 fragments. `tests/autobahn/run` runs a suite against it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use fanfare::clock::Clock;
use fanfare::delivery::outlet::Outlet;
use fanfare::gateway::accept::{self, AcceptSettings, Lifetime};
use fanfare::gateway::codec::Limits;
use fanfare::gateway::upgrade::{Decision, upgrade};
use fanfare::gateway::{Closed, Peer, Socket, SocketSettings, Sockets};
use fanfare::metrics::Metrics;
use fanfare::wire::{CloseCode, Frame};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::Filter;

/// A WebSocket echo server on the gateway's own parts.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(default_value = "127.0.0.1:9101")]
    address: SocketAddr,
    /// Frames a second that a client may send; the node's default if absent.
    frames_per_second: Option<u32>,
    /// Take only what a node takes: text, up to 16 KiB in 256 fragments.
    #[arg(long)]
    node_limits: bool,
}

impl Arguments {
    fn settings(&self) -> SocketSettings {
        let mut settings = SocketSettings::default();
        if let Some(rate) = self.frames_per_second {
            settings.frames_per_second = rate;
            settings.frame_burst = rate.saturating_mul(2);
        }
        if !self.node_limits {
            // The largest that suites send, in fragments of 64 bytes; room for some to wait to be read.
            settings.limits =
                Limits { max_message_bytes: 16 << 20, max_fragments: (16 << 20) / 64, binary: true };
            settings.max_queued = 64 << 20;
        }
        settings
    }
}

struct Echo(Arc<Socket>);

impl Peer for Echo {
    fn on_text(&self, text: &str) -> Result<(), CloseCode> {
        // An echo has nowhere to stop: the rate bound of the socket keeps the queue small.
        let _ = self.0.push(Frame::text(b"", Bytes::copy_from_slice(text.as_bytes())));
        Ok(())
    }

    fn on_binary(&self, bytes: &[u8]) -> Result<(), CloseCode> {
        let _ = self.0.push(Frame::binary(Bytes::copy_from_slice(bytes)));
        Ok(())
    }

    fn on_pong(&self) {}
    fn on_drained(&self) {}
    fn on_closed(&self, _: Closed) {}
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let lifetime = Lifetime { tracker: TaskTracker::new(), stop: CancellationToken::new() };
    let metrics = Metrics::new().gateway;
    let sockets = Sockets::start(
        arguments.settings(),
        Clock::system(),
        metrics.clone(),
        lifetime.tracker.clone(),
        lifetime.stop.clone(),
    );
    let routes = warp::get().and(upgrade(sockets, |_handshake| async {
        Decision::Accept(Box::new(|socket| Arc::new(Echo(socket))))
    }));
    let service = TowerToHyperService::new(warp::service(routes));
    let listener = accept::bind(arguments.address)
        .and_then(accept::listen)
        .with_context(|| format!("cannot listen on {}", arguments.address))?;
    println!("echo on ws://{}/", listener.local_addr()?);
    let serving = accept::serve(listener, service, AcceptSettings::default(), lifetime.clone(), metrics);
    tokio::select! {
        () = serving => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}
