//! The built program as a process: started with a configuration file, watched, killed.
//!
//! Its output goes to a file, which is printed when a test fails. Nothing outlives its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use super::backends::http_client;
use super::ports::free_port;
use super::tokens::Credentials;
use super::within;

/// A start takes well below a second; building up to RabbitMQ, Redis and PostgreSQL on two
/// busy cores may take longer, and a lease of a killed predecessor is waited out (15 s).
pub const START_DEADLINE: Duration = Duration::from_secs(40);

/// Any process that a test owns: killed when dropped, its output kept.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`.
    pub fn spawn(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let out = File::options().create(true).append(true).open(&log).expect("the log opens");
        let err = out.try_clone().expect("a descriptor can be doubled");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let name = name.to_owned();
        Self { name, child, log }
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The memory that is its own and in use (Linux: `VmRSS`), in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kib * 1_024
    }

    /// Lets it open `spare` descriptors more than it has now (Linux: `prlimit`).
    pub fn limit_descriptors(&self, spare: usize) {
        let pid = self.child.id().to_string();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        let limit = format!("--nofile={}:", open + spare);
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(status.expect("prlimit runs").success(), "prlimit {limit} {}", self.name);
    }

    /// Its end, if it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Sends `signal` (a name as `kill` takes it, such as `STOP`) to it.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{signal} {}", self.name);
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends; it printed:\n{}", self.name, self.log());
        within(deadline, &what, self.ended()).await
    }

    /// Waits for its end, however long that takes.
    pub async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        self.child.wait().expect("a killed child can be waited for");
    }

    /// SIGTERM, then up to two seconds, then `kill -9`: for programs with children of their own.
    pub fn stop(&mut self) {
        if self.exit_status().is_none() {
            self.signal("TERM");
        }
        for _ in 0..200 {
            if self.exit_status().is_some() {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "called by Drop, where nothing can be awaited; bounded"
            )]
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}", self.name, self.log());
        }
    }
}

/// What a node is configured with. Absent URLs mean the embedded twin.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// `node.id`.
    pub id: String,
    /// `http.listen` on loopback.
    pub http_port: u16,
    /// `admin.listen` on loopback.
    pub admin_port: u16,
    /// `broker.urls`.
    pub broker_urls: Vec<String>,
    /// `presence.url`.
    pub presence_url: Option<String>,
    /// `inbox.url`.
    pub inbox_url: Option<String>,
    /// Any other key and its value in TOML, such as `("gateway.heartbeat_ms", "1000")`.
    pub others: Vec<(&'static str, String)>,
}

impl NodeSettings {
    /// An embedded node on free ports.
    pub fn embedded(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            http_port: free_port(),
            admin_port: free_port(),
            broker_urls: vec![],
            presence_url: None,
            inbox_url: None,
            others: vec![],
        }
    }

    /// The keys that differ from the defaults, each with its value in TOML.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = vec![
            ("node.id", quoted(&self.id)),
            ("http.listen", quoted(&format!("127.0.0.1:{}", self.http_port))),
            ("admin.listen", quoted(&format!("127.0.0.1:{}", self.admin_port))),
        ];
        if !self.broker_urls.is_empty() {
            let urls: Vec<String> = self.broker_urls.iter().map(|url| quoted(url)).collect();
            keys.push(("broker.urls", format!("[{}]", urls.join(", "))));
        }
        keys.extend(self.presence_url.iter().map(|url| ("presence.url", quoted(url))));
        keys.extend(self.inbox_url.iter().map(|url| ("inbox.url", quoted(url))));
        keys.extend(self.others.iter().cloned());
        keys
    }

    /// Writes the configuration file into `folder` and answers its path.
    pub fn write(&self, folder: &Path, credentials: &Credentials) -> PathBuf {
        let keys = self.keys();
        let line = |key: &str, value: &str| format!("{key} = {value}\n");
        // Dotted keys go first: after a table's header they would belong to that table, as these do.
        let (mut lines, mut of_users) = (String::new(), "[auth.users]\n".to_owned());
        for (key, value) in &keys {
            match key.strip_prefix("auth.users.") {
                Some(key) => of_users += &line(key, value),
                None => lines += &line(key, value),
            }
        }
        let path = folder.join(format!("{}.toml", self.id));
        let tables = credentials.config().replacen("[auth.users]\n", &of_users, 1);
        fs::write(&path, lines + &tables).expect("the folder is writable");
        path
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// One running `fanfare serve`.
#[derive(Debug)]
pub struct NodeProcess {
    /// What it was started with.
    pub settings: NodeSettings,
    process: Process,
    folder: PathBuf,
    config: PathBuf,
}

impl NodeProcess {
    /// Starts a node whose files are in `folder`, and waits until `/readyz` says 200.
    pub async fn start(settings: NodeSettings, folder: &Path, credentials: &Credentials) -> Self {
        let mut node = Self::spawn(settings, folder, credentials);
        node.ready().await;
        node
    }

    /// Starts a node without waiting for it.
    pub fn spawn(settings: NodeSettings, folder: &Path, credentials: &Credentials) -> Self {
        let config = settings.write(folder, credentials);
        let process = serve(&settings.id, folder, &config);
        let folder = folder.to_owned();
        Self { settings, process, folder, config }
    }

    /// Waits until `/readyz` says 200; fails at once if the process ends.
    pub async fn ready(&mut self) {
        let (client, url) = (http_client(), format!("{}/readyz", self.admin_url()));
        let what = format!("{url} says 200");
        within(START_DEADLINE, &what, async {
            loop {
                if client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
                    return;
                }
                if let Some(status) = self.process.exit_status() {
                    panic!("{} ended with {status}:\n{}", self.settings.id, self.process.log());
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        })
        .await;
    }

    /// Starts it again, after its end, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.process = serve(&self.settings.id, &self.folder, &self.config);
        self.ready().await;
    }

    /// The process: signals, end, output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where its publishers go: `http://127.0.0.1:PORT`.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.settings.http_port)
    }

    /// Where its clients go.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/v1/connect", self.settings.http_port)
    }

    /// Where its operators go.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.settings.admin_port)
    }
}

fn serve(id: &str, folder: &Path, config: &Path) -> Process {
    let home = folder.join(id);
    fs::create_dir_all(&home).expect("the folder is writable");
    let mut command = fanfare(&home);
    command.arg("serve").arg("--config").arg(config);
    Process::spawn(id, &mut command, folder.join(format!("{id}.log")))
}

/// Runs `fanfare ARGS` in `folder` to its end.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    fanfare(folder).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

/// The program, with nothing of this process's environment but the path.
fn fanfare(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_BACKTRACE", "1");
    command
}
