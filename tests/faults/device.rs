//! One device as an application has it, light enough for thousands: it stays connected, resumes, drops
//! what it has seen by seq, acknowledges everything, and reports to the account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::account::{Mark, Repeat};
use crate::books::Books;
use crate::crowd::home;

/// From connect to the first frame.
const OPEN: Duration = Duration::from_secs(15);
/// From one device's first connect to the next one's.
const ARRIVAL: Duration = Duration::from_millis(3);
/// A frame must be taken within this time.
const SEND: Duration = Duration::from_secs(15);
/// Who hears nothing for so long, not even a ping (one in 25 s), looks for another node.
const IMPATIENT: Duration = Duration::from_secs(36);
const PATIENT: Duration = Duration::from_secs(70);
/// Full jitter up to this, doubled with each failure.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(5);
/// What the kernel keeps for who does not read: little, so that it is the node's turn to bound it.
const RECEIVE_BUFFER: u32 = 4096;

/// What all devices are told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders {
    /// Another number: drop the connection without a word, and come back.
    pub drops: u32,
    /// Another number: whoever is not on its own node goes there.
    pub homecomings: u32,
    /// Whether one in twenty stops reading.
    pub stall: bool,
    /// How many nodes run.
    pub nodes: usize,
}

/// What a device is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its place in the account.
    pub place: usize,
    /// The user's token.
    pub token: String,
    /// Its name.
    pub device: &'static str,
    /// The topics that it follows.
    pub topics: Vec<String>,
    /// The address of each node.
    pub nodes: Vec<String>,
    /// For its choices.
    pub seed: u64,
}

impl Setup {
    /// Every other device says where it was; for the others the stored cursor counts.
    fn resumes(&self) -> bool {
        self.place % 4 < 2
    }

    /// Whether it is one of the few that stop reading when told.
    pub fn stalls(&self) -> bool {
        stalls(self.place)
    }

    fn patience(&self) -> Duration {
        if self.place.is_multiple_of(3) { IMPATIENT } else { PATIENT }
    }
}

/// One in twenty.
pub fn stalls(place: usize) -> bool {
    place % 20 == 7
}

/// How far it is in a stream.
#[derive(Debug)]
struct Position {
    epoch: String,
    seq: u64,
    /// The last seq of this connection.
    connection_seq: u64,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame {
    Welcome {
        streams: Vec<StreamState>,
    },
    Subscribed(StreamState),
    Notification {
        stream: Option<String>,
        seq: Option<u64>,
        notification: Notification,
    },
    Gap {
        stream: String,
        from: u64,
        to: u64,
    },
    Error {
        code: String,
        message: String,
    },
    Bye {
        reconnect_after_ms: Option<u64>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    stream: String,
    epoch: String,
    from: u64,
    gap: bool,
}

#[derive(Debug, Deserialize)]
struct Notification {
    data: Mark,
}

/// Why a connection ended.
enum End {
    Lost,
    /// The server named a time.
    Asked(Duration),
    /// To go home.
    Homewards,
}

/// A device for the whole run.
pub struct Device {
    setup: Setup,
    books: Arc<Books>,
    orders: watch::Receiver<Orders>,
    positions: HashMap<String, Position>,
    random: StdRng,
}

type Socket = WebSocketStream<TcpStream>;

impl Device {
    /// Nothing happens before [`Self::live`].
    pub fn new(setup: Setup, books: Arc<Books>, orders: watch::Receiver<Orders>) -> Self {
        let random = StdRng::seed_from_u64(setup.seed);
        Self { setup, books, orders, positions: HashMap::new(), random }
    }

    /// Connects, and comes back after every loss, until it is dropped.
    pub async fn live(mut self) {
        let (mut failures, mut target) = (0, 0);
        // Not all at once: that is a fault of its own.
        sleep(ARRIVAL * self.setup.place as u32).await;
        loop {
            let end = match timeout(OPEN, self.open(target)).await {
                Ok(Ok(socket)) => {
                    let (end, was_welcomed) = self.follow(socket, target).await;
                    self.books.with(|account| account.on_lost_connection(self.setup.place));
                    failures = if was_welcomed { 0 } else { failures + 1 };
                    end
                }
                Ok(Err(_)) | Err(_) => {
                    failures += 1;
                    End::Lost
                }
            };
            let wait = match end {
                End::Asked(wait) => wait,
                End::Homewards => Duration::ZERO,
                End::Lost => {
                    let cap = (BACKOFF * (1 << failures.min(5))).min(BACKOFF_CAP);
                    Duration::from_micros(self.random.random_range(0..cap.as_micros() as u64))
                }
            };
            sleep(wait).await;
            // After a loss the first try may go to the same node, as behind any load balancer.
            target = match end {
                End::Homewards => 0,
                _ => {
                    let nodes = self.orders.borrow().nodes;
                    self.random.random_range(0..nodes)
                }
            };
        }
    }

    /// Which node that is, counted from its home.
    fn node(&self, target: usize) -> usize {
        let nodes = self.orders.borrow().nodes;
        (home(self.setup.place, nodes) + target) % nodes
    }

    async fn open(&self, target: usize) -> Result<Socket, Error> {
        let address = &self.setup.nodes[self.node(target)];
        let tcp = TcpSocket::new_v4()?;
        if self.setup.stalls() {
            tcp.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        let stream = tcp.connect(address.parse().expect("nodes are named by their addresses")).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{address}/v1/connect").into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "fanfare.v1".parse().expect("a plain word"));
        let config = WebSocketConfig::default().read_buffer_size(2048).write_buffer_size(0);
        let opening = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (mut socket, _) = opening.await?;
        let mut hello = json!({
            "type": "hello", "token": self.setup.token, "device": self.setup.device,
            "ack": "manual", "topics": self.setup.topics,
        });
        if self.setup.resumes() {
            let resume = self.positions.iter().map(|(stream, position)| {
                (stream.clone(), json!({"epoch": position.epoch, "seq": position.seq}))
            });
            hello["resume"] = resume.collect::<serde_json::Map<_, _>>().into();
        }
        socket.send(Message::text(hello.to_string())).await?;
        Ok(socket)
    }

    /// Until the connection ends; answers also whether it was welcomed.
    async fn follow(&mut self, mut socket: Socket, target: usize) -> (End, bool) {
        let node = self.node(target);
        let (mut welcomed, mut wait) = (false, None);
        let told = *self.orders.borrow_and_update();
        loop {
            let silence = Instant::now() + self.setup.patience();
            let message = tokio::select! {
                message = timeout_at(silence, socket.next()) => message,
                _ = self.orders.changed() => {
                    let orders = *self.orders.borrow_and_update();
                    if orders.drops != told.drops {
                        return (End::Lost, welcomed);
                    }
                    if orders.homecomings != told.homecomings && target != 0 {
                        // A close frame is polite; whether it arrives changes nothing.
                        let _ = timeout(SEND, socket.close(None)).await;
                        return (End::Homewards, welcomed);
                    }
                    if orders.stall && self.setup.stalls() {
                        // The sender lives as long as this task.
                        let _ = self.orders.wait_for(|orders| !orders.stall).await;
                    }
                    continue;
                }
            };
            let text = match message {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(Some(close))))) => {
                    let code = u16::from(close.code);
                    if code >= 4500 {
                        self.refused(&format!("closed {code} {}", close.reason));
                    }
                    return (wait.map_or(End::Lost, End::Asked), welcomed);
                }
                Ok(Some(Ok(Message::Close(None)) | Err(_)) | None) | Err(_) => {
                    return (wait.map_or(End::Lost, End::Asked), welcomed);
                }
                // The library has queued the pong of a ping: it goes out with the next read.
                Ok(Some(Ok(_))) => continue,
            };
            let frame = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
            if let Frame::Bye { reconnect_after_ms } = frame {
                wait = reconnect_after_ms.map(Duration::from_millis);
            }
            if matches!(frame, Frame::Welcome { .. }) {
                welcomed = true;
                self.books.with(|account| account.on_welcome(self.setup.place, node));
            }
            if let Some(ack) = self.on_frame(frame)
                && !matches!(timeout(SEND, socket.send(Message::text(ack))).await, Ok(Ok(())))
            {
                return (End::Lost, welcomed);
            }
        }
    }

