//! What travels: client frames, server frames, close codes, envelopes, the publish request.
//!
//! Owns every shape and its encoding, each written once. Pure: no await, no clock, no
//! logging, no I/O, and no decision about what to send to whom.

pub mod brief;
pub mod client;
pub mod close;
pub mod control;
pub mod envelope;
pub mod frame;
pub mod marked;
pub mod publish;
pub mod server;

pub use client::{AckMode, ClientFrame, Hello};
pub use close::CloseCode;
pub use frame::Frame;
pub use marked::Marked;
pub use server::{ErrorCode, Tail};
