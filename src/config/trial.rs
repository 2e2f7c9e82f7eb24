//! The secrets of the trial set-up: made at the first start, kept in `data_dir`.
//!
//! Owns one file, `trial.json`, with mode 600. It is used by a node for which nobody has
//! configured a backend or a secret, and by `fanfare token`, `publish` and `listen` beside it.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::AuthConfig;
use crate::auth::{
    AdminSettings, Algorithm, KeyHash, KeySettings, Limits, PublisherSettings, Secret, TokenSettings,
    new_admin_token, new_publisher_key, new_secret,
};
use crate::domain::PublisherId;

/// The file in `data_dir`.
const FILE: &str = "trial.json";
/// The id of the trial's one publisher and one administrator.
const ID: &str = "trial";

/// The trial set-up's secrets, in plain text: they are there to be shown to whoever tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// HS256 secret of user tokens.
    pub user_secret: Secret,
    /// API key of the publisher `trial`, who may send to all.
    pub publisher_key: Secret,
    /// Bearer token for `/admin`.
    pub admin_token: Secret,
    /// Where the node was listening last, such as `http://127.0.0.1:8080`.
    pub url: Option<String>,
}

/// Why the trial's secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A file or folder cannot be made, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is there but not what was written.
    #[error("{} is damaged; delete it to have new secrets made", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

/// The file's shape.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    note: String,
    user_secret: String,
    publisher_key: String,
    admin_token: String,
    #[serde(default)]
    url: Option<String>,
}

impl Trial {
    /// The secrets kept in `data_dir`, if there are any.
    ///
    /// # Errors
    /// [`TrialError`] if they are there and cannot be read.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, TrialError> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TrialError::File { path, source }),
        };
        let Ok(stored) = serde_json::from_str::<Stored>(&text) else {
            return Err(TrialError::Damaged { path });
        };
        Ok(Some(Self {
            user_secret: Secret::new(stored.user_secret),
            publisher_key: Secret::new(stored.publisher_key),
            admin_token: Secret::new(stored.admin_token),
            url: stored.url,
        }))
    }

    /// The secrets kept in `data_dir`; if there are none, new ones, kept from now on. Makes
    /// the folder, with mode 700, if it is absent.
    ///
    /// # Errors
    /// [`TrialError`] if they cannot be read or kept.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, TrialError> {
        if let Some(trial) = Self::load(data_dir)? {
            return Ok(trial);
        }
        let trial = Self {
            user_secret: new_secret(),
            publisher_key: new_publisher_key(&publisher_id()),
            admin_token: new_admin_token(),
            url: None,
        };
        // A node and `fanfare token` may start at once: the first to keep its secrets wins.
        let kept = trial.keep(data_dir, |beside, path| std::fs::hard_link(beside, path));
        match kept {
            Ok(()) => Ok(trial),
            Err(error) => match Self::load(data_dir)? {
                Some(other) => Ok(other),
                None => Err(error),
            },
        }
    }

    /// Keeps where the node listens, so that `fanfare publish` and `listen` find it.
    ///
    /// # Errors
    /// [`TrialError`] if it cannot be written.
    pub fn keep_url(&mut self, data_dir: &Path, url: &str) -> Result<(), TrialError> {
        if self.url.as_deref() != Some(url) {
            self.url = Some(url.to_owned());
            self.keep(data_dir, |beside, path| std::fs::rename(beside, path))?;
        }
        Ok(())
    }

    /// The key to sign user tokens with.
    pub fn user_key(&self) -> KeySettings {
        KeySettings { id: None, algorithm: Algorithm::HS256, key: self.user_secret.clone() }
    }

    /// `[auth]` as if these secrets had been configured.
    pub fn auth(&self, leeway: Duration) -> AuthConfig {
        AuthConfig {
            users: TokenSettings { keys: vec![self.user_key()], issuer: None, audience: Vec::new(), leeway },
            key_set: None,
            publishers: vec![PublisherSettings {
                id: publisher_id(),
                key_hashes: vec![KeyHash::of(self.publisher_key.expose())],
                amqp_user: None,
                limits: Limits::default(),
                rate: None,
            }],
            admins: vec![AdminSettings {
                id: ID.to_owned(),
                token_hash: KeyHash::of(self.admin_token.expose()),
            }],
        }
    }

    /// Writes beside the file and puts it in place whole: a crash leaves the old one or the
    /// new one.
    fn keep(
        &self,
        data_dir: &Path,
        put: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
    ) -> Result<(), TrialError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| TrialError::File { path, source }
        };
        let mut folder = std::fs::DirBuilder::new();
        let made = folder.recursive(true).mode(0o700).create(data_dir);
        made.map_err(at(data_dir))?;
        let path = data_dir.join(FILE);
        let beside = data_dir.join(format!("{FILE}.{:016x}", rand::random::<u64>()));
        let kept = write_private(&beside, self.to_json().as_bytes()).map_err(at(&beside));
        let kept = kept.and_then(|()| put(&beside, &path).map_err(at(&path)));
        // After a rename it is gone; if it cannot be removed it is litter, and private.
        let _ = std::fs::remove_file(&beside);
        kept
    }

    fn to_json(&self) -> String {
        let stored = Stored {
            note: "secrets of a trial set-up, made by fanfare; delete this file to have new ones".to_owned(),
            user_secret: self.user_secret.expose().to_owned(),
            publisher_key: self.publisher_key.expose().to_owned(),
            admin_token: self.admin_token.expose().to_owned(),
            url: self.url.clone(),
        };
        serde_json::to_string_pretty(&stored).expect("texts are always JSON") + "\n"
    }
}

/// A new file that only its owner can read, on disk when this returns.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn publisher_id() -> PublisherId {
    PublisherId::new(ID).expect("a valid id")
}
