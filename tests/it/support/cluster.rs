//! The topology of `compose.yaml` from plain processes: two nodes behind Nginx, on corners of
//! RabbitMQ, Redis and PostgreSQL of the test's own.

use std::path::Path;

use tempfile::TempDir;

use super::backends::{amqp_url, postgres_url, redis_url};
use super::device::{Device, DeviceOptions};
use super::front::Front;
use super::nginx;
use super::operator::Operator;
use super::process::{NodeProcess, NodeSettings, run};
use super::proxy::ChaosProxy;
use super::publisher::Publisher;
use super::tokens::Credentials;

/// The nodes' ids, as in `compose.yaml`.
pub const NODE_IDS: [&str; 2] = ["node-1", "node-2"];

/// Two nodes behind Nginx.
#[derive(Debug)]
pub struct TestCluster {
    // Fields are dropped in order: first who connects, then who is connected to.
    /// In front of both.
    pub nginx: Front,
    /// Both nodes, in the order of [`NODE_IDS`].
    pub nodes: Vec<NodeProcess>,
    /// What they were configured with.
    pub credentials: Credentials,
    /// The vhost that they share, for publishers: not through the proxy.
    pub amqp_url: String,
    /// The Redis database that they share: not through the proxy.
    pub redis_url: String,
    /// The PostgreSQL schema that they share: not through the proxy.
    pub postgres_url: String,
    /// Between the nodes and RabbitMQ.
    pub rabbit: ChaosProxy,
    /// Between the nodes and Redis.
    pub redis: ChaosProxy,
    /// Between the nodes and PostgreSQL.
    pub postgres: ChaosProxy,
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
        let (amqp_url, redis_url, postgres_url) = tokio::join!(amqp_url(), redis_url(), postgres_url());
        let (rabbit, broker_url) = ChaosProxy::before(&amqp_url).await;
        let (redis, presence_url) = ChaosProxy::before(&redis_url).await;
        let (postgres, inbox_url) = ChaosProxy::before(&postgres_url).await;
        let mut others: Vec<_> = others.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        // Tests publish with pika's way of naming nobody.
        others.push(("broker.default_publisher", "\"shop\"".to_owned()));
        let settings = NODE_IDS.map(|id| NodeSettings {
            broker_urls: vec![broker_url.clone()],
            presence_url: Some(presence_url.clone()),
            inbox_url: Some(inbox_url.clone()),
            others: others.clone(),
            ..NodeSettings::embedded(id)
        });
        migrate(&settings[0], folder.path(), &credentials).await;
        let ports = [settings[0].http_port, settings[1].http_port];
        let nginx = nginx::start(folder.path(), ports).await;
        let mut nodes: Vec<_> = settings
            .into_iter()
            .map(|settings| NodeProcess::spawn(settings, folder.path(), &credentials))
            .collect();
        for node in &mut nodes {
            node.ready().await;
        }
        Self { nginx, nodes, credentials, amqp_url, redis_url, postgres_url, rabbit, redis, postgres, folder }
    }

    /// The folder of logs and configuration files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A device of `user` that connects through Nginx.
    pub fn device(&self, user: &str, device: &str, topics: &[&str]) -> Device {
        self.start_device(&self.nginx.ws_url(), user, device, topics)
    }

    /// A device that is on one node (by its place) at first, and goes through Nginx after a loss.
    pub fn device_on(&self, node: usize, user: &str, device: &str, topics: &[&str]) -> Device {
        self.start_device(&self.nodes[node].ws_url(), user, device, topics)
    }

    fn start_device(&self, first_url: &str, user: &str, device: &str, topics: &[&str]) -> Device {
        Device::start(DeviceOptions {
            first_url: first_url.to_owned(),
            ws_url: self.nginx.ws_url(),
            token: self.credentials.user_token(user),
            device: device.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        })
    }

    /// A publisher that posts through Nginx.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.nginx.http_url(), &self.credentials)
    }

    /// An operator of one node, by its place.
    pub fn operator(&self, node: usize) -> Operator {
        Operator::new(&self.nodes[node].admin_url(), &self.credentials)
    }
}

/// Makes the tables, as the `migrate` service of `compose.yaml` does. In a thread of its own: the way to
/// PostgreSQL leads through a proxy that runs here.
async fn migrate(settings: &NodeSettings, folder: &Path, credentials: &Credentials) {
    let config = settings.write(folder, credentials);
    let folder = folder.to_owned();
    let program = tokio::task::spawn_blocking(move || {
        let config = config.to_str().expect("temporary folders have plain names");
        run(&folder, &["migrate", "--config", config])
    });
    let output = program.await.expect("the program was run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fanfare migrate: {}\n{text}", output.status);
}
