//! A device as a real application has it: it stays connected, resumes where it was, drops what
//! it has seen by seq, acknowledges, and keeps everything in order of arrival.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Frame, Notification, TestClient, Welcome};
use super::within;

/// What a device is and what it follows.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Where it connects the first time.
    pub first_url: String,
    /// Where it connects after every loss.
    pub ws_url: String,
    /// The user's token.
    pub token: String,
    /// Its name.
    pub device: String,
    /// Topics that it follows.
    pub topics: Vec<String>,
}

/// Everything a device has been through.
#[derive(Debug, Default)]
pub struct Diary {
    /// Notifications as an application would see them: doubles dropped, in order of arrival.
    pub notifications: Vec<Notification>,
    /// How many notifications were dropped because their seq had been seen.
    pub doubles: usize,
    /// `welcome`s, one for each time it connected.
    pub welcomes: Vec<Welcome>,
    /// Close codes, one for each time it lost a connection.
    pub closes: Vec<u16>,
    /// Streams and ranges that the server said are lost.
    pub gaps: Vec<(String, u64, u64)>,
    /// Errors that the server answered.
    pub errors: Vec<String>,
    /// The last frame's complaint that ended it for good (a close code from 4500 on).
    pub ended: Option<u16>,
    positions: BTreeMap<String, (String, u64)>,
}

/// A device that runs in the background until it is dropped.
#[derive(Debug)]
pub struct Device {
    name: String,
    diary: Arc<Mutex<Diary>>,
    changes: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Device {
    /// Starts to connect.
    pub fn start(options: DeviceOptions) -> Self {
        let name = options.device.clone();
        let diary = Arc::new(Mutex::new(Diary::default()));
        let (changed, changes) = watch::channel(0);
        let life = Life { options, diary: Arc::clone(&diary), changed };
        let task = tokio::spawn(life.live());
        Self { name, diary, changes, task }
    }

    /// What happened until now.
    pub fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().expect("no test panics while it holds the diary")
    }

    /// Waits until the diary is as `is_so` wants it.
    pub async fn wait_for(&mut self, deadline: Duration, what: &str, mut is_so: impl FnMut(&Diary) -> bool) {
        let mut changes = self.changes.clone();
        let waited = tokio::time::timeout(deadline, async {
            while !is_so(&self.diary()) {
                changes.changed().await.expect("the device lives");
            }
        })
        .await;
        let diary = self.diary();
        assert!(
            waited.is_ok(),
            "{}: not within {deadline:?}: {what}; {} notifications, closes {:?}, gaps {:?}, errors {:?}, last {:?}",
            self.name,
            diary.notifications.len(),
            diary.closes,
            diary.gaps,
            diary.errors,
            diary.notifications.last(),
        );
    }

    /// Waits until it has been welcomed for the `times`th time.
    pub async fn connected(&mut self, deadline: Duration, times: usize) {
        let what = format!("welcome number {times}");
        self.wait_for(deadline, &what, |diary| diary.welcomes.len() >= times).await;
    }

    /// Waits until it has `count` notifications.
    pub async fn received(&mut self, deadline: Duration, count: usize) {
        let what = format!("{count} notifications");
        self.wait_for(deadline, &what, |diary| diary.notifications.len() >= count).await;
    }

