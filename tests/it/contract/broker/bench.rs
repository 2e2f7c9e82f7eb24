//! Either broker, with what a test needs around it: nodes that join, a backend that publishes, a look at the dead.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare::broker::embedded::{EmbeddedBus, Published};
use fanfare::broker::rabbit::{RabbitBroker, Settings};
use fanfare::broker::{Broker, ControlRequest, Destination, Graveyard, Health, Ingress, Inlets};
use fanfare::domain::{NodeId, Priority};
use fanfare::metrics::broker::BrokerMetrics;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::backends::amqp_url;

/// Every wait of this suite ends here.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Fails the test when `work` takes too long.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

/// Looks until `done` says yes.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    within(what, async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !done().await {
            look.tick().await;
        }
    })
    .await;
}

pub fn node_id(id: &str) -> NodeId {
    NodeId::new(id).expect("a valid node id")
}

/// A node that joined.
pub struct Node {
    pub id: NodeId,
    pub broker: Arc<dyn Broker>,
    pub graveyard: Arc<dyn Graveyard>,
    pub inlets: Inlets,
    pub metrics: BrokerMetrics,
}

impl Node {
    pub fn send(&self, to: Destination, body: impl Into<Bytes>) {
        self.broker.send(to, body.into()).expect("the broker takes it");
    }

    pub async fn envelope(&mut self) -> Bytes {
        within("an envelope", self.inlets.envelopes.recv()).await.expect("the inlet is open")
    }

    /// Receives until so many bytes are here.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < length {
            received.extend_from_slice(&self.envelope().await);
        }
        received
    }

    pub async fn ingress(&mut self) -> Ingress {
        within("an ingress message", self.inlets.ingress.recv()).await.expect("the inlet is open")
    }

    pub async fn control(&mut self) -> ControlRequest {
        within("a control request", self.inlets.control.recv()).await.expect("the inlet is open")
    }

    pub async fn healthy(&self, wanted: Health) {
        let mut health = self.broker.health();
        within("a change of health", health.wait_for(|health| *health == wanted))
            .await
            .expect("the broker is there");
    }
}

/// A dead letter as an operator sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Dead {
    pub code: String,
    pub reason: String,
    pub body: Vec<u8>,
    pub message_id: Option<String>,
}

/// Either broker.
pub enum Bench {
    Embedded(EmbeddedBus, TaskTracker),
    Rabbit(Box<Rabbit>),
}

