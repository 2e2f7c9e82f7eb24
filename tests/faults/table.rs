//! One row for each fault, and the table of all: for people, and for docs/benchmarks.md.

use std::fmt::Write;
use std::time::Duration;

use crate::verdict::Row;

const HEAD: &str = "| fault | lasted | before it, a second (at least) | published | of it AMQP | due | delivered | acked | tried again | \
     reconnects | doubled on the wire: across a reconnect, within | past the seq check | out of order | lost | clients back | everything after |\n\
     |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

/// The table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        let sums = &row.sums;
        // Writing into a string never fails.
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} ({:.0}) | {} | {} | {} | {} | {} | {} | {} | {}, {} | {} | {} | {} | {} | {} |",
            row.name,
            seconds(Some(row.lasted)),
            row.rate,
            row.demand,
            sums.published,
            sums.confirmed,
            sums.due,
            sums.delivered,
            sums.acked,
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
