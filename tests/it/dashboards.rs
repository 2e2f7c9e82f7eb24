//! What operators are handed for Prometheus and Grafana, beside the metrics and the runbook: what one of them names, the
//! others have. Whether Prometheus understands it, `tests/prometheus/run` asks Prometheus.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::docs::{registered, text};

const RULES: &str = "deploy/prometheus/alerts.yaml";
const RULES_TESTS: &str = "tests/prometheus/alerts.test.yaml";
const RUNBOOK: &str = "docs/runbook.md";
const DASHBOARD: &str = "deploy/grafana/fanfare.json";

/// Labels that Prometheus gives to every sample, and that of a histogram's buckets.
const GIVEN: [&str; 3] = ["instance", "job", "le"];

/// The alerts' names, in order.
fn alerts() -> Vec<String> {
    let rules = text(RULES);
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("JSON")
}

fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// The words of a text that are names of metrics, each with what follows it.
fn metrics_in(text: &str) -> Vec<(&str, &str)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let begins = text.match_indices("fanfare_").map(|(at, _)| at);
    begins
        .map(|at| text[at..].split_at(text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at)))
        .collect()
}

/// As it is registered: a histogram is asked for by its buckets.
fn metric(word: &str) -> &str {
    word.strip_suffix("_bucket").unwrap_or(word)
}

/// The labels that a metric has beside [`GIVEN`]; panics for one that there is not.
fn labels_of(word: &str, place: &str) -> Vec<String> {
    let known = registered();
    let (_, labels) = known.get(metric(word)).unwrap_or_else(|| panic!("{place}: there is no metric {word}"));
    labels.split(", ").map(|label| label.trim_matches('`').to_owned()).collect()
}

/// The names on the left of `=`, `!=`, `=~` and `!~` in `{…}`, if that follows.
fn selected(after: &str) -> Vec<&str> {
    let inside =
        after.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
    inside.split(',').filter_map(|one| one.split_once(['=', '!'])).map(|(name, _)| name.trim()).collect()
}

/// The names in each `by (…)` and `on (…)`.
fn grouped(query: &str) -> Vec<&str> {
    let lists = [" by (", " on ("].into_iter().flat_map(|word| query.split(word).skip(1));
    let inside = lists.filter_map(|rest| rest.split_once(')')).flat_map(|(inside, _)| inside.split(','));
    inside.map(str::trim).collect()
}

fn has_its_metrics_and_labels(query: &str, place: &str) {
    let mut labels: BTreeSet<String> = GIVEN.map(str::to_owned).into();
    for (word, after) in metrics_in(query) {
        let own = labels_of(word, place);
        for name in selected(after) {
            assert!(
                own.iter().any(|label| label == name) || GIVEN.contains(&name),
                "{place}: {word} has no label {name}"
            );
        }
        labels.extend(own);
    }
    for name in grouped(query) {
        assert!(labels.contains(name), "{place}: nothing in it has the label {name}");
    }
}

#[test]
fn the_rules_ask_for_metrics_and_labels_that_there_are() {
    let rules = text(RULES);
    let alerts = rules.split("- alert: ").skip(1);
    for rule in alerts {
        let (name, rest) = rule.split_once('\n').expect("more lines");
        let query = rest.split_once("labels:").expect("a severity").0;
        assert!(!metrics_in(query).is_empty() || query.contains("up{"), "{name} asks for nothing");
        has_its_metrics_and_labels(query, name);
    }
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_there_are() {
    let queries = queries();
    assert!(queries.len() > 30, "{}", queries.len());
    queries.iter().for_each(|query| has_its_metrics_and_labels(query, query));
}

#[test]
fn the_runbook_names_metrics_that_there_are() {
    for (word, _) in metrics_in(&text(RUNBOOK)) {
        labels_of(word, RUNBOOK);
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook_a_unit_test_and_a_severity_and_no_section_is_without() {
    let (alerts, rules, tests) = (alerts(), text(RULES), text(RULES_TESTS));
    let runbook = text(RUNBOOK);
    let sections: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts.iter().map(String::as_str).collect::<BTreeSet<_>>(), sections);
    for alert in &alerts {
        let anchor = format!("runbook: {RUNBOOK}#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} leads to no section");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no unit test");
    }
    for line in ["severity: critical }", "severity: warning }"] {
        assert!(rules.contains(line), "{line}");
    }
    assert_eq!(rules.matches("labels: { severity: ").count(), alerts.len());
}

#[test]
fn the_panels_of_the_dashboard_have_titles_and_do_not_lie_on_each_other() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{title} is too far right");
        for (x, y) in (place("x")..place("x") + place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert((x, y + place("y"))), "{title} lies on another");
        }
    }
}
