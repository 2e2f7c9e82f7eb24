//! The words everything else is written in: ids, streams, time, notifications.
//!
//! Owns validation: a value of one of these types is within its bounds, so no
//! inner layer checks again. Pure: no await, no clock, no logging, no I/O.

pub mod id;
pub mod notification;
pub mod revocation;
pub mod stream;
pub mod time;

pub use id::{ConnectionId, DeviceId, IdError, NodeId, NotificationId, PublisherId, TopicName, UserId};
pub use notification::{NOW, Notification, Priority, Publication, Recipient, Target, Ttl};
pub use stream::{Epoch, Seq, Stream};
pub use time::UnixMillis;
