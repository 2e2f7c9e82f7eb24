//! Sessions against the rules, and against a naive model on seeded random runs.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const EPOCH: Epoch = Epoch(3);
const NOW: UnixMillis = UnixMillis(1_000_000);

fn window() -> Window {
    Window { entries: 4, bytes: 1_000 }
}

fn stream() -> Stream {
    Stream::Everyone
}

fn entry(seq: u64) -> Offered<'static> {
    Offered { seq: Seq(seq), device: None, expires_at: None, bytes: 10, receipt: true, pushed: None }
}

fn view<'a>(after: u64, entries: &'a [Offered<'a>], through: u64, head: u64) -> PageView<'a> {
    PageView {
        epoch: EPOCH,
        floor: Seq(0),
        after: Seq(after),
        head: Seq(head),
        through: Seq(through),
        entries,
    }
}

/// A session that is live at `position`, everything acknowledged.
fn live_at(position: u64) -> Session {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(position), cursor: Seq(position) });
    assert!(session.begin_read(&stream(), NOW).is_some());
    assert_eq!(
        session.page(&stream(), view(position, &[], position, position), NOW, |_| Flow::Open),
        Next::Wait
    );
    session
}

fn ack(session: &mut Session, seq: u64) -> Result<Acked, AckError> {
    session.ack(&stream(), Seq(seq), NOW, |_, _| {})
}

fn steps(session: &mut Session, page: PageView<'_>) -> (Vec<Step>, Next) {
    let mut steps = Vec::new();
    let next = session.page(&stream(), page, NOW, |step| {
        steps.push(step);
        Flow::Open
    });
    (steps, next)
}

#[test]
fn the_next_entry_is_sent_a_lower_one_skipped_and_a_higher_one_read() {
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Skip);
    assert_eq!(session.offer(&stream(), EPOCH, entry(8), NOW), Verdict::Read);
    assert_eq!(session.offer(&stream(), EPOCH, entry(7), NOW), Verdict::Held);
    let read = session.begin_read(&stream(), NOW).expect("a gap is read");
    assert_eq!(read.after, Seq(6));
    assert_eq!(session.begin_read(&stream(), NOW), None, "single flight");
    let entries = [entry(7), entry(8)];
    let sent = vec![Step::Send(0), Step::Send(1)];
    assert_eq!(steps(&mut session, view(6, &entries, 8, 8)), (sent, Next::Wait));
    assert_eq!(session.offer(&stream(), EPOCH, entry(9), NOW), Verdict::Send);
}

#[test]
fn an_offer_during_a_read_makes_it_read_again_before_it_is_live() {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    assert_eq!(session.offer(&stream(), EPOCH, entry(1), NOW), Verdict::Held);
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), cursor: Seq(0) });
    assert!(session.begin_read(&stream(), NOW).is_some());
    assert_eq!(session.offer(&stream(), EPOCH, entry(2), NOW), Verdict::Held);
    let first = [entry(1)];
    assert_eq!(steps(&mut session, view(0, &first, 1, 1)), (vec![Step::Send(0)], Next::Read));
    assert_eq!(session.begin_read(&stream(), NOW).map(|read| read.after), Some(Seq(1)));
    let second = [entry(2)];
    let caught_up = vec![Step::Send(0), Step::CaughtUp(Seq(2))];
    assert_eq!(steps(&mut session, view(1, &second, 2, 2)), (caught_up, Next::Wait));
}

#[test]
fn the_position_moves_past_entries_that_are_absent_or_for_another_device() {
    let mut session = live_at(0);
    let phone = DeviceId::new("phone").expect("valid");
    let other = Offered { device: Some(&phone), ..entry(1) };
    assert_eq!(session.offer(&stream(), EPOCH, other, NOW), Verdict::Skip);
    assert_eq!(
        session.offer(&stream(), EPOCH, Offered { expires_at: Some(NOW), ..entry(2) }, NOW),
        Verdict::Skip
    );
    assert_eq!(session.offer(&stream(), EPOCH, entry(3), NOW), Verdict::Send);
    assert_eq!(ack(&mut session, 3).map(|acked| acked.cursor), Ok(Seq(3)));
    assert_eq!(
        session.offer(&stream(), EPOCH, Offered { device: Some(&phone), ..entry(4) }, NOW),
        Verdict::Skip
    );
    assert_eq!(session.cursors().next().map(|(_, _, seq)| seq), Some(Seq(4)));
}

