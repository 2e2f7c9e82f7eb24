//! The faults, from cheap to dear, and how each is done and undone.
//!
//! Each waits, while it lasts, until the nodes say that something is wrong or show another sign of it; those that are over at
//! once leave their signs to be seen afterwards. A fault that nobody notices would prove nothing.

use std::time::Duration;

use sqlx::Executor;
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::Account;
use crate::crowd::DEVICES;
use crate::device::stalls;
use crate::rolling;
use crate::signs::Sign;
use crate::stage::{Lines, NODES, Stage};
use crate::support::process::NodeProcess;
use crate::support::proxy::ChaosProxy;

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Rabbit,
    Redis,
    Postgres,
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the measure of all others.
    Nothing,
    AllDevicesDropped,
    SomeDevicesStall,
    NodeQueueDeleted,
    RabbitConnectionsClosed,
    PostgresConnectionsTerminated,
    TableLocked,
    RedisFlushed,
    RedisReadOnly,
    RedisOutOfMemory,
    RedisKilled,
    MemoryAlarm,
    RabbitKilled,
    PostgresCrashed,
    /// Connections between the first node and a backend end, and new ones at once.
    Reset(Backend),
    /// No byte passes between the first node and a backend.
    Silence(Backend),
    NodeKilled,
    NodeStopped,
    NodeStoppedAmidAppend,
    RabbitMemberKilled,
    RabbitMemberCutOff,
    RedisPrimaryKilled,
    RedisPrimaryStopped,
    /// Of three nodes.
    RollingRestart,
}

/// Long enough for timeouts (2 to 5 s) to fire.
const SHORT: Duration = Duration::from_secs(10);
/// A third of what the next head check may take; where nothing is wrong it takes two seconds on two busy cores.
const UNHINDERED: Duration = Duration::from_secs(10);
/// As the memory alarm and the lock are to last.
const LONG: Duration = Duration::from_secs(20);
/// Longer than two heartbeats of AMQP (10 s): a silent connection is found dead.
const SILENCE: Duration = Duration::from_secs(25);
/// Longer than a node's lease (15 s).
const STOPPED: Duration = Duration::from_secs(40);

impl Fault {
    /// All, in the order in which they run.
    pub fn all() -> impl Iterator<Item = Self> {
        use Backend::{Postgres, Rabbit, Redis};
        [
            Self::Nothing,
            Self::AllDevicesDropped,
            Self::NodeQueueDeleted,
            Self::RabbitConnectionsClosed,
            Self::PostgresConnectionsTerminated,
            Self::RedisFlushed,
            Self::RedisKilled,
            Self::RedisReadOnly,
            Self::RedisOutOfMemory,
            Self::PostgresCrashed,
            Self::TableLocked,
            Self::MemoryAlarm,
            Self::RabbitKilled,
            Self::Reset(Rabbit),
            Self::Reset(Redis),
            Self::Reset(Postgres),
            Self::Silence(Rabbit),
            Self::Silence(Redis),
            Self::Silence(Postgres),
            Self::SomeDevicesStall,
            Self::NodeKilled,
            Self::NodeStopped,
            Self::NodeStoppedAmidAppend,
            Self::RabbitMemberKilled,
            Self::RabbitMemberCutOff,
            Self::RedisPrimaryKilled,
            Self::RedisPrimaryStopped,
            Self::RollingRestart,
        ]
        .into_iter()
    }

