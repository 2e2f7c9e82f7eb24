//! Every key of `default.toml`, section by section: its type and its bounds.
//!
//! A key that is not read here is not a key: a test holds this file and `default.toml`
//! together. Relations between keys are [`super::check`]'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::Reader;
use super::text::{has_scheme, origin};
use super::{
    AdminConfig, BrokerConfig, Config, DeliveryConfig, DrainConfig, EventsConfig, GatewayConfig, HttpConfig,
    InboxConfig, LogConfig, LogFormat, NodeConfig, PrefetchConfig, PresenceConfig, PublishConfig,
    RetentionConfig, Store,
};
use crate::auth::Secret;
use crate::delivery::{Crowd, OverLimit, Recycling};
use crate::domain::{NodeId, PublisherId};

/// A setting that depends on the set-up unless somebody decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    Auto,
    On,
    Off,
}

impl Switch {
    const WORDS: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    fn decide(self, auto: bool) -> bool {
        match self {
            Self::Auto => auto,
            Self::On => true,
            Self::Off => false,
        }
    }
}

pub(super) fn read(reader: &mut Reader) -> Config {
    let data_dir = PathBuf::from(reader.parsed("data_dir", "a path", non_empty));
    let (http, demo) = http(reader);
    let mut config = Config {
        is_trial: false,
        node: node(reader),
        http,
        admin: AdminConfig { listen: address(reader, "admin.listen") },
        broker: broker(reader),
        presence: presence(reader),
        inbox: inbox(reader, &data_dir),
        gateway: gateway(reader),
        publish: publish(reader),
        delivery: DeliveryConfig {
            head_check: reader.millis("delivery.head_check_ms", 1_000..=600_000),
            blind_check: reader.millis("delivery.blind_check_ms", 100..=60_000),
            conflation: reader.millis("delivery.conflation_ms", 0..=10_000),
        },
        events: events(reader),
        retention: RetentionConfig {
            age: 24 * hours(reader.number("retention.days", 1..=3_650)),
            max_entries: reader.number("retention.max_entries", 10..=10_000_000),
            receipts: hours(reader.number("retention.receipts_hours", 1..=720)),
            idle_device: 24 * hours(reader.number("retention.idle_device_days", 2..=3_650)),
            revocation: 24 * hours(reader.number("retention.revocation_days", 1..=3_650)),
        },
        drain: DrainConfig {
            deadline: reader.millis("drain.deadline_ms", 100..=600_000),
            window: reader.millis("drain.window_ms", 0..=300_000),
            spread: reader.millis("drain.spread_ms", 0..=600_000),
        },
        auth: super::auth::read(reader),
        log: log(reader),
        data_dir,
    };
    let auth = &config.auth;
    let has_keys = !auth.users.keys.is_empty() || auth.key_set.is_some();
    let has_secrets = has_keys || !(auth.publishers.is_empty() && auth.admins.is_empty());
    config.is_trial = config.is_embedded() && !has_secrets;
    config.http.demo = demo.decide(config.is_trial);
    config
}

fn node(reader: &mut Reader) -> NodeConfig {
    let id =
        reader.parsed("node.id", "1-128 characters A-Za-z0-9._~@|:- , or empty for the host name", |text| {
            let given = (!text.is_empty()).then(|| NodeId::new(text));
            given.transpose().ok()
        });
    let host_name = gethostname::gethostname().to_string_lossy().into_owned();
    let id = id.unwrap_or_else(|| {
        NodeId::new(&host_name).unwrap_or_else(|error| {
            let message = format!("must be set, since the host name is no id: {error}");
            reader.problem("node.id", message);
            NodeId::new("node").expect("a valid id")
        })
    });
    NodeConfig { id, lease_ttl: reader.millis("node.lease_ttl_ms", 3_000..=60_000) }
}

