//! A proxy in front of nodes, whichever program it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::backends::http_client;
use super::process::Process;
use super::{DEADLINE, eventually};

/// A running proxy in front of two nodes.
#[derive(Debug)]
pub struct Front {
    process: Process,
    port: u16,
}

impl Front {
    /// Starts `command`, which makes it listen on `port`, with its output in `folder`; waits until it answers.
    pub async fn start(name: &str, command: &mut Command, folder: &Path, port: u16) -> Self {
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        let process = Process::spawn(name, command, folder.join(format!("{name}.log")));
        let front = Self { process, port };
        let (client, url) = (http_client(), front.http_url());
        eventually(DEADLINE, &format!("{name} answers"), || {
            let request = client.get(&url).send();
            async { request.await.is_ok() }
        })
        .await;
        front
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where publishers go.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where clients go.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/v1/connect", self.port)
    }

    /// The process: signals, end, output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Only when asked does Nginx's master end its workers.
        self.process.stop();
    }
}

/// `text` with `from` replaced, which must be in it once.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "the deployed file has {from:?} once");
    text.replace(from, to)
}

/// Whether a proxy started here starts as root.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default().contains("Uid:\t0\t")
}
