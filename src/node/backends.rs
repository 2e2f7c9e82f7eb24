//! Inbox, presence and broker, real or embedded, as configured. A configured backend is never replaced
//! by its embedded twin.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::broker::embedded::EmbeddedBus;
use crate::broker::rabbit::{self, RabbitBroker};
use crate::broker::{Broker, Graveyard, Inlets};
use crate::clock::Clock;
use crate::config::{Config, Store};
use crate::inbox::postgres::PostgresInbox;
use crate::inbox::sqlite::SqliteInbox;
use crate::inbox::{self, Inbox};
use crate::metrics::Metrics;
use crate::presence::embedded::EmbeddedPresence;
use crate::presence::redis::{self, RedisPresence};
use crate::presence::{Lease, NodeLease, Presence};

/// How far the clocks of a node and of presence may be apart.
pub(super) const MAX_SKEW_MS: i64 = 1_000;

pub(super) async fn inbox(config: &Config, clock: &Clock, metrics: &Metrics) -> Result<Arc<dyn Inbox>> {
    let url = config.inbox.store.url().expose().to_owned();
    if config.inbox.migrate_at_start {
        let report = inbox::migrate(&url).await?;
        if !report.applied.is_empty() {
            info!(migrations = ?report.applied, "the inbox's tables were made or brought up to date");
        }
    }
    let settings = inbox::Settings {
        url,
        max_connections: config.inbox.max_connections,
        timeout: config.inbox.timeout,
        max_devices: u32::try_from(config.inbox.max_devices).unwrap_or(u32::MAX),
        receipt_events: config.events.receipts,
        undelivered_after: config.events.undelivered_after,
    };
    let (clock, metrics) = (clock.clone(), metrics.inbox.clone());
    Ok(match config.inbox.store {
        Store::Sqlite(_) => Arc::new(SqliteInbox::open(&settings, clock, metrics).await?),
        Store::Postgres(_) => Arc::new(PostgresInbox::open(&settings, clock, metrics).await?),
    })
}

pub(super) async fn presence(config: &Config, clock: &Clock, metrics: &Metrics) -> Result<Arc<dyn Presence>> {
    let Some(url) = &config.presence.url else { return Ok(Arc::new(EmbeddedPresence::new(clock.clone()))) };
    let settings = redis::Settings {
        url: url.expose().to_owned(),
        timeout: config.presence.timeout,
        pool_size: config.presence.pool_size,
    };
    Ok(Arc::new(RedisPresence::connect(settings, metrics.presence.clone(), clock.clone()).await?))
}

/// Deadlines are in the time of presence: a node whose clock is off would mislead operators and tokens.
pub(super) async fn check_skew(presence: &dyn Presence) -> Result<()> {
    let skew_ms = presence.skew_ms().await?;
    if skew_ms.abs() > MAX_SKEW_MS {
        bail!(
            "the clock of this machine is {skew_ms} ms off that of Redis; at most {MAX_SKEW_MS} ms: set the clock"
        );
    }
    Ok(())
}

/// Takes the node's id: a dead namesake's lease is waited out, a living one's is refused.
pub(super) async fn claim_id(presence: &dyn Presence, lease: &NodeLease, ttl: Duration) -> Result<()> {
    let mut waited = false;
    loop {
        let held_for = match presence.lease(lease, ttl, true).await? {
            Lease::Kept | Lease::Renewed => return Ok(()),
            Lease::Held { remaining, .. } => remaining,
        };
        // A dead namesake's lease would have run out by now: somebody refreshes this one.
        if waited {
            bail!(
                "another node with id {:?} is running (it keeps its lease): give each node a node.id of its own",
                lease.node.as_str()
            );
        }
        info!(node.id = %lease.node, "an earlier run's lease has {held_for:?} left: waiting for it to run out");
        tokio::time::sleep(held_for.min(ttl) + Duration::from_millis(50)).await;
        waited = true;
    }
}

/// Either broker: as a carrier, as the keeper of dead letters, and what arrives by it.
pub(super) type Connected = (Arc<dyn Broker>, Arc<dyn Graveyard>, Inlets);

pub(super) async fn broker(
    config: &Config,
    boot: &str,
    clock: &Clock,
    metrics: &Metrics,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Connected> {
    let (node, metrics) = (config.node.id.clone(), metrics.broker.clone());
    if config.broker.urls.is_empty() {
        let (broker, inlets) = EmbeddedBus::new().join(node, metrics);
        let broker = Arc::new(broker);
        return Ok((broker.clone(), broker, inlets));
    }
    let urls = config.broker.urls.iter().map(|url| url.expose().to_owned()).collect();
    let prefetch = config.broker.prefetch;
    let settings = rabbit::Settings {
        heartbeat: config.broker.heartbeat,
        connect_timeout: config.broker.connect_timeout,
        operation_timeout: config.broker.operation_timeout,
        prefetch: rabbit::Prefetch { high: prefetch.high, normal: prefetch.normal, low: prefetch.low },
        clock: clock.clone(),
        ..rabbit::Settings::new(urls, node, boot)
    };
    let (broker, inlets) = RabbitBroker::start(settings, metrics, tracker.clone(), cancel.clone()).await?;
    let broker = Arc::new(broker);
    Ok((broker.clone(), broker, inlets))
}
