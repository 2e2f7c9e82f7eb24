//! Connections to Redis: pooled, measured, with a deadline, thrown away when they are of no more use.
//!
//! Owns when a connection is reused. Must never retry: callers know what may be done twice.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    AsyncConnectionConfig, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind,
};
use deadpool_redis::{HookError, PoolConfig, PoolError, RedisConnectionInfo, Runtime, Timeouts, sentinel};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout_at};

use super::Settings;
use super::address::{Address, Sentinels};
use super::time::RedisTime;
use crate::presence::PresenceError;

/// A pool to one server, or to whichever server the sentinels say is the primary.
#[derive(Clone)]
pub(super) struct Pool {
    kind: Kind,
    time: Arc<RedisTime>,
    timeout: Duration,
}

#[derive(Clone)]
enum Kind {
    Server(deadpool_redis::Pool),
    Sentinels(sentinel::Pool),
}

enum Connection {
    Server(deadpool_redis::Connection),
    Sentinels(sentinel::Connection),
}

/// Why a round trip failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The deadline passed.
    #[error("redis did not answer within {0:?}")]
    Timeout(Duration),
    /// Redis said no, or could not be reached.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The pool itself, as when it was closed.
    #[error("no connection: {0}")]
    Pool(String),
}

impl From<Failure> for PresenceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout(deadline) => Self::Timeout(deadline),
            other => Self::Unavailable(Box::new(other)),
        }
    }
}

impl Pool {
    /// A pool that has no connection yet. `connects` counts those it will open.
    pub(super) fn build(address: Address, settings: &Settings, connects: Counter) -> RedisResult<Self> {
        let time = Arc::new(RedisTime::unmeasured());
        let kind = match address {
            Address::Server(info) => {
                let connecting = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(settings.timeout))
                    // The crate's own (500 ms) would cut a longer deadline short.
                    .set_response_timeout(None);
                let manager = deadpool_redis::Manager::new_with_config(info, connecting)?;
                let measured = Arc::clone(&time);
                let hook = deadpool_redis::Hook::async_fn(move |connection, _| {
                    connects.inc();
                    Box::pin(prepare(Arc::clone(&measured), connection))
                });
                let pool = deadpool_redis::Pool::builder(manager)
                    .config(limits(settings))
                    .runtime(Runtime::Tokio1)
                    .post_create(hook)
                    .build();
                Kind::Server(pool.map_err(no_runtime)?)
            }
            Address::Sentinels(sentinels) => {
                let measured = Arc::clone(&time);
                let hook = sentinel::Hook::async_fn(move |connection, _| {
                    connects.inc();
                    Box::pin(prepare(Arc::clone(&measured), connection))
                });
                let pool = sentinel::Pool::builder(sentinel_manager(sentinels)?)
                    .config(limits(settings))
                    .runtime(Runtime::Tokio1)
                    .post_create(hook)
                    .build();
                Kind::Sentinels(pool.map_err(no_runtime)?)
            }
        };
        Ok(Self { kind, time, timeout: settings.timeout })
    }

    /// Redis time, as last measured.
    pub(super) fn time(&self) -> &RedisTime {
        &self.time
    }

    /// Sends what `build` makes of the present Redis time in milliseconds, and waits for all answers.
    /// `build` runs when there is a connection, so a new server's time counts from its first command on.
    ///
    /// # Errors
    /// One command that failed fails all of it; the others may have been done.
    ///
    /// # Cancel safety
    /// The commands may or may not be done; the connection stays in order.
    pub(super) async fn query<T: deadpool_redis::redis::FromRedisValue>(
        &self,
        build: impl FnOnce(i64) -> Pipeline + Send,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        let late = |_| Failure::Timeout(self.timeout);
        let mut connection = timeout_at(deadline, self.checkout()).await.map_err(late)??;
        let pipeline = build(self.time.now_ms());
        let answer = timeout_at(deadline, pipeline.query_async(connection.get_mut())).await;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.after(&error, connection);
                Err(self.failure(error))
            }
            Err(_) => {
                // Perhaps the network swallows everything on it: the next call must not wait for it too.
                connection.discard();
                Err(Failure::Timeout(self.timeout))
            }
        }
    }

    async fn checkout(&self) -> Result<Connection, Failure> {
        let connection = match &self.kind {
            Kind::Server(pool) => pool.get().await.map(Connection::Server),
            Kind::Sentinels(pool) => pool.get().await.map(Connection::Sentinels),
        };
        connection.map_err(|error| match error {
            PoolError::Timeout(_) => Failure::Timeout(self.timeout),
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                self.failure(error)
            }
            other => Failure::Pool(other.to_string()),
        })
    }

    fn failure(&self, error: RedisError) -> Failure {
        if error.is_timeout() {
            return Failure::Timeout(self.timeout);
        }
        Failure::Redis(error)
    }

    /// Decides what becomes of the connection (and of its idle siblings) after an error.
    fn after(&self, error: &RedisError, connection: Connection) {
        if is_no_primary(error) {
            // The siblings lead to the same server, and its reads would be stale without an error.
            match &self.kind {
                Kind::Server(pool) => drop(pool.retain(|_, _| false)),
                Kind::Sentinels(pool) => drop(pool.retain(|_, _| false)),
            }
            connection.discard();
        } else if error.is_io_error() || error.is_unrecoverable_error() {
            connection.discard();
        }
    }
}

impl Connection {
    fn get_mut(&mut self) -> &mut MultiplexedConnection {
        match self {
            Self::Server(connection) => connection,
            Self::Sentinels(connection) => connection,
        }
    }

    /// Takes it out of the pool, which opens another when it needs one.
    fn discard(self) {
        match self {
            Self::Server(connection) => drop(deadpool_redis::Connection::take(connection)),
            Self::Sentinels(connection) => drop(sentinel::Connection::take(connection)),
        }
    }
}

/// After a failover the old primary is a replica (or has lost its own primary, or is loading).
fn is_no_primary(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    )
}

async fn prepare(time: Arc<RedisTime>, connection: &mut MultiplexedConnection) -> Result<(), HookError> {
    time.measure(connection).await.map_err(HookError::Backend)
}

fn limits(settings: &Settings) -> PoolConfig {
    let mut limits = PoolConfig::new(settings.pool_size.max(1));
    limits.timeouts = Timeouts {
        wait: Some(settings.timeout),
        create: Some(settings.timeout),
        // Leaves time to open a new connection within the same deadline when the idle one is dead.
        recycle: Some(settings.timeout / 3),
    };
    limits
}

fn sentinel_manager(sentinels: Sentinels) -> RedisResult<sentinel::Manager> {
    let node = sentinel::SentinelNodeConnectionInfo {
        tls_mode: sentinels.tls.then_some(sentinel::TlsMode::Secure),
        redis_connection_info: Some(RedisConnectionInfo::from(sentinels.server)),
    };
    sentinel::Manager::new(
        sentinels.each,
        sentinels.service,
        Some(node),
        sentinel::SentinelServerType::Master,
    )
}

fn no_runtime(error: deadpool_redis::BuildError) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, "no pool", error.to_string()))
}
