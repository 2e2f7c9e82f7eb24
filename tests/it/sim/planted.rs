//! Planted violations: each breaks one rule on purpose, and the simulation must see what it does.
//!
//! | rule (design, by section) | plant |
//! |---|---|
//! | 3: append, then locate | `LocateFirst` |
//! | 3: the answer follows the commit | `HastyCommit` |
//! | 3: the answer never waits for the broker's confirm | `AwaitedConfirm` |
//! | 3: a replayed key sends again | `SilentReplay` |
//! | 3: announce, wait, then read the inbox | `HastyAnnounce`, `ReadFirst` |
//! | 3: read-your-writes | `StaleReads` |
//! | 3.1: a read is of one snapshot; the position moves to `through` | `TornPages`, rule `move_to_through` |
//! | 3.1: an ack passes only what was passed | `GreedyCursor` |
//! | 3.2: lower is a double; higher is a gap | rules `skip_lower`, `read_gaps` |
//! | 3.3: what is offered to one that is not live is remembered | rule `remember_offers` |
//! | 3.4: every subscriber waits for the route; 0 to 1 announces again | `UnawaitedRoute`, `AssumedRoute` |
//! | 3.5: the cursor is there before `welcome`; the first device starts at the floor | `CursorLater`, `StartAtHead` |
//! | 3.6: another epoch starts the stream anew | rule `compare_epochs` |
//! | 3.7: the session passes over what is for another device | rule `skip_others` |
//! | 3.7: envelopes go to every node with a device of the user | none: breaking it costs reads, and loses nothing |
//! | 3: an ack passes nothing that waits to be merged | rule `ack_written` |
//! | 3.8: a cancellation is an entry | `UnenteredCancel` |
//! | 3: heads are compared, read marks too | no head checks, `MarksForgotten`, `MarksUnnumbered` |
//! | 3: presence lost is seen by the lease; the broker's return is seen | `SilentFlush`, `SilentOutage` |
//! | 3: without a broker heads are compared every second or two, from the beginning | `UnnoticedOutage` |
//! | 3: a window for each stream | `NoWindow` |
//! | a user's connections: only so many on a node, and none ends for one that does not live | `NoLimit`, rule `count_the_living` |
//! | 5: a late goodbye removes nobody else | `LateGoodbye` |
//! | 6: one statement from the counter to the commit | `LateVisible` |
//! | 6: a key is remembered; a schedule fires once | `ForgottenKeys`, `UnguardedFiring` |
//! | 6: reads skip what expired, was superseded or cancelled, and a cancel revives nothing | `ExpiredKept`, `CollapsedKept`, `CancelledKept`, `RevivedByCancel` |
//! | 6: unread versions never go back | `VersionsGoBack` |
//!
//! A plant that is not found fails its test.

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
/// The same, and what RabbitMQ takes late comes from a life of the store that is over.
const OVERTAKEN: Plan = Plan::STORM.in_weather(Weather {
    restore: true,
    broker_blocked: true,
    freezes: Some((1, 6)),
    ..Weather::CALM
});
/// All stay connected, and few entries come, most of them just when something fails: so none heals what an
/// earlier one missed. No periodic head check helps.
const STAYING: Plan = Plan {
    weather: Weather { restless: false, ..Weather::CALM },
    active: Duration::from_secs(90),
    pace_ms: 10_000,
    settle: Duration::from_secs(20),
    stale_after: Plan::STORM.stale_after,
    keen: true,
    rush: 80,
    ..Plan::CALM
};
/// Redis forgets everything now and then. A node sees it with its next lease (2 s), announces all anew within the
/// next second or so, and has compared all heads 10 s after that.
const FLUSHED: Plan = Plan {
    prompt: Duration::from_secs(17),
    ..STAYING.in_weather(Weather { flushes: Some(100), ..STAYING.weather })
};
/// RabbitMQ is away now and then, also for long. Heads are compared every 1.5 s meanwhile, and within 10 s after.
const CUT_OFF: Plan = Plan {
    prompt: Duration::from_secs(14),
    ..STAYING.in_weather(Weather { broker_away: Some((200, 40_000)), ..STAYING.weather })
};
/// RabbitMQ takes nothing now and then; publishers are answered all the same.
const ALARMED: Plan = Plan {
    settle: Duration::from_secs(20),
    stale_after: Plan::STORM.stale_after,
    ..Plan::CALM.in_weather(Weather { broker_blocked: true, ..Weather::CALM })
};
/// Envelopes are lost, and heads are checked.
const LOSSY: Plan = Plan::STORM.in_weather(Weather { lost: 15, ..Weather::CALM });
/// The same, and much is marked as read at once.
const MARKING: Plan = Plan { marks_at_once: 60, ..LOSSY };
/// As lossy, and what was marked as read is gone before a device that missed the mark can ask for it.
const PRUNED: Plan = Plan::STORM.in_weather(Weather { lost: 25, retention: true, ..Weather::CALM });
/// Answers of SQL are lost, so backends ask again; nothing else fails, and no periodic head check helps.
const UNSURE: Plan = Plan {
    active: Duration::from_secs(6),
    stale_after: Plan::STORM.stale_after,
    answer_within: Plan::STORM.answer_within,
    ..Plan::CALM.in_weather(Weather { failing: 3, ..Weather::CALM })
};
/// So long that topics are left and followed again.
const LONG: Plan = Plan { active: Duration::from_secs(24), ..Plan::CALM };

