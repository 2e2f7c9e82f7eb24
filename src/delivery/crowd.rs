//! No more connections of one user than allowed: exactly so on one node, nearly so over all of them.
//!
//! Owns who has room. On one node that is settled under one lock, whatever the order in which handshakes and `hello`
//! come. It must never end a connection for one that does not live: what presence alone says may be of a node that
//! died, so before anybody is ended for it the other nodes are asked, and who is refused for it may come again.

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::debug;

use super::Delivery;
use super::attach::AttachError;
use super::connection::Connection;
use super::displace::MAX_OF_USER;
use crate::domain::{ConnectionId, DeviceId, NodeId, UserId};
use crate::presence::Member;
use crate::wire::CloseCode;
use crate::wire::control::{Answer, Ask};

/// How long another node has to answer. It is asked once: what is too many stays so until the user's next connection.
const DEADLINE: Duration = Duration::from_secs(2);

/// What happens to a user's connections beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    /// The oldest is closed for the newest.
    DisplaceOldest,
    /// The newest is not attached.
    RefuseNewest,
}

/// How many connections a user may have at a time.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// On all nodes together; 0: as many as come.
    pub limit: usize,
    /// And what of one more.
    pub over_limit: OverLimit,
}

impl Crowd {
    fn refuses(self) -> bool {
        self.limit > 0 && self.over_limit == OverLimit::RefuseNewest
    }

    fn displaces(self) -> bool {
        self.limit > 0 && self.over_limit == OverLimit::DisplaceOldest
    }
}

/// A connection that lives, and who can end it.
struct Living {
    id: ConnectionId,
    device: Option<DeviceId>,
    /// `None`: this node.
    node: Option<NodeId>,
}

impl From<Member> for Living {
    fn from(member: Member) -> Self {
        Self { id: member.connection, device: member.device, node: Some(member.node) }
    }
}

