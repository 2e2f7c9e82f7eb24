//! One embedded node as a process: the same program as in a cluster, with nothing beside it.

use std::path::Path;

use tempfile::TempDir;

use super::device::{Device, DeviceOptions};
use super::operator::Operator;
use super::process::{NodeProcess, NodeSettings};
use super::publisher::Publisher;
use super::tokens::Credentials;

/// One node on the embedded broker, presence and inbox, with configured secrets.
#[derive(Debug)]
pub struct TestNode {
    /// The node.
    pub process: NodeProcess,
    /// What it was configured with.
    pub credentials: Credentials,
    folder: TempDir,
}

impl TestNode {
    /// Starts it and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further keys in its configuration (values in TOML).
    pub async fn start_with(others: &[(&'static str, &str)]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let credentials = Credentials::new();
        let mut settings = NodeSettings::embedded("single");
        settings.others = others.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let process = NodeProcess::start(settings, folder.path(), &credentials).await;
        Self { process, credentials, folder }
    }

    /// The folder of its log, its configuration file and (in `single/data`) its data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A device of `user`.
    pub fn device(&self, user: &str, device: &str, topics: &[&str]) -> Device {
        Device::start(DeviceOptions {
            first_url: self.process.ws_url(),
            ws_url: self.process.ws_url(),
            token: self.credentials.user_token(user),
            device: device.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        })
    }

    /// A publisher.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.process.http_url(), &self.credentials)
    }

    /// An operator.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.process.admin_url(), &self.credentials)
    }
}
