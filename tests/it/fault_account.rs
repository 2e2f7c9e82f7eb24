//! The account of the fault runs, which take half an hour: that it would notice, in milliseconds.

#[path = "../faults/account.rs"]
mod account;
#[expect(dead_code, reason = "a row's name and duration are for the table")]
#[path = "../faults/verdict.rs"]
mod verdict;

use std::time::Duration;

use account::{Account, Mark, Repeat, Sums};
use verdict::{Row, judge};

fn mark(number: u32, turn: u32) -> Mark {
    Mark { number, turn: Some((7, turn)) }
}

#[test]
fn the_account_of_a_calm_run_is_even() {
    let mut account = Account::new(2);
    account.on_welcome(0, 0);
    account.on_welcome(1, 1);
    assert_eq!(account.connected(), (2, 2));
    // The push may be quicker than the answer.
    account.on_arrived(0, "user", mark(1, 1));
    account.on_accepted(1, &[0, 1]);
    assert!(!account.is_complete());
    account.on_arrived(1, "user", mark(1, 1));
    assert!(account.is_complete());
    account.on_lost_connection(1);
    assert_eq!((account.connected(), account.node_of(0)), ((1, 2), Some(0)));
    let (sums, complaints) = account.close(0);
    let even = Sums { published: 1, due: 2, delivered: 2, acked: 2, reconnects: 2, ..Sums::default() };
    assert_eq!((sums, complaints), (even, vec![]));
}

#[test]
fn a_delivery_that_is_left_out_is_one_lost_and_an_ack_that_is_left_out_one_less() {
    let mut account = Account::new(3);
    account.on_accepted(1, &[0, 1, 2]);
    account.on_arrived(0, "user", mark(1, 1));
    account.on_arrived(2, "user", mark(1, 1));
    assert!(!account.is_complete());
    let (sums, complaints) = account.close(1);
    let expected = Sums { published: 1, due: 3, delivered: 2, acked: 1, lost: 1, ..Sums::default() };
    assert_eq!((sums, complaints), (expected, vec!["device 1 never got number 1".to_owned()]));
}

#[test]
fn what_some_devices_lack_is_told_apart_from_what_others_do() {
    let mut account = Account::new(3);
    account.on_accepted(1, &[0, 1]);
    let accepted = account.accepted();
    account.on_accepted(2, &[0, 2]);
    let others = |device| device != 0;
    assert_eq!(account.missing_of(accepted, others), 1, "the second is not asked for");
    account.on_arrived(1, "user", mark(1, 1));
    assert_eq!(account.missing_of(accepted, others), 0);
    assert_eq!(account.missing_of(account.accepted(), others), 1);
    assert_eq!(account.missing_of(accepted, |_| true), 1, "device 0 has nothing");
}

#[test]
fn the_account_sees_a_loss_a_double_and_disorder() {
    let mut account = Account::new(1);
    account.on_accepted(1, &[0]);
    account.on_accepted(2, &[0]);
    account.on_accepted(3, &[0]);
    account.on_arrived(0, "user", mark(3, 3));
    account.on_arrived(0, "user", mark(2, 2));
    account.on_arrived(0, "user", mark(2, 2));
    account.on_repeat(0, Repeat::Within);
    account.on_repeat(0, Repeat::Across);
    let (sums, complaints) = account.close(0);
    let expected = Sums {
        published: 3,
        due: 3,
        delivered: 2,
        acked: 2,
        doubled_within: 1,
        doubled_across: 1,
        doubled_past_check: 1,
        out_of_order: 1,
        lost: 1,
        ..Sums::default()
    };
    assert_eq!(sums, expected);
    assert_eq!(complaints.len(), 4, "{complaints:?}");

    // Numbers of an earlier fault are still known.
    account.begin();
    account.on_arrived(0, "user", mark(3, 4));
    assert_eq!(account.sums().doubled_past_check, 1);
}

#[test]
fn order_counts_within_one_stream_and_publisher() {
    let mut account = Account::new(1);
    account.on_arrived(0, "user", mark(1, 2));
    account.on_arrived(0, "everyone", mark(2, 1));
    account.on_arrived(0, "user", Mark { number: 3, turn: Some((8, 1)) });
    account.on_arrived(0, "user", Mark { number: 4, turn: None });
    assert_eq!(account.sums().out_of_order, 0);
}

#[test]
fn what_comes_after_the_cut_does_not_hold_it_up() {
    let mut account = Account::new(1);
    account.on_accepted(1, &[0]);
    account.cut();
    account.on_accepted(2, &[0]);
    assert!(!account.is_caught_up());
    account.on_arrived(0, "user", mark(1, 1));
    assert!(account.is_caught_up() && !account.is_complete());
}

#[test]
fn gaps_and_refusals_are_counted_and_told() {
    let mut account = Account::new(1);
    account.on_gap(0, "a gap");
    account.on_refused(0, "closed 4500");
    account.on_try_again();
    account.on_confirmed();
    let (sums, complaints) = account.close(0);
    assert_eq!((sums.gaps, sums.refused_devices, sums.tries_again, sums.confirmed), (1, 1, 1, 1));
    assert_eq!(complaints, ["device 0: a gap", "device 0: closed 4500"]);
}

fn well() -> Row {
    let sums = Sums { published: 3, due: 6, delivered: 6, acked: 6, ..Sums::default() };
    let times = (Some(Duration::from_secs(2)), Some(Duration::from_secs(5)));
    Row {
        name: "a fault",
        rate: 500.0,
        demand: 500.0,
        sums,
        lasted: Duration::from_secs(10),
        back: times.0,
        everything: times.1,
        wrong: vec![],
    }
}

/// What is said of it, and what is changed in a row that is well.
type Change = (&'static str, fn(&mut Row));

#[test]
fn a_row_is_well_only_if_nothing_at_all_is_wrong_with_it() {
    assert_eq!(judge(&well()), Vec::<String>::new());
    let changes: [Change; 15] = [
        ("lost", |row| (row.sums.lost, row.sums.delivered, row.sums.acked) = (1, 5, 5)),
        ("past the seq check", |row| row.sums.doubled_past_check = 1),
        ("within a connection", |row| row.sums.doubled_within = 1),
        ("nobody reconnected", |row| row.sums.doubled_across = 1),
        ("out of order", |row| row.sums.out_of_order = 1),
        ("gaps", |row| row.sums.gaps = 1),
        ("closes for good", |row| row.sums.refused_devices = 1),
        ("were due", |row| row.sums.due = 7),
        ("were due", |row| row.sums.due = 5),
        ("were acknowledged", |row| row.sums.acked = 5),
        ("a second were accepted", |row| row.rate = 499.9),
        ("came back", |row| row.back = None),
        ("got everything", |row| row.everything = None),
        ("one head check", |row| row.everything = Some(Duration::from_millis(30_001))),
        ("something else", |row| row.wrong.push("something else".to_owned())),
    ];
    for (word, change) in changes {
        let mut row = well();
        change(&mut row);
        let wrong = judge(&row);
        assert!(wrong.len() == 1 && wrong[0].contains(word), "{word}: {wrong:?}");
    }
}
