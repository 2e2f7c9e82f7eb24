//! What travels: client frames, server frames, close codes, envelopes, the publish request.
//!
//! Owns every shape and its encoding, each written once. Pure: no await, no clock, no
//! logging, no I/O, and no decision about what to send to whom.

pub mod close;
pub mod frame;

pub use close::CloseCode;
pub use frame::Frame;
