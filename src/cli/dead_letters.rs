//! `fanfare dead-letters`: a client of `/admin/dead-letters`.

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::desk::{Desk, DeskArguments};
use super::failure::Failure;
use super::output;
use crate::config::Sources;

/// How many letters are asked for at a time.
const PAGE: usize = 500;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fanfare dead-letters list
  fanfare dead-letters show 019ab3f0-c7d2-7f04-a1b2-0123456789ab
  fanfare dead-letters requeue --all --code unknown_publisher
  fanfare dead-letters delete 019ab3f0-c7d2-7f04-a1b2-0123456789ab --json

Beside a trial set-up's ./data, --admin-url and --token are taken from there. Exit code 1 if
anything asked for was not done, with one line for each.")]
pub(super) struct DeadLettersArguments {
    #[command(flatten)]
    desk: DeskArguments,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them, oldest first, without their bodies.
    #[command(after_help = "\
Examples:
  fanfare dead-letters list
  fanfare dead-letters list --code invalid_json --limit 1000 --json")]
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only with this reason code.
        #[arg(long)]
        code: Option<String>,
    },
    /// Show one, with its body.
    #[command(after_help = "\
Examples:
  fanfare dead-letters show 019ab3f0-c7d2-7f04-a1b2-0123456789ab")]
    Show {
        /// The letter's id.
        id: String,
    },
    /// Put some back into their lanes, to be taken again.
    #[command(after_help = "\
Examples:
  fanfare dead-letters requeue 019ab3f0-c7d2-7f04-a1b2-0123456789ab
  fanfare dead-letters requeue --all --code unknown_publisher")]
    Requeue(Which),
    /// Delete some for good.
    #[command(after_help = "\
Examples:
  fanfare dead-letters delete 019ab3f0-c7d2-7f04-a1b2-0123456789ab
  fanfare dead-letters delete --all --code invalid_json")]
    Delete(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The letters' ids.
    #[arg(required_unless_present = "all")]
    id: Vec<String>,
    /// All that are there now.
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// With --all: only those with this reason code.
    #[arg(long, requires = "all")]
    code: Option<String>,
}

pub(super) fn dead_letters(arguments: &DeadLettersArguments, sources: &Sources) -> Result<(), Failure> {
    let letters = Letters(Desk::open(&arguments.desk, sources)?);
    let as_json = arguments.desk.json;
    super::block_on(async {
        match &arguments.what {
            What::List { limit, code } => {
                let listed = letters.list(*limit as usize, code.as_deref()).await?;
                show_list(&listed, as_json)
            }
            What::Show { id } => show_one(&letters.0.ask(Method::GET, &path(id, "")).await?, as_json),
            What::Requeue(which) => letters.each(which, "requeued", as_json).await,
            What::Delete(which) => letters.each(which, "deleted", as_json).await,
        }
    })
}

fn path(id: &str, what: &str) -> String {
    format!("/admin/dead-letters/{}{what}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

/// The letters of the nodes at a desk.
struct Letters(Desk);

impl Letters {
    /// Up to `limit` letters of that code, page by page.
    async fn list(&self, limit: usize, code: Option<&str>) -> Result<Vec<Value>, Failure> {
        let mut letters = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.0.ask(Method::GET, &format!("/admin/dead-letters?limit={PAGE}{after}")).await?;
            let more = page["dead_letters"].as_array().cloned().unwrap_or_default();
            letters.extend(more.into_iter().filter(|letter| code.is_none_or(|code| letter["code"] == code)));
            match page["next"].as_str() {
                Some(next) if letters.len() < limit => {
                    after = format!("&after={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
                }
                _ => break,
            }
        }
        letters.truncate(limit);
        Ok(letters)
    }

    /// Settles one after the other; what fails does not keep the others.
    async fn each(&self, which: &Which, done: &'static str, as_json: bool) -> Result<(), Failure> {
        let ids = if which.all {
            let letters = self.list(usize::MAX, which.code.as_deref()).await?;
            letters.iter().filter_map(|letter| letter["id"].as_str().map(str::to_owned)).collect()
        } else {
            which.id.clone()
        };
        let mut failure: Option<Failure> = None;
        for id in &ids {
            let asked = match done {
                "requeued" => self.0.ask(Method::POST, &path(id, "/requeue")).await,
                _ => self.0.ask(Method::DELETE, &path(id, "")).await,
            };
            match asked {
                Ok(_) if as_json => output::line(&json!({"id": id, "status": done}).to_string())?,
                Ok(_) => output::line(&format!("{done} {}", output::harmless(id)))?,
                Err(error) => match &mut failure {
                    Some(failure) => failure.add(error),
                    None => failure = Some(error),
                },
            }
        }
        if which.all && ids.is_empty() && !as_json {
            output::line("no dead letters")?;
        }
        failure.map_or(Ok(()), Err)
    }
}

fn show_list(letters: &[Value], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return letters.iter().try_for_each(|letter| output::line(&letter.to_string()));
    }
    if letters.is_empty() {
        return output::line("no dead letters");
    }
    let names = ["id", "last_failed_at", "failures", "lane", "publisher", "code", "reason"];
    let titles = ["ID", "LAST FAILED", "TIMES", "LANE", "PUBLISHER", "CODE", "REASON"].map(str::to_owned);
    let rows: Vec<[String; 7]> =
        letters.iter().map(|letter| names.map(|name| shown(&letter[name]))).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    output::line(&output::bold(&line(&titles), output::has_colours()))?;
    rows.iter().try_for_each(|row| output::line(&line(row)))
}

fn show_one(letter: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::line(&letter.to_string());
    }
    let coloured = output::has_colours();
    for name in [
        "id",
        "code",
        "reason",
        "first_failed_at",
        "last_failed_at",
        "failures",
        "lane",
        "routing_key",
        "publisher",
        "message_id",
        "expiration",
        "size",
    ] {
        let title = output::dim(&format!("{name:15}"), coloured);
        output::line(&format!("{title} {}", shown(&letter[name])))?;
    }
    output::line("")?;
    match letter["body"].as_str() {
        Some(text) => text.lines().try_for_each(|line| output::line(&output::harmless(line))),
        None => output::line(&format!("base64: {}", shown(&letter["body_base64"]))),
    }
}

/// A value in one line; `-` for what is not known.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => output::harmless(text),
        other => output::harmless(&other.to_string()),
    }
}
