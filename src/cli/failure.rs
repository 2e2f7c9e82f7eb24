//! How a command fails: what people read, one line a thing to change.

use crate::config::Problem;

/// Why a command ends with exit code 1.
#[derive(Debug)]
pub(super) struct Failure {
    lines: Vec<String>,
}

impl Failure {
    /// One line: what failed and what to change.
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self { lines: vec![line.into()] }
    }

    /// A line for each problem of the configuration.
    pub(super) fn of_problems(problems: &[Problem]) -> Self {
        let lines = problems.iter().map(|problem| format!("configuration: {problem}"));
        Self { lines: lines.collect() }
    }

    /// Its lines, and those of `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    pub(super) fn show(&self) {
        for line in &self.lines {
            eprintln!("fanfare: {line}");
        }
    }
}
