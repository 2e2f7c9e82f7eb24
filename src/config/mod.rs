//! The configuration: `config/default.toml`, then a file, then the environment.
//!
//! Owns every key's type, bound and relation to others, and the trial set-up's secrets. What
//! it hands out is plain data that has been checked as a whole; it never starts anything, and
//! no value of a secret key is ever in a problem, a log or a `Debug`.

mod auth;
mod check;
mod problem;
mod read;
mod sections;
mod settings;
mod source;
mod text;
mod trial;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

pub use problem::Problem;
pub use settings::{Setting, settings};
pub use source::{DEFAULT, Sources};
pub use trial::{Trial, TrialError};

use crate::auth::{AdminSettings, KeySetSettings, PublisherSettings, Secret, TokenSettings};
use crate::delivery::{Crowd, Recycling};
use crate::domain::{NodeId, PublisherId};
use crate::gateway::Network;

/// Everything that can be configured, checked. Sections are named as in `default.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// No backend and no secret is configured: secrets are generated ([`Trial`]).
    pub is_trial: bool,
    /// `data_dir`.
    pub data_dir: PathBuf,
    /// `[node]`.
    pub node: NodeConfig,
    /// `[http]`.
    pub http: HttpConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[broker]`.
    pub broker: BrokerConfig,
    /// `[presence]`.
    pub presence: PresenceConfig,
    /// `[inbox]`.
    pub inbox: InboxConfig,
    /// `[gateway]`.
    pub gateway: GatewayConfig,
    /// `[publish]`.
    pub publish: PublishConfig,
    /// `[delivery]`.
    pub delivery: DeliveryConfig,
    /// `[events]`.
    pub events: EventsConfig,
    /// `[retention]`.
    pub retention: RetentionConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// `[auth]`; in the trial set-up without a key, until [`Trial::auth`] replaces it.
    pub auth: AuthConfig,
    /// `[log]`.
    pub log: LogConfig,
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `id`, or the host name.
    pub id: NodeId,
    /// `lease_ttl_ms`.
    pub lease_ttl: Duration,
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `listen`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `max_connections`.
    pub max_connections: usize,
    /// `max_connections_per_address`; 0: no limit.
    pub max_connections_per_address: u32,
    /// `accept_rate`, a second; 0: no limit.
    pub accept_rate: u32,
    /// `trusted_proxies`.
    pub trusted_proxies: Vec<Network>,
    /// `header_timeout_ms`.
    pub header_timeout: Duration,
    /// `max_body_bytes`.
    pub max_body_bytes: usize,
    /// `allowed_origins`: `scheme://host[:port]`, lower case.
    pub allowed_origins: Vec<String>,
    /// `public_url`, without a slash at the end.
    pub public_url: Option<String>,
    /// Whether the demo page is served (`demo`, with "auto" decided).
    pub demo: bool,
}

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// `listen`; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// `[broker]`.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// `urls`; empty: the embedded broker.
    pub urls: Vec<Secret>,
    /// `heartbeat_ms`, whole seconds.
    pub heartbeat: Duration,
    /// `timeouts.connect_ms`.
    pub connect_timeout: Duration,
    /// `timeouts.operation_ms`.
    pub operation_timeout: Duration,
    /// `prefetch`.
    pub prefetch: PrefetchConfig,
    /// `default_publisher`: one of [`AuthConfig::publishers`].
    pub default_publisher: Option<PublisherId>,
}

/// `[broker.prefetch]`: unacknowledged messages of each lane.
#[derive(Debug, Clone, Copy)]
pub struct PrefetchConfig {
    /// `high`.
    pub high: u16,
    /// `normal`.
    pub normal: u16,
    /// `low`.
    pub low: u16,
}

/// `[presence]`.
#[derive(Debug, Clone)]
pub struct PresenceConfig {
    /// `url`; `None`: the embedded presence.
    pub url: Option<Secret>,
    /// `ttl_ms`.
    pub ttl: Duration,
    /// `timeout_ms`.
    pub timeout: Duration,
    /// `pool_size`.
    pub pool_size: usize,
}

/// `[inbox]`.
#[derive(Debug, Clone)]
pub struct InboxConfig {
    /// `url`.
    pub store: Store,
    /// `max_connections`.
    pub max_connections: u32,
    /// `timeout_ms`.
    pub timeout: Duration,
    /// `migrate_at_start`, with "auto" decided.
    pub migrate_at_start: bool,
    /// `max_devices`.
    pub max_devices: usize,
    /// `idempotency_hours`.
    pub idempotency: Duration,
}

