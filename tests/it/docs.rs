//! The reference in `docs/` beside the code: what one of them has, the other has too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use fanfare::metrics::Metrics;
use fanfare::metrics::delivery::{ByeLabels, ReadLabels};
use fanfare::metrics::http::{self, RequestLabels};
use fanfare::metrics::inbox::{CallLabels, FailureLabels, InboxFailure};
use fanfare::metrics::publish::{self, PublishLabels};
use fanfare::wire::CloseCode;
use fanfare::wire::server::ErrorCode;

pub fn text(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of each row of the tables below a heading, up to the next heading; all if there is none.
fn rows(text: &str, heading: Option<&str>) -> Vec<Vec<String>> {
    let mut inside = heading.is_none();
    let mut rows = vec![];
    for line in text.lines() {
        if let Some(heading) = heading
            && line.starts_with('#')
        {
            inside = line == heading;
        }
        if let Some(inner) = line.strip_prefix("| ").and_then(|rest| rest.trim_end().strip_suffix('|'))
            && inside
        {
            let inner = inner.replace("\\|", "\u{1}");
            rows.push(inner.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect());
        }
    }
    rows
}

/// What is between the first two backticks of a cell.
fn word(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split_once('`').map(|(word, _)| word)
}

/// Rows whose first cell is a word in backticks.
fn named(rows: Vec<Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let mut named = BTreeMap::new();
    for row in rows {
        if let Some(name) = word(&row[0]) {
            let twice = named.insert(name.to_owned(), row.clone());
            assert!(twice.is_none(), "{name} is listed twice");
        }
    }
    named
}

/// Every metric with a sample in it: those with labels are printed only once they have one.
fn scraped() -> String {
    let metrics = Metrics::new();
    let Metrics { broker, delivery, gateway, http, inbox, publish, .. } = &metrics;
    broker.drop_for("full", 1);
    broker.request_ended("answered");
    broker.settled("high", "done");
    broker.dead_letter("invalid_json");
    broker.dead_letter_settled("requeued");
    broker.event_ended("confirmed");
    let _ = delivery.reads.get_or_create(&ReadLabels { why: "session" });
    let _ = delivery.byes.get_or_create(&ByeLabels { reason: "draining" });
    gateway.handshake("accepted");
    gateway.close("server", "4000".to_owned());
    let _ = http.requests.get_or_create(&RequestLabels { route: "/", method: "GET", status: "2xx" });
    let _ = http.seconds.get_or_create(&http::RouteLabels { route: "/" });
    let _ = inbox.call_seconds.get_or_create(&CallLabels { call: "append" });
    let _ = inbox.failures.get_or_create(&FailureLabels { call: "append", kind: InboxFailure::Timeout });
    inbox.count_receipts("stored", 1);
    let _ = publish.requests.get_or_create(&PublishLabels { source: "http", outcome: "accepted" });
    let _ = publish.waits.get_or_create(&publish::WaitLabels { outcome: "settled" });
    let _ = publish.envelopes.get_or_create(&publish::RouteLabels { destination: "local" });
    metrics.encode()
}

/// Name (as scraped), type and labels of every metric, in the form of the reference.
pub fn registered() -> BTreeMap<String, (String, String)> {
    let text = scraped();
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let metric = |line: &str| {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let suffix = if kind == "counter" { "_total" } else { "" };
        let sample =
            if kind == "histogram" { format!("{name}_count{{") } else { format!("{name}{suffix}{{") };
        let set =
            text.lines().find_map(|line| line.strip_prefix(&sample)?.split_once('}')).map(|(set, _)| set);
        let labels = set.into_iter().flat_map(|set| set.split(',')).filter_map(|label| label.split_once('='));
        let labels: Vec<String> = labels.map(|(label, _)| format!("`{label}`")).collect();
        (format!("{name}{suffix}"), (kind.to_owned(), labels.join(", ")))
    };
    described.map(metric).collect()
}

#[test]
fn every_metric_is_in_the_reference_with_its_type_and_labels_and_no_other_is() {
    let documented = named(rows(&text("docs/metrics.md"), None)).into_iter().map(|(name, row)| {
        assert!(row.len() == 4 && !row[3].is_empty(), "{name}: type, labels and meaning");
        (name, (row[1].clone(), row[2].clone()))
    });
    assert_eq!(documented.collect::<BTreeMap<_, _>>(), registered());
}

#[test]
fn no_metric_with_labels_escapes_the_comparison() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics");
    let mut families = 0;
    for file in fs::read_dir(folder).expect("the metrics' folder") {
        let code = fs::read_to_string(file.expect("a file").path()).expect("UTF-8");
        let fields = code.lines().map(str::trim).filter(|line| line.starts_with("pub "));
        families += fields.filter(|field| field.contains(": Family<")).count();
    }
    let compared = registered().into_values().filter(|(_, labels)| !labels.is_empty()).count();
    assert_eq!(compared, families, "`scraped` gives each family a sample");
}

