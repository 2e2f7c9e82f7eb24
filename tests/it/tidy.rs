//! House rules that a machine can check, among them the layers of `src/`.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. A module names only modules of lower lines; modules of one line never
/// name each other. `main.rs` and `lib.rs` name whatever they like.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["metrics", "clock", "batch"],
    &["wire", "auth"],
    &["hub", "session", "broker", "presence", "inbox"],
    &["routing"],
    &["publish", "delivery"],
    &["gateway", "http", "jobs"],
    &["config", "telemetry"],
    &["node"],
    &["cli"],
];

/// Without clock, runtime and logs: tested without any of them.
const PURE: &[&str] = &["domain", "wire", "hub", "session"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`: its path from the root, and its text.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        for path in entries.map(|entry| entry.expect("a folder can be read").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((name(&path), fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has files");
    files.sort();
    files
}

fn name(path: &Path) -> String {
    let inner: PathBuf = path.strip_prefix(root()).expect("below the root").to_owned();
    inner.to_str().expect("plain names").to_owned()
}

/// The code of a file: without comments, and without the unit tests at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The top-level modules that code names: `crate::a`, and each of `crate::{a, b}`.
fn named_modules(text: &str) -> Vec<String> {
    let code: Vec<&str> = code(text).map(|(_, line)| line).collect();
    let code = code.join("\n");
    let word = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    let mut names = vec![];
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        for part in list.split_inclusive(['{', '}', ',']) {
            if depth == 0 && !part.trim().starts_with('}') {
                names.push(word(part.trim()));
            }
            match part.chars().last() {
                Some('{') => depth += 1,
                Some('}') if depth == 0 => break,
                Some('}') => depth -= 1,
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn modules_name_only_lower_layers() {
    let mut wrong = vec![];
    for (path, text) in rust_files("src") {
        let module = path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs");
        if matches!(module, "main" | "lib") {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} ({path}) has no layer in tidy.rs"));
        for named in named_modules(&text) {
            // A type or macro at the crate's root has no layer.
            let is_lower = layer(&named).is_none_or(|layer| layer < own);
            if named != module && !is_lower {
                wrong.push(format!("{path}: {module} names {named}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_layer_check_sees_every_way_to_name_a_module() {
    let text = "use crate::{domain::{Id, Seq}, wire};\nlet x = crate::hub::Hub;\n// crate::node\n";
    assert_eq!(named_modules(text), ["domain", "wire", "hub"]);
}

#[test]
fn pure_modules_neither_wait_nor_read_clocks_nor_log() {
    let forbidden = [".await", "async fn", "tokio::", "tracing::", "SystemTime", "Instant::now", "Clock"];
    each_line("src", |path, line| {
        let module = path.split('/').nth(1)?.trim_end_matches(".rs");
        let found = forbidden.iter().find(|word| line.contains(**word))?;
        PURE.contains(&module).then(|| format!("{module} is pure, but has {found}"))
    });
}

#[test]
fn files_say_what_they_own_and_stay_short() {
    let mut wrong = vec![];
    for (path, text) in [rust_files("src"), rust_files("tests")].concat() {
        let (lines, limit) = (text.lines().count(), if is_test(&path) { 600 } else { 400 });
        if lines > limit {
            wrong.push(format!("{path} has {lines} lines; at most {limit}: split it"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{path} does not open with //! and what it owns"));
        }
        if path
            .split(['/', '.'])
            .any(|part| ["utils", "util", "common", "helpers", "manager"].contains(&part))
        {
            wrong.push(format!("{path}: name what it holds; a drawer refuses nothing"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn code_keeps_the_house_rules() {
    each_line("src", |path, line| {
        let unwraps = !is_test(path) && line.contains(".unwrap()");
        unwraps.then(|| "unwrap: handle it, or expect what makes it impossible".to_owned())
    });
    each_line("src/inbox/sqlite", |path, line| {
        let bare = line
            .split("limit ?")
            .skip(1)
            .any(|rest| !rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).starts_with(" + 0"));
        let bare = bare && !line.trim_start().starts_with("//");
        bare.then(|| format!("{path}: a bare parameter compiles the statement anew each time: limit ?1 + 0"))
    });
    for folder in ["src", "tests"] {
        // In two parts each, or this file would break its own rules.
        let banned = [
            (concat!("#[all", "ow("), "write #[expect(lint, reason = \"…\")]"),
            (concat!("#[ign", "ore"), "no test is skipped"),
            (concat!("/wo", "rk/"), "a path of somebody's machine"),
            (concat!("/tmp/", "wt"), "a path of somebody's machine"),
        ];
        each_line(folder, |_, line| {
            let (word, why) = banned.iter().find(|(word, _)| line.contains(word))?;
            Some(format!("{word}: {why}"))
        });
        for (path, text) in rust_files(folder) {
            let bare = text.lines().find(|line| line.contains(concat!("TO", "DO")) && !line.contains('#'));
            assert_eq!(bare, None, "{path}: name the issue (#123), or do it");
        }
    }
}

#[test]
fn readme_names_the_command_that_runs_and_the_one_that_tests() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    for command in ["cargo run --release", "tests/run"] {
        let alone = format!("\n{command}\n");
        assert!(readme.contains(&alone), "{command} stands alone on a line, to be copied");
    }
}

/// Applies `check` to every line of code and fails with all that it finds.
fn each_line(folder: &str, check: impl Fn(&str, &str) -> Option<String>) {
    let mut wrong = vec![];
    for (path, text) in rust_files(folder) {
        for (number, line) in code(&text) {
            wrong.extend(check(&path, line).map(|what| format!("{path}:{number}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
