//! Client frames that need a round trip: subscribe, unsubscribe, refresh, read.

use std::sync::Arc;

use super::Delivery;
use super::attach::{AttachError, may_follow, place};
use super::connection::Connection;
use crate::domain::{Seq, Stream, TopicName};
use crate::inbox::{Mark, Open, Resume};
use crate::wire::ClientFrame;
use crate::wire::server::{self, ErrorCode, StreamState};

impl Delivery {
    /// Answers `frame` and then what has queued behind it, in order.
    pub(super) async fn answer_in_order(self: Arc<Self>, connection: &Arc<Connection>, frame: ClientFrame) {
        let mut next = Some(frame);
        while let Some(frame) = next {
            self.answer(connection, frame).await;
            next = connection.next_waiting();
        }
    }

    async fn answer(self: &Arc<Self>, connection: &Arc<Connection>, frame: ClientFrame) {
        match frame {
            ClientFrame::Subscribe { id, topic, since } => {
                if let Err((code, message)) = self.subscribe(connection, id, &topic, since).await {
                    connection.push(server::error(id, code, &message));
                }
            }
            ClientFrame::Unsubscribe { id, topic } => {
                self.unfollow(connection, &topic);
                connection.push(server::unsubscribed(id, &topic));
            }
            ClientFrame::Refresh { id, token } => self.renew(connection, id, &token).await,
            ClientFrame::Read { id, stream, marked } => {
                self.read_by(connection, id, Mark { stream, marked }).await;
            }
            // These are answered at once and never queued.
            ClientFrame::Hello(_)
            | ClientFrame::Ack { .. }
            | ClientFrame::Pong
            | ClientFrame::Ping { .. } => {}
        }
    }

    /// The same order as an attach: hub, acknowledged announce of the topic, inbox.
    async fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        id: Option<u64>,
        topic: &TopicName,
        since: Option<Seq>,
    ) -> Result<(), (ErrorCode, String)> {
        let stream = Stream::Topic(topic.clone());
        self.may_subscribe(connection, topic, &stream)?;
        let name = self.hub.name(&stream);
        let followed_before = connection.with_session(|session| {
            let before = session.follows(&stream);
            session.follow(Arc::clone(&name));
            before
        });
        self.hub.follow(connection, &name);
        if let Err(error) = self.announce_topics(std::slice::from_ref(topic)).await {
            self.go_blind(&error);
        }
        let open = Open {
            user: connection.user.clone(),
            device: connection.device.clone(),
            stream: stream.clone(),
            // Who follows it goes on from where it is: nothing is sent twice within a connection.
            resume: self.place_to_go_on(connection, &stream, since.filter(|_| !followed_before)),
        };
        let opened = match self.opens.call(0, open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => {
                // One that has ended was detached before it was entered here.
                if !followed_before || connection.has_ended() {
                    self.unfollow(connection, topic);
                }
                return Err((ErrorCode::Unavailable, "the inbox is not available".to_owned()));
            }
        };
        if connection.has_ended() {
            // It was detached while the topic was not entered yet.
            self.unfollow(connection, topic);
            return Ok(());
        }
        connection.push_with(|session| {
            let is_at = session.position(&stream).filter(|_| followed_before);
            session.open(&stream, place(&opened));
            let from = is_at.unwrap_or(opened.position);
            let (head, gap) = (opened.head.max(from), opened.gap_from.is_some() && !followed_before);
            let state = StreamState::new(&stream, opened.epoch, head, from, gap, opened.unread);
            server::subscribed(id, &state)
        });
        self.catch_up(connection, vec![stream], &[opened]);
        Ok(())
    }

    /// Where the client says, else where its device has acknowledged to, which may not be committed yet: it may have left
    /// the topic a moment ago.
    fn place_to_go_on(&self, connection: &Connection, stream: &Stream, since: Option<Seq>) -> Option<Resume> {
        if let Some(seq) = since {
            return Some(Resume { epoch: None, seq });
        }
        let device = connection.device.as_ref()?;
        let (epoch, seq) = self.cursors.uncommitted(&connection.user, device, stream)?;
        Some(Resume { epoch: Some(epoch), seq })
    }

    fn may_subscribe(
        &self,
        connection: &Connection,
        topic: &TopicName,
        stream: &Stream,
    ) -> Result<(), (ErrorCode, String)> {
        if !connection.with_claims(|claims| may_follow(claims, topic)) {
            return Err((ErrorCode::TopicForbidden, AttachError::TopicForbidden(topic.clone()).to_string()));
        }
        let (followed, topics) = connection.with_session(|session| {
            // Its own stream and everyone are no topics.
            (session.follows(stream), session.status().count().saturating_sub(2))
        });
        let limit = self.settings.max_topics;
        if !followed && topics >= limit {
            let error = AttachError::TooManyTopics { limit, got: topics + 1 };
            return Err((ErrorCode::TooManyTopics, error.to_string()));
        }
        Ok(())
    }

    fn unfollow(&self, connection: &Arc<Connection>, topic: &TopicName) {
        let stream = Stream::Topic(topic.clone());
        let cursor = connection.with_session(|session| session.unfollow(&stream));
        if let (Some((epoch, acked)), Some(device)) = (cursor, &connection.device) {
            self.cursors.moved(&connection.user, device, &stream, epoch, acked);
        }
        if self.hub.unfollow(connection, topic) {
            self.forget_unfollowed(topic);
        }
    }

    /// A newer token of the same user. Topics that it does not list any more are unsubscribed.
    async fn renew(self: &Arc<Self>, connection: &Arc<Connection>, id: Option<u64>, token: &str) {
        let claims = match self.tokens.verify_or_learn(token, || self.clock.now()).await {
            Ok(claims) => claims,
            Err(error) => {
                let code =
                    if error.is_temporary() { ErrorCode::Unavailable } else { ErrorCode::InvalidToken };
                return connection.push(server::error(id, code, &error.to_string()));
            }
        };
        if connection.has_ended() {
            return;
        }
        if claims.user != connection.user {
            let message = "the token is of another user";
            return connection.push(server::error(id, ErrorCode::OtherUser, message));
        }
        let expires_at = claims.expires_at;
        let lost: Vec<TopicName> =
            connection.topics().into_iter().filter(|topic| !may_follow(&claims, topic)).collect();
        connection.with_claims(|current| *current = claims);
        if self.end_if_revoked(connection) {
            return;
        }
        self.pulse.expires(expires_at, connection.id);
        connection.push(server::refreshed(id, expires_at));
        for topic in lost {
            self.unfollow(connection, &topic);
            connection.push(server::unsubscribed(None, &topic));
        }
    }
}
