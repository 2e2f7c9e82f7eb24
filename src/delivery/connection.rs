//! One connection: its session, its frames, its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Delivery;
use super::outlet::Outlet;
use super::reads::Told;
use crate::auth::UserClaims;
use crate::domain::{ConnectionId, DeviceId, Seq, Stream, TopicName, UnixMillis, UserId};
use crate::hub;
use crate::presence;
use crate::session::{AckError, Acked, Session};
use crate::wire::control::{ConnectionState, FollowState};
use crate::wire::server::{self, ErrorCode};
use crate::wire::{AckMode, ClientFrame, CloseCode};

/// How many client frames may wait behind one that needs a round trip; one more gets an error.
const WAITING_FRAMES: usize = 64;

/// Over how long clients come back after a restore of the store, which ends all connections.
const RESET_SPREAD: Duration = Duration::from_secs(10);

/// One attached connection. Made by [`Delivery::attach`](super::Delivery::attach).
pub struct Connection {
    pub(super) id: ConnectionId,
    pub(super) user: UserId,
    pub(super) device: Option<DeviceId>,
    pub(super) connected_at: UnixMillis,
    pub(super) peer: SocketAddr,
    pub(super) ack_mode: AckMode,
    pub(super) json_pings: bool,
    pub(super) delivery: Weak<Delivery>,
    pub(super) outlet: Arc<dyn Outlet>,
    state: Mutex<State>,
    /// Pings sent since something arrived.
    pub(super) unanswered: AtomicU8,
    /// Whether a pong is awaited.
    pub(super) pinged: AtomicBool,
    /// In `ack: auto`, whether something was sent since it was last seen to owe no acknowledgement.
    pub(super) owes_ack: AtomicBool,
    /// Whether its presence is to be refreshed.
    pub(super) alive: AtomicBool,
    /// Whether it has found room among its user's connections. Changed while none of them comes or goes.
    pub(super) has_room: AtomicBool,
}

pub(super) struct State {
    pub(super) session: Session,
    claims: UserClaims,
    pub(super) phase: Phase,
    /// What it was told of what its user has read.
    pub(super) told: Told,
    /// Whether somebody comes to end the wait of what its session keeps back.
    pub(super) is_awaited: bool,
    /// Frames behind one that needs a round trip; `Some` while that is under way.
    waiting: Option<VecDeque<ClientFrame>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not welcomed yet: nothing may be sent.
    Arriving,
    Welcomed,
    /// A `bye` is on its way or the socket is gone.
    Ended,
}

/// What a new connection is made of.
pub(super) struct New {
    pub(super) id: ConnectionId,
    pub(super) claims: UserClaims,
    pub(super) device: Option<DeviceId>,
    pub(super) ack_mode: AckMode,
    pub(super) json_pings: bool,
    pub(super) peer: SocketAddr,
    pub(super) connected_at: UnixMillis,
    pub(super) session: Session,
}

impl hub::Member for Connection {
    fn id(&self) -> ConnectionId {
        self.id
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn device(&self) -> Option<&DeviceId> {
        self.device.as_ref()
    }
}

impl Connection {
    pub(super) fn new(new: New, outlet: Arc<dyn Outlet>, delivery: Weak<Delivery>) -> Arc<Self> {
        Arc::new(Self {
            id: new.id,
            user: new.claims.user.clone(),
            device: new.device,
            connected_at: new.connected_at,
            peer: new.peer,
            ack_mode: new.ack_mode,
            json_pings: new.json_pings,
            delivery,
            outlet,
            state: Mutex::new(State {
                session: new.session,
                claims: new.claims,
                phase: Phase::Arriving,
                told: Told::default(),
                is_awaited: false,
                waiting: None,
            }),
            unanswered: AtomicU8::new(0),
            pinged: AtomicBool::new(false),
            owes_ack: AtomicBool::new(false),
            alive: AtomicBool::new(false),
            has_room: AtomicBool::new(false),
        })
    }

    /// Its id.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// A text frame arrived. Never waits: what needs a round trip goes on in a task, in order.
    pub fn on_text(self: &Arc<Self>, text: &str) {
        self.on_life();
        match ClientFrame::parse(text, Some(&self.user)) {
            Ok(frame) => self.on_frame(frame),
            Err(error) => self.push(server::error(error.id, error.code, &error.message)),
        }
    }