    /// In one word or a few, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::AllDevicesDropped => "all-devices-dropped",
            Self::SomeDevicesStall => "5%-of-devices-stop-reading",
            Self::NodeQueueDeleted => "node-queue-deleted",
            Self::RabbitConnectionsClosed => "rabbitmq-connections-closed",
            Self::PostgresConnectionsTerminated => "postgresql-connections-terminated",
            Self::TableLocked => "table-locked",
            Self::RedisFlushed => "redis-flushed",
            Self::RedisReadOnly => "redis-read-only",
            Self::RedisOutOfMemory => "redis-out-of-memory",
            Self::RedisKilled => "redis-killed",
            Self::MemoryAlarm => "rabbitmq-memory-alarm",
            Self::RabbitKilled => "rabbitmq-killed",
            Self::PostgresCrashed => "postgresql-crashed",
            Self::Reset(Backend::Rabbit) => "reset-node-rabbitmq",
            Self::Reset(Backend::Redis) => "reset-node-redis",
            Self::Reset(Backend::Postgres) => "reset-node-postgresql",
            Self::Silence(Backend::Rabbit) => "silence-node-rabbitmq",
            Self::Silence(Backend::Redis) => "silence-node-redis",
            Self::Silence(Backend::Postgres) => "silence-node-postgresql",
            Self::NodeKilled => "node-killed",
            Self::NodeStopped => "node-stopped-40s",
            Self::NodeStoppedAmidAppend => "node-stopped-40s-amid-append",
            Self::RabbitMemberKilled => "rabbitmq-member-killed",
            Self::RabbitMemberCutOff => "rabbitmq-member-cut-off",
            Self::RedisPrimaryKilled => "redis-primary-killed",
            Self::RedisPrimaryStopped => "redis-primary-stopped",
            Self::RollingRestart => "rolling-restart",
        }
    }

    /// Whether it needs the RabbitMQ of three and the Redis with a sentinel.
    pub fn needs_clusters(self) -> bool {
        matches!(
            self,
            Self::RabbitMemberKilled
                | Self::RabbitMemberCutOff
                | Self::RedisPrimaryKilled
                | Self::RedisPrimaryStopped
        )
    }

    /// The keys with which it needs three nodes, if it does: it is the last, for they stay.
    pub fn needs_three_nodes(self) -> Option<&'static [(&'static str, &'static str)]> {
        (self == Self::RollingRestart).then_some(&rolling::SETTINGS)
    }

    /// Whether devices surely lose their connections by it.
    pub fn drops_connections(self) -> bool {
        matches!(self, Self::AllDevicesDropped | Self::NodeKilled | Self::RollingRestart)
    }

    /// How many devices surely lose their connections by it, as they are connected now.
    pub fn drops(self, account: &Account) -> u64 {
        let of_the_first = || (0..DEVICES).filter(|place| account.node_of(*place) == Some(0)).count();
        match self {
            Self::AllDevicesDropped | Self::RollingRestart => DEVICES as u64,
            Self::NodeKilled => of_the_first() as u64,
            _ => 0,
        }
    }

    /// Breaks it, and (but for what [`Self::repair`] does) mends it. When it returns the fault has ended.
    pub async fn strike(self, stage: &mut Stage) {
        match self {
            Self::Nothing => {}
            Self::AllDevicesDropped => stage.crowd.drop_all(),
            Self::SomeDevicesStall => stall(stage).await,
            Self::NodeQueueDeleted => delete_node_queue(stage).await,
            Self::RabbitConnectionsClosed => {
                stage.unnoticed = stage.watch_both(Sign::NEW_SESSION).await;
                stage.rabbit.ctl(0, &["close_all_connections", "a fault"]).await;
            }
            Self::PostgresConnectionsTerminated => {
                let ended = stage.postgres.terminate_connections().await;
                if ended < 2 {
                    stage.complaints.push(format!("only {ended} connections were terminated"));
                }
            }
            Self::TableLocked => lock_table(stage).await,
            Self::MemoryAlarm => memory_alarm(stage).await,
            Self::RabbitKilled => {
                stage.rabbit.kill(0);
                all_say(stage, "degraded").await;
                stage.rabbit.start_again(0).await;
            }
            Self::PostgresCrashed => {
                stage.postgres.crash().await;
                all_say(stage, "unavailable").await;
                stage.postgres.start_again().await;
            }
            Self::RedisFlushed
            | Self::RedisReadOnly
            | Self::RedisOutOfMemory
            | Self::RedisKilled
            | Self::RedisPrimaryKilled
            | Self::RedisPrimaryStopped => self.strike_redis(stage).await,
            Self::Reset(backend) => {
                line(&stage.lines[0], backend).cut();
                stage.says(0, trouble(backend)).await;
                sleep(SHORT).await;
                line(&stage.lines[0], backend).heal();
            }
            Self::Silence(backend) => {
                let until = Instant::now() + SILENCE;
                line(&stage.lines[0], backend).freeze();
                stage.says(0, trouble(backend)).await;
                // It is the network of one node alone.
                stage.says(1, "ok").await;
                sleep_until(until).await;
                line(&stage.lines[0], backend).heal();
            }
            Self::NodeKilled => stage.nodes[0].process().kill(),
            Self::RollingRestart => rolling::restart_all(stage).await,
            Self::NodeStopped => stop_node(stage).await,
            Self::NodeStoppedAmidAppend => stop_amid_append(stage).await,
            Self::RabbitMemberKilled | Self::RabbitMemberCutOff => self.strike_member(stage).await,
        }
    }

    /// The member that the first node is connected to: it goes on with another one while that is away.
    async fn strike_member(self, stage: &mut Stage) {
        let member = stage.rabbit.member_of(NODES[0]).await;
        let watch = stage.watch(0, Sign::NEW_SESSION).await;
        let (until, is_killed) = (Instant::now() + LONG, self == Self::RabbitMemberKilled);
        match is_killed {
            true => stage.rabbit.kill(member),
            false => stage.rabbit.partition(member).await,
        }
        stage.rabbit.is_missed(member).await;
        stage.notice(vec![watch]).await;
        all_say(stage, "ok").await;
        sleep_until(until).await;
        match is_killed {
            true => stage.rabbit.start_again(member).await,
            false => {
                stage.rabbit.heal(member).await;
                stage.rabbit.answers(member).await;
            }
        }
    }

    async fn strike_redis(self, stage: &mut Stage) {
        match self {
            Self::RedisFlushed => {
                stage.unnoticed = stage.watch_both(Sign::FORGOTTEN).await;
                stage.redis[0].run::<()>(&["FLUSHALL"]).await;
            }
            Self::RedisReadOnly => {
                // A replica of nobody: it answers reads and refuses writes.
                let nobody = crate::support::ports::free_port().to_string();
                stage.redis[0].run::<()>(&["REPLICAOF", "127.0.0.1", &nobody]).await;
                all_say(stage, "degraded").await;
                sleep(SHORT).await;
                stage.redis[0].run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Self::RedisOutOfMemory => {
                stage.redis[0].run::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
                all_say(stage, "degraded").await;
                sleep(SHORT).await;
                stage.redis[0].run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Self::RedisKilled => {
                stage.redis[0].kill();
                all_say(stage, "degraded").await;
                stage.redis[0].start_again().await;
            }
            _ => self.strike_primary(stage).await,
        }
    }

    /// The nodes must have gone over to the other one before the old one is back.
    async fn strike_primary(self, stage: &mut Stage) {
        let old = primary(stage).await;
        let watches = stage.watch_both(Sign::NO_PRESENCE).await;
        let (until, is_killed) = (Instant::now() + SHORT, self == Self::RedisPrimaryKilled);
        match is_killed {
            true => stage.redis[old].kill(),
            false => stage.redis[old].signal("STOP"),
        }
        other_primary(stage, old).await;
        stage.notice(watches).await;
        all_say(stage, "ok").await;
        sleep_until(until).await;
        match is_killed {
            true => stage.redis[old].start_again().await,
            // It takes writes after its thaw, until a sentinel demotes it: they are lost.
            false => stage.redis[old].signal("CONT"),
        }
    }

    /// What is made good while the devices are on their way back already.
    pub async fn repair(self, nodes: &mut [NodeProcess]) {
        if self == Self::NodeKilled {
            nodes[0].restart().await;
        }
    }

    /// While the load goes on: the nodes must have noticed, and say that all is well.
    pub async fn settle(self, stage: &mut Stage) {
        let unnoticed = std::mem::take(&mut stage.unnoticed);
        stage.notice(unnoticed).await;
        let nodes = stage.nodes.len();
        for node in 0..nodes {
            stage.lists(node, nodes - 1).await;
        }
        all_say(stage, "ok").await;
        if matches!(self, Self::RedisPrimaryKilled | Self::RedisPrimaryStopped) {
            stage.has_successor().await;
        }
    }
}

fn line(lines: &Lines, backend: Backend) -> &ChaosProxy {
    match backend {
        Backend::Rabbit => &lines.rabbit,
        Backend::Redis => &lines.redis,
        Backend::Postgres => &lines.postgres,
    }
}

/// What a node says without this backend.
fn trouble(backend: Backend) -> &'static str {
    if backend == Backend::Postgres { "unavailable" } else { "degraded" }
}