    /// The `data` of every notification in `stream`, in order of arrival.
    pub fn data(&self, stream: &str) -> Vec<Value> {
        self.diary()
            .notifications
            .iter()
            .filter(|one| one.stream.as_deref() == Some(stream))
            .map(|one| one.notification["data"].clone())
            .collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the background task owns.
struct Life {
    options: DeviceOptions,
    diary: Arc<Mutex<Diary>>,
    changed: watch::Sender<u64>,
}

impl Life {
    async fn live(self) {
        let mut attempt = 0;
        while self.diary().ended.is_none() {
            let wait = match self.connect().await {
                Some(client) => {
                    attempt = 0;
                    self.listen(client).await
                }
                None => None,
            };
            attempt += 1;
            // Full jitter from 50 ms to 1 s, unless the server named a time.
            let cap = 50 << attempt.min(5);
            let wait = wait.unwrap_or_else(|| rand::random_range(10..cap));
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn connect(&self) -> Option<TestClient> {
        let is_first = self.diary().welcomes.is_empty();
        let url = if is_first { &self.options.first_url } else { &self.options.ws_url };
        let dial = TestClient::dial(url, &self.options.token);
        let mut client = tokio::time::timeout(Duration::from_secs(5), dial).await.ok()?.ok()?;
        let resume: Value = self
            .diary()
            .positions
            .iter()
            .map(|(stream, (epoch, seq))| (stream.clone(), json!({"epoch": epoch, "seq": seq})))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let hello = json!({
            "device": self.options.device, "ack": "manual", "topics": self.options.topics, "resume": resume,
        });
        client.hello(hello).await.ok()?;
        Some(client)
    }

    /// Until the connection ends; answers when to come back, in milliseconds, if the server said.
    async fn listen(&self, mut client: TestClient) -> Option<u64> {
        let mut wait = None;
        loop {
            let frame = client.next_frame().await;
            let ack = match frame {
                Frame::Bye { reconnect_after_ms, .. } => {
                    wait = reconnect_after_ms;
                    None
                }
                Frame::Closed { code, .. } => {
                    self.note(|diary| diary.on_close(code));
                    return wait;
                }
                frame => self.note(|diary| diary.on_frame(frame)),
            };
            if let Some((stream, seq)) = ack {
                let ack = json!({"type": "ack", "stream": stream, "seq": seq});
                // An error shows again as the end of the stream.
                let _ = client.try_send(&ack).await;
            }
        }
    }

    fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().expect("no test panics while it holds the diary")
    }

    fn note<T>(&self, write: impl FnOnce(&mut Diary) -> T) -> T {
        let result = write(&mut self.diary());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

impl Diary {
    fn on_close(&mut self, code: u16) {
        self.closes.push(code);
        if code >= 4500 {
            self.ended = Some(code);
        }
    }

    /// Answers what to acknowledge.
    fn on_frame(&mut self, frame: Frame) -> Option<(String, u64)> {
        match frame {
            Frame::Welcome(welcome) => {
                for state in &welcome.streams {
                    self.start(&state.stream, &state.epoch, state.from);
                }
                self.welcomes.push(welcome);
            }
            Frame::Subscribed(subscribed) => {
                let state = subscribed.state;
                self.start(&state.stream, &state.epoch, state.from);
            }
            Frame::Notification(notification) => return self.on_notification(notification),
            Frame::Cancelled { stream, seq, .. } => {
                self.advance(&stream, seq);
                return Some((stream, seq));
            }
            Frame::Gap { stream, from, to } => self.gaps.push((stream, from, to)),
            Frame::Error(error) => self.errors.push(format!("{}: {}", error.code, error.message)),
            Frame::CaughtUp { .. }
            | Frame::Read { .. }
            | Frame::Unsubscribed { .. }
            | Frame::Refreshed { .. }
            | Frame::Ping
            | Frame::Bye { .. }
            | Frame::Closed { .. } => {}
        }
        None
    }

    /// A new epoch begins where the server says; in a known one only seqs count.
    fn start(&mut self, stream: &str, epoch: &str, from: u64) {
        match self.positions.get(stream) {
            Some((known, _)) if known == epoch => {}
            _ => drop(self.positions.insert(stream.to_owned(), (epoch.to_owned(), from))),
        }
    }

    fn on_notification(&mut self, notification: Notification) -> Option<(String, u64)> {
        let (Some(stream), Some(seq)) = (notification.stream.clone(), notification.seq) else {
            self.notifications.push(notification);
            return None;
        };
        if self.advance(&stream, seq) {
            self.notifications.push(notification);
        } else {
            self.doubles += 1;
        }
        Some((stream, seq))
    }

    /// Whether `seq` is new.
    fn advance(&mut self, stream: &str, seq: u64) -> bool {
        let (_, position) = self
            .positions
            .get_mut(stream)
            .unwrap_or_else(|| panic!("a notification of {stream}, which was not announced"));
        let is_new = seq > *position;
        *position = seq.max(*position);
        is_new
    }
}

/// Waits for several devices one after the other, all by one deadline.
pub async fn all_received(devices: &mut [Device], deadline: Duration, count: usize) {
    within(deadline, "all devices have everything", async {
        for device in devices {
            device.received(deadline, count).await;
        }
    })
    .await;
}

/// The device itself, against a server that plays a script: what it hides would be hidden from
/// every test.
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

    use super::{Device, DeviceOptions};
    use crate::support::DEADLINE;

    type Socket = WebSocketStream<TcpStream>;

    async fn accept(listener: &TcpListener) -> (Socket, Value) {
        let (stream, _) = listener.accept().await.expect("a connection");
        #[expect(clippy::result_large_err, clippy::unnecessary_wraps, reason = "the library's callback")]
        fn choose(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
            let protocol = "fanfare.v1".parse().expect("a header");
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        }
        let mut socket = accept_hdr_async(stream, choose).await.expect("an upgrade");
        let hello = receive(&mut socket).await;
        (socket, hello)
    }

    async fn receive(socket: &mut Socket) -> Value {
        let message = socket.next().await.expect("open").expect("a message");
        serde_json::from_str(message.to_text().expect("text")).expect("JSON")
    }

    async fn send(socket: &mut Socket, frame: Value) {
        socket.send(Message::text(frame.to_string())).await.expect("open");
    }

    fn welcome(epoch: &str, from: u64) -> Value {
        json!({
            "type": "welcome", "connection": "c", "node": "n1", "user": "alice", "device": "phone",
            "time": "2026-01-01T00:00:00Z", "heartbeat_ms": 25000, "unread": 0, "version": 1, "degraded": false,
            "streams": [{"stream": "user", "epoch": epoch, "head": 9, "from": from, "gap": false}],
        })
    }

    fn notification(seq: u64) -> Value {
        json!({"type": "notification", "stream": "user", "seq": seq, "notification": {"id": "i", "data": seq}})
    }

    #[tokio::test]
    async fn a_device_comes_back_where_it_was_and_hides_doubles_but_no_loss() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let mut device = Device::start(DeviceOptions {
            first_url: format!("ws://{address}/v1/connect"),
            ws_url: format!("ws://{address}/v1/connect"),
            token: "token".to_owned(),
            device: "phone".to_owned(),
            topics: vec![],
        });

        let (mut socket, hello) = accept(&listener).await;
        assert_eq!((&hello["device"], &hello["resume"]), (&json!("phone"), &json!({})));
        send(&mut socket, welcome("k1", 3)).await;
        for seq in [4, 6] {
            send(&mut socket, notification(seq)).await;
            let ack = receive(&mut socket).await;
            assert_eq!(ack, json!({"type": "ack", "stream": "user", "seq": seq}));
        }
        // As a killed node does it: no close frame.
        drop(socket);

        let (mut socket, hello) = accept(&listener).await;
        assert_eq!(hello["resume"], json!({"user": {"epoch": "k1", "seq": 6}}));
        send(&mut socket, welcome("k1", 6)).await;
        // 5 comes too late: it stays away from the application, as with any client that goes by seq.
        for seq in [6, 5, 7] {
            send(&mut socket, notification(seq)).await;
        }
        device.received(DEADLINE, 3).await;
        assert_eq!(device.data("user"), [4, 6, 7]);
        assert_eq!(device.diary().doubles, 2);
        assert_eq!(device.diary().closes, [1006]);
        drop(socket);

        // Another epoch: seqs begin anew.
        let (mut socket, _) = accept(&listener).await;
        send(&mut socket, welcome("k2", 0)).await;
        send(&mut socket, notification(1)).await;
        device.received(DEADLINE, 4).await;
        assert_eq!(device.data("user"), [4, 6, 7, 1]);
    }
}
