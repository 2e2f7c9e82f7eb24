//! What must hold after every fault.
//!
//! Pure: a row in, what is wrong with it out. `tests/it/fault_account.rs` holds it to each of its rules.

use std::time::Duration;

use super::account::Sums;

/// `delivery.head_check_ms` of the nodes.
const HEAD_CHECK: Duration = Duration::from_secs(30);

/// What came of one fault.
#[derive(Debug, Clone)]
pub struct Row {
    /// The fault.
    pub name: &'static str,
    /// Accepted a second before it.
    pub rate: f64,
    /// Of which so many were demanded.
    pub demand: f64,
    /// The account.
    pub sums: Sums,
    /// How long it lasted.
    pub lasted: Duration,
    /// From its end until the last device was connected again; `None`: never.
    pub back: Option<Duration>,
    /// Until all devices had everything, and from then on got it promptly: from the fault's end, or, where the fault was to
    /// end connections, from when the last device was connected again. `None`: never.
    pub everything: Option<Duration>,
    /// What else was seen to be wrong.
    pub wrong: Vec<String>,
}

/// What is wrong; empty is well.
pub fn judge(row: &Row) -> Vec<String> {
    let mut wrong = sums(&row.sums);
    if row.rate < row.demand {
        wrong
            .push(format!("{:.0} a second were accepted; at least {:.0} are demanded", row.rate, row.demand));
    }
    match (row.back, row.everything) {
        (None, _) => wrong.push("not all devices came back".to_owned()),
        (_, None) => wrong.push("not all devices got everything while the load went on".to_owned()),
        (_, Some(everything)) if everything > HEAD_CHECK => {
            wrong.push(format!("everything after {everything:?}; at most one head check, {HEAD_CHECK:?}"));
        }
        _ => {}
    }
    wrong.extend(row.wrong.iter().cloned());
    wrong
}

fn sums(sums: &Sums) -> Vec<String> {
    let zeros = [
        ("lost", sums.lost),
        ("doubled past the seq check", sums.doubled_past_check),
        ("doubled within a connection", sums.doubled_within),
        ("out of order", sums.out_of_order),
        ("gaps", sums.gaps),
        ("errors and closes for good", sums.refused_devices),
    ];
    let seen = zeros.into_iter().filter(|(_, count)| *count > 0);
    let mut wrong: Vec<String> = seen.map(|(what, count)| format!("{count} {what}")).collect();
    if sums.lost == 0 && sums.delivered != sums.due {
        wrong.push(format!("{} were delivered, and {} were due", sums.delivered, sums.due));
    }
    if sums.acked != sums.delivered {
        wrong.push(format!("{} were acknowledged, and {} delivered", sums.acked, sums.delivered));
    }
    if sums.doubled_across > 0 && sums.reconnects == 0 {
        wrong.push(format!("{} doubled across reconnects, and nobody reconnected", sums.doubled_across));
    }
    wrong
}
