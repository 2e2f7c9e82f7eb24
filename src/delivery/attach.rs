//! A new connection: registered, announced, opened, welcomed.
//!
//! The order is the guarantee: **hub, then an acknowledged announce, then the inbox**. Whatever is
//! committed after the inbox was opened finds the connection through presence and the hub; whatever was
//! committed before is in the inbox.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Delivery;
use super::connection::{Connection, New};
use super::outlet::Outlet;
use crate::auth::UserClaims;
use crate::domain::{ConnectionId, Stream, TopicName, UnixMillis};
use crate::inbox::{InboxError, Open, Opened, Resume, Unread};
use crate::presence::Member;
use crate::session::{Next, Place, Session};
use crate::wire::client::ResumeAt;
use crate::wire::server::{self, ErrorCode, StreamState, Welcome};
use crate::wire::{CloseCode, Hello};

/// What a client asks for when it attaches.
#[derive(Debug)]
pub struct Attach {
    /// What its token says.
    pub claims: UserClaims,
    /// What its `hello` says.
    pub hello: Hello,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When its handshake came. Of two connections of one device the later one stays, however late its `hello` is
    /// read: a client that gave this one up may have been welcomed elsewhere meanwhile.
    pub accepted_at: UnixMillis,
}

/// Why a connection was not attached; it has been told.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A topic that the token does not list.
    #[error("the token does not allow the topic {0:?}")]
    TopicForbidden(TopicName),
    /// More topics than a connection may follow.
    #[error("a connection may follow at most {limit} topics; got {got}")]
    TooManyTopics {
        /// The limit.
        limit: usize,
        /// How many were asked for.
        got: usize,
    },
    /// The user has as many devices as allowed.
    #[error("a user may have at most {0} devices")]
    TooManyDevices(u32),
    /// The user has as many other connections as allowed, here alone.
    #[error("a user may have at most {0} connections")]
    TooManyConnections(usize),
    /// The user seems to have as many, on all nodes together: some may have died with their node.
    #[error("a user may have at most {0} connections, and may have them on other nodes")]
    PerhapsTooManyConnections(usize),
    /// The node is stopping.
    #[error("the node is draining")]
    Draining,
    /// The inbox does not answer.
    #[error("the inbox is not available")]
    Unavailable(#[source] Option<InboxError>),
    /// The client went away meanwhile, or a newer connection of its device came.
    #[error("the connection has ended meanwhile")]
    Ended,
}

impl AttachError {
    /// What the client is told in an `error` before the `bye`, where there is something to change.
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::TopicForbidden(_) => Some(ErrorCode::TopicForbidden),
            Self::TooManyTopics { .. } => Some(ErrorCode::TooManyTopics),
            Self::TooManyDevices(_)
            | Self::TooManyConnections(_)
            | Self::PerhapsTooManyConnections(_)
            | Self::Draining
            | Self::Unavailable(_)
            | Self::Ended => None,
        }
    }

    /// What the client is told in `bye`.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::TopicForbidden(_) | Self::TooManyTopics { .. } => CloseCode::InvalidFrame,
            Self::TooManyDevices(_) => CloseCode::TooManyDevices,
            Self::TooManyConnections(_) => CloseCode::TooManyConnections,
            Self::Draining => CloseCode::Draining,
            Self::PerhapsTooManyConnections(_) | Self::Unavailable(_) => CloseCode::Unavailable,
            Self::Ended => CloseCode::Normal,
        }
    }
}

impl Delivery {
    /// Attaches a connection: when this returns, it is welcomed and gets what it missed and what comes.
    ///
    /// `on_made` is called at once with the connection, so that whoever holds the socket can tell it of
    /// the socket's end while the rest is still under way. Not cancel-safe: run it in a task of its own.
    ///
    /// # Errors
    /// [`AttachError`]; the connection is detached again, and its socket is for the caller to close.
    pub async fn attach(
        self: &Arc<Self>,
        attach: Attach,
        outlet: Arc<dyn Outlet>,
        on_made: impl FnOnce(&Arc<Connection>),
    ) -> Result<Arc<Connection>, AttachError> {
        let started = Instant::now();
        let streams = self.streams_of(&attach)?;
        let resume: Vec<Option<ResumeAt>> =
            streams.iter().map(|stream| attach.hello.resume_at(stream)).collect();
        let expires_at = attach.claims.expires_at;
        let names: Vec<Arc<Stream>> = streams.iter().map(|stream| self.hub.name(stream)).collect();
        let connection = self.make(attach, outlet, &names);
        on_made(&connection);
        if self.is_draining() {
            return Err(AttachError::Draining);
        }
        self.register(&connection, &names);
        if let Err(error) = self.welcome(&connection, streams, &resume).await {
            // It may have gone before its announce had landed: take that back, too.
            self.detach(&connection);
            self.keeper.withdraw(connection.member(&self.node));
            return Err(error);
        }
        self.pulse.expires(expires_at, connection.id);
        self.metrics.attached.inc();
        self.metrics.attach_seconds.observe(started.elapsed().as_secs_f64());
        Ok(connection)
    }

