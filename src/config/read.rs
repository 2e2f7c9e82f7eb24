//! Reading leaves as values of the right type, with every problem noted instead of returned.
//!
//! Owns the wording of problems. A value that is wrong is replaced by its default, so that
//! reading and checking go on to the end and everything is listed at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::ValueKind;

use super::Config;
use super::problem::Problem;
use super::source::{Leaves, SECRET_KEYS};

/// A value that somebody set, and where.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: ValueKind,
    pub(super) origin: String,
}

/// Reads keys and notes problems.
pub(super) struct Reader {
    pub(super) defaults: Leaves,
    pub(super) entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
    read: Vec<&'static str>,
}

impl Reader {
    pub(super) fn new(defaults: Leaves, entries: BTreeMap<String, Entry>) -> Self {
        Self { defaults, entries, problems: Vec::new(), read: Vec::new() }
    }

    /// The keys that were read, for the test that none of `default.toml` is dead.
    #[cfg(test)]
    pub(super) fn keys(&self) -> (Vec<&str>, Vec<&str>) {
        let defaults = self.defaults.keys().map(String::as_str).collect();
        (self.read.clone(), defaults)
    }

    /// The configuration, unless a problem was found, here or while merging.
    pub(super) fn finish(
        mut self,
        mut problems: Vec<Problem>,
        config: &Config,
    ) -> Result<Config, Vec<Problem>> {
        super::check::relations(&mut self, config);
        problems.append(&mut self.problems);
        if problems.is_empty() { Ok(config.clone()) } else { Err(problems) }
    }

    /// Notes what is wrong with `key` (or with a part of it: `key[1].name`).
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        let leaf = key.split('[').next().unwrap_or(key);
        let origin = self.entries.get(leaf).map(|entry| entry.origin.clone());
        self.problems.push(Problem {
            key: key.to_owned(),
            origin: origin.unwrap_or_default(),
            message: message.into(),
        });
    }

    /// Reads `key` by `parse`, which says what the value must be if it is not.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&ValueKind) -> Result<T, String>,
    ) -> T {
        self.read.push(key);
        let default = &self.defaults[key];
        let value = self.entries.get(key).map_or(default, |entry| &entry.value);
        match parse(value) {
            Ok(parsed) => parsed,
            Err(limit) => {
                let got = shown(key, value);
                let fallback = parse(default).expect("a test reads every default");
                self.problem(key, format!("must be {limit}{got}"));
                fallback
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number<N: TryFrom<i64>>(&mut self, key: &'static str, bounds: RangeInclusive<i64>) -> N {
        self.take(key, |value| {
            let limit = || format!("a whole number, {}-{}", bounds.start(), bounds.end());
            let number = match value {
                ValueKind::I64(number) if bounds.contains(number) => *number,
                _ => return Err(limit()),
            };
            N::try_from(number).map_err(|_| limit())
        })
    }

    /// Milliseconds within bounds.
    pub(super) fn millis(&mut self, key: &'static str, bounds: RangeInclusive<i64>) -> Duration {
        Duration::from_millis(self.number(key, bounds))
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.take(key, |value| match value {
            ValueKind::Boolean(flag) => Ok(*flag),
            _ => Err("true or false".to_owned()),
        })
    }

    /// A text, possibly empty.
    pub(super) fn text(&mut self, key: &'static str) -> String {
        self.parsed(key, "a text", |text| Some(text.to_owned()))
    }

    /// A text that `parse` understands; `limit` says what that is.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.take(key, |value| match value {
            ValueKind::String(text) => parse(text).ok_or_else(|| limit.to_owned()),
            _ => Err(limit.to_owned()),
        })
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> T {
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let find = |text: &str| words.iter().find(|(word, _)| *word == text);
        self.parsed(key, &quoted.join(" or "), |text| find(text).map(|(_, value)| *value))
    }

    /// A list of texts that `parse` understands; `limit` says what each is.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        limit: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let item = |value: &config::Value| match &value.kind {
            ValueKind::String(text) => parse(text),
            _ => None,
        };
        self.take(key, |value| match value {
            ValueKind::Array(items) => {
                items.iter().map(|value| item(value).ok_or_else(|| format!("a list of {limit}"))).collect()
            }
            _ => Err(format!("a list of {limit}")),
        })
    }

    /// A list of tables, each to be read with its path.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<config::Map<String, config::Value>> {
        self.take(key, |value| {
            let limit = || "a list of tables".to_owned();
            let ValueKind::Array(items) = value else {
                return Err(limit());
            };
            let table = |item: &config::Value| match &item.kind {
                ValueKind::Table(table) => Ok(table.clone()),
                _ => Err(limit()),
            };
            items.iter().map(table).collect()
        })
    }
}

/// `; got VALUE`, but never of a secret.
fn shown(key: &str, value: &ValueKind) -> String {
    if SECRET_KEYS.contains(&key) {
        return String::new();
    }
    match value {
        ValueKind::String(text) => format!("; got {text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            format!("; got [{}]", items.join(", "))
        }
        other => format!("; got {other}"),
    }
}
