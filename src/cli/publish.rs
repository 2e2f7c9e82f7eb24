//! `fanfare publish`: a client of `POST /v1/notifications`.

use std::io::Read;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::args::{PriorityArgument, PublishArguments};
use super::failure::Failure;
use super::place::Place;
use super::{output, problem};
use crate::auth::Secret;
use crate::config::Sources;

/// From the first byte sent to the last received.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn publish(arguments: &PublishArguments, sources: &Sources) -> Result<(), Failure> {
    let body = match arguments.input {
        Some(_) => standard_input()?,
        None => request(arguments)?.to_string(),
    };
    let (url, key) = match (&arguments.url, &arguments.key) {
        (Some(url), Some(key)) => (url.trim_end_matches('/').to_owned(), key.clone()),
        (url, key) => {
            let place = Place::find(sources)?;
            (place.url(url.as_deref()), place.publisher_key(key.as_ref())?)
        }
    };
    let answer = super::block_on(post(&url, &key, arguments.idempotency_key.as_deref(), body))?;
    output::line(&output::harmless(answer.trim()))
}

/// The answer's text if it is a success.
async fn post(
    url: &str,
    key: &Secret,
    idempotency_key: Option<&str>,
    body: String,
) -> Result<String, Failure> {
    let client = reqwest::Client::builder().timeout(DEADLINE).build();
    let client = client.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let mut request = client
        .post(format!("{url}/v1/notifications"))
        .header(AUTHORIZATION, format!("Bearer {}", key.expose()))
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    if let Some(key) = idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send().await;
    let answer = answer.map_err(|error| unreachable(url, "--url", &error))?;
    let status = answer.status();
    let text = answer.text().await;
    let text = text.map_err(|error| unreachable(url, "--url", &error))?;
    if status.is_success() { Ok(text) } else { Err(Failure::new(problem::refusal(status.as_u16(), &text))) }
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
    // The server says what is wrong with the request; here only that it is JSON at all.
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(format!("standard input is not JSON: {error}"))),
    }
}

fn request(arguments: &PublishArguments) -> Result<Value, Failure> {
    let mut request = Map::new();
    request.insert("to".to_owned(), target(arguments)?);
    let priority = arguments.priority.map(|priority| match priority {
        PriorityArgument::High => "high",
        PriorityArgument::Normal => "normal",
        PriorityArgument::Low => "low",
    });
    for (name, value) in [
        ("type", arguments.kind.clone().map(Value::from)),
        ("title", arguments.title.clone().map(Value::from)),
        ("body", arguments.body.clone().map(Value::from)),
        ("data", arguments.data.clone()),
        ("priority", priority.map(Value::from)),
        ("ttl", arguments.ttl.map(|ttl| ttl.as_secs().into())),
        ("collapse_key", arguments.collapse_key.clone().map(Value::from)),
        // Whether it is a time is for the server to say.
        ("deliver_at", arguments.deliver_at.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            request.insert(name.to_owned(), value);
        }
    }
    Ok(Value::Object(request))
}

/// Exactly one kind of target.
fn target(arguments: &PublishArguments) -> Result<Value, Failure> {
    let device = |(user, device): &(_, _)| json!({"user": user, "device": device});
    let devices: Vec<Value> = arguments.device.iter().map(device).collect();
    let users = &arguments.user;
    let kinds = [
        (!users.is_empty()).then(|| json!({"users": users})),
        (!devices.is_empty()).then(|| json!({"devices": devices})),
        arguments.topic.as_ref().map(|topic| json!({"topic": topic})),
        arguments.everyone.then(|| json!({"everyone": true})),
    ];
    let mut given = kinds.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(target), None) => Ok(target),
        _ => Err(Failure::new(
            "say whom it is for, in one way: --user, --device, --topic or --everyone (or - for JSON)",
        )),
    }
}

/// What to say when the node did not answer at `url`, which `option` gives.
pub(super) fn unreachable(url: &str, option: &str, error: &reqwest::Error) -> Failure {
    let why = if error.is_timeout() {
        format!("no answer within {} s", DEADLINE.as_secs())
    } else {
        // The innermost cause says what happened; the outer ones repeat the URL.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    };
    Failure::new(format!("{url} cannot be reached: {why}; is {option} right, and the node running?"))
}
