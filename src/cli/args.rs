//! The arguments of every command, with their help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::dead_letters::DeadLettersArguments;
use super::inbox::InboxCommand;
use super::revocations::RevocationsArguments;
use crate::auth::{Algorithm, Secret, TopicPattern};
use crate::domain::{DeviceId, PublisherId, TopicName, UserId};

/// Fanfare: a notification push service. Without a command it serves.
#[derive(Debug, Parser)]
#[command(
    name = "fanfare",
    version,
    after_help = "\
Examples:
  fanfare                                  serve a trial set-up on 127.0.0.1:8080
  fanfare --config fanfare.toml            serve as configured
  fanfare listen --user alice              see what alice gets (beside the trial's ./data)
  fanfare publish --user alice --title Hi  send her something

Settings can also come from the environment: FANFARE__HTTP__LISTEN=0.0.0.0:8080"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// Configuration file (TOML); what it leaves out keeps its default.
    #[arg(long, global = true, value_name = "FILE", env = "FANFARE_CONFIG")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node (the default).
    #[command(after_help = "\
Examples:
  fanfare serve
  fanfare serve --config /etc/fanfare/fanfare.toml
  FANFARE__HTTP__LISTEN=0.0.0.0:8080 fanfare serve

Without configured backends and secrets it is a trial set-up: everything embedded, secrets
generated and kept in ./data. SIGTERM and Ctrl-C drain and stop.")]
    Serve,
    /// Make or change the inbox's tables.
    #[command(after_help = "\
Examples:
  fanfare migrate --config fanfare.toml
  FANFARE__INBOX__URL=postgres://fanfare@db/fanfare fanfare migrate

Safe to repeat, and beside running nodes.")]
    Migrate,
    /// Check the configuration; show it as it is in force, or everything that is wrong with it.
    #[command(after_help = "\
Examples:
  fanfare check --config fanfare.toml
  fanfare check --json | jq '.settings[] | select(.origin)'     what somebody has set, and where

Exit code 0: valid, with a summary and every setting: its value, and the file or variable that it
comes from. Exit code 1: one line for each problem, with the key, where it was set, its limit and
its value. Of a secret nothing is shown but that it is set.")]
    Check {
        /// Print one JSON object instead.
        #[arg(long)]
        json: bool,
    },
    /// Print what makes a shell complete commands and options.
    #[command(after_help = "\
Examples:
  fanfare completions bash > /etc/bash_completion.d/fanfare
  fanfare completions zsh > ~/.zfunc/_fanfare              with ~/.zfunc in fpath
  fanfare completions fish > ~/.config/fish/completions/fanfare.fish")]
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Make a user's token, or a key for a publisher or an administrator.
    #[command(after_help = "\
Examples:
  fanfare token user --user alice --topics 'news,offers.*' --ttl 1h
  fanfare token publisher --id shop
  fanfare token admin --id ops")]
    Token {
        #[command(subcommand)]
        what: TokenCommand,
    },
    /// Work on the inbox by hand.
    Inbox {
        #[command(subcommand)]
        what: InboxCommand,
    },
    /// Publish a notification over HTTP.
    Publish(Box<PublishArguments>),
    /// Connect as a user's device; print notifications and acknowledge them.
    Listen(ListenArguments),
    /// List, show, requeue or delete dead letters: AMQP messages that were refused for good.
    DeadLetters(DeadLettersArguments),
    /// Revoke tokens, list what is revoked, or lift it.
    Revocations(RevocationsArguments),
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Print a signed token (JWT) for a user.
    #[command(after_help = "\
Examples:
  fanfare token user --user alice
  fanfare token user --user alice --topics 'news,offers.*' --ttl 15m --config fanfare.toml
  fanfare token user --user alice --algorithm ES256 --key-id 2026-11 --private-key key.pem

It is signed with --private-key, else with a configured HMAC secret, else (nothing configured)
with the secret of the trial set-up in data_dir.")]
    User(UserTokenArguments),
    /// Print a new API key for a publisher, once, and what to add to the configuration.
    #[command(after_help = "\
Examples:
  fanfare token publisher --id shop
  fanfare token publisher --id shop --json | jq -r .hash")]
    Publisher {
        /// The publisher's id.
        #[arg(long)]
        id: PublisherId,
        /// Print {\"id\",\"key\",\"hash\"} instead.
        #[arg(long)]
        json: bool,
    },
    /// Print a new bearer token for /admin, once, and what to add to the configuration.
    #[command(after_help = "\
Examples:
  fanfare token admin --id ops")]
    Admin {
        /// Whose it is; appears in the log of what was done.
        #[arg(long, default_value = "admin")]
        id: PublisherId,
        /// Print {\"id\",\"key\",\"hash\"} instead.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct UserTokenArguments {
    /// The user: the token's `sub`.
    #[arg(long)]
    pub(super) user: UserId,
    /// Topics that may be followed: names, or patterns (* one level, # the rest).
    #[arg(long, value_delimiter = ',', value_name = "PATTERN,…")]
    pub(super) topics: Vec<TopicPattern>,
    /// How long it is valid: 90s, 15m, 1h, 7d.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(super) ttl: Duration,
    /// Sign with this private key (PEM) instead.
    #[arg(long, value_name = "FILE", requires = "algorithm")]
    pub(super) private_key: Option<PathBuf>,
    /// The private key's algorithm: RS256, PS256, ES256 or EdDSA.
    #[arg(long, requires = "private_key")]
    pub(super) algorithm: Option<Algorithm>,
    /// Which configured key signs; with --private-key: the token's `kid`.
    #[arg(long, value_name = "ID")]
    pub(super) key_id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fanfare publish --user alice --title 'Your order has shipped' --type order.shipped
  fanfare publish --topic news --title Breaking --body 'It works' --priority high --ttl 1h
  fanfare publish --user alice --data '{\"order\":42}' --idempotency-key order-42
  fanfare publish --everyone --title 'Good morning' --deliver-at 2026-12-01T09:00:00Z
  echo '{\"to\":{\"everyone\":true},\"title\":\"Hi\"}' | fanfare publish -

Beside a trial set-up's ./data, --url and --key are taken from there. The answer is printed;
exit code 1 if it is a refusal, with its code and what to change.")]
pub(super) struct PublishArguments {
    /// The node's or proxy's address.
    #[arg(long, env = "FANFARE_URL")]
    pub(super) url: Option<String>,
    /// API key, or token of scope `publish`; better by the environment than by the command line.
    #[arg(long, env = "FANFARE_KEY", hide_env_values = true, value_parser = secret)]
    pub(super) key: Option<Secret>,
    /// `-`: read the whole request as JSON from standard input.
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = [
        "user", "device", "topic", "everyone", "title", "body", "kind", "data", "priority", "ttl",
        "collapse_key", "deliver_at",
    ])]
    pub(super) input: Option<String>,
    /// For all devices of this user; can be repeated.
    #[arg(long)]
    pub(super) user: Vec<UserId>,
    /// For one device only, USER/DEVICE; can be repeated.
    #[arg(long, value_name = "USER/DEVICE", value_parser = user_device)]
    pub(super) device: Vec<(UserId, DeviceId)>,
    /// For all who follow this topic.
    #[arg(long)]
    pub(super) topic: Option<TopicName>,
    /// For everyone.
    #[arg(long)]
    pub(super) everyone: bool,
    /// Shown first.
    #[arg(long)]
    pub(super) title: Option<String>,
    /// Shown below.
    #[arg(long)]
    pub(super) body: Option<String>,
    /// A word for the application, such as order.shipped.
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) kind: Option<String>,
    /// Any JSON for the application.
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) data: Option<serde_json::Value>,
    /// Which lane it takes.
    #[arg(long)]
    pub(super) priority: Option<PriorityArgument>,
    /// How long it is worth delivering: 0 (now or never), 90s, 15m, 1h, 7d.
    #[arg(long, value_parser = duration)]
    pub(super) ttl: Option<Duration>,
    /// Replaces an earlier one of the same key for devices that have not acknowledged that; by the server.
    #[arg(long)]
    pub(super) collapse_key: Option<String>,
    /// Publish it then instead of now: 2026-12-01T09:00:00Z, or any other time of RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub(super) deliver_at: Option<String>,
    /// Makes a repetition harmless: the same key and request give the first answer again.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PriorityArgument {
    High,
    Normal,
    Low,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fanfare listen --user alice                      beside a trial set-up's ./data
  fanfare listen --url https://push.example --token \"$TOKEN\" --device web-1 --topic news
  fanfare listen --user alice --json --count 1     one notification as JSON, then exit

