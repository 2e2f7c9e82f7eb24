//! The configuration as it is in force, to be shown: each setting, its value and where that comes from.
//!
//! Owns what of it may be seen. It must never show anything of a secret but whether it is set.

use config::ValueKind;

use super::read::Reader;
use super::source::{self, SECRET_KEYS, Sources};

/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Such as `http.listen`.
    pub key: String,
    /// As TOML; `(hidden)` for a secret that is set.
    pub value: String,
    /// The file or the variable that sets it; `None`: nobody did, and it has its default.
    pub origin: Option<String>,
}

/// Every setting, sorted by key, whether or not the configuration is valid: what could not be read is not among them.
pub fn settings(sources: &Sources) -> Vec<Setting> {
    source::merge(sources).0.settings()
}

impl Reader {
    fn settings(&self) -> Vec<Setting> {
        let setting = |(key, default): (&String, &ValueKind)| {
            let set = self.entries.get(key);
            let is_secret = set.is_some() && SECRET_KEYS.contains(&key.as_str());
            let value = set.map_or(default, |entry| &entry.value);
            Setting {
                key: key.clone(),
                value: if is_secret { HIDDEN.to_owned() } else { toml(value) },
                origin: set.map(|entry| entry.origin.clone()),
            }
        };
        self.defaults.iter().map(setting).collect()
    }
}

fn toml(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}
