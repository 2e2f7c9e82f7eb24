//! A PostgreSQL of the fault runs' own: stopped and started at will.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{eventually, within};

/// Recovery after a crash included.
const START: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    process: Process,
    folder: PathBuf,
    port: u16,
}

impl PostgresServer {
    /// Makes a database in `folder` and waits until it answers.
    pub async fn start(folder: &Path) -> Self {
        let folder = folder.join("postgres");
        std::fs::create_dir_all(&folder).expect("the folder is writable");
        let owner = owner();
        if let Some(owner) = owner {
            std::os::unix::fs::chown(&folder, Some(owner), None).expect("root may give files away");
            let above = folder.parent().expect("it was joined");
            std::fs::set_permissions(above, PermissionsExt::from_mode(0o711)).expect("our own folder");
        }
        let mut command = program("initdb", owner, &folder);
        command.args([
            "-D",
            "data",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--auth=trust",
            "--no-sync",
        ]);
        let made = command.output().expect("initdb is installed");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let process = spawn(&folder, port);
        let server = Self { process, folder, port };
        server.answers().await;
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends it at once, without a word to its clients: what it does next is to recover.
    pub async fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.wait(START).await;
    }

    /// Starts it again and waits until it answers.
    pub async fn start_again(&mut self) {
        self.process = spawn(&self.folder, self.port);
        self.answers().await;
    }

    /// A connection past all proxies.
    pub async fn connect(&self) -> PgConnection {
        let connecting = PgConnection::connect(&self.url());
        within(START, "a connection to PostgreSQL", async { connecting.await.expect("PostgreSQL answers") })
            .await
    }

    /// Ends the connections of everybody else; answers how many there were.
    pub async fn terminate_connections(&self) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity \
             where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await
        .expect("a superuser may")
    }

    /// Locks the table of entries against everybody, until the connection is dropped.
    pub async fn lock_entries(&self) -> PgConnection {
        let mut connection = self.connect().await;
        // A lock that is waited for holds up everybody who comes later, too.
        connection
            .execute("begin; lock table entries in access exclusive mode")
            .await
            .expect("the lock is given as soon as the statements before it are done");
        connection
    }

    /// How many statements wait for a lock.
    pub async fn waiting(&self, connection: &mut PgConnection) -> i64 {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        sqlx::query_scalar(waiting).fetch_one(connection).await.expect("PostgreSQL answers")
    }

    /// How many cursors there are of streams with names like this, how many of them are not at the head, and by how
    /// many entries in all.
    pub async fn cursors(&self, streams: &str) -> (i64, i64, i64) {
        let mut connection = self.connect().await;
        sqlx::query_as(
            "select count(*), count(*) filter (where c.acked_seq <> s.last_seq), \
             coalesce(sum(abs(s.last_seq - c.acked_seq)), 0)::bigint \
             from cursors c join streams s on s.name = c.stream where c.stream like $1",
        )
        .bind(streams)
        .fetch_one(&mut connection)
        .await
        .expect("PostgreSQL answers")
    }

    async fn answers(&self) {
        eventually(START, "an answer of PostgreSQL", async || {
            PgConnection::connect(&self.url()).await.is_ok()
        })
        .await;
    }
}

fn spawn(folder: &Path, port: u16) -> Process {
    let mut command = program("postgres", owner(), folder);
    command.args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    command.args([
        "-c",
        "unix_socket_directories=",
        "-c",
        "max_connections=200",
        "-c",
        "shared_buffers=128MB",
    ]);
    Process::spawn("postgres", &mut command, folder.join("log"))
}

fn program(name: &str, owner: Option<u32>, folder: &Path) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.filter_map(|version| version.ok()?.file_name().to_str()?.parse::<u32>().ok()).max();
    let newest = newest.expect("a version of PostgreSQL is installed");
    let mut command = Command::new(format!("/usr/lib/postgresql/{newest}/bin/{name}"));
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin");
    if let Some(owner) = owner {
        command.uid(owner);
    }
    command
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`.
fn owner() -> Option<u32> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    (id(&["-u"]) == Some(0)).then(|| id(&["-u", "postgres"]).expect("the package makes this account"))
}
