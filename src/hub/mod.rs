//! The hub: a node's table of its own connections, and who of them a stream goes to.
//!
//! Owns which connection is whose and which follow which topic. Generic over the connection, of
//! which it only knows that it can be shared. Pure: no await, no clock, no logging; its locks are
//! held for a lookup, never while anything is sent. It must never decide what a connection gets.

mod by_age;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use by_age::ByAge;

use crate::domain::{ConnectionId, DeviceId, Stream, TopicName, UserId};

/// Shards of the table of users; a lookup locks one.
const SHARDS: usize = 16;

/// What the hub has to know of a connection.
pub trait Member {
    /// Its id.
    fn id(&self) -> ConnectionId;
    /// Whose it is.
    fn user(&self) -> &UserId;
    /// Of which device.
    fn device(&self) -> Option<&DeviceId>;
}

/// A node's connections.
#[derive(Debug)]
pub struct Hub<C> {
    users: [Mutex<HashMap<UserId, Vec<Arc<C>>>>; SHARDS],
    topics: RwLock<HashMap<Arc<Stream>, ByAge<C>>>,
    everyone: Arc<Stream>,
    all: RwLock<ByAge<C>>,
}

impl<C> Default for Hub<C> {
    fn default() -> Self {
        Self {
            users: std::array::from_fn(|_| Mutex::default()),
            topics: RwLock::default(),
            everyone: Arc::new(Stream::Everyone),
            all: RwLock::default(),
        }
    }
}

impl<C: Member> Hub<C> {
    /// Registers a connection. Returns the other connections of the same device, which it displaces
    /// if it is newer than they are.
    pub fn insert(&self, connection: Arc<C>) -> Vec<Arc<C>> {
        let same_device = {
            let mut shard = self.shard(connection.user());
            let of_user = shard.entry(connection.user().clone()).or_default();
            let same = |other: &&Arc<C>| other.device().is_some() && other.device() == connection.device();
            let same_device = of_user.iter().filter(same).cloned().collect();
            of_user.push(Arc::clone(&connection));
            of_user.shrink_to_fit();
            same_device
        };
        write(&self.all).insert(connection);
        same_device
    }

    /// Removes exactly this connection, and from these topics. Returns whether it was there.
    pub fn remove(&self, connection: &C, topics: &[TopicName]) -> bool {
        {
            let mut shard = self.shard(connection.user());
            if let Some(of_user) = shard.get_mut(connection.user()) {
                of_user.retain(|other| other.id() != connection.id());
                if of_user.is_empty() {
                    shard.remove(connection.user());
                }
            }
        }
        topics.iter().for_each(|topic| {
            self.unfollow(connection, topic);
        });
        write(&self.all).remove(connection.id())
    }

    /// A stream's name in the memory of those who follow it here, where there are any: a name for each connection would
    /// be most of what a followed topic costs.
    pub fn name(&self, stream: &Stream) -> Arc<Stream> {
        match stream {
            Stream::User(_) => Arc::new(stream.clone()),
            Stream::Topic(_) => match read(&self.topics).get_key_value(stream) {
                Some((name, _)) => Arc::clone(name),
                None => Arc::new(stream.clone()),
            },
            Stream::Everyone => Arc::clone(&self.everyone),
        }
    }

    /// Enters a connection as a follower of a topic; of another stream nobody has to be one. Returns whether it is the
    /// node's first.
    pub fn follow(&self, connection: &Arc<C>, topic: &Arc<Stream>) -> bool {
        if !matches!(**topic, Stream::Topic(_)) {
            return false;
        }
        let mut topics = write(&self.topics);
        let followers = topics.entry(Arc::clone(topic)).or_default();
        let first = followers.is_empty();
        followers.insert(Arc::clone(connection));
        first
    }

    /// Ends that. Returns whether it was the node's last.
    pub fn unfollow(&self, connection: &C, topic: &TopicName) -> bool {
        let topic = Stream::Topic(topic.clone());
        let mut topics = write(&self.topics);
        let Some(followers) = topics.get_mut(&topic) else {
            return false;
        };
        let there = followers.remove(connection.id());
        let last = there && followers.is_empty();
        if last {
            topics.remove(&topic);
        }
        last
    }

    /// The connections that a stream goes to, oldest first (a user's: in order of arrival).
    pub fn readers(&self, stream: &Stream) -> Vec<Arc<C>> {
        match stream {
            Stream::User(user) => self.of_user(user),
            Stream::Topic(_) => {
                read(&self.topics).get(stream).map(|all| all.iter().cloned().collect()).unwrap_or_default()
            }
            Stream::Everyone => self.all(),
        }
    }

    /// A user's connections.
    pub fn of_user(&self, user: &UserId) -> Vec<Arc<C>> {
        self.shard(user).get(user).cloned().unwrap_or_default()
    }

    /// What `look` finds among a user's connections, while none of them comes or goes. It must not call the hub.
    pub fn among<R>(&self, user: &UserId, look: impl FnOnce(&[Arc<C>]) -> R) -> R {
        let shard = self.shard(user);
        look(shard.get(user).map_or(&[], Vec::as_slice))
    }

    /// All connections, oldest first.
    pub fn all(&self) -> Vec<Arc<C>> {
        read(&self.all).iter().cloned().collect()
    }

    /// Those that `wanted` picks, oldest first. It looks at each, while none comes or goes: it must not call the hub, nor
    /// wait.
    pub fn all_where(&self, wanted: impl Fn(&C) -> bool) -> Vec<Arc<C>> {
        read(&self.all).iter().filter(|connection| wanted(connection)).cloned().collect()
    }

    /// Those with a lower id than this, oldest first.
    pub fn made_before(&self, id: ConnectionId) -> Vec<Arc<C>> {
        read(&self.all).iter().take_while(|connection| connection.id() < id).cloned().collect()
    }

    /// One connection.
    pub fn get(&self, connection: ConnectionId) -> Option<Arc<C>> {
        read(&self.all).get(connection).cloned()
    }

    /// The topics that somebody here follows.
    pub fn topics(&self) -> Vec<TopicName> {
        let name = |stream: &Arc<Stream>| match &**stream {
            Stream::Topic(topic) => Some(topic.clone()),
            Stream::User(_) | Stream::Everyone => None,
        };
        let mut topics: Vec<TopicName> = read(&self.topics).keys().filter_map(name).collect();
        topics.sort_unstable();
        topics
    }

    /// Whether somebody here follows a topic.
    pub fn has_topic(&self, topic: &TopicName) -> bool {
        read(&self.topics).contains_key(&Stream::Topic(topic.clone()))
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        read(&self.all).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, user: &UserId) -> MutexGuard<'_, HashMap<UserId, Vec<Arc<C>>>> {
        // FNV-1a, only to spread: the maps inside have a keyed hash of their own.
        let spread = user.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let shard = &self.users[usize::try_from(spread % SHARDS as u64).unwrap_or(0)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// No section under these locks can panic half-way through a change, so a poisoned one is still whole.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
