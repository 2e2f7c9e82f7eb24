//! Notifications: what a backend hands in, and what a client gets.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::id::{DeviceId, NotificationId, TopicName, UserId};
use super::stream::Stream;
use super::time::UnixMillis;

/// How urgent; each has an ingress lane of its own. Within one stream order wins.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Appended before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// May wait.
    Low,
}

impl Priority {
    /// All, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// `high`, `normal` or `low`: in JSON, routing keys, queue names and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// How old what is for now or never may become on its way (in a lane, a node's queue, a socket's buffer): far more than
/// it takes, and than clocks of nodes may differ.
pub const NOW: Duration = Duration::from_secs(10);

/// How long a notification is worth delivering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ttl {
    /// Until retention removes it.
    #[default]
    UntilRetention,
    /// Now or never (`ttl: 0`): not stored, no seq, no ack, and not sent when it is [`NOW`] old.
    NowOrNever,
    /// Not delivered later than this after it was accepted; 1 s to 30 days.
    Lives(Duration),
}

/// Whom a notification is for. Lists are not empty and name nobody twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every device of these users.
    Users(Vec<UserId>),
    /// These devices only.
    Devices(Vec<(UserId, DeviceId)>),
    /// Whoever follows the topic.
    Topic(TopicName),
    /// Everyone.
    Everyone,
}

impl Target {
    /// One [`Recipient`] for each entry that the notification gets.
    pub fn recipients(&self) -> Vec<Recipient> {
        let of = |stream, device| Recipient { stream, device };
        match self {
            Self::Users(users) => users.iter().map(|user| of(Stream::User(user.clone()), None)).collect(),
            Self::Devices(devices) => devices
                .iter()
                .map(|(user, device)| of(Stream::User(user.clone()), Some(device.clone())))
                .collect(),
            Self::Topic(topic) => vec![of(Stream::Topic(topic.clone()), None)],
            Self::Everyone => vec![of(Stream::Everyone, None)],
        }
    }
}

/// One entry to be made: in which stream, and for which device if not for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The stream that gets the entry.
    pub stream: Stream,
    /// The only device that is to get it; `None` for all.
    pub device: Option<DeviceId>,
}

/// What a publisher asked for, validated.
#[derive(Debug)]
pub struct Publication {
    /// Whom it is for.
    pub target: Target,
    /// A word for the application, such as `order.shipped`.
    pub kind: Option<String>,
    /// Shown first.
    pub title: Option<String>,
    /// Shown below.
    pub body: Option<String>,
    /// Any JSON, handed on byte for byte.
    pub data: Option<Box<RawValue>>,
    /// Its lane.
    pub priority: Priority,
    /// How long it is worth delivering.
    pub ttl: Ttl,
    /// Names what it replaces for devices that have not acknowledged that; clients get it as it is.
    pub collapse_key: Option<String>,
    /// When it is to be published; `None`: now.
    pub deliver_at: Option<UnixMillis>,
}

/// An accepted notification, encoded once for all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its id.
    pub id: NotificationId,
    /// When it was accepted.
    pub created_at: UnixMillis,
    /// When it stops being worth delivering; `None`: never.
    pub expires_at: Option<UnixMillis>,
    /// The JSON object that clients get as `notification`.
    pub json: Bytes,
}

impl Notification {
    /// Whether it must not be delivered any more.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