    /// From the announce to the first reads. Nobody is ended for it before it is welcomed, but for its device's older
    /// connection, and that not before it has found room.
    async fn welcome(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        streams: Vec<Stream>,
        resume: &[Option<ResumeAt>],
    ) -> Result<(), AttachError> {
        let others = self.announce(connection, &streams).await;
        self.find_room(connection, &others)?;
        self.displace_elsewhere(connection, &others);
        let degraded = self.is_degraded();
        let opened = self.open(connection, &streams, resume).await?;
        if !self.greet(connection, &streams, &opened, degraded) {
            return Err(AttachError::Ended);
        }
        self.ask_for_missed(connection);
        self.catch_up(connection, streams, &opened);
        self.displace_oldest(connection, &others);
        // It may have been the oldest itself.
        if connection.has_ended() { Err(AttachError::Ended) } else { Ok(()) }
    }

    fn streams_of(&self, attach: &Attach) -> Result<Vec<Stream>, AttachError> {
        let mut topics = attach.hello.topics.clone();
        topics.sort_unstable();
        topics.dedup();
        let (limit, got) = (self.settings.max_topics, topics.len());
        if got > limit {
            return Err(AttachError::TooManyTopics { limit, got });
        }
        if let Some(topic) = topics.iter().find(|topic| !may_follow(&attach.claims, topic)) {
            return Err(AttachError::TopicForbidden(topic.clone()));
        }
        let own = [Stream::User(attach.claims.user.clone()), Stream::Everyone];
        Ok(own.into_iter().chain(topics.into_iter().map(Stream::Topic)).collect())
    }

    fn make(
        self: &Arc<Self>,
        attach: Attach,
        outlet: Arc<dyn Outlet>,
        streams: &[Arc<Stream>],
    ) -> Arc<Connection> {
        let Attach { claims, hello, peer, accepted_at } = attach;
        let mut session = Session::new(hello.device.clone(), self.settings.window, self.settings.rules)
            .conflating(self.settings.conflation)
            .with_room_for(streams.len());
        streams.iter().for_each(|stream| session.follow(Arc::clone(stream)));
        let new = New {
            id: ConnectionId::new(self.keeper.shared_time(accepted_at), self.clock.random()),
            claims,
            device: hello.device,
            ack_mode: hello.ack,
            json_pings: hello.ping,
            peer,
            connected_at: accepted_at,
            session,
        };
        Connection::new(new, outlet, Arc::downgrade(self))
    }

    fn register(self: &Arc<Self>, connection: &Arc<Connection>, streams: &[Arc<Stream>]) {
        let same_device = self.hub.insert(Arc::clone(connection));
        self.metrics.connections.set(i64::try_from(self.hub.len()).unwrap_or(i64::MAX));
        self.take_over_room(connection);
        for other in same_device {
            let older = if other.id < connection.id { &other } else { connection };
            older.bye(CloseCode::Displaced, None);
        }
        for stream in streams {
            self.hub.follow(connection, stream);
        }
        self.cursors.seen(&connection.user, self.clock.now());
        // Only now: whoever revokes it later finds it in the hub.
        self.end_if_revoked(connection);
    }

    /// Announces the connection and its topics, and waits for presence to say so. Without presence the
    /// connection is served all the same: this node is blind then, and says so. Returns the user's other connections,
    /// as far as presence knows them.
    async fn announce(self: &Arc<Self>, connection: &Arc<Connection>, streams: &[Stream]) -> Vec<Member> {
        let member = connection.member(&self.node);
        let topics = streams.iter().filter_map(|stream| match stream {
            Stream::Topic(topic) => Some(topic.clone()),
            Stream::User(_) | Stream::Everyone => None,
        });
        let topics: Vec<TopicName> = topics.collect();
        let routes = async {
            match topics.is_empty() {
                true => Ok(()),
                false => self.announce_topics(&topics).await,
            }
        };
        let (announced, routed) = tokio::join!(self.announces.call(0, member), routes);
        if let Err(error) = routed {
            self.go_blind(&error);
        }
        match announced {
            Ok(Ok(others)) => {
                self.keeper.came(&connection.user);
                return others;
            }
            Ok(Err(error)) => self.go_blind(&error),
            Err(_) => self.go_blind(&"too many announces are waiting"),
        }
        Vec::new()
    }

