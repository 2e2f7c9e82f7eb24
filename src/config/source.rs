//! Where values come from, and which one wins.
//!
//! Owns the merging of `default.toml`, one file and the environment into one table of leaves.
//! What the leaves mean is [`super::sections`]' business.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use config::{File, FileFormat, Source, ValueKind};

use super::problem::Problem;
use super::read::{Entry, Reader};

/// `config/default.toml`: every key with its default and why.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// What variables of the environment begin with.
const PREFIX: &str = "FANFARE__";
/// Keys that may be read from a file named by `…_FILE`, and that are never shown.
pub(super) const SECRET_KEYS: [&str; 8] = [
    "auth.admin",
    "auth.publishers",
    "auth.users.jwks_url",
    "auth.users.keys",
    "auth.users.secret",
    "broker.urls",
    "inbox.url",
    "presence.url",
];

/// A table of leaves: `section.key` to value. Lists, also of tables, are leaves.
pub(super) type Leaves = BTreeMap<String, ValueKind>;

/// Where to look beside the default.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `FANFARE__` are looked at.
    pub environment: Vec<(OsString, OsString)>,
}

impl Sources {
    /// `file` and the environment of this process.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        Self { file, environment: std::env::vars_os().collect() }
    }
}

/// All sources in one table, and what could not be read of them.
pub(super) fn merge(sources: &Sources) -> (Reader, Vec<Problem>) {
    let defaults = parse(DEFAULT).expect("a test reads default.toml");
    let mut merging = Merging { entries: BTreeMap::new(), problems: Vec::new(), defaults };
    if let Some(path) = &sources.file {
        merging.take_file(path);
    }
    let mut environment = sources.environment.clone();
    environment.sort();
    for (name, value) in &environment {
        if let Some(name) = name.to_str()
            && let Some(path) = name.strip_prefix(PREFIX)
        {
            merging.take_variable(name, path, value);
        }
    }
    let Merging { entries, problems, defaults } = merging;
    (Reader::new(defaults, entries), problems)
}

struct Merging {
    defaults: Leaves,
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
}

impl Merging {
    fn take_file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let leaves = match std::fs::read_to_string(path) {
            Ok(text) => parse(&text),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match leaves {
            Ok(leaves) => leaves.into_iter().for_each(|(key, value)| self.take(key, value, &name)),
            Err(message) => self.problem(&name, "", message),
        }
    }

    fn take_variable(&mut self, name: &str, path: &str, value: &OsString) {
        let key = path.to_lowercase().replace("__", ".");
        let Some(text) = value.to_str() else {
            return self.problem(&key, name, "must be UTF-8".to_owned());
        };
        let from_file = key.strip_suffix("_file").filter(|key| SECRET_KEYS.contains(key));
        let (key, text) = match from_file {
            None => (key.as_str(), text.to_owned()),
            Some(key) => match std::fs::read_to_string(text) {
                Ok(content) => (key, content.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    let message = format!("the file {text:?} cannot be read: {error}");
                    return self.problem(key, name, message);
                }
            },
        };
        let in_environment = |entry: &Entry| entry.origin.starts_with(PREFIX);
        if let Some(other) = self.entries.get(key).filter(|entry| in_environment(entry)) {
            let message = format!("is set by {} too; keep one of them", other.origin);
            return self.problem(key, name, message);
        }
        match typed(key, self.defaults.get(key), &text) {
            Ok(value) => self.take(key.to_owned(), value, name),
            Err(message) => self.problem(key, name, message),
        }
    }

    fn take(&mut self, key: String, value: ValueKind, origin: &str) {
        let is_section = |known: &String| known.starts_with(&format!("{key}."));
        if matches!(value, ValueKind::Table(_)) && self.defaults.keys().any(is_section) {
            return; // A section in which nothing is set.
        }
        if !self.defaults.contains_key(&key) {
            let message = super::text::unknown_key(&key, self.defaults.keys());
            return self.problem(&key, origin, message);
        }
        let origin = origin.to_owned();
        self.entries.insert(key, Entry { value, origin });
    }

    fn problem(&mut self, key: &str, origin: &str, message: String) {
        self.problems.push(Problem { key: key.to_owned(), origin: origin.to_owned(), message });
    }
}

/// A variable's text as the type that the key's default has.
fn typed(key: &str, default: Option<&ValueKind>, text: &str) -> Result<ValueKind, String> {
    let number = text.parse().map(ValueKind::I64);
    let flag = text.parse().map(ValueKind::Boolean);
    let of = |mut leaves: Leaves, key| leaves.remove(key).ok_or_else(|| format!("holds TOML without {key}"));
    match default {
        Some(ValueKind::I64(_)) => Ok(number.unwrap_or_else(|_| ValueKind::String(text.into()))),
        Some(ValueKind::Boolean(_)) => Ok(flag.unwrap_or_else(|_| ValueKind::String(text.into()))),
        // Tables as in a file: what a `…_FILE` of keys or publishers looks like.
        Some(ValueKind::Array(_)) if text.contains("[[") => of(parse(text)?, key),
        Some(ValueKind::Array(_)) if text.trim_start().starts_with('[') => {
            of(parse(&format!("list = {text}"))?, "list")
        }
        Some(ValueKind::Array(_)) => Ok(list(text)),
        _ => Ok(ValueKind::String(text.to_owned())),
    }
}

fn list(text: &str) -> ValueKind {
    let items = text.split(',').map(str::trim);
    ValueKind::Array(items.filter(|item| !item.is_empty()).map(Into::into).collect())
}

/// Reads TOML into leaves. The error never shows a line of the text: it could be a secret.
fn parse(text: &str) -> Result<Leaves, String> {
    let table = File::from_str(text, FileFormat::Toml)
        .collect()
        .map_err(|error| super::text::without_quotes(&error.to_string()))?;
    let mut leaves = Leaves::new();
    flatten("", table, &mut leaves);
    Ok(leaves)
}

fn flatten(prefix: &str, table: config::Map<String, config::Value>, leaves: &mut Leaves) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten(&format!("{key}."), inner, leaves),
            kind => {
                leaves.insert(key, kind);
            }
        }
    }
}
