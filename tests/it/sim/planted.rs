//! Planted violations: each breaks one rule on purpose, and the simulation must see what it does.
//!
//! What is seen: `Loss` (a device is past what it never got), `Stall` (it waits below it, and only a head
//! check could help), `Order`, `Double`, `Cursor`. A plant that is not found fails its test.

use std::time::Duration;

use fanfare::session::Rules;

use super::plan::{Plan, Plant, Weather};
use super::scenario::run;
use super::stage::Kind;

/// How many seeds may pass before a plant is found.
const SEEDS: u64 = 400;

/// Runs seeds until one shows one of the `expected` kinds.
#[track_caller]
fn must_find(plan: Plan, expected: &[Kind]) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        let outcome = run(plan, seed);
        if let Some(found) = outcome.findings.iter().find(|finding| expected.contains(&finding.kind)) {
            println!("seed {seed}: {:?}: {}", found.kind, found.text);
            return;
        }
        others.extend(outcome.findings.into_iter().map(|finding| (seed, finding)));
    }
    panic!("{SEEDS} seeds did not show {expected:?}; they showed {others:?}");
}

/// Nothing fails, but the store is restored once; heads are checked.
const RESTORED: Plan = Plan::STORM.in_weather(Weather { restore: true, ..Weather::CALM });

#[test]
fn a_session_that_forgets_what_was_offered_during_a_read_stalls() {
    let rules = Rules { remember_offers: false, ..Rules::SOUND };
    must_find(Plan::BRIEF.with_rules(rules), &[Kind::Stall]);
}

#[test]
fn a_session_that_moves_only_over_contiguous_entries_stalls_at_a_hole() {
    let rules = Rules { move_to_through: false, ..Rules::SOUND };
    must_find(Plan::BRIEF.with_rules(rules), &[Kind::Stall]);
}

#[test]
fn a_session_that_sends_over_a_gap_loses_what_is_in_it() {
    let rules = Rules { read_gaps: false, ..Rules::SOUND };
    must_find(Plan::CALM.with_rules(rules), &[Kind::Loss]);
}

#[test]
fn a_session_that_does_not_compare_epochs_loses_the_new_life_of_a_stream() {
    let rules = Rules { compare_epochs: false, ..Rules::SOUND };
    must_find(RESTORED.with_rules(rules), &[Kind::Loss, Kind::Stall, Kind::Stranger]);
}

#[test]
fn a_page_whose_head_is_newer_than_its_entries_loses_what_came_between() {
    must_find(Plan::CALM.planted(Plant::TornPages), &[Kind::Loss]);
}

#[test]
fn a_stale_replica_stalls_who_registered_after_the_commit() {
    must_find(Plan::BRIEF.planted(Plant::StaleReads), &[Kind::Stall]);
}

#[test]
fn an_announce_that_is_not_awaited_stalls_who_reads_before_it_lands() {
    must_find(Plan::BRIEF.planted(Plant::HastyAnnounce), &[Kind::Stall]);
}

#[test]
fn a_second_subscriber_that_does_not_wait_for_the_first_ones_announce_stalls() {
    must_find(Plan::BRIEF.planted(Plant::UnawaitedRoute), &[Kind::Stall]);
}

#[test]
fn a_publisher_that_locates_before_it_commits_stalls_who_comes_in_between() {
    must_find(Plan::BRIEF.planted(Plant::LocateFirst), &[Kind::Stall]);
}

#[test]
fn without_head_checks_a_lost_envelope_stalls() {
    let weather = Weather { lost: 10, ..Weather::CALM };
    must_find(Plan::BRIEF.in_weather(weather), &[Kind::Stall]);
}

#[test]
fn a_cursor_that_is_not_there_at_the_welcome_loses_what_comes_while_the_device_is_away() {
    must_find(Plan::CALM.planted(Plant::CursorLater), &[Kind::Loss]);
}

#[test]
fn a_cursor_that_passes_what_is_not_acknowledged_is_seen() {
    must_find(Plan::CALM.planted(Plant::GreedyCursor), &[Kind::Cursor, Kind::Loss]);
}

#[test]
fn a_flush_that_the_lease_does_not_tell_of_stalls() {
    must_find(FLUSHED.planted(Plant::SilentFlush), &[Kind::Stall]);
}

#[test]
fn an_outage_of_the_broker_that_nobody_is_told_of_stalls() {
    must_find(CUT_OFF.planted(Plant::SilentOutage), &[Kind::Stall]);
}

#[test]
fn an_answer_before_the_commit_accepts_what_is_not_kept() {
    must_find(Plan::CALM.planted(Plant::HastyCommit), &[Kind::Unkept]);
}

/// Redis forgets everything now and then; nothing else fails, and no periodic head check helps.
const FLUSHED: Plan = Plan {
    settle: Duration::from_secs(20),
    ..Plan::CALM.in_weather(Weather { flushes: true, ..Weather::CALM })
};
/// RabbitMQ is away now and then; nothing else fails, and no periodic head check helps.
const CUT_OFF: Plan = Plan {
    settle: Duration::from_secs(20),
    ..Plan::CALM.in_weather(Weather { broker_away: true, ..Weather::CALM })
};

#[test]
fn without_a_plant_brief_runs_and_restored_stores_end_well() {
    super::hold("planted::without_a_plant_brief_runs_and_restored_stores_end_well", Plan::BRIEF);
    super::hold("planted::without_a_plant_brief_runs_and_restored_stores_end_well", RESTORED);
}

#[test]
fn after_a_flush_the_lease_tells_and_nothing_waits_for_the_periodic_check() {
    super::hold("planted::after_a_flush_the_lease_tells_and_nothing_waits_for_the_periodic_check", FLUSHED);
}

#[test]
fn after_an_outage_nothing_waits_for_the_periodic_check() {
    super::hold("planted::after_an_outage_nothing_waits_for_the_periodic_check", CUT_OFF);
}