    /// A WebSocket pong arrived.
    pub fn on_pong(self: &Arc<Self>) {
        self.on_life();
        if !self.pinged.swap(false, Ordering::AcqRel) || self.ack_mode != AckMode::Auto {
            return;
        }
        let Some(delivery) = self.delivery.upgrade() else {
            return;
        };
        let now = delivery.clock.now();
        let acked =
            self.lock().session.pong(now, |stream, epoch, seq| delivery.note_receipt(stream, epoch, seq));
        for (stream, acked) in acked {
            self.acknowledged(&delivery, &stream, acked);
        }
    }

    /// The outlet takes more again.
    pub fn on_drained(self: &Arc<Self>) {
        let Some(delivery) = self.delivery.upgrade() else {
            return;
        };
        let (behind, given, owed) = {
            let mut state = self.lock();
            let behind = state.session.drained();
            (behind, state.release(&*self.outlet, delivery.clock.now()), state.told.is_owed())
        };
        delivery.given(self, given);
        behind.into_iter().for_each(|stream| delivery.reader.want(self, stream));
        if owed {
            delivery.ask_for_missed(self);
        }
    }

    /// The socket is gone. Idempotent.
    pub fn on_closed(self: &Arc<Self>) {
        if let Some(delivery) = self.delivery.upgrade() {
            delivery.detach(self);
        }
    }

    /// Says `bye` and closes. Idempotent: the first reason counts.
    pub fn bye(self: &Arc<Self>, code: CloseCode, reconnect_after: Option<Duration>) {
        let Some(delivery) = self.delivery.upgrade() else {
            return;
        };
        {
            let mut state = self.lock();
            if state.phase == Phase::Ended {
                return;
            }
            state.phase = Phase::Ended;
            let _ = self.outlet.push(server::bye(code, reconnect_after));
        }
        let labels = crate::metrics::delivery::ByeLabels { reason: code.reason() };
        delivery.metrics.byes.get_or_create(&labels).inc();
        self.outlet.close(code);
        delivery.detach(self);
    }

    /// A stream of it has another life, or stands below where its session is: a store was restored. What the
    /// client then starts with is decided where connections begin.
    pub(super) fn reset(self: &Arc<Self>) {
        if let Some(delivery) = self.delivery.upgrade() {
            let after = delivery.clock.random_range(Duration::ZERO..RESET_SPREAD);
            self.bye(CloseCode::StreamReset, Some(after));
        }
    }

    fn on_life(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        if !self.alive.swap(true, Ordering::AcqRel)
            && let Some(delivery) = self.delivery.upgrade()
        {
            delivery.keeper.mark(self.member(&delivery.node));
        }
    }

    fn on_frame(self: &Arc<Self>, frame: ClientFrame) {
        match frame {
            ClientFrame::Ack { id, stream, seq } => self.on_ack(id, &stream, seq),
            ClientFrame::Pong => self.on_pong(),
            ClientFrame::Ping { id } => self.push(server::pong(id)),
            ClientFrame::Hello(hello) => {
                self.push(server::error(hello.id, ErrorCode::UnexpectedHello, "hello was said already"));
            }
            slow => self.queue(slow),
        }
    }

    /// Frames that need a round trip are done one after the other, in order.
    fn queue(self: &Arc<Self>, frame: ClientFrame) {
        let Some(delivery) = self.delivery.upgrade() else {
            return;
        };
        let mut state = self.lock();
        match &mut state.waiting {
            Some(waiting) if waiting.len() >= WAITING_FRAMES => {
                let message = format!("at most {WAITING_FRAMES} frames may wait for their answers");
                drop(state);
                self.push(server::error(None, ErrorCode::Unavailable, &message));
            }
            Some(waiting) => waiting.push_back(frame),
            None => {
                state.waiting = Some(VecDeque::new());
                drop(state);
                let connection = Arc::clone(self);
                delivery
                    .tracker
                    .clone()
                    .spawn(async move { delivery.answer_in_order(&connection, frame).await });
            }
        }
    }

    /// The next frame that waited; when there is none the connection is idle again.
    pub(super) fn next_waiting(&self) -> Option<ClientFrame> {
        let mut state = self.lock();
        let next = state.waiting.as_mut().and_then(|waiting| waiting.pop_front());
        if next.is_none() {
            state.waiting = None;
        }
        next
    }

