//! All integration tests, one binary.

mod auth;
mod config;