/// What fails alone, and ends well as long as no rule is broken.
pub const UNPLANTED: [(&str, Plan); 17] = [
    ("brief", Plan::BRIEF),
    ("arriving", Plan::ARRIVING),
    ("fashion", Plan::FASHION),
    ("restored", RESTORED),
    ("overtaken", OVERTAKEN),
    ("flushed", FLUSHED),
    ("cut off", CUT_OFF),
    ("alarmed", ALARMED),
    ("lossy", LOSSY),
    ("marking", MARKING),
    ("pruned", PRUNED),
    // Where reads fail, too, a head check is what heals.
    ("unsure", Plan { head_check: Plan::STORM.head_check, settle: Plan::STORM.settle, ..UNSURE }),
    ("long", LONG),
    ("recycled", Plan::RECYCLED),
    ("merged", Plan::MERGED),
    ("merged and keen", Plan { keyed: 70, conflation: Plan::MERGED.conflation, ..Plan::ARRIVING }),
    (
        "merged in a storm",
        Plan { keyed: 60, pace_ms: 400, conflation: Plan::MERGED.conflation, ..Plan::STORM },
    ),
];

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
fn a_session_that_sends_what_is_behind_it_doubles() {
    let rules = Rules { skip_lower: false, ..Rules::SOUND };
    must_find(Plan::CALM.with_rules(rules), &[Kind::Double, Kind::Order]);
}

#[test]
fn a_session_that_sends_what_is_for_another_device_is_seen() {
    let rules = Rules { skip_others: false, ..Rules::SOUND };
    must_find(Plan::CALM.with_rules(rules), &[Kind::Stranger]);
}

#[test]
fn a_session_that_does_not_compare_epochs_loses_the_new_life_of_a_stream() {
    let rules = Rules { compare_epochs: false, ..Rules::SOUND };
    must_find(RESTORED.with_rules(rules), &[Kind::Loss, Kind::Stall, Kind::Stranger]);
}

