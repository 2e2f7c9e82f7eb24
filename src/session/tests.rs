//! Sessions against the rules, and against a naive model on seeded random runs.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const EPOCH: Epoch = Epoch(3);

fn window() -> Window {
    Window { entries: 4, bytes: 1_000 }
}

fn stream() -> Stream {
    Stream::Everyone
}

fn entry(seq: u64) -> Offered<'static> {
    Offered { seq: Seq(seq), device: None, expired: false, bytes: 10 }
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
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(position), acked: true });
    assert!(session.begin_read(&stream()).is_some());
    assert!(!session.page(&stream(), view(position, &[], position, position), |_| { Flow::Open }));
    session
}

fn steps(session: &mut Session, page: PageView<'_>) -> (Vec<Step>, bool) {
    let mut steps = Vec::new();
    let again = session.page(&stream(), page, |step| {
        steps.push(step);
        Flow::Open
    });
    (steps, again)
}

#[test]
fn the_next_entry_is_sent_a_lower_one_skipped_and_a_higher_one_read() {
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6)), Verdict::Send);
    assert_eq!(session.offer(&stream(), EPOCH, entry(6)), Verdict::Skip);
    assert_eq!(session.offer(&stream(), EPOCH, entry(8)), Verdict::Read);
    assert_eq!(session.offer(&stream(), EPOCH, entry(7)), Verdict::Held);
    let read = session.begin_read(&stream()).expect("a gap is read");
    assert_eq!(read.after, Seq(6));
    assert_eq!(session.begin_read(&stream()), None, "single flight");
    let entries = [entry(7), entry(8)];
    let (steps, again) = steps(&mut session, view(6, &entries, 8, 8));
    assert_eq!((steps, again), (vec![Step::Send(0), Step::Send(1)], false));
    assert_eq!(session.offer(&stream(), EPOCH, entry(9)), Verdict::Send);
}

#[test]
fn an_offer_during_a_read_makes_it_read_again_before_it_is_live() {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    assert_eq!(session.offer(&stream(), EPOCH, entry(1)), Verdict::Held);
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), acked: true });
    assert!(session.begin_read(&stream()).is_some());
    assert_eq!(session.offer(&stream(), EPOCH, entry(2)), Verdict::Held);
    let first = [entry(1)];
    assert_eq!(steps(&mut session, view(0, &first, 1, 1)), (vec![Step::Send(0)], true));
    assert_eq!(session.begin_read(&stream()).map(|read| read.after), Some(Seq(1)));
    let second = [entry(2)];
    let caught_up = vec![Step::Send(0), Step::CaughtUp(Seq(2))];
    assert_eq!(steps(&mut session, view(1, &second, 2, 2)), (caught_up, false));
}

#[test]
fn the_position_moves_past_entries_that_are_absent_or_for_another_device() {
    let mut session = live_at(0);
    let phone = DeviceId::new("phone").expect("valid");
    let other = Offered { device: Some(&phone), ..entry(1) };
    assert_eq!(session.offer(&stream(), EPOCH, other), Verdict::Skip);
    assert_eq!(session.offer(&stream(), EPOCH, Offered { expired: true, ..entry(2) }), Verdict::Skip);
    assert_eq!(session.offer(&stream(), EPOCH, entry(3)), Verdict::Send);
    assert_eq!(session.ack(&stream(), Seq(3)).map(|acked| acked.cursor), Ok(Seq(3)));
    assert_eq!(session.offer(&stream(), EPOCH, Offered { device: Some(&phone), ..entry(4) }), Verdict::Skip);
    assert_eq!(session.cursors().next().map(|(_, _, seq)| seq), Some(Seq(4)));
}

#[test]
fn a_full_window_holds_back_and_an_ack_reads_on() {
    let mut session = live_at(0);
    for seq in 1..=4 {
        assert_eq!(session.offer(&stream(), EPOCH, entry(seq)), Verdict::Send);
    }
    assert_eq!(session.offer(&stream(), EPOCH, entry(5)), Verdict::Held);
    assert_eq!(session.begin_read(&stream()), None, "there is no room");
    assert!(session.stuck().is_empty() && session.stuck() == [stream()] && session.stuck().is_empty());
    assert_eq!(session.ack(&stream(), Seq(1)), Ok(Acked { cursor: Seq(1), read: false }));
    assert_eq!(session.ack(&stream(), Seq(2)), Ok(Acked { cursor: Seq(2), read: true }));
    let read = session.begin_read(&stream()).expect("there is room");
    assert_eq!((read.after, read.entries), (Seq(4), 2));
}

