//! Everything that a fault can break: RabbitMQ, Redis and PostgreSQL of the run's own, two nodes (three for what
//! needs a third) with a proxy in front of each backend, and two thousand devices.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::books::Books;
use crate::crowd::{Crowd, DEVICES, home};
use crate::load::{Load, Work};
use crate::postgres::PostgresServer;
use crate::rabbit::Rabbit;
use crate::signs::{NOTICE, Watch};
use crate::support::operator::Operator;
use crate::support::process::{NodeProcess, NodeSettings, run};
use crate::support::proxy::ChaosProxy;
use crate::support::redis_server::RedisServer;
use crate::support::tokens::Credentials;

/// The nodes.
pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// How many of them run, but for what needs all.
const USUAL: usize = 2;
/// Until all devices are where they belong.
const GATHER: Duration = Duration::from_secs(5);
const GATHERINGS: u32 = 20;
/// How often cursors are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What one node reaches its backends through.
#[derive(Debug)]
pub struct Lines {
    pub rabbit: ChaosProxy,
    pub redis: ChaosProxy,
    pub postgres: ChaosProxy,
}

/// The stage.
pub struct Stage {
    // Fields are dropped in order: first who connects, then who is connected to.
    pub crowd: Crowd,
    pub work: Arc<Work>,
    pub books: Arc<Books>,
    /// Where each publisher is in its own count.
    pub turns: Arc<Vec<AtomicU32>>,
    pub nodes: Vec<NodeProcess>,
    /// Those that do not run yet.
    spare: Vec<NodeSettings>,
    pub lines: Vec<Lines>,
    pub rabbit: Rabbit,
    /// The primary first; then its replicas and a sentinel, if there are any.
    pub redis: Vec<RedisServer>,
    pub postgres: PostgresServer,
    /// What looked wrong in this fault beside the account.
    pub complaints: Vec<String>,
    /// What nodes are still to notice, of a fault that is over at once.
    pub unnoticed: Vec<Watch>,
    credentials: Credentials,
    folder: TempDir,
}

