//! No more connections of one user than allowed: exactly so on one node, as presence knows them across nodes.
//!
//! It must never end a connection for one that does not live: only who was welcomed displaces, and what presence
//! alone knows of counts as the oldest that it says, so an entry of a dead node ends nobody but itself.

use std::sync::Arc;

use super::Delivery;
use super::attach::AttachError;
use super::connection::Connection;
use crate::domain::ConnectionId;
use crate::presence::Member;
use crate::wire::CloseCode;
use crate::wire::control::Ask;

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

/// A connection of the user, and who can end it.
enum Known {
    Here(Arc<Connection>),
    Elsewhere(Member),
}

impl Known {
    fn id(&self) -> ConnectionId {
        match self {
            Self::Here(connection) => connection.id,
            Self::Elsewhere(member) => member.connection,
        }
    }
}

impl Delivery {
    /// Whether there is room for `connection`, beside `others` that presence knows and those that came before it.
    /// Of several that come at once the oldest find it.
    ///
    /// # Errors
    /// [`AttachError::TooManyConnections`]; only where the newest is refused.
    pub(super) fn find_room(&self, connection: &Connection, others: &[Member]) -> Result<(), AttachError> {
        let Crowd { limit, over_limit } = self.settings.crowd;
        if limit == 0 || over_limit != OverLimit::RefuseNewest {
            return Ok(());
        }
        let known = self.known(connection, others);
        let older = known.iter().filter(|known| known.id() < connection.id).count();
        if older < limit { Ok(()) } else { Err(AttachError::TooManyConnections(limit)) }
    }

    /// `connection` is welcomed: ends the oldest that are more than allowed. One may be `connection` itself, if its
    /// handshake came long before its `hello`.
    pub(super) fn displace_oldest(self: &Arc<Self>, connection: &Arc<Connection>, others: &[Member]) {
        let Crowd { limit, over_limit } = self.settings.crowd;
        if limit == 0 || over_limit != OverLimit::DisplaceOldest {
            return;
        }
        let mut known = self.known(connection, others);
        let excess = known.len().saturating_sub(limit);
        known.sort_unstable_by_key(Known::id);
        for oldest in known.into_iter().take(excess) {
            match oldest {
                Known::Here(oldest) => oldest.bye(CloseCode::TooManyConnections, None),
                Known::Elsewhere(oldest) => {
                    let ask = Ask::Crowd { connection: oldest.connection.to_string() };
                    self.ask_to_end(connection, oldest, ask);
                }
            }
        }
    }

    /// The user's connections here, and those of `others` that are elsewhere. One of the same device is none beside
    /// `connection`: one of the two goes anyway.
    fn known(&self, connection: &Connection, others: &[Member]) -> Vec<Known> {
        let other_device = |other: &&Member| other.device.is_none() || other.device != connection.device;
        let elsewhere = others.iter().filter(|other| other.node != self.node).filter(other_device);
        let here = self.hub.of_user(&connection.user).into_iter().map(Known::Here);
        here.chain(elsewhere.cloned().map(Known::Elsewhere)).collect()
    }
}
