//! The gateway's socket side: from a TCP connection to text messages and back.
//!
//! ```text
//! accept      TCP -> HTTP requests, with timeouts and limits
//! upgrade     request -> handshake (handshake) -> hook decides -> socket
//! sockets     all sockets: settings, number, deadlines
//! socket      one socket as others see it: push, close, expect (socket::queue: what waits)
//! address     where clients come from (behind proxies, too), and how many sockets each address has
//! turnstile   how many sockets a second are let in
//! clients     who may connect, and the first frames
//! visitor     one socket until delivery has it
//! connection  one socket's task: read, decode (codec), rate, tell the Peer
//! ```
//!
//! All but `clients` know nothing of what the texts mean: a [`Peer`] does.

pub mod accept;
mod address;
mod clients;
pub mod codec;
mod connection;
pub mod handshake;
mod rate;
mod socket;
mod sockets;
mod turnstile;
pub mod upgrade;
mod visitor;

pub use address::{Network, NetworkError};
pub use clients::{ClientSettings, Clients};
pub use connection::{Closed, Peer};
pub use socket::Socket;
pub use sockets::{Seat, SocketSettings, Sockets};
