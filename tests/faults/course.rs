//! The course of one fault: load, the fault, the way back, the account.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::books::Books;
use crate::crowd::DEVICES;
use crate::faults::Fault;
use crate::stage::Stage;
use crate::verdict::{Row, judge};

/// Accepted before a fault begins, and again after all have everything: two seconds of load.
const STEADY: u64 = 1_000;
/// From when it is accepted until everybody has it, where nothing is wrong: two thousand devices on two busy cores.
const PROMPT: Duration = Duration::from_secs(2);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// When something is called stuck.
const STUCK: Duration = Duration::from_secs(100);
/// For publishers to get their last one accepted.
const STOP: Duration = Duration::from_secs(60);
/// From the last ack to its commit: cursors are flushed every two seconds.
pub const FLUSH: Duration = Duration::from_secs(30);
/// Two busy cores may take a while until the load runs as demanded.
const WARM_UP: Duration = Duration::from_secs(60);

/// Runs one fault; answers its row. So many must be accepted a second.
pub async fn run(stage: &mut Stage, fault: Fault, demand: f64) -> Row {
    stage.gather().await;
    stage.books.with(|account| account.begin());
    let mut wrong = vec![];
    let load = stage.load();
    let rate = warm_up(stage, demand, &mut wrong).await;

    // Whose connections end must have noticed, or they would count as connected.
    let welcomes = stage.books.with(|account| account.sums().reconnects + fault.drops(account));
    let began = Instant::now();
    fault.strike(stage).await;
    let ended = Instant::now();
    let from = if fault.drops_connections() { None } else { Some(ended) };
    let (books, settled) = (Arc::clone(&stage.books), Cell::new(false));
    let settling = async {
        fault.repair(&mut stage.nodes).await;
        fault.settle(stage).await;
        settled.set(true);
    };
    let ((back, everything), ()) = tokio::join!(way_back(&books, welcomes, from, &settled), settling);
    let back = back.map(|at| at - ended);

    let unacked = finish(stage, load, &mut wrong).await;
    let (sums, complaints) = stage.books.with(|account| account.close(unacked));
    wrong.append(&mut stage.complaints);
    wrong.extend(complaints);
    let (name, lasted) = (fault.name(), ended - began);
    let mut row = Row { name, rate, demand, sums, lasted, back, everything, wrong };
    row.wrong = judge(&row);
    row
}

/// Waits until all are connected and so many were welcomed; answers when that was, and after how long all devices had
/// everything, counted from `from` or from then.
///
/// What a fault keeps from devices may be accepted after it, too (by nodes that have not noticed yet). So everything accepted
/// until now must be there, again and again, until the nodes have noticed and it is there promptly: the last time
/// that it was not is what counts.
async fn way_back(
    books: &Books,
    welcomes: u64,
    from: Option<Instant>,
    settled: &Cell<bool>,
) -> (Option<Instant>, Option<Duration>) {
    let is_back =
        |account: &Account| account.connected().0 == DEVICES && account.sums().reconnects >= welcomes;
    let Some(back) = books.wait_for(STUCK, is_back).await else { return (None, None) };
    let from = from.unwrap_or(back);
    let mut everything = None;
    loop {
        let (asked, is_last) = (Instant::now(), settled.get());
        books.with(Account::cut);
        let Some(at) = books.wait_for(STUCK, Account::is_caught_up).await else { return (Some(back), None) };
        let is_prompt = at - asked <= PROMPT;
        if everything.is_none() || !is_prompt {
            everything = Some(at.saturating_duration_since(from));
        }
        if is_last && is_prompt {
            return (Some(back), everything);
        }
        sleep(LOOK).await;
    }
}

/// Waits until the load runs steadily, which takes longer where the fault before left a disk busy; answers how many are
/// accepted a second: as demanded, or the most of any two seconds of load until the deadline.
async fn warm_up(stage: &Stage, demand: f64, wrong: &mut Vec<String>) -> f64 {
    let deadline = Instant::now() + WARM_UP;
    let reached = async |count| {
        let left = deadline.saturating_duration_since(Instant::now());
        stage.books.wait_for(left, |account| account.sums().published >= count).await
    };
    let mut count = STEADY / 2;
    let mut from = reached(count).await;
    let mut best: f64 = 0.0;
    while let Some(began) = from
        && best < demand
    {
        count += STEADY;
        from = reached(count).await;
        best = best.max(from.map_or(0.0, |to| STEADY as f64 / (to - began).as_secs_f64().max(0.001)));
    }
    if best == 0.0 {
        wrong.push(format!("the load did not run within {WARM_UP:?}"));
    }
    best
}

/// Ends the load and waits for the last delivery and the last cursor; answers how many entries are unacknowledged.
async fn finish(stage: &Stage, load: crate::load::Load, wrong: &mut Vec<String>) -> u64 {
    let published = stage.books.with(|account| account.sums().published);
    stage.books.wait_for(WARM_UP, |account| account.sums().published >= published + STEADY).await;
    if !load.stop(STOP).await {
        wrong.push(format!("not every publisher got its last one accepted within {STOP:?}"));
    }
    // A last word to everybody: who gets it is whole again, and its ack is after all others.
    stage.work.post_to_all().await;
    if stage.books.wait_for(STUCK, |account| account.is_complete()).await.is_none() {
        wrong.push(format!("not everything had arrived {STUCK:?} after the load's end"));
    }
    let until = Instant::now() + FLUSH;
    loop {
        let (all, behind, entries) = stage.cursors().await;
        let is_even = all == DEVICES as i64 && behind == 0;
        if is_even || Instant::now() > until {
            if !is_even {
                wrong.push(format!("of {all} cursors {behind} are behind, by {entries} entries"));
            }
            return u64::try_from(entries).expect("a sum of distances");
        }
        sleep(LOOK).await;
    }
}
