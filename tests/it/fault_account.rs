//! The account of the fault runs, which take half an hour: that it would notice, in milliseconds.

#[path = "../faults/account.rs"]
mod account;

use account::{Account, Mark, Repeat, Sums};

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
    let (sums, complaints) = account.close();
    let even = Sums { published: 1, due: 2, delivered: 2, reconnects: 2, ..Sums::default() };
    assert_eq!((sums, complaints), (even, vec![]));
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
    let (sums, complaints) = account.close();
    let expected = Sums {
        published: 3,
        due: 3,
        delivered: 2,
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
    let (sums, complaints) = account.close();
    assert_eq!((sums.gaps, sums.refused_devices, sums.tries_again, sums.confirmed), (1, 1, 1, 1));
    assert_eq!(complaints, ["device 0: a gap", "device 0: closed 4500"]);
}
