//! The roll: which connections each node holds, and since when. For the rule that a user has only so many.
//!
//! Owns what nodes know: a client that went without a word is there until its node hears of it. It must never ask a
//! node; it sees what passes its sockets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::delivery::{Connection, OverLimit};
use fanfare::domain::{ConnectionId, DeviceId, NodeId, UserId};
use fanfare::wire::CloseCode;
use tokio::time::Instant;

use super::line::Line;
use super::plan::Plan;
use super::stage::{Kind, Stage};

/// How old the answers may be for which a connection is ended: the slowest node is waited for, for two seconds, and the
/// word to end it travels.
const STALE: Duration = Duration::from_secs(3);
/// For how long those that have ended are kept.
const KEPT: Duration = Duration::from_secs(20);

struct Guest {
    node: NodeId,
    user: UserId,
    device: Option<DeviceId>,
    id: ConnectionId,
    made_at: Instant,
    line: Arc<Line>,
    /// Whether its end was looked at.
    is_judged: bool,
}

impl Guest {
    /// Whether its node held it as a welcomed one then.
    fn is_welcome_at(&self, at: Instant) -> bool {
        self.line.welcomed_at().is_some_and(|from| from <= at)
            && self.line.ended_at().is_none_or(|to| at < to)
    }

    /// Whether it was there at some time from then on, before `at`.
    fn lived(&self, from: Instant, at: Instant) -> bool {
        self.made_at <= at && self.line.ended_at().is_none_or(|to| to >= from)
    }
}

/// Everybody. Clones are the same roll.
#[derive(Clone, Default)]
pub struct Roll(Arc<Mutex<Vec<Guest>>>);

impl Roll {
    /// A node has made this connection for a client.
    pub fn enter(
        &self,
        node: &NodeId,
        user: &UserId,
        device: Option<&DeviceId>,
        made: &Connection,
        line: &Arc<Line>,
    ) {
        let guest = Guest {
            node: node.clone(),
            user: user.clone(),
            device: device.cloned(),
            id: made.id(),
            made_at: Instant::now(),
            line: Arc::clone(line),
            is_judged: false,
        };
        self.lock().push(guest);
    }

    /// A node is no more.
    pub fn leave(&self, node: &NodeId) {
        self.lock().iter().filter(|guest| guest.node == *node).for_each(|guest| guest.line.end());
    }

    /// On no node a user had more connections than allowed, and none was ended but for as many others that lived.
    pub fn check(&self, stage: &Stage, plan: &Plan) {
        let mut guests = self.lock();
        let now = Instant::now();
        guests.retain(|guest| guest.line.ended_at().is_none_or(|at| at + KEPT > now));
        let mut judged = vec![];
        for (place, guest) in guests.iter().enumerate() {
            check_room(stage, plan, &guests, guest);
            if !guest.is_judged && guest.line.ended_for() == Some(CloseCode::TooManyConnections) {
                check_end(stage, plan, &guests, guest);
                judged.push(place);
            }
        }
        judged.into_iter().for_each(|place| guests[place].is_judged = true);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Guest>> {
        self.0.lock().expect("no panic under it")
    }
}

/// When it was welcomed, its node had room for it.
fn check_room(stage: &Stage, plan: &Plan, guests: &[Guest], guest: &Guest) {
    let Some(at) = guest.line.welcomed_at() else { return };
    let beside =
        |other: &&Guest| other.node == guest.node && other.user == guest.user && other.is_welcome_at(at);
    let there = guests.iter().filter(beside).count();
    if there > plan.crowd.limit {
        stage.find(Kind::Crowd, format_args!("{} has {there} connections on {}", guest.user, guest.node));
    }
}

/// It was ended or refused for others: so many there were.
fn check_end(stage: &Stage, plan: &Plan, guests: &[Guest], guest: &Guest) {
    let Some(at) = guest.line.ended_at() else { return };
    let displaced = plan.crowd.over_limit == OverLimit::DisplaceOldest;
    let counts = |other: &&Guest| match displaced {
        true => other.id > guest.id && other.lived(at.checked_sub(STALE).unwrap_or(at), at),
        false => other.id != guest.id && other.node == guest.node && other.lived(at, at),
    };
    let others = guests.iter().filter(|other| other.user == guest.user).filter(counts);
    let mut devices = BTreeSet::new();
    let others =
        others.filter(|other| other.device.as_ref().is_none_or(|device| devices.insert(device.clone())));
    let others = others.count();
    if others < plan.crowd.limit {
        stage.find(Kind::Crowd, format_args!("{} {} was ended for {others} others", guest.user, guest.id));
    }
}
