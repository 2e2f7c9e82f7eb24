//! `[auth]`: keys of tokens, publishers and administrators.
//!
//! Owns the shapes of the tables in these lists. Whatever is in them, no value is shown but
//! ids and algorithms.

use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::AuthConfig;
use super::read::Reader;
use super::text::is_key_set_url;
use crate::auth::{
    AdminSettings, Algorithm, KeyHash, KeySetSettings, KeySettings, Limits, Pattern, PublishRate,
    PublisherSettings, Secret, TokenSettings, UserTokens,
};
use crate::domain::PublisherId;
use crate::domain::id::Kind;

pub(super) fn read(reader: &mut Reader) -> AuthConfig {
    let issuer = reader.text("auth.users.issuer");
    let audience =
        reader.list("auth.users.audience", "texts", |text| (!text.is_empty()).then(|| text.to_owned()));
    let leeway = reader.millis("auth.users.leeway_ms", 0..=300_000);
    AuthConfig {
        users: TokenSettings {
            keys: keys(reader, leeway),
            issuer: (!issuer.is_empty()).then_some(issuer),
            audience,
            leeway,
        },
        key_set: key_set(reader),
        publishers: publishers(reader),
        admins: admins(reader),
    }
}

fn key_set(reader: &mut Reader) -> Option<KeySetSettings> {
    let limit = "https://…, http://… to this machine (localhost, 127.0.0.1 or [::1]), or empty, \
                 without user name, password and fragment";
    let url = reader.parsed("auth.users.jwks_url", limit, |text| {
        (text.is_empty() || is_key_set_url(text)).then(|| Secret::new(text))
    });
    let settings = KeySetSettings {
        refresh: Duration::from_secs(reader.number("auth.users.jwks_refresh_s", 30..=3_600)),
        timeout: reader.millis("auth.users.jwks_timeout_ms", 100..=10_000),
        cooldown: Duration::from_secs(reader.number("auth.users.jwks_cooldown_s", 1..=3_600)),
        keep: Duration::from_secs(3_600) * reader.number::<u32>("auth.users.jwks_keep_hours", 2..=720),
        url,
    };
    (!settings.url.is_empty()).then_some(settings)
}

fn keys(reader: &mut Reader, leeway: Duration) -> Vec<KeySettings> {
    let mut keys = Vec::new();
    let mut paths = Vec::new();
    let secret = reader.text("auth.users.secret");
    if !secret.is_empty() {
        paths.push("auth.users.secret".to_owned());
        keys.push(KeySettings { id: None, algorithm: Algorithm::HS256, key: Secret::new(secret) });
    }
    for mut table in tables(reader, "auth.users.keys") {
        if let Some(key) = key(&mut table) {
            keys.push(key);
            paths.push(table.path.clone());
        }
        table.finish(reader);
    }
    let settings = TokenSettings { keys: keys.clone(), issuer: None, audience: Vec::new(), leeway };
    for (place, error) in UserTokens::new(settings).err().unwrap_or_default() {
        reader.problem(&paths[place], error.to_string());
    }
    keys
}

