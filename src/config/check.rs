//! What keys must be to each other.

use super::Config;
use super::read::Reader;

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
    sizes(reader, config);
    addresses(reader, config);
    secrets(reader, config);
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
    if !config.is_trial && config.auth.users.keys.is_empty() {
        let why = if config.is_embedded() {
            "publishers or administrators are configured"
        } else {
            "a real backend is configured"
        };
        let message = format!(
            "must hold a key, since {why}: without one no user can connect; \
             set auth.users.keys, or FANFARE__AUTH__USERS__SECRET_FILE"
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
