//! Where a client command finds what it was not told: the configuration and the trial set-up
//! beside it.

use std::time::Duration;

use super::failure::Failure;
use crate::auth::{Grant, KeySettings, Secret, SigningKey};
use crate::clock::Clock;
use crate::config::{Config, Sources, Trial, load};
use crate::domain::UserId;

/// How long a token for `listen` is valid; a new one is signed for each connection.
const LISTEN_TTL: Duration = Duration::from_secs(12 * 3_600);

/// The configuration that a server started here would have, and its trial secrets.
pub(super) struct Place {
    pub(super) config: Config,
    /// The trial's secrets, if this is a trial set-up that has been started.
    pub(super) trial: Option<Trial>,
}

impl Place {
    /// Reads the configuration and, if it is a trial's, the secrets in its `data_dir`.
    pub(super) fn find(sources: &Sources) -> Result<Self, Failure> {
        let config = load(sources).map_err(|problems| Failure::of_problems(&problems))?;
        let trial = match config.is_trial {
            true => Trial::load(&config.data_dir),
            false => Ok(None),
        };
        let trial = trial.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { config, trial })
    }

    /// The address that was given, else the trial's, else what the configuration says.
    pub(super) fn url(&self, given: Option<&str>) -> String {
        let trial = || self.trial.as_ref().and_then(|trial| trial.url.clone());
        given
            .map(str::to_owned)
            .or_else(|| self.config.http.public_url.clone())
            .or_else(trial)
            .unwrap_or_else(|| format!("http://{}", self.config.http.listen))
            .trim_end_matches('/')
            .to_owned()
    }

    /// The publisher's key that was given, else the trial's.
    pub(super) fn publisher_key(&self, given: Option<&Secret>) -> Result<Secret, Failure> {
        let trial = self.trial.as_ref().map(|trial| &trial.publisher_key);
        given.or(trial).cloned().ok_or_else(|| {
            Failure::new("no key: give --key or FANFARE_KEY, or run beside a trial's data folder")
        })
    }

    /// The admin listener's address that was given, else what the configuration says.
    pub(super) fn admin_url(&self, given: Option<&str>) -> String {
        let configured = || {
            let mut listen = self.config.admin.listen;
            if listen.ip().is_unspecified() {
                // It listens on all addresses of this machine, this one among them.
                listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            format!("http://{listen}")
        };
        given.map_or_else(configured, |given| given.trim_end_matches('/').to_owned())
    }

    /// The admin token that was given, else the trial's.
    pub(super) fn admin_token(&self, given: Option<&Secret>) -> Result<Secret, Failure> {
        let trial = self.trial.as_ref().map(|trial| &trial.admin_token);
        given.or(trial).cloned().ok_or_else(|| {
            Failure::new(
                "no admin token: give --token or FANFARE_ADMIN_TOKEN, or run beside a trial's data folder",
            )
        })
    }

    /// A key that users' tokens can be signed with: the configured HMAC secret of id `key_id`
    /// (the first if there is no id), else the trial's, which is made if need be.
    pub(super) fn signing_key(&self, key_id: Option<&str>) -> Result<KeySettings, Failure> {
        if self.config.is_trial {
            let trial = Trial::load_or_create(&self.config.data_dir);
            let trial = trial.map_err(|error| Failure::new(error.to_string()))?;
            return Ok(trial.user_key());
        }
        let is_wanted = |key: &&KeySettings| {
            let is_secret = key.algorithm.min_secret_bytes().is_some();
            is_secret && key_id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        let key = self.config.auth.users.keys.iter().find(is_wanted);
        key.cloned().ok_or_else(|| {
            let which = key_id.map_or_else(String::new, |id| format!(" with the id {id:?}"));
            Failure::new(format!("no HMAC secret{which} is configured; give --private-key and --algorithm"))
        })
    }

    /// What every token signed here says beside user and topics.
    pub(super) fn grant(&self, user: &UserId, topics: Vec<String>) -> Grant {
        Grant {
            sub: user.to_string(),
            topics,
            issuer: self.config.auth.users.issuer.clone(),
            audience: self.config.auth.users.audience.clone(),
            ..Grant::default()
        }
    }

    /// A token for `listen`. Where no trial was started no secret is made: no node would know it.
    pub(super) fn listen_token(&self, user: &UserId, topics: Vec<String>) -> Result<Secret, Failure> {
        if self.config.is_trial && self.trial.is_none() {
            return Err(Failure::new(format!(
                "no secret to sign a token with: no trial set-up has its data in {}; run this in the node's folder, \
                 give its configuration with --config, or a token with --token",
                self.config.data_dir.display()
            )));
        }
        let key = self.signing_key(None)?;
        sign(&key, &self.grant(user, topics), LISTEN_TTL).map(Secret::new)
    }
}

/// Signs `grant` from now on for `ttl`.
pub(super) fn sign(key: &KeySettings, grant: &Grant, ttl: Duration) -> Result<String, Failure> {
    SigningKey::new(key)
        .and_then(|key| key.sign(grant, ttl, Clock::system().now()))
        .map_err(|error| Failure::new(format!("cannot sign: {error}")))
}