#[test]
fn a_full_window_holds_back_and_an_ack_reads_on() {
    let mut session = live_at(0);
    for seq in 1..=4 {
        assert_eq!(session.offer(&stream(), EPOCH, entry(seq), NOW), Verdict::Send);
    }
    assert_eq!(session.offer(&stream(), EPOCH, entry(5), NOW), Verdict::Lagged);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Held);
    assert_eq!(session.begin_read(&stream(), NOW), None, "there is no room");
    assert!(
        session.stuck(NOW).is_empty() && session.stuck(NOW) == [stream()] && session.stuck(NOW).is_empty()
    );
    assert_eq!(ack(&mut session, 1), Ok(Acked { epoch: EPOCH, cursor: Seq(1), read: false, covered: None }));
    assert_eq!(ack(&mut session, 2), Ok(Acked { epoch: EPOCH, cursor: Seq(2), read: true, covered: None }));
    let read = session.begin_read(&stream(), NOW).expect("there is room");
    assert_eq!((read.after, read.entries), (Seq(4), 2));
}

#[test]
fn a_window_that_is_full_by_its_bytes_is_told_too_and_nothing_is_read_for_it() {
    let mut session = live_at(0);
    for seq in [1, 2] {
        let large = Offered { bytes: 400, ..entry(seq) };
        assert_eq!(session.offer(&stream(), EPOCH, large, NOW), Verdict::Send);
    }
    let large = Offered { bytes: 400, ..entry(3) };
    assert_eq!(session.offer(&stream(), EPOCH, large, NOW), Verdict::Lagged);
    assert_eq!(session.begin_read(&stream(), NOW), None);
    assert_eq!((session.stuck(NOW), session.stuck(NOW)), (vec![], vec![stream()]));
    assert!(ack(&mut session, 2).is_ok_and(|acked| acked.read));
    assert!(session.begin_read(&stream(), NOW).is_some());
}

#[test]
fn whoever_acknowledges_nothing_of_a_long_replay_is_held_back_and_reads_on_with_an_ack() {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), cursor: Seq(0) });
    for after in [0, 2] {
        assert!(session.begin_read(&stream(), NOW).is_some());
        let entries = [entry(after + 1), entry(after + 2)];
        let next = steps(&mut session, view(after, &entries, after + 2, 9)).1;
        assert_eq!(next, if after == 0 { Next::Read } else { Next::Lagged });
    }
    assert!(session.is_lagged());
    assert_eq!(session.begin_read(&stream(), NOW), None);
    assert!(ack(&mut session, 2).is_ok_and(|acked| acked.read));
    assert_eq!(session.begin_read(&stream(), NOW).map(|read| read.entries), Some(2));
}

#[test]
fn what_has_expired_makes_room_where_there_is_none() {
    let mut session = live_at(0);
    let soon = Some(UnixMillis(NOW.0 + 5_000));
    for seq in 1..=4 {
        let expires_at = if seq == 3 { None } else { soon };
        let sent = session.offer(&stream(), EPOCH, Offered { expires_at, ..entry(seq) }, NOW);
        assert_eq!(sent, Verdict::Send);
    }
    assert_eq!(session.offer(&stream(), EPOCH, entry(5), NOW), Verdict::Lagged);
    assert_eq!(session.begin_read(&stream(), NOW), None, "there is no room");
    let later = UnixMillis(NOW.0 + 5_000);
    assert!(session.stuck(later).is_empty());
    let read = session.begin_read(&stream(), later).expect("three have expired");
    assert_eq!((read.after, read.entries, read.bytes), (Seq(4), 3, 990));
    // Who acknowledges above them has acknowledged the one that is left.
    assert_eq!(ack(&mut session, 4).map(|acked| acked.cursor), Ok(Seq(4)));
}

