//! `fanfare revocations`: a client of `/admin/revocations`.

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::desk::{Desk, DeskArguments};
use super::failure::Failure;
use super::output;
use crate::config::Sources;
use crate::domain::UserId;
use crate::domain::revocation::TokenId;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fanfare revocations add --token-id 7d1f3c
  fanfare revocations add --user alice
  fanfare revocations add --user alice --issued-before now
  fanfare revocations add --everyone --issued-before 2026-12-01T09:00:00Z
  fanfare revocations list --json
  fanfare revocations lift --user alice

Beside a trial set-up's ./data, --admin-url and --token are taken from there. Exit code 1 if it
was not done, or if a node did not say that it knows.")]
pub(super) struct RevocationsArguments {
    #[command(flatten)]
    desk: DeskArguments,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them, the newest first.
    #[command(after_help = "\
Examples:
  fanfare revocations list")]
    List {
        /// At most so many.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Refuse tokens from now on, on all nodes, and end connections by them.
    #[command(after_help = "\
Examples:
  fanfare revocations add --token-id 7d1f3c
  fanfare revocations add --user alice --issued-before now")]
    Add {
        #[command(flatten)]
        whose: Whose,
        /// Only those issued before: a time as of RFC 3339, or `now`.
        #[arg(long, value_name = "TIME", conflicts_with = "token_id", required_if_eq("everyone", "true"))]
        issued_before: Option<String>,
    },
    /// Take tokens again, as far as they have not run out.
    #[command(after_help = "\
Examples:
  fanfare revocations lift --user alice")]
    Lift {
        #[command(flatten)]
        whose: Whose,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// The one token of this id (its `jti`).
    #[arg(long, value_parser = token_id)]
    token_id: Option<TokenId>,
    /// Tokens of this user.
    #[arg(long)]
    user: Option<UserId>,
    /// Everybody's.
    #[arg(long)]
    everyone: bool,
}

fn token_id(text: &str) -> Result<TokenId, String> {
    TokenId::new(text).map_err(|error| error.to_string())
}

impl Whose {
    fn query(&self) -> String {
        let (name, value) = match self {
            Self { token_id: Some(id), .. } => ("token_id", id.as_str()),
            Self { user: Some(user), .. } => ("user", user.as_str()),
            _ => ("everyone", "true"),
        };
        format!("/admin/revocations?{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
    }

    fn order(&self, issued_before: Option<&str>) -> Value {
        let mut order = match self {
            Self { token_id: Some(id), .. } => json!({"token_id": id}),
            Self { user: Some(user), .. } => json!({"user": user}),
            _ => json!({"everyone": true}),
        };
        if let Some(before) = issued_before {
            order["issued_before"] = before.into();
        }
        order
    }
}

pub(super) fn revocations(arguments: &RevocationsArguments, sources: &Sources) -> Result<(), Failure> {
    let desk = Desk::open(&arguments.desk, sources)?;
    let as_json = arguments.desk.json;
    super::block_on(async {
        match &arguments.what {
            What::List { limit } => {
                let listed = desk.ask(Method::GET, &format!("/admin/revocations?limit={limit}")).await?;
                show_list(&listed, as_json)
            }
            What::Add { whose, issued_before } => {
                let order = whose.order(issued_before.as_deref());
                show_added(&desk.post("/admin/revocations", &order).await?, as_json)
            }
            What::Lift { whose } => {
                desk.ask(Method::DELETE, &whose.query()).await?;
                output::line(if as_json { r#"{"status":"lifted"}"# } else { "lifted" })
            }
        }
    })
}

fn show_list(listed: &Value, as_json: bool) -> Result<(), Failure> {
    let all = listed["revocations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if as_json {
        return all.iter().try_for_each(|one| output::line(&one.to_string()));
    }
    if all.is_empty() {
        return output::line("no revocations");
    }
    all.iter().try_for_each(|one| output::line(&sentence(one)))?;
    match listed["truncated"].as_bool() {
        Some(true) => output::line("there are more: --limit"),
        _ => Ok(()),
    }
}

/// A node that did not answer finds it in the inbox within a second, if it can see that.
fn show_added(done: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::line(&done.to_string())?;
    } else {
        output::line(&sentence(&done["revocation"]))?;
        output::line(&format!("{} connections were ended", done["connections"]))?;
    }
    let silent: Vec<String> = done["no_answer"].as_array().into_iter().flatten().map(shown).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "it is kept, but these nodes did not say that they know: {}; they find it within a second unless \
             they cannot see the inbox",
            silent.join(", ")
        ))),
    }
}

fn sentence(one: &Value) -> String {
    let whose = match (&one["token_id"], &one["user"]) {
        (Value::String(id), _) => format!("the token {}", output::harmless(id)),
        (_, Value::String(user)) => format!("tokens of {}", output::harmless(user)),
        _ => "everybody's tokens".to_owned(),
    };
    let before = match &one["issued_before"] {
        Value::String(at) => format!(" issued before {}", output::harmless(at)),
        _ => String::new(),
    };
    format!("revoked: {whose}{before}, until {}", shown(&one["lapses_at"]))
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), output::harmless)
}
