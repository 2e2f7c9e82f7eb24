//! A house: nodes without people, for what needs a certain guest at a certain time.
//!
//! Owns guests, which read nothing. Time is virtual, as in a run. It must never judge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare::delivery::outlet::Outlet;
use fanfare::delivery::{Attach, Connection};
use fanfare::domain::{DeviceId, NodeId, TopicName, UnixMillis, UserId};
use fanfare::wire::{CloseCode, Hello};
use serde_json::Value;

use super::line::Line;
use super::node::{Node, Shared};
use super::plan::Plan;
use super::scenario::shared;
use super::stage::Stage;
use super::throng::claims;
use super::visit::json;

/// Twice in a heartbeat.
const PONG: Duration = Duration::from_secs(2);

/// Nodes that are up.
pub struct House {
    pub shared: Shared,
    pub nodes: Vec<Node>,
}

/// Who comes.
pub struct Guest {
    pub user: String,
    pub device: Option<&'static str>,
    pub topics: Vec<&'static str>,
    /// When its handshake came; `None`: just now.
    pub accepted_at: Option<UnixMillis>,
}

impl Guest {
    /// Of a user, without a device.
    pub fn of(user: impl Into<String>) -> Self {
        Self { user: user.into(), device: None, topics: vec![], accepted_at: None }
    }

    /// With this device of its user.
    pub fn with(self, device: &'static str) -> Self {
        Self { device: Some(device), ..self }
    }
}

/// A guest that was taken or not.
pub struct Stay {
    pub line: Arc<Line>,
    pub connection: Option<Arc<Connection>>,
}

impl Stay {
    /// Whether it is there and was welcomed.
    pub fn is_in(&self) -> bool {
        self.line.welcomed_at().is_some() && self.line.ended_at().is_none()
    }

    /// Why it is not there any more.
    pub fn code(&self) -> Option<CloseCode> {
        self.line.ended_for()
    }

    /// Reads all that was sent, but for pings.
    pub fn texts(&self) -> Vec<Value> {
        let sent = std::iter::from_fn(|| self.line.next());
        sent.filter(|sent| sent.frame.head[0] & 0x0f == 1).map(|sent| json(&sent.frame)).collect()
    }

    /// What it was told in `bye`.
    pub fn bye(&self) -> Option<Value> {
        self.texts().into_iter().find(|frame| frame["type"] == "bye")
    }

    /// It says something.
    pub fn says(&self, text: &str) {
        self.connection.as_ref().expect("it was made").on_text(text);
    }

    /// It hangs up.
    pub fn leave(&self) {
        self.line.end();
        self.connection.as_ref().expect("it was made").on_closed();
    }
}

impl House {
    /// So many nodes, in order.
    pub async fn open(plan: Plan, nodes: u64) -> Self {
        let stage = Stage::new(7, false);
        let shared = shared(plan, &stage);
        let mut all = vec![];
        for number in 1..=nodes {
            let name = NodeId::new(format!("n{number}")).expect("an id");
            all.push(Node::boot(&shared, &name, 0).await);
        }
        Self { shared, nodes: all }
    }

    /// One comes to a node; returns when it was taken or refused.
    pub async fn comes(&self, node: usize, guest: Guest) -> Stay {
        self.comes_with(node, guest, |_| {}).await
    }

    /// The same; `made` is called with its connection, before that is announced.
    pub async fn comes_with(&self, node: usize, guest: Guest, made: impl FnOnce(&Arc<Connection>)) -> Stay {
        let node = &self.nodes[node];
        // Of two that come one after the other the second is the newer.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let accepted_at = guest.accepted_at.unwrap_or_else(|| node.clock.now());
        let mut hello = Hello::default();
        hello.device = guest.device.map(|device| DeviceId::new(device).expect("an id"));
        hello.topics = guest.topics.iter().map(|topic| TopicName::new(*topic).expect("a topic")).collect();
        let claims = claims(&UserId::new(guest.user).expect("an id"));
        let attach = Attach { claims, hello, peer: SocketAddr::from(([127, 0, 0, 1], 9)), accepted_at };
        let line = Arc::new(Line::new(10_000, node.freezer.clone(), node.clock.clone()));
        let mut connection = None;
        let keep = |of: &Arc<Connection>| {
            connection = Some(Arc::clone(of));
            made(of);
        };
        match node.delivery.attach(attach, Arc::clone(&line) as Arc<dyn Outlet>, keep).await {
            Ok(connection) => drop(tokio::spawn(live(Arc::clone(&line), connection))),
            Err(error) => line.close(error.close_code()),
        }
        Stay { line, connection }
    }
}

/// Answers pings, however often they come.
async fn live(line: Arc<Line>, connection: Arc<Connection>) {
    while line.ended_at().is_none() {
        tokio::time::sleep(PONG).await;
        connection.on_pong();
    }
}