#[test]
fn an_ack_reads_on_where_what_is_left_has_expired() {
    let later = UnixMillis(NOW.0 + 5_000);
    let mut session = live_at(0);
    for seq in 1..=4 {
        let expires_at = (seq > 1).then_some(later);
        assert_eq!(session.offer(&stream(), EPOCH, Offered { expires_at, ..entry(seq) }, NOW), Verdict::Send);
    }
    assert_eq!(session.offer(&stream(), EPOCH, entry(5), NOW), Verdict::Lagged);
    assert_eq!(ack(&mut session, 1).map(|acked| acked.read), Ok(false), "three of four are not acknowledged");
    let acked = session.ack(&stream(), Seq(1), later, |_, _| panic!("it was acknowledged before"));
    assert_eq!(acked.map(|acked| acked.read), Ok(true));
}

#[test]
fn an_ack_above_what_was_sent_is_refused() {
    let mut session = live_at(5);
    let refused = AckError::AboveSent { sent: Seq(5), got: Seq(6) };
    assert_eq!(ack(&mut session, 6), Err(refused));
    let other = Stream::parse("topic:x").expect("valid");
    assert_eq!(session.ack(&other, Seq(1), NOW, |_, _| {}), Err(AckError::NotFollowed));
}

#[test]
fn a_resumed_place_is_not_acknowledged_before_the_client_says_so() {
    let own = Stream::parse("user:alice").expect("valid");
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(own.clone());
    session.open(&own, Place { epoch: EPOCH, position: Seq(9), cursor: Seq(0) });
    session.begin_read(&own, NOW);
    assert_eq!(session.page(&own, view(9, &[], 9, 9), NOW, |_| Flow::Open), Next::Wait);
    assert_eq!(session.cursors().count(), 0);
    assert_eq!(session.ack(&own, Seq(9), NOW, |_, _| {}).map(|acked| acked.cursor), Ok(Seq(9)));
}

#[test]
fn what_the_client_has_by_its_own_word_is_covered_once_by_the_acks_that_reach_it() {
    let own = stream();
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(own.clone());
    session.open(&own, Place { epoch: EPOCH, position: Seq(9), cursor: Seq(4) });
    session.begin_read(&own, NOW);
    assert_eq!(session.page(&own, view(9, &[], 9, 9), NOW, |_| Flow::Open), Next::Wait);
    let covered =
        |session: &mut Session, seq| session.ack(&own, Seq(seq), NOW, |_, _| {}).map(|acked| acked.covered);
    assert_eq!(covered(&mut session, 3), Ok(None), "it was acknowledged before");
    assert_eq!(covered(&mut session, 6), Ok(Some((Seq(4), Seq(6)))));
    assert_eq!(session.offer(&own, EPOCH, entry(10), NOW), Verdict::Send);
    assert_eq!(covered(&mut session, 10), Ok(Some((Seq(6), Seq(9)))));
    assert_eq!(covered(&mut session, 10), Ok(None));
}

#[test]
fn a_place_that_was_only_given_is_no_cursor_until_an_ack_moves_it() {
    let mut session = live_at(5);
    assert_eq!(session.cursors().count(), 0, "its client may not have heard of a gap before it");
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
    ack(&mut session, 6).expect("it was sent");
    assert_eq!(session.cursors().map(|(_, _, seq)| seq).collect::<Vec<_>>(), [Seq(6)]);
}