async fn all_say(stage: &mut Stage, expected: &str) {
    for node in 0..stage.nodes.len() {
        stage.says(node, expected).await;
    }
}

/// Until some have fallen behind their window, which takes longer where the load is slower; from then on the others must
/// have what is accepted within [`UNHINDERED`].
async fn stall(stage: &mut Stage) {
    const LAGGED: &str = "fanfare_delivery_lagged_total";
    let before = stage.metric(LAGGED).await;
    stage.crowd.stall(true);
    stage.work.heavy(true);
    let mut has_lagged = false;
    for _ in 0..90 {
        sleep(Duration::from_secs(1)).await;
        has_lagged = stage.metric(LAGGED).await > before;
        if has_lagged {
            break;
        }
    }
    let until = Instant::now() + SHORT;
    while Instant::now() < until {
        hinders_nobody(stage).await;
    }
    stage.work.heavy(false);
    stage.crowd.stall(false);
    if !has_lagged {
        stage.complaints.push("nobody lagged".to_owned());
    }
}

/// Whether all devices that read get what is accepted until now before a head check could bring it.
async fn hinders_nobody(stage: &mut Stage) {
    let accepted = stage.books.with(|account| account.accepted());
    let until = Instant::now() + UNHINDERED;
    loop {
        sleep(Duration::from_millis(100)).await;
        let missing = stage.books.with(|account| account.missing_of(accepted, |device| !stalls(device)));
        if missing == 0 {
            return;
        }
        if Instant::now() > until {
            let complaint = format!("devices that read lacked {missing} notifications after {UNHINDERED:?}");
            return stage.complaints.push(complaint);
        }
    }
}

