//! What keys must be to each other.

use super::read::Reader;
use super::{Config, Store};

/// Notes every contradiction.
pub(super) fn relations(reader: &mut Reader, config: &Config) {
    let (heartbeat, ttl) = (config.gateway.heartbeat, config.presence.ttl);
    if ttl < 3 * heartbeat {
        let message = format!(
            "must be at least 3 heartbeats (3 x gateway.heartbeat_ms = {}); got {}",
            (3 * heartbeat).as_millis(),
            ttl.as_millis()
        );
        reader.problem("presence.ttl_ms", message);
    }
    // The other half is for what was taken, and for cursors.
    if config.drain.window > config.drain.deadline / 2 {
        let message = format!(
            "must be at most half of drain.deadline_ms ({}); got {}",
            config.drain.deadline.as_millis(),
            config.drain.window.as_millis()
        );
        reader.problem("drain.window_ms", message);
    }
    if config.drain.spread >= config.drain.deadline {
        let message = format!(
            "must be less than drain.deadline_ms ({}); got {}",
            config.drain.deadline.as_millis(),
            config.drain.spread.as_millis()
        );
        reader.problem("drain.spread_ms", message);
    }
    if config.delivery.blind_check >= config.delivery.head_check {
        let message = format!(
            "must be less than delivery.head_check_ms ({}); got {}",
            config.delivery.head_check.as_millis(),
            config.delivery.blind_check.as_millis()
        );
        reader.problem("delivery.blind_check_ms", message);
    }
    events(reader, config);
    retention(reader, config);
    sizes(reader, config);
    addresses(reader, config);
    secrets(reader, config);
}

/// What is said of a set-up that one node may well have, and two may not.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let file = matches!(config.inbox.store, Store::Sqlite(_));
    if file && !config.is_embedded() {
        return vec![
            "inbox.url is a SQLite file although broker.urls or presence.url is set: this is for one node; \
             with a second one each would have notifications of its own. Set inbox.url to a PostgreSQL"
                .to_owned(),
        ];
    }
    Vec::new()
}

/// An embedded broker has no exchange to tell anything on.
fn events(reader: &mut Reader, config: &Config) {
    if !config.broker.urls.is_empty() {
        return;
    }
    for (key, is_on) in [
        ("events.receipts", config.events.receipts),
        ("events.presence", config.events.presence),
        ("events.undelivered_after_s", config.events.undelivered_after.is_some()),
    ] {
        if is_on {
            reader.problem(key, "needs RabbitMQ to tell it by: set broker.urls, or leave it off");
        }
    }
}

/// What may live for so long must be kept for so long.
fn retention(reader: &mut Reader, config: &Config) {
    const DAY_S: u64 = 24 * 3_600;
    let (age, ttl) = (config.retention.age, config.publish.max_ttl);
    if age < ttl {
        let message = format!(
            "must be at least publish.max_ttl_days ({}); got {}",
            ttl.as_secs() / DAY_S,
            age.as_secs() / DAY_S
        );
        reader.problem("retention.days", message);
    }
    if let Some(undelivered_after) = config.events.undelivered_after.filter(|after| *after >= age) {
        let message = format!(
            "must be less than retention.days ({} = {} s), as nobody can look at what is gone; got {}",
            age.as_secs() / DAY_S,
            age.as_secs(),
            undelivered_after.as_secs()
        );
        reader.problem("events.undelivered_after_s", message);
    }
}

fn sizes(reader: &mut Reader, config: &Config) {
    let notification = config.publish.max_notification_bytes;
    for (key, size) in [
        ("gateway.window_bytes", config.gateway.window_bytes),
        ("http.max_body_bytes", config.http.max_body_bytes),
    ] {
        if size < notification {
            let message =
                format!("must be at least publish.max_notification_bytes ({notification}); got {size}");
            reader.problem(key, message);
        }
    }
}

fn addresses(reader: &mut Reader, config: &Config) {
    let (http, admin) = (config.http.listen, config.admin.listen);
    if http == admin && http.port() != 0 {
        let message = format!("must be another address than http.listen; both are {admin}");
        reader.problem("admin.listen", message);
    }
}

fn secrets(reader: &mut Reader, config: &Config) {
    if !config.is_trial && config.auth.users.keys.is_empty() && config.auth.key_set.is_none() {
        let why = if config.is_embedded() {
            "publishers or administrators are configured"
        } else {
            "a real backend is configured"
        };
        let message = format!(
            "must hold a key, since {why}: without one no user can connect; \
             set auth.users.keys, auth.users.jwks_url, or FANFARE__AUTH__USERS__SECRET_FILE"
        );
        reader.problem("auth.users.keys", message);
    }
    if let Some(default) = &config.broker.default_publisher {
        let publishers = &config.auth.publishers;
        if !publishers.iter().any(|publisher| publisher.id == *default) {
            let message = format!("must be the id of one of auth.publishers; got {default:?}");
            reader.problem("broker.default_publisher", message);
        }
    }
}
