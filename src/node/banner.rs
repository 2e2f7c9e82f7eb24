//! What a newcomer reads on standard output: where it is, and a line that works when pasted.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::Node;
use crate::auth::{Grant, SigningKey};
use crate::config::Trial;

/// How long the printed user token lasts.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Whose it is.
const USER: &str = "alice";

pub(super) fn print(node: &Node) -> Result<()> {
    let url = node.config.http.public_url.clone().unwrap_or_else(|| format!("http://{}", shown(node.http)));
    let mut text = String::new();
    let bold = Bold::new();
    writeln!(text, "{} {} is ready", bold.of("Fanfare"), env!("CARGO_PKG_VERSION"))?;
    writeln!(text)?;
    line(&mut text, "node", node.config.node.id.as_str())?;
    line(&mut text, "address", &url)?;
    if node.config.http.demo {
        line(&mut text, "demo page", &format!("{url}/"))?;
    }
    line(&mut text, "admin", &format!("http://{}", shown(node.admin)))?;
    if let Some(trial) = &node.trial {
        newcomer(&mut text, node, trial, &url, &bold)?;
    }
    // A closed standard output (a pipe that went away) is no reason not to serve.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

fn newcomer(text: &mut String, node: &Node, trial: &Trial, url: &str, bold: &Bold) -> Result<()> {
    let grant = Grant { sub: USER.to_owned(), topics: vec!["#".to_owned()], ..Grant::default() };
    let token = SigningKey::new(&trial.user_key())?.sign(&grant, TOKEN_TTL, node.clock.now())?;
    let key = trial.publisher_key.expose();
    line(text, "publisher key", key)?;
    line(text, "admin token", trial.admin_token.expose())?;
    line(text, "user token", &format!("{token}  ({USER}, 24 hours)"))?;
    writeln!(text)?;
    writeln!(text, "{}", bold.of("This is a trial set-up"))?;
    writeln!(
        text,
        "Everything runs embedded on this machine; the secrets above were made for it and are kept in {}.",
        node.config.data_dir.join("trial.json").display()
    )?;
    writeln!(text, "Configure your own before others can reach it: see config/default.toml.")?;
    writeln!(text)?;
    writeln!(text, "{}", bold.of("Publish one (and see it on the demo page as alice):"))?;
    writeln!(text)?;
    writeln!(text, "curl -sS {url}/v1/notifications \\")?;
    writeln!(text, "  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\")?;
    writeln!(
        text,
        "  -d '{{\"to\":{{\"users\":[\"{USER}\"]}},\"title\":\"Hello\",\"body\":\"Your first notification\"}}'"
    )?;
    writeln!(text)?;
    Ok(())
}

fn line(text: &mut String, name: &str, value: &str) -> std::fmt::Result {
    writeln!(text, "  {name:<14} {value}")
}

/// An address that can be pasted: listening on all of them means also this machine's.
fn shown(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}

/// Bold on a terminal, plain elsewhere.
struct Bold(bool);

impl Bold {
    fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(std::io::stdout().is_terminal() && !plain)
    }

    fn of(&self, text: &str) -> String {
        if self.0 { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}
