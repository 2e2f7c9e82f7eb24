//! Delivery: what joins connections, the hub and the inbox.

pub mod outlet;
