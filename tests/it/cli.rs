//! The program as people run it: against small servers that play the node.

mod dead_letters;
mod listen;
mod publish;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fanfare::auth::{Algorithm, KeyHash, KeySettings, Secret, TokenSettings, UserTokens};
use fanfare::clock::Clock;
use fanfare::config::Trial;
use serde_json::Value;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// `fanfare` in `folder` with an empty environment; `timeout` of coreutils ends it for sure.
fn fanfare(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg(DEADLINE.as_secs().to_string())
        .arg(env!("CARGO_BIN_EXE_fanfare"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

#[track_caller]
fn run(folder: &Path, arguments: &[&str]) -> Ran {
    let output = fanfare(folder, arguments).output();
    output.expect("the program runs").into()
}

async fn ended(child: Child) -> Ran {
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = waiting.await.expect("not cancelled");
    output.expect("the program ran").into()
}

/// Runs while servers of this runtime answer.
async fn run_beside(folder: &Path, arguments: &[&str]) -> Ran {
    ended(fanfare(folder, arguments).spawn().expect("it starts")).await
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn claims(token: &str, secret: &str) -> fanfare::auth::UserClaims {
    let key = KeySettings { id: None, algorithm: Algorithm::HS256, key: Secret::new(secret) };
    let tokens = UserTokens::new(TokenSettings {
        keys: vec![key],
        issuer: None,
        audience: vec![],
        leeway: Duration::ZERO,
    });
    let tokens = tokens.expect("a usable key");
    tokens.verify(token.trim(), Clock::system().now()).expect("a valid token")
}

#[test]
fn every_command_has_help_with_examples() {
    let folder = folder();
    for command in [
        vec![],
        vec!["serve"],
        vec!["migrate"],
        vec!["check"],
        vec!["completions"],
        vec!["token"],
        vec!["token", "user"],
        vec!["token", "publisher"],
        vec!["token", "admin"],
        vec!["publish"],
        vec!["listen"],
        vec!["dead-letters"],
        vec!["dead-letters", "list"],
        vec!["dead-letters", "show"],
        vec!["dead-letters", "requeue"],
        vec!["dead-letters", "delete"],
        vec!["revocations"],
        vec!["revocations", "list"],
        vec!["revocations", "add"],
        vec!["revocations", "lift"],
    ] {
        let ran = run(folder.path(), &[command.clone(), vec!["--help"]].concat());
        assert_eq!(ran.code, Some(0), "{command:?}: {}", ran.err);
        assert!(ran.out.contains("Examples:"), "{command:?}: {}", ran.out);
    }
}

#[test]
fn bash_takes_the_completions_and_completes_commands_and_options() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let made = run(folder.path(), &["completions", shell]);
        assert_eq!(made.code, Some(0), "{}", made.err);
        assert!(made.out.contains("dead-letters"), "{shell}: {}", made.out);
        std::fs::write(folder.path().join(shell), made.out).expect("written");
    }
    let complete = |words: &str| {
        let script = format!(
            "source ./bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _fanfare fanfare \"${{COMP_WORDS[COMP_CWORD]}}\" x; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output();
        String::from_utf8(output.expect("bash runs").stdout).expect("UTF-8")
    };
    assert_eq!(complete("fanfare dead"), "dead-letters\n");
    assert!(complete("fanfare check --").lines().any(|word| word == "--json"));
}

#[test]
fn check_lists_every_problem_or_says_what_is_configured() {
    let folder = folder();
    let good = run(folder.path(), &["check"]);
    assert_eq!(good.code, Some(0), "{}", good.err);
    assert!(good.out.starts_with("the configuration is valid\n  set-up    trial"), "{}", good.out);
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);

    std::fs::write(
        folder.path().join("bad.toml"),
        "colour = 1\n[http]\nlisten = 7\n[presence]\nurl = \"hunter2\"\n",
    )
    .expect("written");
    for command in ["check", "serve", "migrate"] {
        let bad = run(folder.path(), &[command, "--config", "bad.toml"]);
        assert_eq!((bad.code, bad.out.as_str()), (Some(1), ""));
        let lines: Vec<&str> = bad.err.lines().collect();
        let expected = [
            "fanfare: configuration: colour (in bad.toml): there is no such key; \
             config/default.toml lists all",
            "fanfare: configuration: http.listen (in bad.toml): must be ADDRESS:PORT, such as \
             127.0.0.1:8080; got 7",
            "fanfare: configuration: presence.url (in bad.toml): must be redis[s]://host:port/db, \
             redis[s]+sentinel://… or empty",
        ];
        assert_eq!(lines, expected);
    }
}

#[test]
fn check_shows_every_setting_and_where_it_comes_from_but_no_secret() {
    let folder = folder();
    std::fs::write(folder.path().join("secret"), "hunter2-is-in-a-file-of-its-own-of-32-bytes")
        .expect("written");
    std::fs::write(
        folder.path().join("f.toml"),
        "[http]\naccept_rate = 500\nallowed_origins = [\"https://shop.example\"]\n[presence]\nurl = \"redis://:hunter2@cache/0\"\n",
    )
    .expect("written");
    let check = |more: &[&str]| -> Ran {
        let mut command = fanfare(folder.path(), &[&["check", "--config", "f.toml"], more].concat());
        command.env("FANFARE__GATEWAY__HEARTBEAT_MS", "20000");
        command.env("FANFARE__AUTH__USERS__SECRET_FILE", "secret");
        command.output().expect("the program runs").into()
    };
    let shown = check(&[]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let row = |key: &str| {
        let row = shown.out.lines().find(|line| line.trim_start().starts_with(&format!("{key} ")));
        row.unwrap_or_else(|| panic!("{key} in {}", shown.out)).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("http.accept_rate"), ["http.accept_rate", "500", "f.toml"]);
    assert_eq!(row("http.allowed_origins")[1..], ["[\"https://shop.example\"]", "f.toml"]);
    assert_eq!(row("gateway.heartbeat_ms")[1..], ["20000", "FANFARE__GATEWAY__HEARTBEAT_MS"]);
    assert_eq!(row("auth.users.secret")[1..], ["(hidden)", "FANFARE__AUTH__USERS__SECRET_FILE"]);
    assert_eq!(row("presence.url")[1..], ["(hidden)", "f.toml"]);
    assert_eq!(row("retention.days"), ["retention.days", "30"]);

    let told = check(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&told.out).expect("JSON");
    let settings = told["settings"].as_array().expect("a list");
    let rows = shown.out.lines().skip_while(|line| !line.starts_with("settings")).skip(1);
    assert_eq!(settings.len(), rows.count());
    let of = |key: &str| settings.iter().find(|one| one["key"] == key).expect("each is there");
    assert_eq!(of("presence.url")["value"], "(hidden)");
    assert_eq!(of("retention.days")["origin"], serde_json::Value::Null);
    assert!(!format!("{}{told}", shown.out).contains("hunter2"));
}

#[test]
fn check_looks_at_the_form_of_a_key_sets_url_and_asks_nobody() {
    let folder = folder();
    let check = |url: &str| {
        let config = format!("[auth.users]\njwks_url = {url:?}\n");
        std::fs::write(folder.path().join("f.toml"), config).expect("written");
        run(folder.path(), &["check", "--config", "f.toml"])
    };
    let good = check("https://id.invalid/jwks.json");
    assert_eq!(good.code, Some(0), "{}", good.err);
    assert!(good.out.contains("0 token keys and those of jwks_url"), "{}", good.out);
    let bad = check("http://id.invalid/jwks.json?key=hunter2");
    assert_eq!(bad.code, Some(1), "{}", bad.out);
    assert!(bad.err.contains("auth.users.jwks_url (in f.toml): must be https://"), "{}", bad.err);
    assert!(!bad.err.contains("hunter2"), "{}", bad.err);
}

#[test]
fn a_users_token_is_signed_with_the_trials_secret_or_the_configured_one() {
    let folder = folder();
    let arguments = ["token", "user", "--user", "alice", "--topics", "news,offers.*", "--ttl", "2h"];
    let ran = run(folder.path(), &arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let trial = Trial::load(&folder.path().join("data")).expect("readable").expect("made");
    let claims_of_trial = claims(&ran.out, trial.user_secret.expose());
    assert_eq!(claims_of_trial.user.as_str(), "alice");
    assert_eq!(claims_of_trial.topics.len(), 2);
    let lifetime = claims_of_trial.expires_at.since(claims_of_trial.issued_at.expect("iat"));
    assert_eq!(lifetime, Duration::from_secs(7200));

    let config = format!("[auth.users]\nsecret = \"{SECRET}\"\n");
    std::fs::write(folder.path().join("f.toml"), config).expect("written");
    let ran = run(folder.path(), &["token", "user", "--user", "bob", "--config", "f.toml"]);
    assert_eq!(claims(&ran.out, SECRET).user.as_str(), "bob");
    let ran = run(folder.path(), &["token", "user", "--user", "bob", "--config", "f.toml", "--key-id", "x"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.err,
        "fanfare: no HMAC secret with the id \"x\" is configured; give --private-key and \
         --algorithm\n"
    );
}

#[test]
fn a_users_token_can_be_signed_with_a_private_key() {
    let folder = folder();
    std::fs::write(folder.path().join("key.pem"), include_str!("keys/p256.private.pem")).expect("written");
    let ran = run(
        folder.path(),
        &[
            "token",
            "user",
            "--user",
            "alice",
            "--private-key",
            "key.pem",
            "--algorithm",
            "ES256",
            "--key-id",
            "k1",
        ],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let key = KeySettings {
        id: Some("k1".to_owned()),
        algorithm: Algorithm::ES256,
        key: Secret::new(include_str!("keys/p256.public.pem")),
    };
    let tokens = UserTokens::new(TokenSettings {
        keys: vec![key],
        issuer: None,
        audience: vec![],
        leeway: Duration::ZERO,
    });
    let verified = tokens.expect("usable").verify(ran.out.trim(), Clock::system().now());
    assert_eq!(verified.expect("valid").user.as_str(), "alice");
}

#[test]
fn new_keys_are_printed_with_the_hash_for_the_configuration() {
    let folder = folder();
    let ran = run(folder.path(), &["token", "publisher", "--id", "shop", "--json"]);
    let made: Value = serde_json::from_str(&ran.out).expect("JSON");
    let hash: KeyHash = made["hash"].as_str().expect("a text").parse().expect("a hash");
    assert!(hash.matches(made["key"].as_str().expect("a text")));

    for (command, table) in [("publisher", "auth.publishers"), ("admin", "auth.admin")] {
        let ran = run(folder.path(), &["token", command, "--id", "shop"]);
        let entry = ran.out.find(&format!("[[{table}]]")).expect("an entry to add");
        let config = format!("{}\n[auth.users]\nsecret = \"{SECRET}\"\n", &ran.out[entry..]);
        std::fs::write(folder.path().join("f.toml"), config).expect("written");
        let checked = run(folder.path(), &["check", "--config", "f.toml"]);
        assert_eq!(checked.code, Some(0), "{}", checked.err);
    }
}

#[test]
fn a_restored_inbox_gets_a_new_epoch_and_one_that_is_not_there_says_what_to_do() {
    let folder = folder();
    let refused = run(folder.path(), &["inbox", "new-epoch"]);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    assert!(refused.err.contains("inbox.url"), "{}", refused.err);

    assert_eq!(run(folder.path(), &["migrate"]).code, Some(0));
    let done = run(folder.path(), &["inbox", "new-epoch", "--json"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let first: Value = serde_json::from_str(&done.out).expect("JSON");
    let first = first["epoch"].as_str().expect("an epoch").to_owned();
    let done = run(folder.path(), &["inbox", "new-epoch"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("the new epoch") && done.out.contains("stream_reset"), "{}", done.out);
    assert!(!done.out.contains(&first), "another one each time: {}", done.out);
    assert_eq!(run(folder.path(), &["inbox", "renew"]).code, Some(2));
}