    /// Answers the acknowledgement that is to be sent.
    fn on_frame(&mut self, frame: Frame) -> Option<String> {
        match frame {
            Frame::Welcome { streams } => {
                for state in streams {
                    self.on_state(state);
                }
            }
            Frame::Subscribed(state) => self.on_state(state),
            Frame::Notification { stream: Some(stream), seq: Some(seq), notification } => {
                self.on_notification(&stream, seq, notification.data);
                return Some(format!(r#"{{"type":"ack","stream":"{stream}","seq":{seq}}}"#));
            }
            Frame::Notification { .. } => self.refused("a notification without stream or seq"),
            Frame::Gap { stream, from, to } => self.gap(&format!("gap {from}..{to} of {stream}")),
            // A client that is stuck is told so; it is not wrong.
            Frame::Error { code, .. } if code == "window_full" => {}
            Frame::Error { code, message } => self.refused(&format!("error {code}: {message}")),
            Frame::Bye { .. } | Frame::Other => {}
        }
        None
    }

    fn on_state(&mut self, state: StreamState) {
        let StreamState { stream, epoch, from, gap } = state;
        if gap {
            self.gap(&format!("{stream} starts with a gap"));
        }
        let known = self.positions.get_mut(&stream).filter(|position| position.epoch == epoch);
        match known {
            Some(position) => position.connection_seq = 0,
            None => {
                let position = Position { epoch, seq: from, connection_seq: 0 };
                if self.positions.insert(stream.clone(), position).is_some() {
                    self.gap(&format!("{stream} has another epoch"));
                }
            }
        }
    }

    fn on_notification(&mut self, stream: &str, seq: u64, mark: Mark) {
        let place = self.setup.place;
        let Some(position) = self.positions.get_mut(stream) else {
            return self.refused(&format!("a notification of {stream}, which was not announced"));
        };
        let (is_new, within) = (seq > position.seq, seq <= position.connection_seq);
        position.seq = position.seq.max(seq);
        position.connection_seq = position.connection_seq.max(seq);
        self.books.with(|account| match (is_new, within) {
            (true, _) => account.on_arrived(place, stream, mark),
            (false, true) => account.on_repeat(place, Repeat::Within),
            (false, false) => account.on_repeat(place, Repeat::Across),
        });
    }

    fn gap(&self, what: &str) {
        self.books.with(|account| account.on_gap(self.setup.place, what));
    }

    fn refused(&self, what: &str) {
        self.books.with(|account| account.on_refused(self.setup.place, what));
    }
}
