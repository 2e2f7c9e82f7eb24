//! A backend that binds a queue to `fanfare.events` and notes what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::eventually;

/// One event, as it was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// AMQP `message_id`.
    pub id: String,
    /// The routing key.
    pub key: String,
    /// The body.
    pub json: Value,
}

/// The backend; its queue is gone when it is dropped.
#[derive(Debug)]
pub struct Events {
    told: Arc<Mutex<Vec<Told>>>,
    task: JoinHandle<()>,
}

impl Events {
    /// Binds a queue by this routing key, such as `presence.*`. The exchange must be there: a node has started.
    pub async fn bind(amqp_url: &str, routing_key: &str) -> Self {
        let connection =
            Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.expect("a queue");
        let name = queue.name().clone();
        let (exchange, options) = ("fanfare.events".into(), QueueBindOptions::default());
        channel
            .queue_bind(name.clone(), exchange, routing_key.into(), options, FieldTable::default())
            .await
            .expect("the exchange is there");
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer =
            channel.basic_consume(name, "".into(), options, FieldTable::default()).await.expect("consumed");
        let told = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let _connection = connection;
            while let Some(Ok(delivery)) = consumer.next().await {
                assert_eq!(*delivery.properties.delivery_mode(), Some(2), "persistent");
                let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
                let told = Told {
                    id: id.unwrap_or_default(),
                    key: delivery.routing_key.to_string(),
                    json: serde_json::from_slice(&delivery.data).expect("JSON"),
                };
                noted.lock().expect("whole").push(told);
            }
        });
        Self { told, task }
    }

    /// What was told until now, each event once: they come at least once.
    pub fn all(&self) -> Vec<Told> {
        let mut all: Vec<Told> = Vec::new();
        for told in self.told.lock().expect("whole").iter() {
            match all.iter().find(|known| known.id == told.id) {
                Some(known) => assert_eq!(known.json, told.json, "one id, one event"),
                None => all.push(told.clone()),
            }
        }
        all
    }

    /// The routing keys of what was told of a user, in order.
    pub fn of_user(&self, user: &str) -> Vec<String> {
        self.all().into_iter().filter(|told| told.json["user"] == user).map(|told| told.key).collect()
    }

    /// Waits until exactly this was told of a user.
    pub async fn told(&self, deadline: Duration, user: &str, expected: &[&str]) {
        let what = format!("{user} was told to be {expected:?}");
        eventually(deadline, &what, async || {
            let of_user = self.of_user(user);
            assert!(of_user.len() <= expected.len(), "{user}: {of_user:?}, beyond {expected:?}");
            of_user == expected
        })
        .await;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}