#[test]
fn an_ack_above_what_was_sent_is_refused() {
    let mut session = live_at(5);
    let refused = AckError::AboveSent { sent: Seq(5), got: Seq(6) };
    assert_eq!(session.ack(&stream(), Seq(6)), Err(refused));
    assert_eq!(session.ack(&Stream::parse("topic:x").expect("valid"), Seq(1)), Err(AckError::NotFollowed));
}

#[test]
fn a_resumed_place_is_not_acknowledged_before_the_client_says_so() {
    let mut session = Session::new(None, window(), Rules::SOUND);
    session.follow(stream());
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(9), acked: false });
    session.begin_read(&stream());
    steps(&mut session, view(9, &[], 9, 9));
    assert_eq!(session.cursors().next().map(|(_, _, seq)| seq), Some(Seq(0)));
    assert_eq!(session.ack(&stream(), Seq(9)).map(|acked| acked.cursor), Ok(Seq(9)));
}

#[test]
fn another_epoch_or_a_head_under_the_position_starts_again_at_the_floor() {
    for page in [
        PageView { epoch: Epoch(4), floor: Seq(2), ..view(5, &[], 3, 3) },
        PageView { floor: Seq(2), ..view(5, &[], 3, 3) },
    ] {
        let mut session = live_at(5);
        assert!(session.head(&stream(), page.epoch, page.head, Seq(5)));
        session.begin_read(&stream());
        let gap = Step::Gap { epoch: page.epoch, from: Seq(1), to: Seq(2) };
        assert_eq!(steps(&mut session, page), (vec![gap], true));
        assert_eq!(session.begin_read(&stream()).map(|read| read.after), Some(Seq(2)));
    }
}

#[test]
fn a_position_that_retention_has_passed_is_told_as_a_gap() {
    let mut session = live_at(5);
    assert!(session.head(&stream(), EPOCH, Seq(20), Seq(5)));
    session.begin_read(&stream());
    let entries = [entry(11)];
    let page = PageView { floor: Seq(10), ..view(5, &entries, 20, 20) };
    let gap = Step::Gap { epoch: EPOCH, from: Seq(6), to: Seq(10) };
    assert_eq!(steps(&mut session, page), (vec![gap, Step::Send(0)], false));
}

#[test]
fn an_auto_ack_takes_what_was_sent_before_the_ping() {
    let mut session = live_at(0);
    session.offer(&stream(), EPOCH, entry(1));
    session.ping();
    session.offer(&stream(), EPOCH, entry(2));
    assert_eq!(session.pong(), vec![(stream(), Acked { cursor: Seq(1), read: false })]);
    assert!(session.pong().is_empty());
}

#[test]
fn a_full_connection_stops_the_page_and_drained_says_what_to_read() {
    let mut session = live_at(0);
    assert!(session.head(&stream(), EPOCH, Seq(3), Seq(0)));
    session.begin_read(&stream());
    let entries = [entry(1), entry(2), entry(3)];
    assert!(!session.page(&stream(), view(0, &entries, 3, 3), |_| Flow::Full));
    assert_eq!(session.begin_read(&stream()), None);
    assert_eq!(session.drained(), [stream()]);
    assert_eq!(session.begin_read(&stream()).map(|read| read.after), Some(Seq(1)));
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
    session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), acked: true });
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
                if random.random_bool(0.9) && session.offer(&stream(), EPOCH, offered) == Verdict::Send {
                    sent.push(seq);
                }
            }
            2 if page.is_none() => page = session.begin_read(&stream()).map(|read| (read, log.len() as u64)),
            3 => match page.take() {
                Some(_) if !calm && random.random_bool(0.2) => session.read_failed(&stream()),
                Some((read, head)) => give_page(&mut session, &log, read, head, &mut sent),
                None => {}
            },
            4 => {
                acked = sent.last().copied().unwrap_or(0).max(acked);
                session.ack(&stream(), Seq(acked)).expect("it was sent");
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
    session.page(&stream(), page, |step| {
        if let Step::Send(index) = step {
            sent.push(seqs[index]);
        }
        Flow::Open
    });
}

#[test]
fn an_offer_that_no_read_can_find_is_not_read_for_ever() {
    let mut session = live_at(5);
    assert_eq!(session.offer(&stream(), EPOCH, entry(9)), Verdict::Read);
    session.begin_read(&stream()).expect("a gap is read");
    assert!(steps(&mut session, view(5, &[], 5, 5)).1, "the snapshot may be older than the offer");
    session.begin_read(&stream()).expect("once more");
    assert!(!steps(&mut session, view(5, &[], 5, 5)).1, "this one is not");
    assert_eq!(session.offer(&stream(), EPOCH, entry(6)), Verdict::Send);
}

#[test]
fn a_session_is_live_only_in_the_epoch_that_it_is_in() {
    let session = live_at(5);
    assert!(session.is_live(&stream(), EPOCH));
    assert!(!session.is_live(&stream(), Epoch(4)));
}
