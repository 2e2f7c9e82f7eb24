//! A client of a node's admin listener, for the commands that operators give.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;

use super::failure::Failure;
use super::place::Place;
use super::problem;
use crate::auth::Secret;
use crate::config::Sources;

/// From the first byte sent to the last received.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whom to ask, and how to answer.
#[derive(Debug, Args)]
pub(super) struct DeskArguments {
    /// The address of a node's admin listener; any node will do.
    #[arg(long, env = "FANFARE_ADMIN_URL", global = true)]
    admin_url: Option<String>,
    /// Admin token; better by the environment than by the command line.
    #[arg(long, env = "FANFARE_ADMIN_TOKEN", hide_env_values = true, value_parser = secret, global = true)]
    token: Option<Secret>,
    /// Print JSON, one value a line.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text))
}

/// Where an operator asks.
pub(super) struct Desk {
    client: reqwest::Client,
    url: String,
    token: Secret,
}

impl Desk {
    /// As given, else as the trial set-up beside says.
    pub(super) fn open(arguments: &DeskArguments, sources: &Sources) -> Result<Self, Failure> {
        let (url, token) = match (&arguments.admin_url, &arguments.token) {
            (Some(url), Some(token)) => (url.trim_end_matches('/').to_owned(), token.clone()),
            (url, token) => {
                let place = Place::find(sources)?;
                (place.admin_url(url.as_deref()), place.admin_token(token.as_ref())?)
            }
        };
        // reqwest takes the TLS provider of the process; that it is installed already is no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(DEADLINE).build();
        let client = client.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        Ok(Self { client, url, token })
    }

    /// The answer's JSON if it is a success; null where it has none.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Value, Failure> {
        self.send(self.client.request(method, format!("{}{path}", self.url))).await
    }

    /// The same, with a body.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.client.post(format!("{}{path}", self.url));
        self.send(request.header(CONTENT_TYPE, "application/json").body(body.to_string())).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        let unreachable =
            |error: reqwest::Error| super::publish::unreachable(&self.url, "--admin-url", &error);
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.map_err(unreachable)?;
        if !status.is_success() {
            return Err(Failure::new(problem::refusal(status.as_u16(), &text)));
        }
        match text.trim() {
            "" => Ok(Value::Null),
            text => serde_json::from_str(text)
                .map_err(|_| Failure::new(format!("{} does not answer as a node does", self.url))),
        }
    }
}
