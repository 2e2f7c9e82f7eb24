//! Publishers: backends that hand notifications in, and whom they may send to.
//!
//! Owns API keys (kept as hashes), the `publish` scope of tokens, the names of AMQP users,
//! and the limits of each publisher.

use std::sync::Arc;

use super::allowance::{Allowance, PublishRate};
use super::claims::{Claims, patterns};
use super::pattern::{TopicPattern, UserPattern};
use super::secret::KeyHash;
use super::token::{TokenError, UserTokens};
use crate::domain::{PublisherId, Target, TopicName, UnixMillis, UserId};

/// What API keys begin with; anything else in `Authorization: Bearer` is taken for a token.
const KEY_PREFIX: &str = "ffk_";
/// The scope that makes a token a publisher's.
const SCOPE: &str = "publish";

/// Limits as configured or claimed. Without `users` and `topics` everybody and every topic
/// may be sent to; as soon as one of them is given, only what is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Users that may be sent to.
    pub users: Option<Vec<UserPattern>>,
    /// Topics that may be sent to.
    pub topics: Option<Vec<TopicPattern>>,
    /// Whether everyone may be sent to; `None`: yes, unless `users` or `topics` limit.
    pub everyone: Option<bool>,
}

/// One publisher, as configured.
#[derive(Debug, Clone)]
pub struct PublisherSettings {
    /// Its id, part of its keys, and the owner of its idempotency keys.
    pub id: PublisherId,
    /// The SHA-256 of each key that it may use: two while a key is replaced, none if it
    /// publishes over AMQP only.
    pub key_hashes: Vec<KeyHash>,
    /// The AMQP user that it connects to RabbitMQ as.
    pub amqp_user: Option<String>,
    /// Whom it may send to.
    pub limits: Limits,
    /// How much it may send over HTTP, to each node; `None`: as much as it likes.
    pub rate: Option<PublishRate>,
}

/// A publisher that has shown who it is.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Its id.
    pub id: PublisherId,
    /// Whom it may send to.
    pub may: Permissions,
}

/// Whom a publisher may send to. Clones share it.
#[derive(Debug, Clone)]
pub struct Permissions(Arc<Allowed>);

#[derive(Debug)]
struct Allowed {
    users: Vec<UserPattern>,
    topics: Vec<TopicPattern>,
    everyone: bool,
}

/// A target that a publisher may not send to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this publisher may not publish to {what}")]
pub struct Forbidden {
    /// The first target refused, such as `user "bob"`, `topic "news"` or `everyone`.
    pub what: String,
}

impl Forbidden {
    /// The stable word for clients.
    pub fn code(&self) -> &'static str {
        "target_forbidden"
    }
}

impl Permissions {
    /// Everybody, every topic, everyone.
    pub fn all() -> Self {
        Self::new(Limits::default())
    }

    /// What `limits` leave.
    pub fn new(limits: Limits) -> Self {
        let limited = limits.users.is_some() || limits.topics.is_some();
        let (all_users, all_topics) = if limited {
            (vec![], vec![])
        } else {
            (vec![UserPattern::everything()], vec![TopicPattern::everything()])
        };
        Self(Arc::new(Allowed {
            users: limits.users.unwrap_or(all_users),
            topics: limits.topics.unwrap_or(all_topics),
            everyone: limits.everyone.unwrap_or(!limited),
        }))
    }

    /// Whether all of `target` may be sent to.
    ///
    /// # Errors
    /// [`Forbidden`] names the first that may not.
    pub fn publish_to(&self, target: &Target) -> Result<(), Forbidden> {
        match target {
            Target::Users(users) => users.iter().try_for_each(|user| self.user(user)),
            Target::Devices(devices) => devices.iter().try_for_each(|(user, _)| self.user(user)),
            Target::Topic(topic) => self.topic(topic),
            Target::Everyone if self.0.everyone => Ok(()),
            Target::Everyone => Err(Forbidden { what: "everyone".to_owned() }),
        }
    }

    fn user(&self, user: &UserId) -> Result<(), Forbidden> {
        if self.0.users.iter().any(|pattern| pattern.matches(user)) {
            return Ok(());
        }
        Err(Forbidden { what: format!("user {user:?}") })
    }

    fn topic(&self, topic: &TopicName) -> Result<(), Forbidden> {
        if self.0.topics.iter().any(|pattern| pattern.matches(topic)) {
            return Ok(());
        }
        Err(Forbidden { what: format!("topic {topic:?}") })
    }
}

