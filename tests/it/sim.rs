//! The seeded simulation: the real delivery, session, hub, routing and publishing of two or three nodes,
//! on models of inbox, presence, broker and clients, in virtual time.
//!
//! One seed decides everything, so each run replays. The ordinary seeds hold the guarantee against bad
//! weather; the planted ones break a rule on purpose, and show that the simulation would notice.
//!
//! `FANFARE_SIM_SEEDS=5000` runs more seeds, `FANFARE_SIM_RUN=3` those of another numbered run;
//! `FANFARE_SIM_SEED=17` replays one and prints its trace; `FANFARE_SIM_PLAN=storm` runs only runs of that kind.

mod books;
mod crowding;
mod device;
mod freeze;
mod habits;
mod held;
mod house;
mod leaving;
mod ledger;
mod line;
mod model_broker;
mod model_inbox;
mod model_presence;
mod model_reads;
mod model_rest;
mod node;
mod plan;
mod planted;
mod publisher;
mod roll;
mod scenario;
mod stage;
mod store;
mod throng;
mod turnover;
mod verdict;
mod visit;
mod weather;
mod witness;

use std::sync::atomic::{AtomicU64, Ordering};

use plan::Plan;
use scenario::{Outcome, retell, run};

/// How many seeds of each kind, unless the environment says otherwise.
const SEEDS: u64 = 40;

/// The kinds that have a test of their own.
const USUAL: [&str; 6] = ["storm", "calm", "frozen", "skewed", "crowded", "full"];

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text:?}")))
}

/// The seeds of this run: one, those of a numbered run, or the usual ones.
fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = number("FANFARE_SIM_SEED") {
        return seed..seed + 1;
    }
    let (many, run) = (number("FANFARE_SIM_SEEDS").unwrap_or(SEEDS), number("FANFARE_SIM_RUN").unwrap_or(0));
    let first = run * 1_000_000;
    first..first + many
}

/// Runs the ordinary seeds of a plan on all cores, and fails with the command that replays the first bad one.
#[track_caller]
fn hold(test: &str, name: &str, plan: Plan) {
    if let Ok(only) = std::env::var("FANFARE_SIM_PLAN") {
        let known = || USUAL.into_iter().chain(planted::UNPLANTED.into_iter().map(|(name, _)| name));
        assert!(
            known().any(|name| name == only),
            "FANFARE_SIM_PLAN is one of {:?}: {only:?}",
            Vec::from_iter(known())
        );
        if only != name {
            println!("{name}: not asked for");
            return;
        }
    }
    let (seeds, began) = (seeds(), std::time::Instant::now());
    let (next, entries, received) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> Option<u64> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return None;
            }
            let outcome = run(plan, seed);
            entries.fetch_add(outcome.entries as u64, Ordering::Relaxed);
            received.fetch_add(outcome.received as u64, Ordering::Relaxed);
            if !outcome.findings.is_empty() {
                next.store(seeds.end, Ordering::Relaxed);
                return Some(seed);
            }
        }
    };
    let bad = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("no panic in it")).min()
    });
    let (entries, received) = (entries.into_inner(), received.into_inner());
    println!("{name}: seeds {seeds:?} in {:?}: {entries} entries, {received} received", began.elapsed());
    let alone = (seeds.end - seeds.start == 1).then_some(seeds.start);
    if let Some(seed) = bad.or(alone) {
        let outcome = retell(plan, seed);
        if alone.is_some() {
            outcome.trace.iter().for_each(|line| println!("{line}"));
        }
        assert!(outcome.findings.is_empty(), "{}", report(test, name, seed, &outcome));
        assert!(bad.is_none(), "seed {seed} of {name} does not replay");
    }
    assert!(alone.is_some() || received > entries / 2, "it delivers: {received} of {entries}");
}

fn report(test: &str, name: &str, seed: u64, outcome: &Outcome) -> String {
    let found: Vec<String> =
        outcome.findings.iter().map(|finding| format!("  {:?}: {}", finding.kind, finding.text)).collect();
    format!(
        "seed {seed} ({name}) broke the guarantee:\n{}\nreplay: FANFARE_SIM_SEED={seed} FANFARE_SIM_PLAN='{name}' cargo test --test it sim::{test} -- --exact --nocapture",
        found.join("\n")
    )
}

#[test]
fn in_any_weather_one_head_check_brings_every_device_all_that_is_meant_for_it() {
    let test = "in_any_weather_one_head_check_brings_every_device_all_that_is_meant_for_it";
    hold(test, "storm", Plan::STORM);
}

#[test]
fn while_nothing_fails_the_order_of_things_alone_loses_and_delays_nothing() {
    hold("while_nothing_fails_the_order_of_things_alone_loses_and_delays_nothing", "calm", Plan::CALM);
}

#[test]
fn a_node_that_stood_still_for_longer_than_its_lease_loses_and_doubles_nothing() {
    hold(
        "a_node_that_stood_still_for_longer_than_its_lease_loses_and_doubles_nothing",
        "frozen",
        Plan::FROZEN,
    );
}

#[test]
fn nodes_whose_clocks_are_a_second_apart_lose_and_double_nothing() {
    hold("nodes_whose_clocks_are_a_second_apart_lose_and_double_nothing", "skewed", Plan::SKEWED);
}

#[test]
fn a_user_has_only_so_many_connections_and_none_ends_for_one_that_does_not_live() {
    let test = "a_user_has_only_so_many_connections_and_none_ends_for_one_that_does_not_live";
    hold(test, "crowded", Plan::CROWDED);
    hold(test, "full", Plan::FULL);
}

#[test]
fn whatever_fails_alone_ends_well() {
    for (name, plan) in planted::UNPLANTED {
        hold("whatever_fails_alone_ends_well", name, plan);
    }
}

#[test]
fn a_seed_replays_to_the_last_word() {
    for seed in [1, 2, 3] {
        for plan in [Plan::STORM, Plan::CALM, Plan::FROZEN] {
            let (first, second) = (retell(plan, seed), retell(plan, seed));
            let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
            assert_eq!(first.hash, second.hash, "seed {seed}: {differs:?}");
            assert!(first.trace.len() > 300, "something happened: {} lines", first.trace.len());
        }
    }
}