fn http(reader: &mut Reader) -> (HttpConfig, Switch) {
    let config = HttpConfig {
        listen: address(reader, "http.listen"),
        max_connections: reader.number("http.max_connections", 1..=1_000_000),
        max_connections_per_address: reader.number("http.max_connections_per_address", 0..=1_000_000),
        accept_rate: reader.number("http.accept_rate", 0..=100_000),
        trusted_proxies: reader.list(
            "http.trusted_proxies",
            "addresses or networks, such as 10.0.0.0/8",
            |text| text.parse().ok(),
        ),
        header_timeout: reader.millis("http.header_timeout_ms", 1_000..=60_000),
        max_body_bytes: reader.number("http.max_body_bytes", 1_024..=67_108_864),
        allowed_origins: reader.list("http.allowed_origins", "scheme://host[:port]", origin),
        public_url: reader.parsed("http.public_url", "http[s]://… or empty", public_url),
        demo: false,
    };
    (config, reader.choice("http.demo", &Switch::WORDS))
}

/// `Some(None)`: there is none.
fn public_url(text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    let is_url = has_scheme(&Secret::new(text), &["http", "https"]);
    is_url.then(|| Some(text.trim_end_matches('/').to_owned()))
}

fn broker(reader: &mut Reader) -> BrokerConfig {
    BrokerConfig {
        urls: reader.list("broker.urls", "amqp[s]://user:password@host:port/vhost", |text| {
            let url = Secret::new(text);
            has_scheme(&url, &["amqp", "amqps"]).then_some(url)
        }),
        heartbeat: reader.take("broker.heartbeat_ms", |value| match value {
            config::ValueKind::I64(millis @ 1_000..=600_000) if millis % 1_000 == 0 => {
                Ok(Duration::from_millis(millis.unsigned_abs()))
            }
            // AMQP 0-9-1 connection.tune: the heartbeat is in seconds.
            _ => Err("whole seconds in milliseconds, 1000-600000".to_owned()),
        }),
        connect_timeout: reader.millis("broker.timeouts.connect_ms", 100..=60_000),
        operation_timeout: reader.millis("broker.timeouts.operation_ms", 100..=60_000),
        prefetch: PrefetchConfig {
            high: reader.number("broker.prefetch.high", 1..=10_000),
            normal: reader.number("broker.prefetch.normal", 1..=10_000),
            low: reader.number("broker.prefetch.low", 1..=10_000),
        },
        default_publisher: reader.parsed("broker.default_publisher", "a publisher's id", |text| {
            let given = (!text.is_empty()).then(|| PublisherId::new(text));
            given.transpose().ok()
        }),
    }
}

fn presence(reader: &mut Reader) -> PresenceConfig {
    const SCHEMES: [&str; 4] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel"];
    let limit = "redis[s]://host:port/db, redis[s]+sentinel://… or empty";
    PresenceConfig {
        url: reader.parsed("presence.url", limit, |text| {
            let url = (!text.is_empty()).then(|| Secret::new(text));
            let fits = url.as_ref().is_none_or(|url| has_scheme(url, &SCHEMES));
            fits.then_some(url)
        }),
        ttl: reader.millis("presence.ttl_ms", 3_000..=3_600_000),
        timeout: reader.millis("presence.timeout_ms", 50..=30_000),
        pool_size: reader.number("presence.pool_size", 1..=256),
    }
}

fn inbox(reader: &mut Reader, data_dir: &Path) -> InboxConfig {
    let limit = "sqlite://PATH or postgres://user:password@host:port/database";
    let store = reader.parsed("inbox.url", limit, |text| store(text, data_dir));
    let migrate = reader.choice("inbox.migrate_at_start", &Switch::WORDS);
    InboxConfig {
        migrate_at_start: migrate.decide(matches!(store, Store::Sqlite(_))),
        store,
        max_connections: reader.number("inbox.max_connections", 2..=512),
        timeout: reader.millis("inbox.timeout_ms", 100..=60_000),
        max_devices: reader.number("inbox.max_devices", 1..=1_024),
        idempotency: hours(reader.number("inbox.idempotency_hours", 1..=168)),
    }
}

fn store(text: &str, data_dir: &Path) -> Option<Store> {
    match text.split_once("://")? {
        // `:memory:` would make 202 a lie, and a `?` would be taken for options.
        ("sqlite", path) if !path.is_empty() && !path.contains(['?', ':']) => {
            Some(Store::Sqlite(data_dir.join(path)))
        }
        ("postgres" | "postgresql", rest) if !rest.is_empty() => Some(Store::Postgres(Secret::new(text))),
        _ => None,
    }
}

