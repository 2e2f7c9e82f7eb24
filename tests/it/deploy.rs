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

/// What the unit says under a name, in order.
fn of_unit(name: &str) -> Vec<&'static str> {
    let unit = include_str!("../../deploy/fanfare.service");
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn the_unit_gives_its_secrets_as_files_alone_and_they_make_a_valid_configuration() {
    let folder = TempDir::new().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/secrets");
    assert!(Command::new(script).arg(folder.path()).status().expect("the script runs").success());
    let path = folder.path().to_str().expect("plain names");
    let loaded: Vec<&str> =
        of_unit("LoadCredential").iter().filter_map(|one| one.split(':').next()).collect();

    let config = folder.path().join("unit.toml");
    let made = fs::read_to_string(folder.path().join("fanfare.toml")).expect("the script made it");
    // The unit brings this one by itself.
    let at = made.find("[[auth.publishers]]").expect("publishers");
    fs::write(&config, &made[at..]).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["check", "--config"]).arg(&config).env_clear().current_dir(folder.path());
    for variable in of_unit("Environment") {
        let (name, value) = variable.split_once('=').expect("a value");
        let file = value.strip_prefix("%d/").unwrap_or_else(|| panic!("{name} is a credential"));
        assert!(name.ends_with("_FILE") && loaded.contains(&file), "{name}: {value}");
        command.env(name, format!("{path}/{file}"));
    }
    let output = command.output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn the_unit_is_hardened_and_lets_a_node_drain_and_have_all_its_connections() {
    for (name, value) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("DynamicUser", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
        ("RestrictNamespaces", "yes"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(of_unit(name), [value], "{name}");
    }
    let default = |key: &str| {
        let line = include_str!("../../config/default.toml").lines().find_map(|line| line.strip_prefix(key));
        let value = line.and_then(|line| line.strip_prefix(" = ")).expect("a default");
        value.parse::<u64>().expect("a number")
    };
    let of = |name: &str| of_unit(name)[0].parse::<u64>().expect("a number");
    assert!(of("TimeoutStopSec") * 1_000 > default("deadline_ms"));
    assert!(of("LimitNOFILE") > default("max_connections"));
}

/// A pod's environment: names, and values but those that Kubernetes fills in.
fn of_pod(manifest: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let (name, value) = (pair[0].strip_prefix("- name: FANFARE__")?, pair[1]);
        let value = value.strip_prefix("value: ").or_else(|| {
            assert_eq!(value, "valueFrom: {fieldRef: {fieldPath: metadata.name}}", "{name}");
            Some("fanfare-0")
        })?;
        Some((name, value))
    });
    pairs.collect()
}

#[test]
fn the_pods_of_kubernetes_have_a_valid_configuration_and_the_time_to_drain() {
    let folder = TempDir::new().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/secrets");
    assert!(Command::new(script).arg(folder.path()).status().expect("the script runs").success());
    let path = folder.path().to_str().expect("plain names");
    let nodes = include_str!("../../deploy/kubernetes/nodes.yaml");
    let migrate = include_str!("../../deploy/kubernetes/migrate.yaml");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/fanfare.toml");
    for manifest in [nodes, migrate] {
        let environment = of_pod(manifest);
        assert!(environment.len() >= 4, "{environment:?}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.args(["check", "--config"]).arg(&config).env_clear().current_dir(folder.path());
        for (name, value) in environment {
            command.env(format!("FANFARE__{name}"), value.replace("/secrets", path));
        }
        let output = command.output().expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
    let default = |key: &str| {
        let line = include_str!("../../config/default.toml").lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.strip_prefix(" = ")).and_then(|value| value.parse::<u64>().ok())
    };
    let given = nodes.lines().find_map(|line| line.trim().strip_prefix("terminationGracePeriodSeconds: "));
    let given = given.and_then(|seconds| seconds.parse::<u64>().ok()).expect("a time");
    assert!(given * 1_000 > default("deadline_ms").expect("a default"));
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