impl Delivery {
    /// `connection` is in the hub: it has the room of an older one of its device, which goes for it.
    pub(super) fn take_over_room(&self, connection: &Connection) {
        if !self.settings.crowd.refuses() {
            return;
        }
        self.hub.among(&connection.user, |of_user| {
            let is_older = |one: &&Arc<Connection>| one.id < connection.id && is_of_device(one, connection);
            if of_user.iter().filter(is_older).any(|one| one.has_room.load(Ordering::Relaxed)) {
                connection.has_room.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Finds room for `connection`, beside those here that found it before and `others` that presence knows elsewhere.
    /// One that replaces its device's connection elsewhere needs room on this node only.
    ///
    /// # Errors
    /// Only where the newest is refused: [`AttachError::TooManyConnections`] if those of this node are as many as
    /// allowed, [`AttachError::PerhapsTooManyConnections`] if they are so with others; [`AttachError::Ended`] if it has.
    pub(super) fn find_room(&self, connection: &Connection, others: &[Member]) -> Result<(), AttachError> {
        let crowd = self.settings.crowd;
        if !crowd.refuses() {
            return Ok(());
        }
        let elsewhere = || others.iter().filter(|other| other.node != self.node);
        let replaces = elsewhere().any(|other| other.device.is_some() && other.device == connection.device);
        self.hub.among(&connection.user, |of_user| {
            if !of_user.iter().any(|one| one.id == connection.id) {
                return Err(AttachError::Ended);
            }
            if connection.has_room.load(Ordering::Relaxed) {
                return Ok(());
            }
            let has_room = of_user.iter().filter(|one| one.has_room.load(Ordering::Relaxed));
            let here: Vec<_> = has_room.map(|one| one.device.as_ref()).collect();
            if count(here.iter().copied()) >= crowd.limit {
                return Err(AttachError::TooManyConnections(crowd.limit));
            }
            let all = here.into_iter().chain(elsewhere().map(|other| other.device.as_ref()));
            if !replaces && count(all) >= crowd.limit {
                return Err(AttachError::PerhapsTooManyConnections(crowd.limit));
            }
            connection.has_room.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    /// `connection` is welcomed: ends the oldest that are more than allowed. One may be `connection` itself, if its
    /// handshake came long before its `hello`. `others` may be more than live, so their nodes are asked first.
    pub(super) fn displace_oldest(self: &Arc<Self>, connection: &Arc<Connection>, others: &[Member]) {
        let crowd = self.settings.crowd;
        if !crowd.displaces() {
            return;
        }
        let here = self.welcomed(&connection.user);
        self.end_oldest(&connection.user, here, crowd.limit);
        if connection.has_ended() {
            return;
        }
        let elsewhere: Vec<&Member> = others.iter().filter(|other| other.node != self.node).collect();
        let here = self.welcomed(&connection.user);
        let devices = here.iter().map(|one| one.device.as_ref());
        if count(devices.chain(elsewhere.iter().map(|other| other.device.as_ref()))) <= crowd.limit {
            return;
        }
        let elsewhere = elsewhere.into_iter().cloned().collect();
        let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
        self.tracker
            .spawn(async move { delivery.displace_across(&connection, elsewhere, crowd.limit).await });
    }

    /// The same over the nodes of `others`, as far as they answer: those of a node that does not are none.
    async fn displace_across(self: &Arc<Self>, connection: &Connection, others: Vec<Member>, limit: usize) {
        let nodes: BTreeSet<&NodeId> = others.iter().map(|other| &other.node).collect();
        let asked = nodes.into_iter().map(|node| self.living_on(node, &connection.user));
        let mut living: Vec<Living> = join_all(asked).await.into_iter().flatten().collect();
        if !self.settings.rules.count_the_living {
            living = others.into_iter().map(Living::from).collect();
        }
        if connection.has_ended() {
            // A connection that has ended meanwhile displaces nobody.
            return;
        }
        living.extend(self.welcomed(&connection.user));
        self.end_oldest(&connection.user, living, limit);
    }

    /// A user's connections on another node, as that says itself.
    async fn living_on(&self, node: &NodeId, user: &UserId) -> Vec<Living> {
        let ask = Ask::Connections { user: Some(user.clone()), limit: MAX_OF_USER };
        match self.ask(node, &ask, DEADLINE).await {
            Ok(Answer::Connections { connections }) => {
                let living = connections.into_iter().filter_map(|one| {
                    let id = ConnectionId::from_str(&one.connection).ok()?;
                    Some(Living { id, device: one.device, node: Some(node.clone()) })
                });
                living.collect()
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                debug!(%error, node.id = %node, "a node did not say which connections it has of a user");
                Vec::new()
            }
        }
    }

    /// A user's connections here that have been welcomed.
    fn welcomed(&self, user: &UserId) -> Vec<Living> {
        let of_user = self.hub.of_user(user).into_iter().filter(|one| one.is_welcomed());
        of_user.map(|one| Living { id: one.id, device: one.device.clone(), node: None }).collect()
    }

    /// Ends what is more than `limit`, the oldest first.
    fn end_oldest(self: &Arc<Self>, user: &UserId, mut living: Vec<Living>, limit: usize) {
        living.sort_unstable_by_key(|one| std::cmp::Reverse(one.id));
        // Of a device the newest counts: the others give way to it anyway.
        let mut devices = HashSet::new();
        living.retain(|one| one.device.as_ref().is_none_or(|device| devices.insert(device.clone())));
        for oldest in living.into_iter().skip(limit) {
            match oldest.node {
                None => {
                    if let Some(here) = self.hub.get(oldest.id) {
                        here.bye(CloseCode::TooManyConnections, None);
                    }
                }
                Some(node) => self.ask_to_end(user, node, oldest.id),
            }
        }
    }

    fn ask_to_end(self: &Arc<Self>, user: &UserId, node: NodeId, connection: ConnectionId) {
        let (delivery, user) = (Arc::clone(self), user.clone());
        self.tracker.spawn(async move {
            let ask = Ask::Crowd { connection: connection.to_string() };
            if let Err(error) = delivery.ask(&node, &ask, DEADLINE).await {
                debug!(%error, node.id = %node, user.id = %user, connection.id = %connection, "a node did not end a connection that is too many");
            }
        });
    }
}

fn is_of_device(one: &Connection, other: &Connection) -> bool {
    one.device.is_some() && one.device == other.device
}

/// How many connections these are, by their devices: each device once, however many a move between nodes makes of it.
fn count<'a>(devices: impl Iterator<Item = Option<&'a DeviceId>>) -> usize {
    let mut named = HashSet::new();
    devices.filter(|device| device.is_none_or(|device| named.insert(device))).count()
}
