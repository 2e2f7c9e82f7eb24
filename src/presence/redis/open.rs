//! The start: connect once, and refuse with one line what could not work later.
//!
//! Owns [`OpenError`]. Must never put a password into it.

use std::time::Duration;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind, pipe};

use super::address::FORMS;
use super::pool::{Failure, Pool};

/// A key that is never written: deleting it asks whether one may write.
const PROBE: &str = "fanfare-probe";

/// Why presence cannot be used from the start. One line that says what to change; never a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be understood.
    #[error("presence.url is wrong: {0}; it must be {FORMS}")]
    Url(String),
    /// Nobody answers there.
    #[error(
        "redis at {address} cannot be reached ({cause}); start it, correct presence.url, or use \
         rediss:// if and only if it expects TLS"
    )]
    Unreachable {
        /// Host and port, or the sentinels.
        address: String,
        /// What the operating system or the client said.
        cause: String,
    },
    /// Somebody is there but says nothing.
    #[error(
        "redis at {address} did not answer within {timeout:?}; check the network, use \
         rediss:// if and only if it expects TLS, or raise presence.timeout"
    )]
    Silent {
        /// Host and port, or the sentinels.
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// No password, the wrong one, or an unknown user.
    #[error("redis at {address} refused the user or password of presence.url; correct them")]
    Login {
        /// Host and port, or the sentinels.
        address: String,
    },
    /// A replica, or a primary that has too few of them.
    #[error(
        "redis at {address} is read-only, as a replica is; name the primary in presence.url, or \
         the sentinels with redis+sentinel://"
    )]
    ReadOnly {
        /// Host and port, or the sentinels.
        address: String,
    },
    /// The sentinels do not know the primary.
    #[error(
        "the sentinels at {address} know no living primary of that name; correct the service in \
         presence.url or repair the group"
    )]
    NoPrimary {
        /// The sentinels and the service.
        address: String,
    },
    /// Redis refuses something that Fanfare needs.
    #[error(
        "redis at {address} refuses to serve ({cause}); it must be Redis 6.2 or later and let this \
         user read, write and run scripts"
    )]
    Refused {
        /// Host and port, or the sentinels.
        address: String,
        /// What Redis said.
        cause: String,
    },
}

impl OpenError {
    fn new(address: &str, failure: Failure) -> Self {
        let address = address.to_owned();
        let error = match failure {
            Failure::Timeout(timeout) => return Self::Silent { address, timeout },
            Failure::Pool(cause) => return Self::Unreachable { address, cause },
            Failure::Redis(error) => error,
        };
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Login { address },
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly { address },
            ErrorKind::MasterNameNotFoundBySentinel => Self::NoPrimary { address },
            ErrorKind::Io => Self::Unreachable { address, cause: one_line(&error) },
            _ if error.to_string().contains("NOAUTH") => Self::Login { address },
            _ => Self::Refused { address, cause: one_line(&error) },
        }
    }
}

fn one_line(error: &RedisError) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

/// Reads, writes and runs a script once. Writes nothing that stays.
pub(super) async fn check(pool: &Pool, address: &str) -> Result<(), OpenError> {
    let asked: Result<(), Failure> = pool
        .query(|_| {
            let mut pipeline = pipe();
            pipeline.cmd("DEL").arg(PROBE).ignore();
            pipeline.cmd("EVAL").arg("return redis.call('GETDEL', KEYS[1])").arg(1).arg(PROBE).ignore();
            pipeline
        })
        .await;
    asked.map_err(|failure| OpenError::new(address, failure))
}