fn key(table: &mut Table) -> Option<KeySettings> {
    let id = table.text("id");
    let algorithm = table.required("algorithm");
    let algorithm = algorithm.and_then(|name| table.note("algorithm", name.parse::<Algorithm>()));
    let Some(algorithm) = algorithm else {
        // Which of these belong here, the algorithm would say.
        for name in ["secret", "secret_file", "public_key", "public_key_file"] {
            table.values.remove(name);
        }
        return None;
    };
    let names = match algorithm.min_secret_bytes() {
        Some(_) => ["secret", "secret_file"],
        None => ["public_key", "public_key_file"],
    };
    let (inline, file) = (table.text(names[0]), table.text(names[1]));
    let key = match (inline, file) {
        (Some(inline), None) => inline,
        (None, Some(file)) => {
            let read = std::fs::read_to_string(&file);
            let read = read.map_err(|error| format!("the file {file:?} cannot be read: {error}"));
            let text = table.note(names[1], read)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        _ => {
            let message = format!("needs either {} or {} for {}", names[0], names[1], algorithm.as_str());
            table.problem("", message);
            return None;
        }
    };
    Some(KeySettings { id, algorithm, key: Secret::new(key) })
}

fn publishers(reader: &mut Reader) -> Vec<PublisherSettings> {
    let mut publishers: Vec<PublisherSettings> = Vec::new();
    for mut table in tables(reader, "auth.publishers") {
        if let Some(publisher) = publisher(&mut table) {
            let double_user = publisher.amqp_user.is_some()
                && publishers.iter().any(|other| other.amqp_user == publisher.amqp_user);
            if publishers.iter().any(|other| other.id == publisher.id) {
                table.problem("id", format!("{} is used twice", publisher.id));
            }
            if double_user {
                table.problem("amqp_user", "is used twice");
            }
            publishers.push(publisher);
        }
        table.finish(reader);
    }
    publishers
}

fn publisher(table: &mut Table) -> Option<PublisherSettings> {
    let id = table.required("id");
    let id = id.and_then(|id| table.note("id", PublisherId::new(id)));
    let hashes = table.texts("key_hashes").unwrap_or_default();
    let hashes: Vec<_> = hashes.iter().map(|hash| hash.parse::<KeyHash>()).collect();
    let key_hashes = hashes.into_iter().filter_map(|hash| table.note("key_hashes", hash)).collect();
    Some(PublisherSettings {
        key_hashes,
        amqp_user: table.text("amqp_user"),
        limits: Limits {
            users: patterns(table, "users"),
            topics: patterns(table, "topics"),
            everyone: table.flag("everyone"),
        },
        rate: rate(table),
        id: id?,
    })
}

/// `rate` a second and `burst`, which is one second's unless given.
fn rate(table: &mut Table) -> Option<PublishRate> {
    let per_second = table.number("rate", 1..=100_000);
    let burst = table.number("burst", 1..=1_000_000);
    if per_second.is_none() && burst.is_some() {
        table.problem("burst", "needs a rate");
    }
    per_second.map(|per_second| PublishRate { per_second, burst: burst.unwrap_or(per_second) })
}

fn patterns<K: Kind>(table: &mut Table, name: &str) -> Option<Vec<Pattern<K>>> {
    let texts = table.texts(name)?;
    let pattern = |text: &String| table.note(name, Pattern::new(text));
    Some(texts.iter().filter_map(pattern).collect())
}

fn admins(reader: &mut Reader) -> Vec<AdminSettings> {
    let mut admins = Vec::new();
    for mut table in tables(reader, "auth.admin") {
        let (id, hash) = (table.required("id"), table.required("token_hash"));
        let hash = hash.and_then(|hash| table.note("token_hash", hash.parse()));
        if let (Some(id), Some(token_hash)) = (id, hash) {
            admins.push(AdminSettings { id, token_hash });
        }
        table.finish(reader);
    }
    admins
}

fn tables(reader: &mut Reader, key: &'static str) -> Vec<Table> {
    let tables = reader.tables(key).into_iter().enumerate();
    let table = |(place, values)| Table { path: format!("{key}[{place}]"), values, problems: Vec::new() };
    tables.map(table).collect()
}

/// One table of a list; what is taken from it is known, what is left at the end is not.
struct Table {
    path: String,
    values: Map<String, Value>,
    problems: Vec<(String, String)>,
}

impl Table {
    fn problem(&mut self, name: &str, message: impl Into<String>) {
        let dot = if name.is_empty() { "" } else { "." };
        let key = format!("{}{dot}{name}", self.path);
        self.problems.push((key, message.into()));
    }

    /// The value, or its error noted.
    fn note<T, E: ToString>(&mut self, name: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(name, error.to_string())).ok()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.values.remove(name)?.kind {
            ValueKind::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.problem(name, "must be a text that is not empty");
                None
            }
        }
    }

    fn required(&mut self, name: &str) -> Option<String> {
        if !self.values.contains_key(name) {
            self.problem(name, "must be given");
        }
        self.text(name)
    }

    fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let text = |value: Value| match value.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        };
        let texts = match self.values.remove(name)?.kind {
            ValueKind::Array(items) => items.into_iter().map(text).collect(),
            _ => None,
        };
        if texts.is_none() {
            self.problem(name, "must be a list of texts");
        }
        // What is not a list must not read as "no limit".
        Some(texts.unwrap_or_default())
    }

    fn number(&mut self, name: &str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let value = self.values.remove(name)?;
        let number = match value.kind {
            ValueKind::I64(number) => u32::try_from(number).ok().filter(|number| bounds.contains(number)),
            _ => None,
        };
        if number.is_none() {
            self.problem(
                name,
                format!("must be a whole number, {}-{}; got {value}", bounds.start(), bounds.end()),
            );
        }
        number
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        match self.values.remove(name)?.kind {
            ValueKind::Boolean(flag) => Some(flag),
            _ => {
                self.problem(name, "must be true or false");
                Some(false)
            }
        }
    }

    fn finish(mut self, reader: &mut Reader) {
        let mut unknown: Vec<String> = self.values.keys().cloned().collect();
        unknown.sort_unstable();
        for name in unknown {
            self.problem(&name, "there is no such key here");
        }
        for (key, message) in self.problems {
            reader.problem(&key, message);
        }
    }
}