    pub(super) async fn open(
        &self,
        connection: &Connection,
        streams: &[Stream],
        resume: &[Option<ResumeAt>],
    ) -> Result<Vec<Opened>, AttachError> {
        let open = |(stream, resume): (&Stream, &Option<ResumeAt>)| Open {
            user: connection.user.clone(),
            device: connection.device.clone(),
            stream: stream.clone(),
            resume: resume.map(|at| Resume { epoch: Some(at.epoch), seq: at.seq }),
        };
        let asked: Vec<_> =
            streams.iter().zip(resume).map(open).map(|open| self.opens.queue(0, open)).collect();
        let mut opened = Vec::with_capacity(asked.len());
        for answer in asked {
            let answer = answer.map_err(|_| AttachError::Unavailable(None))?;
            match answer.await {
                Ok(Ok(one)) => opened.push(one),
                Ok(Err(InboxError::DevicesFull { limit })) => {
                    return Err(AttachError::TooManyDevices(limit));
                }
                Ok(Err(error)) => return Err(AttachError::Unavailable(Some(error))),
                Err(_) => return Err(AttachError::Unavailable(None)),
            }
        }
        Ok(opened)
    }

    /// Sends `welcome`. False if the connection has ended meanwhile.
    fn greet(
        &self,
        connection: &Arc<Connection>,
        streams: &[Stream],
        opened: &[Opened],
        degraded: bool,
    ) -> bool {
        let state = |(stream, opened): (&Stream, &Opened)| {
            let gap = opened.gap_from.is_some();
            StreamState::new(stream, opened.epoch, opened.head, opened.position, gap, opened.unread)
        };
        let own = opened.first().map_or_else(Unread::default, |own| Unread {
            unread: own.unread,
            version: own.version,
            reads: own.reads,
        });
        let welcome = Welcome {
            connection: connection.id,
            node: &self.node,
            user: &connection.user,
            device: connection.device.as_ref(),
            time: self.clock.now(),
            heartbeat_ms: u64::try_from(self.settings.heartbeat.as_millis()).unwrap_or(u64::MAX),
            unread: own.unread,
            version: own.version,
            streams: streams.iter().zip(opened).map(state).collect(),
            degraded,
        };
        connection.welcome(server::welcome(&welcome), own, |session| {
            for (stream, opened) in streams.iter().zip(opened) {
                session.open(stream, place(opened));
            }
        })
    }

    /// A stream that stands where the session starts needs no read: `open` was a snapshot, too.
    pub(super) fn catch_up(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        streams: Vec<Stream>,
        opened: &[Opened],
    ) {
        for (stream, opened) in streams.into_iter().zip(opened) {
            if stream.is_shared() {
                self.begin_shared(&stream, opened.epoch, opened.head);
            }
            if opened.position == opened.head && connection.begin_read(&stream, self.clock.now()).is_some() {
                let page = crate::inbox::Page {
                    epoch: opened.epoch,
                    floor: opened.floor,
                    head: opened.head,
                    through: opened.head,
                    entries: Vec::new(),
                };
                let (given, _, next) =
                    connection.take_page(&stream, opened.position, &page, self.clock.now());
                self.given(connection, given);
                if next == Next::Wait {
                    continue;
                }
            }
            self.reader.want(connection, stream);
        }
    }

    /// Forgets a connection. Idempotent; never waits: presence and cursors are written by their own tasks.
    pub(super) fn detach(self: &Arc<Self>, connection: &Arc<Connection>) {
        let topics = connection.end();
        let was_there = self.hub.remove(connection, &topics);
        // Also of one that ended before it followed them: until now it kept others from being the last.
        topics.iter().for_each(|topic| self.forget_unfollowed(topic));
        if !was_there {
            return;
        }
        self.metrics.connections.set(i64::try_from(self.hub.len()).unwrap_or(i64::MAX));
        connection.save_cursors(self);
        self.cursors.seen(&connection.user, self.clock.now());
        self.cursors.flush_soon();
        self.keeper.withdraw(connection.member(&self.node));
    }
}

/// Whether the token lists the topic.
pub(super) fn may_follow(claims: &UserClaims, topic: &TopicName) -> bool {
    claims.topics.iter().any(|pattern| pattern.matches(topic))
}

pub(super) fn place(opened: &Opened) -> Place {
    Place { epoch: opened.epoch, position: opened.position, cursor: opened.cursor }
}
