//! Two thousand devices, and who follows what.
//!
//! The first [`USERS`] devices are one of each user; the rest are second devices of the first users,
//! on the other node. Every user follows one of [`TOPICS`] topics.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::books::Books;
use crate::device::{Device, Orders, Setup};
use crate::support::tokens::{Credentials, seconds_from_now};

/// Devices in all.
pub const DEVICES: usize = 2_000;
/// Users.
pub const USERS: usize = 1_900;
/// Topics.
pub const TOPICS: usize = 20;
/// Longer than any run.
const TOKEN_SECONDS: i64 = 4 * 3600;

/// All devices; they end when this is dropped.
pub struct Crowd {
    orders: watch::Sender<Orders>,
    _devices: JoinSet<()>,
}

impl Crowd {
    /// Starts all of them; `nodes` are the nodes' addresses, of which the first `up` run.
    pub fn start(
        nodes: &[String],
        up: usize,
        credentials: &Credentials,
        books: &Arc<Books>,
        seed: u64,
    ) -> Self {
        let (orders, told) = watch::channel(Orders { nodes: up, ..Orders::default() });
        let mut devices = JoinSet::new();
        for place in 0..DEVICES {
            let token = credentials.sign(&serde_json::json!({
                "sub": user(user_of(place)), "exp": seconds_from_now(TOKEN_SECONDS), "topics": ["#"],
            }));
            let setup = Setup {
                place,
                token,
                device: device(place),
                topics: vec![topic(user_of(place) % TOPICS)],
                nodes: nodes.to_vec(),
                seed: seed.wrapping_add(place as u64),
            };
            devices.spawn(Device::new(setup, Arc::clone(books), told.clone()).live());
        }
        Self { orders, _devices: devices }
    }

    /// Every device drops its connection without a word.
    pub fn drop_all(&self) {
        self.orders.send_modify(|orders| orders.drops += 1);
    }

    /// Whoever is not on its own node goes there.
    pub fn go_home(&self) {
        self.orders.send_modify(|orders| orders.homecomings += 1);
    }

    /// From now on so many nodes run.
    pub fn reach(&self, nodes: usize) {
        self.orders.send_modify(|orders| orders.nodes = nodes);
    }

    /// One in twenty stops reading, or reads again.
    pub fn stall(&self, stall: bool) {
        self.orders.send_modify(|orders| orders.stall = stall);
    }
}

/// The node that a device is on when nothing is wrong.
pub fn home(place: usize, nodes: usize) -> usize {
    if place < USERS { place % nodes } else { (user_of(place) + 1) % nodes }
}

/// Whose device it is.
pub fn user_of(place: usize) -> usize {
    if place < USERS { place } else { place - USERS }
}

/// A device's name.
fn device(place: usize) -> &'static str {
    if place < USERS { "phone" } else { "desk" }
}

/// A user's id.
pub fn user(number: usize) -> String {
    format!("user-{number}")
}

/// A topic's name.
pub fn topic(number: usize) -> String {
    format!("topic-{number}")
}

/// Who a notification is for.
#[derive(Debug, Clone)]
pub enum To {
    /// These users.
    Users(Vec<usize>),
    /// One device of its user, by its place.
    Device(usize),
    /// Who follows this topic.
    Topic(usize),
    /// Everyone.
    Everyone,
}

impl To {
    /// As the API wants it.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Users(users) => {
                let users: Vec<String> = users.iter().map(|number| user(*number)).collect();
                serde_json::json!({"users": users})
            }
            Self::Device(place) => {
                serde_json::json!({"devices": [{"user": user(user_of(*place)), "device": device(*place)}]})
            }
            Self::Topic(number) => serde_json::json!({"topic": topic(*number)}),
            Self::Everyone => serde_json::json!({"everyone": true}),
        }
    }

    /// The devices that must get it.
    pub fn devices(&self) -> Vec<usize> {
        match self {
            Self::Users(users) => {
                let both = users.iter().flat_map(|user| [*user, *user + USERS]);
                both.filter(|place| *place < DEVICES).collect()
            }
            Self::Device(place) => vec![*place],
            Self::Topic(number) => (0..DEVICES).filter(|place| user_of(*place) % TOPICS == *number).collect(),
            Self::Everyone => (0..DEVICES).collect(),
        }
    }
}
