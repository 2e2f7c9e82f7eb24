//! Fanfare: a notification push service.
//!
//! The map, from the bottom up. A module names only modules below it; modules on one line
//! never name each other.
//!
//! ```text
//! main -> cli -> node -> config, telemetry
//!   -> gateway | http | jobs
//!   -> publish | delivery
//!   -> routing
//!   -> hub | session | broker | presence | inbox
//!   -> wire | auth
//!   -> batch | clock | metrics
//!   -> domain
//! ```

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod auth;
pub mod batch;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod gateway;
pub mod http;
pub mod hub;
pub mod inbox;
pub mod jobs;
pub mod metrics;
pub mod node;
pub mod presence;
pub mod publish;
pub mod routing;
pub mod session;
pub mod telemetry;
pub mod wire;
