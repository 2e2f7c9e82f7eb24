//! The topology of `compose.yaml` from plain processes: two nodes behind Nginx, on corners of
//! RabbitMQ, Redis and PostgreSQL of the test's own.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::backends::{amqp_url, http_client, postgres_url, redis_url};
use super::device::{Device, DeviceOptions};
use super::nginx::Nginx;
use super::ports::free_port;
use super::process::{NodeProcess, NodeSettings, run};
use super::tokens::Credentials;

/// The nodes' ids, as in `compose.yaml`.
pub const NODE_IDS: [&str; 2] = ["node-1", "node-2"];

/// Two nodes behind Nginx.
#[derive(Debug)]
pub struct TestCluster {
    // Fields are dropped in order: first who connects, then who is connected to.
    /// In front of both.
    pub nginx: Nginx,
    /// Both nodes, in the order of [`NODE_IDS`].
    pub nodes: Vec<NodeProcess>,
    /// What they were configured with.
    pub credentials: Credentials,
    /// The vhost that they share.
    pub amqp_url: String,
    folder: TempDir,
}

impl TestCluster {
    /// Starts everything and waits until both nodes are ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further keys in both nodes' configuration (values in TOML).
    pub async fn start_with(others: &[(&'static str, &str)]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let credentials = Credentials::new();
        let (amqp_url, redis, postgres) = tokio::join!(amqp_url(), redis_url(), postgres_url());
        let mut others: Vec<_> = others.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        // Tests publish with pika's way of naming nobody.
        others.push(("broker.default_publisher", "\"shop\"".to_owned()));
        let settings = NODE_IDS.map(|id| NodeSettings {
            broker_urls: vec![amqp_url.clone()],
            presence_url: Some(redis.clone()),
            inbox_url: Some(postgres.clone()),
            others: others.clone(),
            ..NodeSettings::embedded(id)
        });
        migrate(&settings[0], folder.path(), &credentials);
        let ports = [settings[0].http_port, settings[1].http_port];
        let nginx = Nginx::start(folder.path(), ports).await;
        let mut nodes: Vec<_> = settings
            .into_iter()
            .map(|settings| NodeProcess::spawn(settings, folder.path(), &credentials))
            .collect();
        for node in &mut nodes {
            node.ready().await;
        }
        Self { nginx, nodes, credentials, amqp_url, folder }
    }

    /// The folder of logs and configuration files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A device of `user` that connects through Nginx, and again through Nginx after a loss.
    pub fn device(&self, user: &str, device: &str, topics: &[&str]) -> Device {
        self.device_at(&self.nginx.ws_url(), user, device, topics)
    }

    /// The same at any URL, such as one node's.
    pub fn device_at(&self, ws_url: &str, user: &str, device: &str, topics: &[&str]) -> Device {
        Device::start(DeviceOptions {
            ws_url: ws_url.to_owned(),
            token: self.credentials.user_token(user),
            device: device.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        })
    }

    /// A publisher that posts through Nginx.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.nginx.http_url(), &self.credentials)
    }
}

/// Makes the tables, as the `migrate` service of `compose.yaml` does.
fn migrate(settings: &NodeSettings, folder: &Path, credentials: &Credentials) {
    let config = settings.write(folder, credentials);
    let config = config.to_str().expect("temporary folders have plain names");
    let output = run(folder, &["migrate", "--config", config]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fanfare migrate: {}\n{text}", output.status);
}

/// A backend service that publishes over HTTP.
#[derive(Debug, Clone)]
pub struct Publisher {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// An answer to a publish.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Whether it was remembered from an earlier request.
    pub is_replayed: bool,
    /// The body.
    pub body: Value,
}

impl Publisher {
    /// Posts to `http_url`.
    pub fn new(http_url: &str, credentials: &Credentials) -> Self {
        let url = format!("{http_url}/v1/notifications");
        Self { client: http_client(), url, key: credentials.publisher_key.clone() }
    }

    /// One request.
    ///
    /// # Errors
    /// No answer arrived.
    pub async fn try_publish(&self, body: &Value, key: Option<&str>) -> reqwest::Result<Answer> {
        let mut request = self.client.post(&self.url).bearer_auth(&self.key).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let is_replayed = answer.headers().contains_key("idempotent-replayed");
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, is_replayed, body })
    }

    /// One request, which must be answered 202.
    pub async fn publish(&self, body: &Value) -> Answer {
        let answer = self.try_publish(body, None).await.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer
    }

    /// As a careful backend does it: again, with the same idempotency key, until it is accepted.
    pub async fn publish_surely(&self, body: &Value, key: &str, deadline: Duration) -> Answer {
        let what = format!("{key} is accepted");
        super::within(deadline, &what, async {
            loop {
                match self.try_publish(body, Some(key)).await {
                    Ok(answer) if answer.status == 202 => return answer,
                    Ok(answer) if answer.status < 500 && answer.status != 409 => {
                        panic!("{key}: {} {}", answer.status, answer.body)
                    }
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
        .await
    }
}

/// Two free ports that are in nobody's configuration: for a peer that is not there.
pub fn unused_ports() -> [u16; 2] {
    [free_port(), free_port()]
}
