//! A RabbitMQ of the fault runs' own: one member or a cluster of three, to be killed and cut apart.
//!
//! Everything is below one folder, on the loopback, with an epmd and a cookie of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lapin::{Connection, ConnectionProperties};

use crate::support::eventually;
use crate::support::ports::free_port;
use crate::support::process::Process;

/// A member needs about ten seconds, three at once on two busy cores far more.
const START: Duration = Duration::from_secs(180);

/// Running members; killed when dropped.
#[derive(Debug)]
pub struct Rabbit {
    folder: PathBuf,
    members: Vec<Member>,
    epmd_port: u16,
    // Dropped last: members ask it for each other.
    _epmd: Process,
}

#[derive(Debug)]
struct Member {
    name: String,
    port: u16,
    process: Process,
}

impl Rabbit {
    /// Starts so many members, as one cluster, and waits until each takes connections.
    pub async fn start(folder: &Path, members: usize) -> Self {
        let folder = folder.join(format!("rabbit-{members}"));
        std::fs::create_dir_all(&folder).expect("the folder is writable");
        write(&folder, ".erlang.cookie", uuid::Uuid::now_v7().simple().to_string(), 0o400);
        write(&folder, "plugins", "[].".to_owned(), 0o600);
        let epmd_port = free_port();
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]).current_dir(&folder);
        let epmd = Process::spawn("epmd", &mut epmd, folder.join("epmd.log"));
        let ports: Vec<u16> = (0..members).map(|_| free_port()).collect();
        let names: Vec<String> = ports.iter().map(|port| format!("faults{port}@localhost")).collect();
        write(&folder, "rabbitmq.conf", configuration(&names), 0o600);
        let members = names.into_iter().zip(ports).map(|(name, port)| {
            let process = serve(&folder, epmd_port, &name, port);
            Member { name, port, process }
        });
        let members = members.collect();
        let rabbit = Self { folder, members, epmd_port, _epmd: epmd };
        for member in 0..rabbit.members.len() {
            rabbit.answers(member).await;
        }
        rabbit
    }

    /// Where each member is.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| url(member.port)).collect()
    }

    /// `kill -9` of one member.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process.kill();
    }

    /// Starts a member again and waits until it takes connections.
    pub async fn start_again(&mut self, member: usize) {
        let (folder, epmd) = (self.folder.clone(), self.epmd_port);
        let dead = &mut self.members[member];
        dead.process = serve(&folder, epmd, &dead.name, dead.port);
        self.answers(member).await;
    }

    /// Runs `rabbitmqctl` on a member; answers what it printed.
    pub async fn ctl(&self, member: usize, arguments: &[&str]) -> String {
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
        environment(&mut command, &self.folder, self.epmd_port);
        let name = &self.members[member].name;
        command.args(["-q", "-n", name]).args(arguments).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it was run").expect("rabbitmqctl is installed");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {text}");
        text
    }

    /// The member on which a node's connections are.
    pub async fn member_of(&self, node: &str) -> usize {
        let connections = self.ctl(0, &["list_connections", "client_properties", "pid"]).await;
        let name = format!("fanfare {node} ");
        let own = connections.lines().find(|line| line.contains(&name));
        let own = own.unwrap_or_else(|| panic!("no connection of {node} in {connections}"));
        // A process id names its member.
        let member = self.members.iter().position(|member| own.contains(&member.name));
        member.unwrap_or_else(|| panic!("no member of this cluster in {own}"))
    }

    /// Waits until the others have done without a member.
    pub async fn is_missed(&self, member: usize) {
        let (other, name) = ((member + 1) % self.members.len(), &self.members[member].name);
        eventually(START, &format!("the others miss {name}"), async || {
            let running = self.ctl(other, &["eval", "rabbit_nodes:all_running()."]).await;
            !running.contains(name.as_str())
        })
        .await;
    }

    /// Cuts a member's links to all others, at once: one after the other would be another fault.
    pub async fn partition(&self, member: usize) {
        let others = "Others = rabbit_nodes:all_running() -- [node()]";
        let cut =
            "[erlang:set_cookie(N, cut) || N <- Others], [erlang:disconnect_node(N) || N <- Others], ok.";
        self.ctl(member, &["eval", &format!("{others}, {cut}")]).await;
    }

    /// Mends the links of a member that was cut off.
    pub async fn heal(&self, member: usize) {
        let own = &self.members[member].name;
        let others = self.members.iter().map(|member| &member.name).filter(|name| *name != own);
        let others: Vec<String> = others.map(|name| format!("'{name}'")).collect();
        let mend =
            "[begin erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N) end || N <- ";
        self.ctl(member, &["eval", &format!("{mend}[{}]], ok.", others.join(","))]).await;
    }

    /// Waits until a member takes connections again.
    pub async fn answers(&self, member: usize) {
        let url = url(self.members[member].port);
        let what = format!("RabbitMQ answers at {url}");
        eventually(START, &what, async || {
            let connecting = Connection::connect(&url, ConnectionProperties::default());
            match tokio::time::timeout(Duration::from_secs(5), connecting).await {
                Ok(Ok(connection)) => connection.close(200, "asked".into()).await.is_ok(),
                Ok(Err(_)) | Err(_) => false,
            }
        })
        .await;
    }
}

fn url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

fn write(folder: &Path, name: &str, text: String, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder is writable");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("our own file");
}

fn configuration(names: &[String]) -> String {
    let members: String = names
        .iter()
        .enumerate()
        .map(|(place, name)| format!("cluster_formation.classic_config.nodes.{} = {name}\n", place + 1))
        .collect();
    format!(
        "loopback_users = none\nvm_memory_high_watermark.relative = 0.3\ndisk_free_limit.absolute = 50MB\n\
         log.file.level = info\ncluster_partition_handling = pause_minority\nnet_ticktime = 8\n\
         cluster_formation.peer_discovery_backend = classic_config\n{members}"
    )
}

fn environment(command: &mut Command, folder: &Path, epmd_port: u16) {
    command
        .env_clear()
        .current_dir(folder)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", folder)
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}");
}

fn serve(folder: &Path, epmd_port: u16, name: &str, port: u16) -> Process {
    let home = folder.join(port.to_string());
    std::fs::create_dir_all(&home).expect("the folder is writable");
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    environment(&mut command, folder, epmd_port);
    command
        // So the script becomes the server instead of watching over it: its process id is the server's.
        .env("RUNNING_UNDER_SYSTEMD", "1")
        .env("RABBITMQ_NODENAME", name)
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", home.join("log"))
        .env("RABBITMQ_PID_FILE", home.join("pid"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
        );
    Process::spawn(name, &mut command, home.join("out"))
}
