//! One connection a device, whichever nodes hold them: the newer stays.
//!
//! It must never end a connection for one that does not live: a device without any would be worse than one with two,
//! whose doubles clients drop by seq.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::Delivery;
use super::connection::Connection;
use crate::presence::Member;
use crate::wire::CloseCode;
use crate::wire::control::{Answer, Ask};

/// How long another node has to answer, each time it is asked.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often it is asked. One that has not answered by then has lost its lease or does before long; what lives is found
/// when presence is announced anew.
const TRIES: usize = 4;
/// The pause before it is asked again, at least.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// And at most.
const PAUSE_MAX: Duration = Duration::from_millis(600);
/// How many connections of a user are looked through; more than a user has devices.
pub(super) const MAX_OF_USER: u32 = 4_096;

impl Delivery {
    /// Presence knows `others` of the user of `connection`: of two of one device the newer stays.
    pub(super) fn displace_elsewhere(self: &Arc<Self>, connection: &Arc<Connection>, others: &[Member]) {
        let same_device = |other: &&Member| other.device.is_some() && other.device == connection.device;
        let elsewhere = others.iter().filter(same_device).filter(|other| other.node != self.node);
        for other in elsewhere.cloned() {
            if connection.has_ended() {
                // A client that gave up while it waited displaces nobody.
                return;
            }
            match other.connection > connection.id {
                true => self.give_way(connection, other),
                false => self.ask_to_displace(connection, other),
            }
        }
    }

    /// Presence knows of a newer connection of the device. It may know it no better than that: its client may have
    /// given up before its node came to it. So its node is asked, and only a living one displaces.
    fn give_way(self: &Arc<Self>, connection: &Arc<Connection>, other: Member) {
        let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
        self.tracker.spawn(async move {
            let ask = Ask::Connections { user: Some(connection.user.clone()), limit: MAX_OF_USER };
            let newer = other.connection.to_string();
            let answer = delivery.ask_until(&other, &ask, || connection.has_ended()).await;
            if let Some(Answer::Connections { connections }) = answer
                && connections.iter().any(|one| one.connection == newer)
            {
                connection.bye(CloseCode::Displaced, None);
            }
        });
    }

    fn ask_to_displace(self: &Arc<Self>, connection: &Arc<Connection>, other: Member) {
        let (delivery, connection) = (Arc::clone(self), Arc::clone(connection));
        self.tracker.spawn(async move {
            let ask = Ask::Displace { connection: other.connection.to_string() };
            // A connection that has ended meanwhile displaces nobody.
            delivery.ask_until(&other, &ask, || connection.has_ended()).await;
        });
    }

    /// Asks the node of `other` until it answers, `over` says that nobody waits any more, or the tries are used up.
    async fn ask_until(&self, other: &Member, ask: &Ask, over: impl Fn() -> bool) -> Option<Answer> {
        for _ in 0..TRIES {
            if over() {
                return None;
            }
            match self.ask(&other.node, ask, DEADLINE).await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    debug!(%error, node.id = %other.node, connection.id = %other.connection, "a node was not asked about a connection");
                }
            }
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep(self.clock.random_range(PAUSE_MIN..PAUSE_MAX)) => {}
            }
        }
        None
    }
}