#[test]
fn the_close_codes_are_those_of_the_protocols_table() {
    let documented: Vec<_> = rows(&text("docs/protocol.md"), Some("## Close codes"))
        .into_iter()
        .filter(|row| row[0].parse::<u16>().is_ok())
        .collect();
    let codes = CloseCode::ALL.iter().map(|code| {
        let back = if code.is_reconnectable() { "yes" } else { "no" };
        let reason = format!("`{}`", code.reason());
        vec![code.code().to_string(), reason, code.meaning().to_owned(), back.to_owned()]
    });
    assert_eq!(documented, codes.collect::<Vec<_>>());
}

#[test]
fn the_error_codes_are_those_of_the_protocols_table() {
    let documented: Vec<_> = rows(&text("docs/protocol.md"), Some("## Error codes"))
        .into_iter()
        .filter_map(|row| Some((word(&row[0])?.to_owned(), row[1].clone())))
        .collect();
    let codes = ErrorCode::ALL.iter().map(|code| {
        let retry = if code.is_retryable() { "yes" } else { "no" };
        (code.as_str().to_owned(), retry.to_owned())
    });
    assert_eq!(documented, codes.collect::<Vec<_>>());
}

/// Keys with their defaults. The file has one key a line, so that people can read it too.
fn default_keys() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in text("config/default.toml").lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ") {
            keys.insert(format!("{section}{key}"), value.to_owned());
        }
    }
    keys
}

#[test]
fn every_setting_is_in_the_reference_with_its_default_and_no_other_is() {
    let documented = named(rows(&text("docs/configuration.md"), None));
    let documented: BTreeMap<_, _> = documented
        .into_iter()
        .map(|(key, row)| {
            assert!(row.len() == 4 && !row[2].is_empty() && !row[3].is_empty(), "{key}: bounds and use");
            (key, word(&row[1]).expect("a default in backticks").to_owned())
        })
        .collect();
    assert_eq!(documented, default_keys());
}

/// How many tests a page's tables name in the last of so many columns. Each is there, and each row has one.
fn tests_that_hold(page: &str, columns: usize) -> usize {
    let is_row = |row: &Vec<String>| row.len() == columns && !row[0].starts_with("---");
    let mut named = 0;
    for row in rows(&text(page), None).into_iter().filter(is_row) {
        let held_by = &row[columns - 1];
        if held_by == "held by" {
            continue;
        }
        let tests: Vec<&str> = held_by.split('`').filter(|part| part.contains("::")).collect();
        assert!(!tests.is_empty(), "nothing holds {:?}", row[0]);
        for test in tests {
            let (file, name) = test.split_once("::").expect("it has it");
            let code = text(file);
            // A test by its function; a fault run by its name.
            let there = code.contains(&format!("fn {name}(")) || code.contains(&format!("\"{name}\""));
            assert!(there || code.contains(&format!("fn {name}<")), "{test} is not there");
            named += 1;
        }
    }
    named
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let named = tests_that_hold("docs/guarantees.md", 2);
    assert!(named > 60, "the tables were read: {named} tests");
}

#[test]
fn every_threat_has_a_measure_and_names_tests_that_are_there() {
    let named = tests_that_hold("docs/security.md", 3);
    assert!(named > 50, "the tables were read: {named} tests");
}

#[test]
fn every_kind_of_event_is_documented_and_no_other() {
    let receipts = fanfare::inbox::State::ALL.map(|state| format!("receipt.{}", state.as_str()));
    let others = ["undelivered", "presence.online", "presence.offline"].map(String::from);
    let mut told: Vec<String> = receipts.into_iter().chain(others).collect();
    told.sort();
    let kinds = named(rows(&text("docs/amqp.md"), Some("### What is told")));
    let kinds: Vec<String> =
        kinds.into_iter().filter(|(_, row)| row.len() == 4).map(|(kind, _)| kind).collect();
    assert_eq!(kinds, told);
}

#[test]
fn what_the_readme_tells_to_run_is_there() {
    let readme = text("README.md");
    for command in ["tests/run", "cargo run --release", "docker compose up", "fanfare listen"] {
        assert!(readme.contains(command), "README.md says {command}");
    }
    assert!(text("tests/run").starts_with("#!"), "tests/run is a program");
    assert!(text("Cargo.toml").contains("name = \"fanfare\""), "cargo run runs fanfare");
    assert!(text("compose.yaml").contains("  node-2:"), "compose.yaml is a cluster");
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["listen", "--help"]).output();
    assert!(help.expect("the program runs").status.success(), "fanfare listen is a command");
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(String::from).to_vec();
    for folder in ["docs", "docs/adr"] {
        for entry in fs::read_dir(root.join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
            if name.ends_with(".md") {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    for page in pages {
        let own = text(&page);
        for link in own.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                root.join(&page)
            } else {
                root.join(&page).with_file_name("").join(file)
            };
            assert!(target.exists(), "{page}: {link} leads nowhere");
            if !heading.is_empty() {
                let there = fs::read_to_string(&target).expect("a page");
                assert!(headings(&there).contains(heading), "{page}: {link} names no heading");
            }
        }
    }
}

/// The anchors of a page's headings.
fn headings(page: &str) -> BTreeSet<String> {
    let titles =
        page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let plain = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    titles.map(|title| title.chars().filter_map(plain).collect()).collect()
}