impl Stage {
    /// Starts everything and waits until all devices are welcomed.
    pub async fn start(seed: u64) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let credentials = Credentials::new();
        let (postgres, redis, rabbit) = tokio::join!(
            PostgresServer::start(folder.path()),
            RedisServer::start(&[]),
            Rabbit::start(folder.path(), 1)
        );
        let (mut lines, mut all) = (vec![], vec![]);
        for id in NODES {
            let (to_rabbit, broker_url) = ChaosProxy::before(&rabbit.urls()[0]).await;
            let (to_redis, presence_url) = ChaosProxy::before(&redis.url()).await;
            let (to_postgres, inbox_url) = ChaosProxy::before(&postgres.url()).await;
            lines.push(Lines { rabbit: to_rabbit, redis: to_redis, postgres: to_postgres });
            all.push(NodeSettings {
                broker_urls: vec![broker_url],
                presence_url: Some(presence_url),
                inbox_url: Some(inbox_url),
                ..NodeSettings::embedded(id)
            });
        }
        migrate(&all[0], folder.path(), &credentials).await;
        let urls: Vec<String> = all.iter().map(|one| format!("127.0.0.1:{}", one.http_port)).collect();
        let spare = all.split_off(USUAL);
        let nodes = start_nodes(all, folder.path(), &credentials).await;
        let books = Arc::new(Books::new(DEVICES));
        let crowd = Crowd::start(&urls, USUAL, &credentials, &books, seed);
        let urls = urls.iter().map(|address| format!("http://{address}")).collect();
        let work = Work::new(&books, urls, USUAL, &credentials.publisher_key, seed);
        let (turns, redis) = (Load::turns(), vec![redis]);
        let (complaints, unnoticed) = (vec![], vec![]);
        let stage = Self {
            crowd,
            work,
            books,
            turns,
            nodes,
            spare,
            lines,
            rabbit,
            redis,
            postgres,
            complaints,
            unnoticed,
            credentials,
            folder,
        };
        stage.gather().await;
        stage
    }

    /// Waits until every device is on its own node.
    pub async fn gather(&self) {
        let all_at_home = |account: &crate::account::Account| {
            (0..DEVICES).all(|place| account.node_of(place) == Some(home(place, self.nodes.len())))
        };
        // Whoever was not connected when it was said hears it the next time.
        for _ in 0..GATHERINGS {
            self.crowd.go_home();
            if self.books.wait_for(GATHER, all_at_home).await.is_some() {
                return;
            }
        }
        let connected = self.books.with(|account| account.connected());
        panic!("not all devices came home: {connected:?} are connected");
    }

    /// The load, from now on.
    pub fn load(&self) -> Load {
        Load::start(&self.work, &self.rabbit.urls(), &self.turns)
    }

    /// Waits until a node's `/readyz` answers like this: `ok`, `degraded` or (503) `unavailable`. A complaint,
    /// if it does not in time.
    pub async fn says(&mut self, node: usize, expected: &str) {
        let operator = self.operator(node);
        let waiting = async {
            loop {
                let (status, body) = operator.get("/readyz").await;
                let said = match (status, body["status"].as_str()) {
                    (200, Some("degraded")) => "degraded",
                    (200, _) => "ok",
                    _ => "unavailable",
                };
                if said == expected {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(NOTICE, waiting).await.is_err() {
            self.complaints.push(format!("{} did not say {expected} within {NOTICE:?}", NODES[node]));
        }
    }

    /// Waits until a node lists other nodes as live, or lists none. A complaint, if it does not in time.
    pub async fn lists(&mut self, node: usize, others: usize) {
        let operator = self.operator(node);
        let waiting = async {
            loop {
                let (status, body) = operator.get("/admin/nodes").await;
                let listed = body["nodes"].as_array().map(Vec::len);
                if status == 200 && body["partial"] == false && listed == Some(others + 1) {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        if tokio::time::timeout(NOTICE, waiting).await.is_err() {
            self.complaints
                .push(format!("{} did not list {others} other nodes within {NOTICE:?}", NODES[node]));
        }
    }

    /// An operator of a node.
    pub fn operator(&self, node: usize) -> Operator {
        Operator::new(&self.nodes[node].admin_url(), &self.credentials)
    }

    /// The sum of a metric over all nodes.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for node in 0..self.nodes.len() {
            sum += self.operator(node).metric(name).await;
        }
        sum
    }

    /// Moves to a RabbitMQ of three members and a Redis with a replica and a sentinel. Without load.
    pub async fn move_to_clusters(&mut self) {
        let rabbit = Rabbit::start(self.folder.path(), 3).await;
        let primary = RedisServer::start(&[]).await;
        let port = primary.port().to_string();
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).await;
        let sentinel = RedisServer::sentinel(&primary, "presence").await;
        let presence_url = format!("redis+sentinel://127.0.0.1:{}/presence/0", sentinel.port());
        let old = std::mem::take(&mut self.nodes);
        let mut settings: Vec<NodeSettings> = old.iter().map(|node| node.settings.clone()).collect();
        drop(old);
        for (place, one) in settings.iter_mut().chain(&mut self.spare).enumerate() {
            one.broker_urls = rabbit.urls();
            // So that they are not all on the first member.
            one.broker_urls.rotate_left(place);
            one.presence_url = Some(presence_url.clone());
        }
        self.nodes = start_nodes(settings, self.folder.path(), &self.credentials).await;
        self.rabbit = rabbit;
        self.redis = vec![primary, replica, sentinel];
        self.has_successor().await;
        self.gather().await;
    }

    /// Starts all nodes anew, and those with them that do not run yet, with these keys besides. Without load.
    pub async fn move_to_all(&mut self, others: &[(&'static str, &str)]) {
        let old = std::mem::take(&mut self.nodes);
        let mut settings: Vec<NodeSettings> = old.iter().map(|node| node.settings.clone()).collect();
        drop(old);
        settings.append(&mut self.spare);
        for one in &mut settings {
            one.others.extend(others.iter().map(|(key, value)| (*key, (*value).to_owned())));
        }
        // Nobody can connect now: each device reckons its home by as many nodes as it does later.
        self.crowd.reach(settings.len());
        self.nodes = start_nodes(settings, self.folder.path(), &self.credentials).await;
        self.work.reach(self.nodes.len());
        self.gather().await;
    }

    /// Waits until the sentinel knows of a replica that follows the primary: without one it cannot fail over. A complaint,
    /// if it does not in time.
    pub async fn has_successor(&mut self) {
        let follows = |replica: &HashMap<String, String>| {
            replica.get("flags").is_some_and(|flags| flags == "slave")
                && replica.get("master-link-status").is_some_and(|status| status == "ok")
        };
        let waiting = async {
            loop {
                let replicas: Vec<HashMap<String, String>> =
                    self.redis[2].run(&["SENTINEL", "REPLICAS", "presence"]).await;
                if replicas.iter().any(follows) {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(NOTICE, waiting).await.is_err() {
            self.complaints.push(format!("the sentinel knew of no replica within {NOTICE:?}"));
        }
    }

    /// How many cursors there are of users' own streams, how many of them are not at the head, and by how
    /// many entries in all.
    pub async fn cursors(&self) -> (i64, i64, i64) {
        self.postgres.cursors("user:%").await
    }

    /// All devices leave for good: then the cursors of topics and everyone, which nodes write when a connection ends, must
    /// come to the heads, too. Answers how many there are, and how many are behind after `deadline`.
    pub async fn farewell(self, deadline: Duration) -> (i64, i64, Vec<String>) {
        let complaints = self.last_words(deadline).await;
        drop(self.crowd);
        let until = Instant::now() + deadline;
        loop {
            let (topics, topics_behind, _) = self.postgres.cursors("topic:%").await;
            let (everyone, everyone_behind, _) = self.postgres.cursors("everyone").await;
            let behind = topics_behind + everyone_behind;
            if behind == 0 || Instant::now() > until {
                return (topics + everyone, behind, complaints);
            }
            sleep(LOOK).await;
        }
    }

    /// One more into every shared stream: a device that came back where it was has nothing to acknowledge there before it
    /// gets another one, and its cursor may have died with a node. Then one for every user: when its ack is
    /// committed, the nodes have read the one before it, too. Answers what was wrong.
    async fn last_words(&self, deadline: Duration) -> Vec<String> {
        let mut wrong = vec![];
        self.work.post_to_shared().await;
        if self.books.wait_for(deadline, |account| account.is_complete()).await.is_none() {
            wrong.push("a last word to topics and everyone did not arrive everywhere".to_owned());
        }
        self.work.post_to_all().await;
        let until = Instant::now() + deadline;
        while self.cursors().await.1 > 0 {
            if Instant::now() > until {
                wrong.push("a last word to every user was not acknowledged everywhere".to_owned());
                break;
            }
            sleep(LOOK).await;
        }
        wrong
    }

    /// The last lines of warnings that the nodes logged.
    pub fn warnings(&mut self) -> String {
        let mut text = String::new();
        for node in &mut self.nodes {
            let log = node.process().log();
            let lines: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("WARN") || line.contains("ERROR") || line.contains("panic"))
                .collect();
            text += &format!(
                "--- {}\n{}\n",
                node.settings.id,
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        text
    }
}

async fn start_nodes(all: Vec<NodeSettings>, folder: &Path, credentials: &Credentials) -> Vec<NodeProcess> {
    let mut nodes: Vec<_> =
        all.into_iter().map(|settings| NodeProcess::spawn(settings, folder, credentials)).collect();
    for node in &mut nodes {
        node.ready().await;
    }
    nodes
}

/// In a thread of its own: the way to PostgreSQL leads through a proxy that runs here.
async fn migrate(settings: &NodeSettings, folder: &Path, credentials: &Credentials) {
    let config = settings.write(folder, credentials);
    let folder = folder.to_owned();
    let migrated = tokio::task::spawn_blocking(move || {
        let config = config.to_str().expect("temporary folders have plain names");
        run(&folder, &["migrate", "--config", config])
    });
    let output = migrated.await.expect("the program was run");
    assert!(output.status.success(), "fanfare migrate: {}", String::from_utf8_lossy(&output.stderr));
}
