//! The embedded broker: in process.