#[test]
fn a_gap_that_nobody_acknowledged_is_not_passed_by_the_cursor() {
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
    ack(&mut session, 6).expect("it was sent");
    assert_eq!(session.offer(&stream(), EPOCH, entry(9), NOW), Verdict::Read);
    session.begin_read(&stream(), NOW).expect("a gap is read");
    let page = PageView { floor: Seq(9), ..view(6, &[], 9, 9) };
    let (told, _) = steps(&mut session, page);
    assert_eq!(told.first(), Some(&Step::Gap { from: Seq(7), to: Seq(9) }));
    let cursor = |session: &Session| session.cursors().map(|(_, _, seq)| seq).collect::<Vec<_>>();
    assert_eq!(cursor(&session), [Seq(6)], "the client may have gone before it heard of it");
    ack(&mut session, 9).expect("the position is there");
    assert_eq!(cursor(&session), [Seq(9)]);
}

#[test]
fn another_epoch_or_a_head_under_the_position_ends_the_connection_however_it_is_heard_of() {
    let reset = |found: Next| assert_eq!(found, Next::Reset);
    assert_eq!(live_at(5).offer(&stream(), Epoch(4), entry(6), NOW), Verdict::Reset);
    reset(live_at(5).head(&stream(), Epoch(4), Seq(5), Seq(0)));
    reset(live_at(5).head(&stream(), EPOCH, Seq(3), Seq(5)));
    for page in [PageView { epoch: Epoch(4), ..view(5, &[], 9, 9) }, view(5, &[], 3, 3)] {
        let mut session = live_at(5);
        assert_eq!(session.offer(&stream(), EPOCH, entry(9), NOW), Verdict::Read);
        assert_eq!(
            session.offer(&stream(), Epoch(4), entry(9), NOW),
            Verdict::Reset,
            "also while it is behind"
        );
        session.begin_read(&stream(), NOW).expect("a gap is read");
        assert_eq!(steps(&mut session, page), (vec![], Next::Reset));
    }
    // Pushes overtake the answers of head checks.
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
    assert_eq!(session.head(&stream(), EPOCH, Seq(5), Seq(5)), Next::Wait);
}

#[test]
fn an_offer_of_another_epoch_before_the_stream_is_opened_makes_it_read_before_it_is_live() {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    assert_eq!(session.offer(&stream(), Epoch(4), entry(1), NOW), Verdict::Held);
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(7), cursor: Seq(7) });
    session.begin_read(&stream(), NOW).expect("it is not live yet");
    assert_eq!(steps(&mut session, view(7, &[], 7, 7)), (vec![], Next::Read), "what `open` said is older");
    session.begin_read(&stream(), NOW).expect("once more");
    assert_eq!(steps(&mut session, PageView { epoch: Epoch(4), ..view(7, &[], 9, 9) }).1, Next::Reset);
}

#[test]
fn a_page_that_an_earlier_follower_asked_for_ends_nothing() {
    let mut session = live_at(5);
    session.head(&stream(), EPOCH, Seq(9), Seq(5));
    session.begin_read(&stream(), NOW).expect("it is behind");
    session.unfollow(&stream());
    session.follow(stream());
    assert_eq!(steps(&mut session, view(5, &[], 9, 9)), (vec![], Next::Wait));
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(2), cursor: Seq(2) });
    assert_eq!(steps(&mut session, view(5, &[], 9, 9)), (vec![], Next::Read));
    assert_eq!(session.begin_read(&stream(), NOW).map(|read| read.after), Some(Seq(2)));
}

