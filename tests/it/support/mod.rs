//! What the integration tests stand on: real backends, real processes, a real client.
//!
//! Nothing here decides what is right; tests do. Everything waits for events with deadlines.

pub mod backends;
