//! A load generator: what a node, or a cluster behind Nginx, costs for each connection, delivery and message.
//!
//! `benches/run` starts everything and calls it; `cargo run --release --example load -- --help` lists the
//! modes. It owns devices that really speak the protocol, publishers that keep their connections alive, and
//! the reading of `/proc`. Loopback only, and bounded in number and time. It must never start or stop
//! what it measures.

mod devices;
mod fanout;
mod idle;
mod lanes;
mod publisher;
mod tally;
mod unicast;
mod watch;

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Measures a running Fanfare on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where devices and publishers connect: ADDRESS:PORT on loopback.
    #[arg(long)]
    target: SocketAddr,
    /// The HS256 secret that users' tokens are signed with (`auth.users.secret`).
    #[arg(long, env = "LOAD_SECRET", hide_env_values = true)]
    secret: String,
    /// A publisher's API key.
    #[arg(long, env = "LOAD_KEY", hide_env_values = true, default_value = "")]
    key: String,
    /// A process to watch, with all its children: NAME=PID; several of one name are added up. The first
    /// is the one whose memory is read.
    #[arg(long = "watch", value_parser = watch::Watched::parse, required = true)]
    watched: Vec<watch::Watched>,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Memory of each idle authenticated connection, and the CPU of all.
    Idle(idle::Idle),
    /// CPU of each delivery of one message to everyone.
    Fanout(fanout::Fanout),
    /// One user's messages: posted, stored, delivered, acknowledged.
    Unicast(unicast::Unicast),
    /// Urgent messages over AMQP beside a crowd of low ones.
    Lanes(lanes::Lanes),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.target.ip().is_loopback(), "--target must be a loopback address");
    println!("load average at the start: {}", watch::load_average()?);
    let fleet = devices::Fleet::new(arguments.target, &arguments.secret)?;
    let publisher = publisher::Target { address: arguments.target, key: arguments.key };
    match arguments.mode {
        Mode::Idle(idle) => idle.run(&fleet, &arguments.watched).await,
        Mode::Fanout(fanout) => fanout.run(&fleet, &publisher, &arguments.watched).await,
        Mode::Unicast(unicast) => unicast.run(&fleet, &publisher, &arguments.watched).await,
        Mode::Lanes(lanes) => lanes.run(&fleet).await,
    }
    .context("the measurement was not finished")?;
    println!("load average at the end: {}", watch::load_average()?);
    Ok(())
}