#[test]
fn an_ack_tells_which_notifications_of_this_session_it_crosses() {
    let mut session = live_at(0);
    assert_eq!(session.offer(&stream(), EPOCH, entry(1), NOW), Verdict::Send);
    assert_eq!(
        session.offer(&stream(), EPOCH, Offered { expires_at: Some(NOW), ..entry(2) }, NOW),
        Verdict::Skip
    );
    assert_eq!(session.offer(&stream(), EPOCH, Offered { receipt: false, ..entry(3) }, NOW), Verdict::Send);
    assert_eq!(session.offer(&stream(), EPOCH, entry(4), NOW), Verdict::Send);
    let mut crossed = Vec::new();
    session.ack(&stream(), Seq(3), NOW, |epoch, seq| crossed.push((epoch, seq))).expect("it was sent");
    assert_eq!(crossed, [(EPOCH, Seq(1))], "neither what expired nor the cancellation");
    session.ping();
    let acked = session.pong(NOW, |_, epoch, seq| crossed.push((epoch, seq)));
    assert_eq!((acked.len(), &crossed[1..]), (1, &[(EPOCH, Seq(4))][..]));
    session.ack(&stream(), Seq(4), NOW, |_, _| panic!("twice")).expect("it was sent");
    let later = UnixMillis(NOW.0 + 5_000);
    let soon = Offered { expires_at: Some(later), ..entry(5) };
    assert_eq!(session.offer(&stream(), EPOCH, soon, NOW), Verdict::Send);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
    session.ack(&stream(), Seq(6), later, |epoch, seq| crossed.push((epoch, seq))).expect("it was sent");
    assert_eq!(crossed[2..], [(EPOCH, Seq(6))], "the other one had expired: it may never have been written");
}

#[test]
fn the_cursor_of_a_shared_stream_is_told_once_for_each_time_that_acks_moved_it() {
    let mut session = live_at(0);
    assert_eq!(session.take_moved_shared().count(), 0);
    assert_eq!(session.offer(&stream(), EPOCH, entry(1), NOW), Verdict::Send);
    ack(&mut session, 1).expect("it was sent");
    assert_eq!(session.cursors().count(), 1);
    assert_eq!(session.take_moved_shared().map(|(_, _, seq)| seq).collect::<Vec<_>>(), [Seq(1)]);
    assert_eq!((session.take_moved_shared().count(), session.cursors().count()), (0, 0));
    ack(&mut session, 1).expect("it was sent");
    assert_eq!(session.cursors().count(), 0, "it did not move");
}

#[test]
fn a_position_that_retention_has_passed_is_told_as_a_gap() {
    let mut session = live_at(5);
    assert_eq!(session.head(&stream(), EPOCH, Seq(20), Seq(5)), Next::Read);
    session.begin_read(&stream(), NOW);
    let entries = [entry(11)];
    let page = PageView { floor: Seq(10), ..view(5, &entries, 20, 20) };
    let gap = Step::Gap { from: Seq(6), to: Seq(10) };
    assert_eq!(steps(&mut session, page), (vec![gap, Step::Send(0)], Next::Wait));
}

#[test]
fn an_auto_ack_takes_what_was_sent_before_the_ping() {
    let mut session = live_at(0);
    session.offer(&stream(), EPOCH, entry(1), NOW);
    session.ping();
    session.offer(&stream(), EPOCH, entry(2), NOW);
    let acked = Acked { epoch: EPOCH, cursor: Seq(1), read: false, covered: None };
    assert_eq!(session.pong(NOW, |_, _, _| {}), vec![(stream(), acked)]);
    assert!(session.pong(NOW, |_, _, _| {}).is_empty());
}

#[test]
fn a_full_connection_stops_the_page_and_drained_says_what_to_read() {
    let mut session = live_at(0);
    assert_eq!(session.head(&stream(), EPOCH, Seq(3), Seq(0)), Next::Read);
    session.begin_read(&stream(), NOW);
    let entries = [entry(1), entry(2), entry(3)];
    assert_eq!(session.page(&stream(), view(0, &entries, 3, 3), NOW, |_| Flow::Full), Next::Lagged);
    assert_eq!(session.begin_read(&stream(), NOW), None);
    assert_eq!(session.drained(), [stream()]);
    assert_eq!(session.begin_read(&stream(), NOW).map(|read| read.after), Some(Seq(1)));
}

