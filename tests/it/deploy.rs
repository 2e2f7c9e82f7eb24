//! The deployed settings are settings that Fanfare takes.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::run;

/// The environment variables that `compose.yaml` gives its nodes.
fn variables() -> Vec<(String, String)> {
    let compose = include_str!("../../compose.yaml");
    let lines = compose.lines().filter_map(|line| line.trim().split_once(": "));
    lines
        .filter(|(name, _)| name.starts_with("FANFARE__"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_generated_secrets_and_the_compose_file_make_a_valid_configuration() {
    let folder = TempDir::new().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/secrets");
    let made = Command::new(script).arg(folder.path()).status();
    assert!(made.expect("the script runs").success());

    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["check", "--config"]).arg(folder.path().join("fanfare.toml"));
    command.env_clear().current_dir(folder.path());
    for (name, value) in variables() {
        let path = folder.path().to_str().expect("plain names");
        command.env(name, value.replace("/secrets", path));
    }
    let output = command.output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn a_missing_secret_is_named_by_check() {
    let folder = TempDir::new().expect("a temporary folder");
    let config = folder.path().join("fanfare.toml");
    fs::write(&config, "presence.url = \"redis://127.0.0.1:1\"\n").expect("written");
    let output = run(folder.path(), &["check", "--config", config.to_str().expect("plain names")]);
    assert_eq!(output.status.code(), Some(1));
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("auth"), "{text}");
}
