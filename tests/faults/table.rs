//! One row for each fault, and the table of all: for people, and for docs/benchmarks.md.

use std::fmt::Write;
use std::time::Duration;

use crate::account::Sums;

/// What came of one fault.
#[derive(Debug)]
pub struct Row {
    /// The fault.
    pub name: &'static str,
    /// Accepted a second before it.
    pub rate: f64,
    /// The account.
    pub sums: Sums,
    /// Entries that no cursor says are acknowledged.
    pub unacked: i64,
    /// How long it lasted.
    pub lasted: Duration,
    /// From its end until the last device was connected again.
    pub back: Option<Duration>,
    /// From then until all devices had everything.
    pub everything: Option<Duration>,
    /// What is wrong; empty is well.
    pub wrong: Vec<String>,
}

const HEAD: &str = "| fault | lasted | before it, a second | published | of it AMQP | due | delivered | acked | tried again | \
     reconnects | doubled on the wire: across a reconnect, within | past the seq check | out of order | lost | clients back | everything after |\n\
     |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

/// The table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        let sums = &row.sums;
        let acked = i64::try_from(sums.delivered).unwrap_or(i64::MAX) - row.unacked;
        // Writing into a string never fails.
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {} | {} | {} | {acked} | {} | {} | {}, {} | {} | {} | {} | {} | {} |",
            row.name,
            seconds(Some(row.lasted)),
            row.rate,
            sums.published,
            sums.confirmed,
            sums.due,
            sums.delivered,
            sums.tries_again,
            sums.reconnects,
            sums.doubled_across,
            sums.doubled_within,
            sums.doubled_past_check,
            sums.out_of_order,
            sums.lost,
            seconds(row.back),
            seconds(row.everything),
        );
    }
    text
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}