const OVER_LIMIT: [(&str, OverLimit); 2] =
    [("displace_oldest", OverLimit::DisplaceOldest), ("refuse_newest", OverLimit::RefuseNewest)];

fn gateway(reader: &mut Reader) -> GatewayConfig {
    let age = Duration::from_secs(reader.number("gateway.max_connection_age_s", 0..=2_592_000));
    let per_second = reader.number("gateway.recycle_rate", 1..=10_000);
    let flood_after_s: u64 = reader.number("gateway.flood_after_s", 0..=3_600);
    GatewayConfig {
        heartbeat: reader.millis("gateway.heartbeat_ms", 1_000..=300_000),
        hello_timeout: reader.millis("gateway.hello_timeout_ms", 500..=60_000),
        write_deadline: reader.millis("gateway.write_deadline_ms", 500..=120_000),
        max_frame_bytes: reader.number("gateway.max_frame_bytes", 1_024..=1_048_576),
        frames_per_second: reader.number("gateway.frames_per_second", 10..=100_000),
        flood_after: (flood_after_s > 0).then(|| Duration::from_secs(flood_after_s)),
        window_entries: reader.number("gateway.window_entries", 1..=10_000),
        window_bytes: reader.number("gateway.window_bytes", 4_096..=16_777_216),
        max_topics_per_connection: reader.number("gateway.max_topics_per_connection", 1..=1_000),
        crowd: Crowd {
            limit: reader.number("gateway.max_connections_per_user", 0..=4_096),
            over_limit: reader.choice("gateway.over_limit", &OVER_LIMIT),
        },
        recycling: (!age.is_zero()).then_some(Recycling { age, per_second }),
    }
}

fn publish(reader: &mut Reader) -> PublishConfig {
    PublishConfig {
        max_users: reader.number("publish.max_users", 1..=100_000),
        max_notification_bytes: reader.number("publish.max_notification_bytes", 1_024..=1_048_576),
        max_ttl: 24 * hours(reader.number("publish.max_ttl_days", 1..=365)),
        max_schedule: 24 * hours(reader.number("publish.max_schedule_days", 1..=365)),
        locate_timeout: reader.millis("publish.locate_timeout_ms", 1..=10_000),
    }
}

fn events(reader: &mut Reader) -> EventsConfig {
    let receipts = reader.flag("events.receipts");
    let presence = reader.flag("events.presence");
    let seconds: u64 = reader.number("events.undelivered_after_s", 0..=2_592_000);
    let undelivered_after = (seconds > 0).then(|| Duration::from_secs(seconds));
    EventsConfig { receipts, presence, undelivered_after }
}

fn log(reader: &mut Reader) -> LogConfig {
    const FORMATS: [(&str, LogFormat); 2] = [("human", LogFormat::Human), ("json", LogFormat::Json)];
    let limit = "error, warn, info, debug, trace, or directives such as info,fanfare::broker=debug";
    LogConfig {
        level: reader.parsed("log.level", limit, |text| {
            let filter = tracing_subscriber::EnvFilter::builder();
            let parsed = non_empty(text).filter(|text| filter.parse(text).is_ok());
            // A word that is no level is read as the name of a target: a misspelling.
            parsed.filter(|text| text.contains(['=', ',']) || text.parse::<tracing::Level>().is_ok())
        }),
        format: reader.choice("log.format", &FORMATS),
    }
}

fn address(reader: &mut Reader, key: &'static str) -> SocketAddr {
    let limit = "ADDRESS:PORT, such as 127.0.0.1:8080";
    reader.parsed(key, limit, |text| text.parse().ok())
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn hours(hours: u32) -> Duration {
    Duration::from_secs(3_600) * hours
}

#[cfg(test)]
mod tests {
    use super::super::source::{Sources, merge};
    use super::*;

    #[test]
    fn every_key_of_default_toml_is_read_once_and_nothing_else() {
        let (mut reader, problems) = merge(&Sources::default());
        assert_eq!(problems, []);
        let _ = read(&mut reader);
        let (mut keys, defaults) = reader.keys();
        keys.sort_unstable();
        assert_eq!(keys, defaults);
    }
}