async fn delete_node_queue(stage: &mut Stage) {
    stage.unnoticed = vec![stage.watch(0, Sign::QUEUE_GONE).await];
    let queues = stage.rabbit.ctl(0, &["list_queues", "name"]).await;
    let prefix = format!("fanfare.node.{}.", NODES[0]);
    let queue = queues.lines().find(|line| line.starts_with(&prefix));
    let queue = queue.unwrap_or_else(|| panic!("no queue of {} in {queues}", NODES[0])).to_owned();
    stage.rabbit.ctl(0, &["delete_queue", &queue]).await;
}

async fn lock_table(stage: &mut Stage) {
    let (until, mut looking) = (Instant::now() + LONG, stage.postgres.connect().await);
    let mut lock = stage.postgres.lock_entries().await;
    all_say(stage, "unavailable").await;
    if stage.postgres.waiting(&mut looking).await == 0 {
        stage.complaints.push("nobody waited for the lock".to_owned());
    }
    sleep_until(until).await;
    lock.execute("rollback").await.expect("the lock was held");
}

/// Longer than its lease: the other one must have given it up.
async fn stop_node(stage: &mut Stage) {
    let until = Instant::now() + STOPPED;
    stage.nodes[0].process().signal("STOP");
    stage.lists(1, 0).await;
    sleep_until(until).await;
    stage.nodes[0].process().signal("CONT");
}

async fn memory_alarm(stage: &mut Stage) {
    stage.rabbit.ctl(0, &["set_vm_memory_high_watermark", "0"]).await;
    all_say(stage, "degraded").await;
    sleep(LONG).await;
    stage.rabbit.ctl(0, &["set_vm_memory_high_watermark", "0.3"]).await;
}

/// The node is stopped while its statements wait in PostgreSQL, which then carries them out: nobody reads the answers.
async fn stop_amid_append(stage: &mut Stage) {
    let mut lock = stage.postgres.lock_entries().await;
    let mut looking = stage.postgres.connect().await;
    let mut waiting = 0;
    for _ in 0..100 {
        waiting = stage.postgres.waiting(&mut looking).await;
        // Each node appends in two places at once: three are of both nodes.
        if waiting >= 3 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    if waiting < 3 {
        stage.complaints.push(format!("only {waiting} statements were in flight"));
    }
    let until = Instant::now() + STOPPED;
    stage.nodes[0].process().signal("STOP");
    lock.execute("rollback").await.expect("the lock was held");
    stage.lists(1, 0).await;
    sleep_until(until).await;
    stage.nodes[0].process().signal("CONT");
}

/// Which of both Redis servers the sentinel calls the primary.
async fn primary(stage: &Stage) -> usize {
    let (_, port): (String, u16) =
        stage.redis[2].run(&["SENTINEL", "get-master-addr-by-name", "presence"]).await;
    usize::from(port == stage.redis[1].port())
}

async fn other_primary(stage: &mut Stage, old: usize) {
    for _ in 0..200 {
        if primary(stage).await != old {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    stage.complaints.push("the sentinel named no other primary".to_owned());
}