#[test]
fn an_auto_ack_of_what_waits_to_be_merged_is_seen() {
    let rules = Rules { ack_written: false, ..Rules::SOUND };
    must_find(Plan::MERGED.with_rules(rules), &[Kind::Cursor, Kind::Loss]);
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
fn an_inbox_that_was_read_before_the_announce_stalls_who_misses_what_came_between() {
    must_find(Plan::BRIEF.planted(Plant::ReadFirst), &[Kind::Stall, Kind::Loss]);
}

#[test]
fn a_seq_that_is_taken_before_its_entry_is_there_loses_the_entry() {
    must_find(Plan::CALM.planted(Plant::LateVisible), &[Kind::Loss]);
}

#[test]
fn an_announce_that_is_not_awaited_stalls_who_reads_before_it_lands() {
    must_find(Plan::BRIEF.planted(Plant::HastyAnnounce), &[Kind::Stall]);
}

#[test]
fn a_goodbye_that_removes_a_successor_stalls_it() {
    must_find(Plan::BRIEF.planted(Plant::LateGoodbye), &[Kind::Stall]);
}

#[test]
fn a_publisher_that_asks_who_is_there_before_it_commits_stalls_who_comes_in_between() {
    must_find(Plan::ARRIVING.planted(Plant::LocateFirst), &[Kind::Stall]);
}

#[test]
fn a_follower_that_does_not_wait_for_a_route_in_flight_stalls() {
    must_find(Plan::FASHION.planted(Plant::UnawaitedRoute), &[Kind::Stall]);
}

#[test]
fn a_topic_that_is_followed_anew_and_not_announced_again_stalls() {
    must_find(Plan::FASHION.planted(Plant::AssumedRoute), &[Kind::Stall]);
}

#[test]
fn a_flush_of_redis_that_the_lease_does_not_show_stalls_who_stays_connected() {
    must_find(FLUSHED.planted(Plant::SilentFlush), &[Kind::Stall]);
}

#[test]
fn an_outage_of_rabbitmq_that_is_not_told_stalls_who_stays_connected() {
    must_find(CUT_OFF.planted(Plant::SilentOutage), &[Kind::Stall]);
}

#[test]
fn a_node_that_compares_heads_as_ever_while_rabbitmq_is_away_stalls_whom_others_publish_to() {
    must_find(CUT_OFF.planted(Plant::UnnoticedOutage), &[Kind::Stall]);
}

#[test]
fn a_publisher_that_waits_for_the_broker_answers_late() {
    must_find(ALARMED.planted(Plant::AwaitedConfirm), &[Kind::Late]);
}

#[test]
fn a_replay_that_sends_nothing_stalls_whom_the_first_request_did_not_reach() {
    must_find(UNSURE.planted(Plant::SilentReplay), &[Kind::Stall]);
}

#[test]
fn a_key_that_is_forgotten_publishes_twice() {
    must_find(UNSURE.planted(Plant::ForgottenKeys), &[Kind::Twice]);
}

#[test]
fn a_schedule_that_is_fired_by_two_nodes_without_a_guard_is_published_twice() {
    must_find(Plan::CALM.planted(Plant::UnguardedFiring), &[Kind::Twice]);
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
fn a_first_device_that_starts_at_the_head_is_seen() {
    must_find(Plan::CALM.planted(Plant::StartAtHead), &[Kind::Start]);
}

#[test]
fn a_cursor_that_passes_what_is_not_acknowledged_is_seen() {
    must_find(Plan::CALM.planted(Plant::GreedyCursor), &[Kind::Cursor, Kind::Loss]);
}

#[test]
fn an_answer_before_the_commit_accepts_what_is_not_kept() {
    must_find(Plan::CALM.planted(Plant::HastyCommit), &[Kind::Unkept]);
}

#[test]
fn a_cancellation_that_is_no_entry_does_not_reach_who_was_away() {
    must_find(Plan::CALM.planted(Plant::UnenteredCancel), &[Kind::Uncancelled]);
}

#[test]
fn what_was_cancelled_and_is_still_read_is_seen() {
    must_find(Plan::CALM.planted(Plant::CancelledKept), &[Kind::Stale]);
}

#[test]
fn what_was_superseded_and_is_still_read_is_seen() {
    must_find(Plan::CALM.planted(Plant::CollapsedKept), &[Kind::Stale]);
}

#[test]
fn a_cancellation_that_revives_what_was_superseded_is_seen() {
    must_find(Plan::CALM.planted(Plant::RevivedByCancel), &[Kind::Stale]);
}

#[test]
fn what_has_expired_and_is_still_read_is_seen() {
    must_find(Plan::CALM.planted(Plant::ExpiredKept), &[Kind::Stale]);
}

#[test]
fn heads_without_read_marks_leave_a_device_with_a_wrong_count() {
    must_find(LOSSY.planted(Plant::MarksForgotten), &[Kind::Read]);
}

#[test]
fn marks_that_are_not_numbered_each_leave_one_untold() {
    must_find(MARKING.planted(Plant::MarksUnnumbered), &[Kind::Read]);
}

#[test]
fn versions_that_go_back_with_a_restored_store_are_seen() {
    must_find(RESTORED.planted(Plant::VersionsGoBack), &[Kind::Read]);
}

#[test]
fn a_node_without_a_window_sends_too_far_ahead() {
    must_find(Plan::CALM.planted(Plant::NoWindow), &[Kind::Window]);
}

#[test]
fn a_node_that_takes_whoever_comes_has_too_many_of_a_user() {
    must_find(Plan::CROWDED.planted(Plant::NoLimit), &[Kind::Crowd]);
    must_find(Plan::FULL.planted(Plant::NoLimit), &[Kind::Crowd]);
}

#[test]
fn a_node_that_takes_presence_at_its_word_ends_connections_for_some_that_do_not_live() {
    let rules = Rules { count_the_living: false, ..Rules::SOUND };
    must_find(Plan::CROWDED.with_rules(rules), &[Kind::Crowd]);
}
