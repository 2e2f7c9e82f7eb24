//! Urgent messages over AMQP, alone and beside a crowd of low ones: what the lanes are for, as the ratio of latencies
//! within one run.
//!
//! `benches/run lanes` starts two nodes and calls it; `cargo run --release --example lanes -- --help` lists what it
//! takes. One device really speaks the protocol. Loopback only, and bounded in number and time. It must never start or
//! stop what it measures, only let it stand still.

mod device;
mod lanes;
mod tally;

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;

/// Measures the lanes of a running Fanfare on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the device connects: ADDRESS:PORT on loopback.
    #[arg(long)]
    target: SocketAddr,
    /// The HS256 secret that users' tokens are signed with (`auth.users.secret`).
    #[arg(long, env = "LOAD_SECRET", hide_env_values = true)]
    secret: String,
    #[command(flatten)]
    lanes: lanes::Lanes,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.target.ip().is_loopback(), "--target must be a loopback address");
    println!("load average at the start: {}", load_average()?);
    let device = device::Device { target: arguments.target, secret: arguments.secret };
    arguments.lanes.run(&device).await.context("the measurement was not finished")?;
    println!("load average at the end: {}", load_average()?);
    Ok(())
}

/// Over the last minute.
fn load_average() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