/// Where the inbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// A file; relative paths have been joined to `data_dir`.
    Sqlite(PathBuf),
    /// A `postgres://` URL.
    Postgres(Secret),
}

/// What would end a path in a URL or be taken for an escape.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

impl Store {
    /// As a URL: `sqlite://PATH` (percent-encoded, as sqlx reads it) or `postgres://…`.
    pub fn url(&self) -> Secret {
        match self {
            Self::Sqlite(path) => {
                let path = path.to_string_lossy();
                let path = utf8_percent_encode(&path, NOT_IN_A_PATH);
                Secret::new(format!("sqlite://{path}"))
            }
            Self::Postgres(url) => url.clone(),
        }
    }
}

/// `[gateway]`.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// `heartbeat_ms`.
    pub heartbeat: Duration,
    /// `hello_timeout_ms`.
    pub hello_timeout: Duration,
    /// `write_deadline_ms`.
    pub write_deadline: Duration,
    /// `max_frame_bytes`.
    pub max_frame_bytes: usize,
    /// `frames_per_second`.
    pub frames_per_second: u32,
    /// `flood_after_s`; `None`: never.
    pub flood_after: Option<Duration>,
    /// `window_entries`.
    pub window_entries: usize,
    /// `window_bytes`.
    pub window_bytes: usize,
    /// `max_topics_per_connection`.
    pub max_topics_per_connection: usize,
    /// `max_connections_per_user` and `over_limit`.
    pub crowd: Crowd,
    /// `max_connection_age_s` (`None`: 0) and `recycle_rate`.
    pub recycling: Option<Recycling>,
}

/// `[publish]`.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// `max_users`.
    pub max_users: usize,
    /// `max_notification_bytes`.
    pub max_notification_bytes: usize,
    /// `max_ttl_days`.
    pub max_ttl: Duration,
    /// `max_schedule_days`.
    pub max_schedule: Duration,
    /// `locate_timeout_ms`.
    pub locate_timeout: Duration,
}

/// `[delivery]`.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// `head_check_ms`.
    pub head_check: Duration,
    /// `blind_check_ms`.
    pub blind_check: Duration,
    /// `conflation_ms`.
    pub conflation: Duration,
}

/// `[events]`: what backends are told on `fanfare.events`.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// `receipts`.
    pub receipts: bool,
    /// `presence`.
    pub presence: bool,
    /// `undelivered_after_s`; `None`: never.
    pub undelivered_after: Option<Duration>,
}

impl EventsConfig {
    /// Whether backends are told anything.
    pub fn any(&self) -> bool {
        self.receipts || self.presence || self.undelivered_after.is_some()
    }
}

/// `[retention]`.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    /// `days`.
    pub age: Duration,
    /// `max_entries` of a stream.
    pub max_entries: u64,
    /// `receipts_hours`: how long what has expired is still kept.
    pub receipts: Duration,
    /// `idle_device_days`.
    pub idle_device: Duration,
    /// `revocation_days`.
    pub revocation: Duration,
}

/// `[drain]`.
#[derive(Debug, Clone)]
pub struct DrainConfig {
    /// `deadline_ms`.
    pub deadline: Duration,
    /// `window_ms`.
    pub window: Duration,
    /// `spread_ms`.
    pub spread: Duration,
}

/// `[auth]`.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// `users`, for [`crate::auth::UserTokens`].
    pub users: TokenSettings,
    /// `users.jwks_…`, if there is a URL: keys beside those of `users`.
    pub key_set: Option<KeySetSettings>,
    /// `publishers`, for [`crate::auth::Publishers`].
    pub publishers: Vec<PublisherSettings>,
    /// `admin`, for [`crate::auth::Admins`].
    pub admins: Vec<AdminSettings>,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `level`: directives of the tracing crate, checked.
    pub level: String,
    /// `format`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// What is allowed and yet suspicious: one line each, for the log at the start.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }

    /// Whether broker, presence and inbox are all embedded.
    pub fn is_embedded(&self) -> bool {
        let file = matches!(self.inbox.store, Store::Sqlite(_));
        self.broker.urls.is_empty() && self.presence.url.is_none() && file
    }
}

/// Reads and checks the whole configuration.
///
/// # Errors
/// Everything that is wrong, in the order of `default.toml`, each with its key.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    let (mut reader, problems) = source::merge(sources);
    let config = sections::read(&mut reader);
    reader.finish(problems, &config)
}