/// Why a publisher's credential was refused. Never holds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// An API key that nobody has.
    #[error("the API key is not known")]
    UnknownKey,
    /// A token that is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A valid token that is not a publisher's.
    #[error("the token lacks the scope publish")]
    MissingScope,
}

impl CredentialError {
    /// The stable word for clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey => "invalid_key",
            Self::Token(error) => error.code(),
            Self::MissingScope => "missing_scope",
        }
    }
}

/// All publishers of this node.
#[derive(Debug)]
pub struct Publishers {
    entries: Vec<Entry>,
    default: Option<PublisherId>,
    tokens: Arc<UserTokens>,
}

#[derive(Debug)]
struct Entry {
    publisher: Publisher,
    key_hashes: Vec<KeyHash>,
    amqp_user: Option<String>,
    allowance: Option<Allowance>,
}

impl Publishers {
    /// Publishers with keys as in `settings`, and those whose tokens `tokens` verifies.
    /// `default` is who AMQP messages without a `user_id` are from, if they are taken at all.
    pub fn new(
        settings: Vec<PublisherSettings>,
        default: Option<PublisherId>,
        tokens: Arc<UserTokens>,
    ) -> Self {
        let entry = |settings: PublisherSettings| Entry {
            publisher: Publisher { id: settings.id, may: Permissions::new(settings.limits) },
            key_hashes: settings.key_hashes,
            amqp_user: settings.amqp_user,
            allowance: settings.rate.map(Allowance::new),
        };
        Self { entries: settings.into_iter().map(entry).collect(), default, tokens }
    }

    /// Who a bearer credential (an API key or a token of scope `publish`) belongs to.
    ///
    /// # Errors
    /// [`CredentialError`]; its [`code`](CredentialError::code) is for the client.
    pub fn authenticate(&self, bearer: &str, now: UnixMillis) -> Result<Publisher, CredentialError> {
        if !bearer.starts_with(KEY_PREFIX) {
            let (claims, _) = self.tokens.verify_claims(bearer, now)?;
            return from_claims(claims);
        }
        self.by_key(bearer)
    }

    fn by_key(&self, key: &str) -> Result<Publisher, CredentialError> {
        // Every hash is compared, so that time tells nothing about who has a key.
        let (hash_of_key, mut found) = (KeyHash::of(key), None);
        for entry in &self.entries {
            for hash in &entry.key_hashes {
                if *hash == hash_of_key {
                    found = Some(&entry.publisher);
                }
            }
        }
        found.cloned().ok_or(CredentialError::UnknownKey)
    }

    /// The same; a token of an unknown key waits as in [`UserTokens::verify_or_learn`].
    ///
    /// # Errors
    /// As of [`authenticate`](Self::authenticate).
    pub async fn authenticate_or_learn(
        &self,
        bearer: &str,
        now: impl Fn() -> UnixMillis,
    ) -> Result<Publisher, CredentialError> {
        if bearer.starts_with(KEY_PREFIX) {
            return self.by_key(bearer);
        }
        let (claims, _) = self.tokens.verify_claims_or_learn(bearer, now).await?;
        from_claims(claims)
    }

    /// The publisher that connects to RabbitMQ as `amqp_user` (the message's `user_id`, which
    /// the broker has checked); `None` if nobody does.
    pub fn by_user_id(&self, amqp_user: &str) -> Option<&Publisher> {
        self.entries
            .iter()
            .find(|entry| entry.amqp_user.as_deref() == Some(amqp_user))
            .map(|entry| &entry.publisher)
    }

    /// How much the publisher may send, whether it comes with a key or a token; `None`: as much as it likes.
    pub fn allowance(&self, id: &PublisherId) -> Option<&Allowance> {
        self.entries.iter().find(|entry| entry.publisher.id == *id)?.allowance.as_ref()
    }

    /// Who AMQP messages without a `user_id` are from; `None`: they are refused.
    pub fn default_publisher(&self) -> Option<&Publisher> {
        let default = self.default.as_ref()?;
        self.entries.iter().map(|entry| &entry.publisher).find(|publisher| publisher.id == *default)
    }
}

fn from_claims(claims: Claims) -> Result<Publisher, CredentialError> {
    if !claims.has_scope(SCOPE) {
        return Err(CredentialError::MissingScope);
    }
    let id = PublisherId::new(claims.sub.unwrap_or_default()).map_err(TokenError::from)?;
    let users = claims.users.map(|texts| patterns("users", texts));
    let topics = claims.topics.map(|texts| patterns("topics", texts));
    let limits = Limits { users: users.transpose()?, topics: topics.transpose()?, everyone: claims.everyone };
    Ok(Publisher { id, may: Permissions::new(limits) })
}
