//! Nginx from `deploy/nginx.conf`, with nothing changed but addresses.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::backends::http_client;
use super::ports::free_port;
use super::process::Process;
use super::{DEADLINE, eventually};

/// The file that is deployed.
pub const DEPLOYED: &str = include_str!("../../../deploy/nginx.conf");

/// A running Nginx in front of two nodes.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Starts it on a free port, with its files in `folder`, in front of two loopback ports.
    pub async fn start(folder: &Path, node_ports: [u16; 2]) -> Self {
        let port = free_port();
        let prefix = folder.join("nginx");
        fs::create_dir_all(prefix.join("temporary")).expect("the folder is writable");
        let config = prefix.join("nginx.conf");
        fs::write(&config, configuration(port, node_ports)).expect("the folder is writable");
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(&prefix)
            .arg("-c")
            .arg(&config)
            .args(["-g", &format!("daemon off; pid nginx.pid; {}", user())])
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        let process = Process::spawn("nginx", &mut command, folder.join("nginx.log"));
        let nginx = Self { process, port };
        let (client, url) = (http_client(), nginx.http_url());
        eventually(DEADLINE, "nginx answers", || {
            let request = client.get(&url).send();
            async { request.await.is_ok() }
        })
        .await;
        nginx
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

impl Drop for Nginx {
    fn drop(&mut self) {
        // Only when asked does the master end its workers.
        self.process.stop();
    }
}

/// The deployed file with addresses of the test's own, and with temporary files in the prefix.
fn configuration(port: u16, node_ports: [u16; 2]) -> String {
    let mut text = DEPLOYED.to_owned();
    let mut replace = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "deploy/nginx.conf has {from:?} once");
        text = text.replace(from, to);
    };
    replace("server node-1:8080", &format!("server 127.0.0.1:{}", node_ports[0]));
    replace("server node-2:8080", &format!("server 127.0.0.1:{}", node_ports[1]));
    replace("listen 8080;", &format!("listen 127.0.0.1:{port};"));
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path temporary/{kind};\n"))
        .collect();
    replace("\nhttp {\n", &format!("\nhttp {{\n{paths}"));
    text
}

/// As root Nginx would give its workers to an account that cannot read a test's folder.
fn user() -> &'static str {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.contains("Uid:\t0\t") { "user root;" } else { "" }
}
