//! HAProxy from `deploy/haproxy.cfg`, with nothing changed but addresses, and what takes root.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::NODE_IDS;
use super::front::{Front, is_root, replaced};
use super::ports::free_port;
use super::process::NodeProcess;

/// The file that is deployed.
pub const DEPLOYED: &str = include_str!("../../../deploy/haproxy.cfg");

/// Where a node is, on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// For clients.
    pub http: u16,
    /// For checks.
    pub admin: u16,
}

impl From<&NodeProcess> for Node {
    fn from(node: &NodeProcess) -> Self {
        Self { http: node.settings.http_port, admin: node.settings.admin_port }
    }
}

/// Starts it on a free port, with its files in `folder`, in front of two nodes.
pub async fn start(folder: &Path, nodes: [Node; 2]) -> Front {
    let port = free_port();
    let config = folder.join("haproxy.cfg");
    fs::write(&config, configuration(port, nodes)).expect("the folder is writable");
    let mut command = Command::new("haproxy");
    // In the foreground, whatever the file says.
    command.arg("-db").arg("-f").arg(&config);
    Front::start("haproxy", &mut command, folder, port).await
}

/// The deployed file with addresses of the test's own.
fn configuration(port: u16, nodes: [Node; 2]) -> String {
    let mut text = replaced(DEPLOYED, "\n    bind :8080\n", &format!("\n    bind 127.0.0.1:{port}\n"));
    for (id, Node { http, admin }) in NODE_IDS.into_iter().zip(nodes) {
        let checked = format!("    server {id} {id}:8080 check port 9191\n");
        text = replaced(&text, &checked, &format!("    server {id} 127.0.0.1:{http} check port {admin}\n"));
        let unready = format!("    server {id}-unready {id}:8080 backup\n");
        text = replaced(&text, &unready, &format!("    server {id}-unready 127.0.0.1:{http} backup\n"));
    }
    if !is_root() {
        for line in ["    chroot /var/lib/haproxy\n", "    user haproxy\n", "    group haproxy\n"] {
            text = replaced(&text, line, "");
        }
    }
    text
}