/// Random runs of commits, pushes (dropped, doubled, reordered), reads (late, failing), acks and
/// congestion: what is sent is in order, without doubles, inside the window, and in the end complete.
#[test]
fn on_random_runs_everything_for_the_device_is_sent_once_and_in_order() {
    for seed in 0..2_000 {
        run(seed);
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mine = DeviceId::new("mine").expect("valid");
    let other = DeviceId::new("other").expect("valid");
    let mut session = Session::new(Some(mine), window(), Rules::SOUND);
    let mut log: Vec<Option<DeviceId>> = Vec::new();
    let mut in_flight: Vec<u64> = Vec::new();
    let mut page: Option<(ReadFrom, u64)> = None;
    let (mut sent, mut acked) = (Vec::<u64>::new(), 0);
    session.follow(stream());
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), cursor: Seq(0) });
    for step in 0..400 {
        let calm = step >= 250;
        match random.random_range(0..7) {
            0 if !calm => {
                log.push(random.random_bool(0.3).then(|| other.clone()));
                in_flight.push(log.len() as u64);
            }
            1 if !in_flight.is_empty() => {
                let at = random.random_range(0..in_flight.len());
                let seq = if random.random_bool(0.8) { in_flight.swap_remove(at) } else { in_flight[at] };
                let offered = Offered { device: log[seq as usize - 1].as_ref(), ..entry(seq) };
                if random.random_bool(0.9) && session.offer(&stream(), EPOCH, offered, NOW) == Verdict::Send {
                    sent.push(seq);
                }
            }
            2 if page.is_none() => {
                page = session.begin_read(&stream(), NOW).map(|read| (read, log.len() as u64))
            }
            3 => match page.take() {
                Some(_) if !calm && random.random_bool(0.2) => session.read_failed(&stream()),
                Some((read, head)) => give_page(&mut session, &log, read, head, &mut sent),
                None => {}
            },
            4 => {
                acked = sent.last().copied().unwrap_or(0).max(acked);
                ack(&mut session, acked).expect("it was sent");
            }
            5 if !calm && random.random_bool(0.2) => session.congested(),
            _ => {
                session.drained();
                let before = session.position(&stream()).expect("followed");
                session.head(&stream(), EPOCH, Seq(log.len() as u64), before);
            }
        }
        assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: {sent:?}");
        assert!(sent.iter().filter(|seq| **seq > acked).count() <= window().entries, "seed {seed}");
    }
    let wanted: Vec<u64> = (1..=log.len() as u64).filter(|seq| log[*seq as usize - 1].is_none()).collect();
    assert_eq!(sent, wanted, "seed {seed}");
}

fn give_page(
    session: &mut Session,
    log: &[Option<DeviceId>],
    read: ReadFrom,
    head: u64,
    sent: &mut Vec<u64>,
) {
    let all = (read.after.0 + 1..=head).filter(|seq| log[*seq as usize - 1].is_none());
    let seqs: Vec<u64> = all.take(read.entries).collect();
    let through = if seqs.len() == read.entries { seqs.last().copied().unwrap_or(head) } else { head };
    let entries: Vec<Offered<'_>> = seqs.iter().map(|seq| entry(*seq)).collect();
    let page = view(read.after.0, &entries, through, head);
    session.page(&stream(), page, NOW, |step| {
        if let Step::Send(index) = step {
            sent.push(seqs[index]);
        }
        Flow::Open
    });
}

#[test]
fn an_offer_that_no_read_can_find_is_not_read_for_ever() {
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(9), NOW), Verdict::Read);
    session.begin_read(&stream(), NOW).expect("a gap is read");
    let again = steps(&mut session, view(5, &[], 5, 5)).1;
    assert_eq!(again, Next::Read, "the snapshot may be older than the offer");
    session.begin_read(&stream(), NOW).expect("once more");
    assert_eq!(steps(&mut session, view(5, &[], 5, 5)).1, Next::Wait, "this one is not");
    assert_eq!(session.offer(&stream(), EPOCH, entry(6), NOW), Verdict::Send);
}

#[test]
fn a_session_is_live_only_in_the_epoch_that_it_is_in() {
    let session = live_at(5);
    assert!(session.is_live(&stream(), EPOCH));
    assert!(!session.is_live(&stream(), Epoch(4)));
}
