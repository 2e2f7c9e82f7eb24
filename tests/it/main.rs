//! All integration tests, one binary.
#![expect(unreachable_pub, reason = "modules of one test binary speak through pub items")]

#[expect(dead_code, reason = "it speaks the whole protocol; tests look at what they are about")]
mod support;

mod attach;
mod auth;
mod cli;
mod cluster;
mod config;
mod conflation;
mod contract;
mod dashboards;
mod dead_letters;
mod degraded;
mod deploy;
mod docs;
mod drain;
mod fault_account;
mod faults;
mod haproxy;
mod http;
mod ingress;
mod jobs;
mod lagged;
mod lanes;
mod presence;
mod read_state;
mod receipts;
mod revocations;
mod secrets;
mod sim;
mod sockets;
mod start;
mod survival;
mod tickets;
mod tidy;
mod topology;
