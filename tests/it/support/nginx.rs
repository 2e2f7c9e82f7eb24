//! Nginx from `deploy/nginx.conf`, with nothing changed but addresses.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::front::{Front, is_root, replaced};
use super::ports::free_port;

/// The file that is deployed.
pub const DEPLOYED: &str = include_str!("../../../deploy/nginx.conf");

/// Starts it on a free port, with its files in `folder`, in front of two loopback ports.
pub async fn start(folder: &Path, node_ports: [u16; 2]) -> Front {
    let port = free_port();
    let prefix = folder.join("nginx");
    fs::create_dir_all(prefix.join("temporary")).expect("the folder is writable");
    let config = prefix.join("nginx.conf");
    fs::write(&config, configuration(port, node_ports)).expect("the folder is writable");
    // As root it would give its workers to an account that cannot read a test's folder.
    let user = if is_root() { "user root;" } else { "" };
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&prefix).arg("-c").arg(&config);
    command.args(["-g", &format!("daemon off; pid nginx.pid; {user}")]);
    Front::start("nginx", &mut command, folder, port).await
}

/// The deployed file with addresses of the test's own, and with temporary files in the prefix.
fn configuration(port: u16, node_ports: [u16; 2]) -> String {
    let text = replaced(DEPLOYED, "server node-1:8080", &format!("server 127.0.0.1:{}", node_ports[0]));
    let text = replaced(&text, "server node-2:8080", &format!("server 127.0.0.1:{}", node_ports[1]));
    let text = replaced(&text, "listen 8080;", &format!("listen 127.0.0.1:{port};"));
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path temporary/{kind};\n"))
        .collect();
    replaced(&text, "\nhttp {\n", &format!("\nhttp {{\n{paths}"))
}
