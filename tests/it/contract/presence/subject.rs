//! A presence and what tests do to it from outside, the same for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::redis as client;
use fanfare::clock::Clock;
use fanfare::domain::{ConnectionId, TopicName, UnixMillis};
use fanfare::metrics::presence::PresenceMetrics;
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::presence::redis::{RedisPresence, Settings};
use fanfare::presence::{Lease, Located, Member, NodeLease, Presence, Route};

use crate::support::backends;
use crate::support::{DEADLINE, eventually};

/// Long enough never to run out in a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// Short enough to wait for, long enough to be seen alive first.
pub(crate) const SHORT: Duration = Duration::from_secs(2);

/// A presence, and what tests do to it from outside.
pub(crate) struct Subject {
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) world: World,
}

pub(crate) enum World {
    Embedded { twin: EmbeddedPresence, now: Arc<AtomicU64> },
    Redis { url: String },
}

impl Subject {
    pub(crate) async fn embedded() -> Self {
        let now = Arc::new(AtomicU64::new(1_764_547_200_000));
        let told = Arc::clone(&now);
        let clock = Clock::new(move || UnixMillis(told.load(Ordering::Relaxed)));
        let twin = EmbeddedPresence::new(clock);
        Self { presence: Arc::new(twin.clone()), world: World::Embedded { twin, now } }
    }

    pub(crate) async fn redis() -> Self {
        let url = backends::redis_url().await;
        let settings = Settings { url: url.clone(), timeout: Duration::from_secs(5), pool_size: 4 };
        let opened = RedisPresence::connect(settings, PresenceMetrics::default(), Clock::system()).await;
        Self { presence: Arc::new(opened.expect("the test redis can be used")), world: World::Redis { url } }
    }

    /// Lets `ttl` pass and waits for what must follow from it.
    pub(crate) async fn after(&self, ttl: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
        match &self.world {
            World::Embedded { now, .. } => {
                let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
                now.fetch_add(ttl_ms, Ordering::Relaxed);
                assert!(check().await, "{what}");
            }
            World::Redis { .. } => eventually(DEADLINE, what, check).await,
        }
    }

    /// Everything is lost.
    pub(crate) async fn forget(&self) {
        match &self.world {
            World::Embedded { twin, .. } => twin.forget_everything(),
            World::Redis { url } => {
                let client = client::Client::open(url.as_str()).unwrap();
                let connection = client.get_multiplexed_async_connection().await;
                let () = client::cmd("FLUSHDB").query_async(&mut connection.unwrap()).await.unwrap();
            }
        }
    }

    pub(crate) async fn announce(&self, members: &[Member], ttl: Duration) -> Vec<Vec<Member>> {
        self.presence.announce(members, ttl).await.unwrap()
    }

    pub(crate) async fn of_user(&self, user: &str) -> Vec<Member> {
        self.locate(&[route(user)]).await.remove(0).members
    }

    pub(crate) async fn readers(&self, name: &str) -> Vec<String> {
        let located = self.locate(&[Route::Topic(topic(name))]).await.remove(0);
        located.nodes.iter().map(ToString::to_string).collect()
    }

    pub(crate) async fn locate(&self, routes: &[Route]) -> Vec<Located> {
        self.presence.locate(routes).await.unwrap()
    }

    pub(crate) async fn lease(&self, boot: &str, ttl: Duration, first: bool) -> Lease {
        let lease = node_lease("n1", boot);
        self.presence.lease(&lease, ttl, first).await.unwrap()
    }
}

pub(crate) fn member(user: &str, node: &str, number: u32, device: &str) -> Member {
    Member {
        user: user.parse().unwrap(),
        node: node.parse().unwrap(),
        connection: ConnectionId::new(UnixMillis(1_764_547_200_000), number),
        device: (!device.is_empty()).then(|| device.parse().unwrap()),
    }
}

pub(crate) fn route(user: &str) -> Route {
    Route::User(user.parse().unwrap())
}

pub(crate) fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

pub(crate) fn node_lease(node: &str, boot: &str) -> NodeLease {
    NodeLease {
        node: node.parse().unwrap(),
        boot: boot.to_owned(),
        http: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:9191".to_owned(),
        version: "0.1.0".to_owned(),
        connections: 12_345,
        draining: false,
    }
}
