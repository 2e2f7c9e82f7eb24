//! All integration tests, one binary.

mod auth;
mod cli;
mod config;
