//! What other nodes and operators ask of this node's connections.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::warn;

use super::Delivery;
use crate::broker::{ControlError, ControlRequest};
use crate::domain::{ConnectionId, DeviceId, NodeId, UnixMillis, UserId};
use crate::wire::CloseCode;
use crate::wire::control::{Answer, Ask};

impl Delivery {
    /// Answers control requests, for ever.
    pub(super) async fn answer_control(self: Arc<Self>, mut requests: mpsc::Receiver<ControlRequest>) {
        loop {
            let arrived = tokio::select! {
                biased; // Only so that simulations replay.
                () = self.cancel.cancelled() => return,
                arrived = requests.recv() => arrived,
            };
            let Some(ControlRequest { body, answer }) = arrived else {
                return;
            };
            match serde_json::from_slice::<Ask>(&body) {
                // Whoever asked has stopped waiting: nothing to do.
                Ok(ask) => drop(answer.send(encode(&self.answer_ask(&ask)))),
                Err(error) => warn!(%error, "a control request cannot be read"),
            }
        }
    }

    fn answer_ask(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Displace { connection } => self.end_connection(connection, CloseCode::Displaced),
            Ask::Crowd { connection } => self.end_connection(connection, CloseCode::TooManyConnections),
            Ask::Close { connection } => self.end_connection(connection, CloseCode::ClosedByOperator),
            Ask::Remove { user, device } => self.remove(user, device.as_ref()),
            Ask::Revoke { of, issued_before_ms } => {
                Answer::Removed { connections: self.revoke(of, UnixMillis(*issued_before_ms)) }
            }
            Ask::Connections { user, limit } => {
                let connections = match user {
                    Some(user) => self.hub.of_user(user),
                    None => self.hub.all(),
                };
                let described = connections.iter().take(*limit as usize).map(|one| one.describe(&self.node));
                Answer::Connections { connections: described.collect() }
            }
        }
    }

    /// Nothing of their end is stored, least of all of a user who is erased.
    fn remove(&self, user: &UserId, device: Option<&DeviceId>) -> Answer {
        let of_user = self.hub.of_user(user).into_iter();
        let removed: Vec<_> =
            of_user.filter(|one| device.is_none() || one.device.as_ref() == device).collect();
        for connection in &removed {
            connection.bye(CloseCode::Removed, None);
        }
        if device.is_none() {
            self.cursors.forget(user);
        }
        Answer::Removed { connections: removed.len() as u64 }
    }

    fn end_connection(&self, connection: &str, code: CloseCode) -> Answer {
        let found = ConnectionId::from_str(connection).ok().and_then(|id| self.hub.get(id));
        if let Some(connection) = &found {
            connection.bye(code, None);
        }
        Answer::Closed { found: found.is_some() }
    }

    /// Asks one node (this one directly) and waits for its answer.
    ///
    /// # Errors
    /// [`ControlError`]: that there is no answer is an answer, too.
    pub async fn ask(&self, node: &NodeId, ask: &Ask, deadline: Duration) -> Result<Answer, ControlError> {
        if *node == self.node {
            return Ok(self.answer_ask(ask));
        }
        let answer = self.broker.request(node, encode(ask), deadline).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            warn!(%error, node.id = %node, "an answer to a control request cannot be read");
            ControlError::NoAnswer
        })
    }
}

fn encode(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("control messages have text keys only").into()
}
