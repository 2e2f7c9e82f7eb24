//! Ports for processes that cannot be handed a listener.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ephemeral range (32768) and below the ports of `tests/backends` (20000), so that
/// neither an outgoing connection nor a backend takes one between the choice and its use.
const FIRST: u16 = 12_000;
const COUNT: u16 = 8_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that nobody listens on, and that this process has not handed out before.
pub fn free_port() -> u16 {
    // Test processes side by side begin at different places.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT);
}

/// Two ports for peers that are not there.
pub fn unused_ports() -> [u16; 2] {
    [free_port(), free_port()]
}
