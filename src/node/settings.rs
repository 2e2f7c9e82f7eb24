//! Settings of the parts, out of the configuration.

use std::time::Duration;

use crate::config::Config;
use crate::session::{Rules, Window};
use crate::wire::publish::Limits;
use crate::{delivery, jobs, publish};

/// How large a page of a replay is, in entries.
const PAGE_ENTRIES: u32 = 128;
/// How long a gap may close by itself before it is read.
const GAP_GRACE: Duration = Duration::from_millis(5);
/// How often merged cursors are committed.
const CURSOR_FLUSH: Duration = Duration::from_secs(2);
/// Over how long the check of all heads after an outage is spread.
const RECOVERY_CHECK: Duration = Duration::from_secs(10);
/// How many publish requests may wait for their commit, for each priority.
const PUBLISH_QUEUE: usize = 10_000;
/// How many notifications are committed together, and how many such groups are in flight.
const COMMIT_GROUP: usize = 256;
const COMMIT_WORKERS: usize = 2;
/// How long a group waits for more under load: what shares a commit costs a fraction.
const COMMIT_LINGER: Duration = Duration::from_millis(10);

pub(super) fn delivery(config: &Config) -> delivery::Settings {
    delivery::Settings {
        heartbeat: config.gateway.heartbeat,
        presence_ttl: config.presence.ttl,
        lease_ttl: config.node.lease_ttl,
        window: Window { entries: config.gateway.window_entries, bytes: config.gateway.window_bytes },
        page_entries: PAGE_ENTRIES,
        head_check: config.delivery.head_check,
        blind_check: config.delivery.blind_check,
        recovery_check: RECOVERY_CHECK.min(config.delivery.head_check),
        gap_grace: GAP_GRACE,
        cursor_flush: CURSOR_FLUSH,
        conflation: config.delivery.conflation,
        max_topics: config.gateway.max_topics_per_connection,
        crowd: config.gateway.crowd,
        recycling: config.gateway.recycling,
        rules: Rules::SOUND,
    }
}

pub(super) fn jobs(config: &Config) -> jobs::Settings {
    let kept = &config.retention;
    jobs::Settings {
        retention: jobs::Retention {
            keys: config.inbox.idempotency,
            age: kept.age,
            max_entries: kept.max_entries,
            // What expired early has its receipts for as long once nobody looks for them any more.
            receipts: kept.receipts + config.events.undelivered_after.unwrap_or_default(),
            idle_devices: kept.idle_device,
        },
        events: config.events.any(),
        presence: config.events.presence,
        undelivered: config.events.undelivered_after.is_some(),
        grace: config.gateway.heartbeat,
        presence_ttl: config.presence.ttl,
        lease_ttl: config.node.lease_ttl,
    }
}

pub(super) fn publish(config: &Config) -> publish::Settings {
    publish::Settings {
        limits: Limits {
            max_recipients: config.publish.max_users,
            max_notification_bytes: config.publish.max_notification_bytes,
            max_ttl: config.publish.max_ttl,
            max_schedule: config.publish.max_schedule,
        },
        queue: PUBLISH_QUEUE,
        group: COMMIT_GROUP,
        workers: COMMIT_WORKERS,
        linger: COMMIT_LINGER,
    }
}
