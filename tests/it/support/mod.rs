//! What tests share: backends, servers of their own, waiting for events.

pub(crate) mod backends;
pub(crate) mod eventually;
pub(crate) mod redis_server;
