//! The pulse: each connection is pinged once a heartbeat, and ended when it stops answering or its
//! token runs out.
//!
//! One task for all connections: a heartbeat is divided into slots, and each connection has one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::Delivery;
use super::connection::Connection;
use super::heads::spread;
use crate::domain::{ConnectionId, UnixMillis};
use crate::wire::server::{self, ErrorCode};
use crate::wire::{AckMode, CloseCode, Frame};

/// Into how many slots a heartbeat is divided.
const SLOTS: u64 = 16;
/// How many pings may go unanswered.
const MISSED_PINGS: u8 = 2;

/// When tokens run out.
#[derive(Default)]
pub(super) struct Pulse {
    expiries: Mutex<BinaryHeap<Reverse<(UnixMillis, ConnectionId)>>>,
}

impl Pulse {
    /// The connection's token runs out then. An earlier note is seen to be out of date when it comes up.
    pub(super) fn expires(&self, at: UnixMillis, connection: ConnectionId) {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).push(Reverse((at, connection)));
    }

    fn expired(&self, now: UnixMillis) -> Vec<ConnectionId> {
        let mut expiries = self.expiries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some(Reverse((at, connection))) = expiries.peek().copied()
            && at <= now
        {
            expiries.pop();
            due.push(connection);
        }
        due
    }
}

impl Delivery {
    /// Pings and ends, for ever.
    pub(super) async fn keep_pulse(self: Arc<Self>) {
        let mut slot = 0;
        let mut lagged = [0; SLOTS as usize];
        let mut tick = tokio::time::interval(self.settings.heartbeat / u32::try_from(SLOTS).unwrap_or(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.end_expired();
            let of_slot = &mut lagged[slot as usize];
            *of_slot = 0;
            let is_of_slot = |connection: &Connection| spread(connection.id) % SLOTS == slot;
            let owes_ack = |connection: &Connection| connection.owes_ack.load(Ordering::Relaxed);
            for connection in self.hub.all_where(|one| is_of_slot(one) || owes_ack(one)) {
                if is_of_slot(&connection) {
                    *of_slot += i64::from(connection.with_session(|session| session.is_lagged()));
                    self.beat(&connection);
                } else {
                    self.ask_for_late_ack(&connection);
                }
            }
            self.metrics.lagged_connections.set(lagged.iter().sum());
            slot = (slot + 1) % SLOTS;
        }
    }

    fn end_expired(&self) {
        let now = self.clock.now();
        for id in self.pulse.expired(now) {
            let Some(connection) = self.hub.get(id) else {
                continue;
            };
            // Refreshed meanwhile: its new time is noted apart.
            if connection.with_claims(|claims| claims.expires_at) <= now {
                connection.bye(CloseCode::TokenExpired, None);
            }
        }
    }

    fn beat(&self, connection: &Arc<Connection>) {
        if connection.unanswered.fetch_add(1, Ordering::Relaxed) >= MISSED_PINGS {
            return connection.bye(CloseCode::HeartbeatTimeout, None);
        }
        self.ping(connection);
        let now = self.clock.now();
        let stuck = connection.with_session(|session| {
            session.forget_quiet(now);
            session.stuck(now)
        });
        for stream in stuck {
            self.metrics.window_full.inc();
            let message = format!("{}: acknowledge to get more", stream.client_name());
            connection.push(server::error(None, ErrorCode::WindowFull, &message));
        }
    }

    /// Only one ping is under way at a time: the pong of an earlier one would acknowledge what was sent after
    /// it. A client that does not answer the first needs no second to be found silent.
    fn ping(&self, connection: &Arc<Connection>) {
        // Before its welcome nothing is sent: a ping that is noted and not sent would be the last.
        if !connection.is_welcomed() || connection.pinged.swap(true, Ordering::AcqRel) {
            return;
        }
        connection.with_session(crate::session::Session::ping);
        connection.push(if connection.json_pings { server::ping() } else { Frame::ping() });
    }

    /// Something was sent: in `ack: auto`, half a window unacknowledged asks for a pong now, and less soon.
    pub(super) fn ask_for_ack(&self, connection: &Arc<Connection>) {
        if connection.ack_mode != AckMode::Auto {
            return;
        }
        connection.owes_ack.store(true, Ordering::Relaxed);
        if connection.with_session(|session| session.unacked()) * 2 >= self.settings.window.entries {
            self.ask_for_late_ack(connection);
        }
    }

    fn ask_for_late_ack(&self, connection: &Arc<Connection>) {
        let owed = connection.with_session(|session| {
            let owed = session.unacked() > 0;
            // Under its lock: whoever sends notes it after that.
            connection.owes_ack.store(owed, Ordering::Relaxed);
            owed
        });
        if owed && !connection.pinged.load(Ordering::Acquire) {
            self.ping(connection);
        }
    }
}
