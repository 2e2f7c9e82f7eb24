//! A Redis server (or sentinel) of one test's own, to be broken at will.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use deadpool_redis::redis;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DEADLINE, eventually};

/// A running `redis-server` on a free port of the loopback; killed when dropped.
pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one with these arguments and waits until it answers.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().expect("a folder"),
            port: free_port(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            child: None,
        };
        server.start_again().await;
        server
    }

    /// Starts a sentinel that watches `primary` as `service` alone and calls it down after half a second.
    pub(crate) async fn sentinel(primary: &Self, service: &str) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().expect("a folder"),
            port: free_port(),
            arguments: Vec::new(),
            child: None,
        };
        let file = server.folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor {service} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {service} 500\n\
             sentinel failover-timeout {service} 2000\n",
            primary.port
        );
        std::fs::write(&file, text).expect("a file");
        server.arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        server.start_again().await;
        server
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, without a password.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it, as `kill -9` does: whatever it held is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child ends");
        }
    }

    /// Sends `signal` (a name as `kill` takes it, such as `STOP`) to it.
    pub(crate) fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} of redis-server");
    }

    /// Starts it on the same port and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        // A configuration file comes first or not at all.
        command.args(&self.arguments);
        command.args(["--port", &self.port.to_string()]);
        command.args(["--bind", "127.0.0.1", "--daemonize", "no"]);
        command.arg("--dir").arg(self.folder.path());
        if !self.arguments.iter().any(|argument| argument == "--sentinel") {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed"));
        let port = self.port;
        eventually(DEADLINE, "an answer of redis-server", async || answers(port).await).await;
    }

    /// Runs one command on it, as an operator would.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a redis url");
        let mut connection = client.get_multiplexed_async_connection().await.expect("the server answers");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether somebody speaks RESP there: `+PONG`, or an error such as NOAUTH.
async fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
        return false;
    };
    let mut first = [0];
    stream.write_all(b"PING\r\n").await.is_ok()
        && stream.read_exact(&mut first).await.is_ok()
        && b"+-".contains(&first[0])
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