/// A vhost, and a backend's connection to it.
pub struct Rabbit {
    pub url: String,
    pub channel: Channel,
    _connection: Connection,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Rabbit {
    pub async fn new() -> Self {
        let url = amqp_url().await;
        let connection =
            Connection::connect(&url, ConnectionProperties::default()).await.expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel opens");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms are on");
        Self {
            url,
            channel,
            _connection: connection,
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    pub fn vhost(&self) -> &str {
        self.url.rsplit('/').next().expect("a URL has slashes")
    }

    pub fn settings(&self, id: &str) -> Settings {
        let boot = uuid::Uuid::now_v7().simple().to_string();
        Settings::new(vec![self.url.clone()], node_id(id), boot)
    }

    pub async fn join(&self, id: &str) -> Node {
        self.join_with(self.settings(id)).await
    }

    pub async fn join_with(&self, settings: Settings) -> Node {
        let metrics = BrokerMetrics::default();
        let id = settings.node.clone();
        let (broker, inlets) =
            RabbitBroker::start(settings, metrics.clone(), self.tracker.clone(), self.cancel.clone())
                .await
                .expect("the broker starts");
        let broker = Arc::new(broker);
        Node { id, broker: broker.clone(), graveyard: broker, inlets, metrics }
    }

    pub async fn publish(&self, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let exchange = "fanfare.notifications";
        let confirm = self
            .channel
            .basic_publish(exchange.into(), key.into(), options, body, properties)
            .await
            .expect("it is sent");
        let confirmation = within("a confirm", confirm).await.expect("it is confirmed");
        assert_eq!(confirmation, Confirmation::Ack(None));
    }

    /// Puts letters straight into `fanfare.dead`.
    pub async fn bury(&self, bodies: impl Iterator<Item = String>) {
        let mut confirms = Vec::new();
        for body in bodies {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let (exchange, queue) = ("".into(), "fanfare.dead".into());
            let sent =
                self.channel.basic_publish(exchange, queue, options, body.as_bytes(), properties).await;
            confirms.push(sent.expect("it is sent"));
        }
        for confirm in confirms {
            within("a confirm", confirm).await.expect("it is confirmed");
        }
    }

    pub async fn headers_of_dead(&self) -> Option<(FieldTable, Dead)> {
        let options = BasicGetOptions { no_ack: true };
        let got =
            self.channel.basic_get("fanfare.dead".into(), options).await.expect("the queue is there")?;
        let headers = got.properties.headers().clone().unwrap_or_default();
        let read = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        let dead = Dead {
            code: read("fanfare-reason-code"),
            reason: read("fanfare-reason"),
            body: got.data.clone(),
            message_id: got.properties.message_id().as_ref().map(ToString::to_string),
        };
        Some((headers, dead))
    }

    /// `rabbitmqctl`, which finds the server by the environment that the server itself was started with.
    pub async fn ctl(&self, arguments: &[&str]) {
        let pid = std::env::var("FANFARE_TEST_RABBIT_PID")
            .expect("FANFARE_TEST_RABBIT_PID is not set: run tests/run, which starts the backends");
        let environ = std::fs::read(format!("/proc/{pid}/environ")).expect("RabbitMQ runs");
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let running = tokio::task::spawn_blocking(move || {
            let variables = environ.split('\0').filter_map(|entry| entry.split_once('='));
            let mut command = std::process::Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
            command.arg("-q").args(arguments).env_clear().envs(variables).output()
        });
        let output = within("rabbitmqctl", running).await.expect("no panic").expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Ends all nodes and waits for their tasks.
    pub async fn end(&self) {
        self.cancel.cancel();
        self.tracker.close();
        within("the end of all tasks", self.tracker.wait()).await;
    }
}

impl Bench {
    pub fn embedded() -> Self {
        Self::Embedded(EmbeddedBus::new(), TaskTracker::new())
    }

    pub async fn rabbit() -> Self {
        Self::Rabbit(Box::new(Rabbit::new().await))
    }

    pub async fn join(&self, id: &str) -> Node {
        match self {
            Self::Rabbit(rabbit) => rabbit.join(id).await,
            Self::Embedded(bus, _) => {
                let metrics = BrokerMetrics::default();
                let (broker, inlets) = bus.join(node_id(id), metrics.clone());
                let broker = Arc::new(broker);
                Node { id: node_id(id), broker: broker.clone(), graveyard: broker, inlets, metrics }
            }
        }
    }

    /// Publishes as a backend would.
    pub async fn publish(&self, lane: Priority, body: &str, message_id: Option<&str>) {
        match self {
            Self::Rabbit(rabbit) => {
                let mut properties = BasicProperties::default().with_delivery_mode(2);
                if let Some(id) = message_id {
                    properties = properties.with_message_id(id.into());
                }
                rabbit.publish(lane.as_str(), body.as_bytes(), properties).await;
            }
            Self::Embedded(bus, tracker) => {
                let mut message = Published::new(lane, body.to_owned());
                message.message_id = message_id.map(str::to_owned);
                let bus = bus.clone();
                tracker.spawn(async move { bus.publish(message).await });
            }
        }
    }

    /// Waits for the next dead letter.
    pub async fn dead(&self) -> Dead {
        let mut found = None;
        eventually("a dead letter", async || {
            found = match self {
                Self::Rabbit(rabbit) => rabbit.headers_of_dead().await.map(|(_, dead)| dead),
                Self::Embedded(bus, _) => bus.dead_letters().pop().map(|letter| Dead {
                    code: letter.code.to_owned(),
                    reason: letter.reason,
                    body: letter.message.body.to_vec(),
                    message_id: letter.message.message_id,
                }),
            };
            found.is_some()
        })
        .await;
        found.expect("it was just found")
    }

    pub async fn end(&self) {
        match self {
            Self::Rabbit(rabbit) => rabbit.end().await,
            Self::Embedded(_, tracker) => {
                tracker.close();
                within("the end of all tasks", tracker.wait()).await;
            }
        }
    }
}
