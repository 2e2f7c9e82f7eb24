//! `fanfare token`: users' tokens, publishers' keys, administrators' tokens.
//!
//! Owns what is printed, once; nothing made here is kept, but the trial's own secrets.

use serde_json::json;

use super::args::{TokenCommand, UserTokenArguments};
use super::failure::Failure;
use super::output;
use super::place::{Place, sign};
use crate::auth::{KeyHash, KeySettings, Secret, new_admin_token, new_publisher_key};
use crate::config::Sources;

pub(super) fn token(what: &TokenCommand, sources: &Sources) -> Result<(), Failure> {
    match what {
        TokenCommand::User(arguments) => user(arguments, sources),
        TokenCommand::Publisher { id, json } => {
            let made = Made {
                id: id.as_str(),
                key: new_publisher_key(id),
                table: "auth.publishers",
            };
            made.show(*json, |hash| format!("key_hashes = [\"{hash}\"]"))
        }
        TokenCommand::Admin { id, json } => {
            let made = Made {
                id: id.as_str(),
                key: new_admin_token(),
                table: "auth.admin",
            };
            made.show(*json, |hash| format!("token_hash = \"{hash}\""))
        }
    }
}

fn user(arguments: &UserTokenArguments, sources: &Sources) -> Result<(), Failure> {
    let place = Place::find(sources)?;
    let topics = arguments.topics.iter().map(ToString::to_string).collect();
    let grant = place.grant(&arguments.user, topics);
    let key = match (&arguments.private_key, arguments.algorithm) {
        (Some(path), Some(algorithm)) => {
            let pem = std::fs::read_to_string(path).map_err(|error| {
                let path = path.display();
                Failure::new(format!("--private-key {path} cannot be read: {error}"))
            })?;
            KeySettings {
                id: arguments.key_id.clone(),
                algorithm,
                key: Secret::new(pem),
            }
        }
        _ => place.signing_key(arguments.key_id.as_deref())?,
    };
    output::line(&sign(&key, &grant, arguments.ttl)?)
}

/// A new key, to be shown once.
struct Made<'a> {
    id: &'a str,
    key: Secret,
    table: &'a str,
}

impl Made<'_> {
    fn show(&self, as_json: bool, entry: impl Fn(KeyHash) -> String) -> Result<(), Failure> {
        let (id, key) = (self.id, self.key.expose());
        let hash = KeyHash::of(key);
        if as_json {
            let object = json!({"id": id, "key": key, "hash": hash.to_string()});
            return output::line(&object.to_string());
        }
        let (table, entry) = (self.table, entry(hash));
        output::line(&format!(
            "{key}\n\nShown once: keep it safe. Fanfare needs only its hash, in the configuration:\n\n\
             [[{table}]]\nid = \"{id}\"\n{entry}"
        ))
    }
}