Each notification is acknowledged after it was printed (--ack manual). When the connection
breaks it comes back by itself and goes on where it was; doubles are not printed. Exit code 1
if the server says not to come back (close codes 4500-4999).")]
pub(super) struct ListenArguments {
    /// The node's or proxy's address (http, https, ws or wss).
    #[arg(long, env = "FANFARE_URL")]
    pub(super) url: Option<String>,
    /// The user's token (JWT); better by the environment than by the command line.
    #[arg(long, env = "FANFARE_TOKEN", hide_env_values = true, value_parser = secret)]
    pub(super) token: Option<Secret>,
    /// Sign a token for this user, as `fanfare token user` would.
    #[arg(long, conflicts_with = "token")]
    pub(super) user: Option<UserId>,
    /// The device: what was missed while it was away comes first. Default: cli-HOSTNAME.
    #[arg(long)]
    pub(super) device: Option<DeviceId>,
    /// Follow this topic too; can be repeated.
    #[arg(long)]
    pub(super) topic: Vec<TopicName>,
    /// Who acknowledges: this program after printing, or the server when a pong arrives.
    #[arg(long, default_value = "manual")]
    pub(super) ack: AckArgument,
    /// Print each notification's frame as one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Exit after this many notifications.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AckArgument {
    Manual,
    Auto,
}

fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text))
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

fn user_device(text: &str) -> Result<(UserId, DeviceId), String> {
    let (user, device) = text.split_once('/').ok_or_else(|| "must be USER/DEVICE".to_owned())?;
    let user = UserId::new(user).map_err(|error| error.to_string())?;
    let device = DeviceId::new(device).map_err(|error| error.to_string())?;
    Ok((user, device))
}

/// Seconds, or a number with `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    match digits.parse::<u32>() {
        Ok(number) if seconds > 0 => Ok(Duration::from_secs(u64::from(number) * seconds)),
        _ => Err("must be a number with s, m, h or d, such as 90s or 7d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "h", "-1s", "1w", "1.5h", "1 h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