    fn on_ack(self: &Arc<Self>, id: Option<u64>, stream: &Stream, seq: Seq) {
        let Some(delivery) = self.delivery.upgrade() else {
            return;
        };
        let (now, note) = (delivery.clock.now(), |epoch, seq| delivery.note_receipt(stream, epoch, seq));
        let acked = self.lock().session.ack(stream, seq, now, note);
        match acked {
            Ok(acked) => self.acknowledged(&delivery, stream, acked),
            Err(error) => {
                let code = match error {
                    AckError::NotFollowed => ErrorCode::NotFollowed,
                    AckError::AboveSent { .. } => ErrorCode::AckAboveSent,
                };
                self.push(server::error(id, code, &error.to_string()));
            }
        }
    }

    /// The cursor of the user's own stream is written soon; those of shared streams at the close and at long
    /// intervals, for each notification would move one for every device there is.
    fn acknowledged(self: &Arc<Self>, delivery: &Arc<Delivery>, stream: &Stream, acked: Acked) {
        if let Some(device) = &self.device
            && !stream.is_shared()
        {
            delivery.cursors.moved(&self.user, device, stream, acked.epoch, acked.cursor);
        }
        if let Some((after, to)) = acked.covered {
            delivery.note_covered(self, stream, acked.epoch, after, to);
        }
        if acked.read {
            delivery.reader.want(self, stream.clone());
        }
    }

    /// The cursors of shared streams that have moved.
    pub(super) fn save_shared_cursors(&self, delivery: &Delivery) {
        let Some(device) = &self.device else { return };
        for (stream, epoch, acked) in self.lock().session.take_moved_shared() {
            delivery.cursors.moved(&self.user, device, stream, epoch, acked);
        }
    }

    /// Every cursor, for the last flush.
    pub(super) fn save_cursors(&self, delivery: &Delivery) {
        let Some(device) = &self.device else { return };
        for (stream, epoch, acked) in self.lock().session.cursors() {
            delivery.cursors.moved(&self.user, device, stream, epoch, acked);
        }
    }

    /// Runs `change` on the session, with nothing else in between.
    pub(super) fn with_session<R>(&self, change: impl FnOnce(&mut Session) -> R) -> R {
        change(&mut self.lock().session)
    }

    /// Runs `change` on the claims.
    pub(super) fn with_claims<R>(&self, change: impl FnOnce(&mut UserClaims) -> R) -> R {
        change(&mut self.lock().claims)
    }

    /// Marks it as gone; nothing is sent any more. Returns the topics it followed.
    pub(super) fn end(&self) -> Vec<TopicName> {
        let mut state = self.lock();
        state.phase = Phase::Ended;
        topics(&state.session)
    }

    /// The topics it follows.
    pub(super) fn topics(&self) -> Vec<TopicName> {
        self.with_session(|session| topics(session))
    }

    /// Whether frames may be sent to it.
    pub(super) fn is_welcomed(&self) -> bool {
        self.lock().phase == Phase::Welcomed
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().phase == Phase::Ended
    }

    /// Whether nothing is on its way to it that it waits for: it is welcomed and live in all its streams, and no
    /// frame of its client waits for an answer.
    pub(super) fn is_caught_up(&self) -> bool {
        let state = self.lock();
        state.phase == Phase::Welcomed && state.waiting.is_none() && state.session.is_caught_up()
    }

    /// How presence knows it.
    pub(super) fn member(&self, node: &crate::domain::NodeId) -> presence::Member {
        presence::Member {
            user: self.user.clone(),
            node: node.clone(),
            connection: self.id,
            device: self.device.clone(),
        }
    }

    /// What operators see of it.
    pub(super) fn describe(&self, node: &crate::domain::NodeId) -> ConnectionState {
        let streams = self.with_session(|session| {
            let follow = |(stream, status): (&Stream, crate::session::FollowStatus)| FollowState {
                stream: stream.to_string(),
                position: status.position.0,
                unacked: status.unacked as u64,
                state: format!("{:?}", status.phase).to_lowercase(),
            };
            session.status().map(follow).collect()
        });
        ConnectionState {
            connection: self.id.to_string(),
            node: node.clone(),
            user: self.user.clone(),
            device: self.device.clone(),
            connected_at: self.connected_at.to_string(),
            peer: self.peer.to_string(),
            streams,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock would leave a session that has sent less than it says: head checks heal that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn topics(session: &Session) -> Vec<TopicName> {
    let topics = session.status().filter_map(|(stream, _)| match stream {
        Stream::Topic(topic) => Some(topic.clone()),
        Stream::User(_) | Stream::Everyone => None,
    });
    topics.collect()
}
