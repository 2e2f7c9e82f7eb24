//! What a session writes of updates that come faster than its client is to be sent them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::domain::{DeviceId, Epoch, Stream};
use crate::session::{AckError, Next, PageView, Place, Pushed, Rules, Session, Verdict, Window};

const EPOCH: Epoch = Epoch(3);
const START: u64 = 1_000_000;
const WINDOW: Duration = Duration::from_millis(100);

fn stream() -> Stream {
    Stream::Everyone
}

/// A session that is live at 0, and what it has written: seqs.
struct Rig {
    session: Session,
    now: UnixMillis,
    written: Vec<u64>,
    /// So many more are taken before the connection is full.
    room: usize,
}

/// What is at a place.
#[derive(Clone, Copy, Default)]
struct What<'a> {
    key: Option<&'a str>,
    device: Option<&'a DeviceId>,
    lives_ms: Option<u64>,
}

fn key(key: &str) -> What<'_> {
    What { key: Some(key), ..What::default() }
}

impl Rig {
    fn new(window: Window, rules: Rules) -> Self {
        let mine = DeviceId::new("mine").ok();
        let mut session = Session::new(mine, window, rules).conflating(WINDOW);
        session.follow(stream());
        session.open(&stream(), Place { epoch: EPOCH, position: Seq(0), cursor: Seq(0) });
        let mut rig = Self { session, now: UnixMillis(START), written: Vec::new(), room: usize::MAX };
        assert!(rig.session.begin_read(&stream(), rig.now).is_some());
        assert_eq!(rig.page(0, &[], 0), Next::Wait);
        rig
    }

    fn wide() -> Self {
        Self::new(Window { entries: 1_000, bytes: 1_000_000 }, Rules::SOUND)
    }

    fn at(&mut self, since_start_ms: u64) {
        self.now = UnixMillis(START + since_start_ms);
    }

    fn offer(&mut self, seq: u64, what: What<'_>) -> Verdict {
        let word = what.key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let expires_at = what.lives_ms.map(|ms| UnixMillis(self.now.0 + ms));
        let frame = Frame::text(seq.to_string().as_bytes(), Bytes::new()).expiring(expires_at);
        let entry = Offered {
            seq: Seq(seq),
            device: what.device,
            expires_at,
            bytes: 10,
            receipt: true,
            pushed: Some(Pushed { frame: &frame, collapse_key: word.as_ref() }),
        };
        let verdict = self.session.offer(&stream(), EPOCH, entry, self.now);
        match verdict {
            Verdict::Send => {
                self.written.push(seq);
                if take(&mut self.room) == Flow::Full {
                    self.session.congested();
                }
            }
            Verdict::Kept => drop(self.release()),
            _ => {}
        }
        verdict
    }

    fn release(&mut self) -> Released {
        let (written, room) = (&mut self.written, &mut self.room);
        self.session.release(self.now, |frame| {
            written.push(seq_of(&frame));
            take(room)
        })
    }

    fn page(&mut self, after: u64, seqs: &[u64], head: u64) -> Next {
        let (written, room) = (&mut self.written, &mut self.room);
        self.session.flush(&stream(), self.now, |frame| {
            written.push(seq_of(&frame));
            take(room)
        });
        let entry = |seq: &u64| Offered {
            seq: Seq(*seq),
            device: None,
            expires_at: None,
            bytes: 10,
            receipt: true,
            pushed: None,
        };
        let entries: Vec<Offered<'_>> = seqs.iter().map(entry).collect();
        let page = PageView {
            epoch: EPOCH,
            floor: Seq(0),
            after: Seq(after),
            head: Seq(head),
            through: Seq(head),
            entries: &entries,
        };
        self.session.page(&stream(), page, self.now, |step| {
            if let crate::session::Step::Send(index) = step {
                written.push(seqs[index]);
                return take(room);
            }
            Flow::Open
        })
    }

    fn ack(&mut self, seq: u64) -> Result<Vec<u64>, AckError> {
        let mut crossed = Vec::new();
        self.session.ack(&stream(), Seq(seq), self.now, |_, seq| crossed.push(seq.0)).map(|_| crossed)
    }

    /// The connection drains, and heads are compared.
    fn stir(&mut self, head: u64) {
        self.room = usize::MAX;
        self.session.drained();
        self.release();
        let before = self.session.position(&stream()).expect("followed");
        self.session.head(&stream(), EPOCH, Seq(head), before);
    }

    /// Everything goes well once.
    fn catch_up(&mut self, log: &[Option<&str>]) {
        self.stir(log.len() as u64);
        self.session.read_failed(&stream());
        if let Some(read) = self.session.begin_read(&stream(), self.now) {
            self.page(read.after.0, &newest(log, read.after.0), log.len() as u64);
        }
        let last = self.written.last().copied().unwrap_or(0);
        self.ack(last).expect("it was written");
    }

    fn cursor(&self) -> Option<u64> {
        self.session.cursors().next().map(|(_, _, seq)| seq.0)
    }
}

fn seq_of(frame: &Frame) -> u64 {
    std::str::from_utf8(&frame.head[2..]).ok().and_then(|text| text.parse().ok()).expect("a seq")
}

fn take(room: &mut usize) -> Flow {
    *room = room.saturating_sub(1);
    if *room == 0 { Flow::Full } else { Flow::Open }
}

#[test]
fn the_first_of_a_quiet_key_goes_at_once_and_of_those_within_the_window_the_last_at_its_end() {
    let mut rig = Rig::wide();
    assert_eq!(rig.offer(1, key("a")), Verdict::Send);
    for (seq, at) in [(2, 10), (3, 50), (4, 99)] {
        rig.at(at);
        assert_eq!(rig.offer(seq, key("a")), Verdict::Kept);
    }
    assert_eq!((rig.session.wait(rig.now), rig.session.take_merged()), (Some(Duration::from_millis(1)), 2));
    assert_eq!(rig.release(), Released::default(), "the window goes on");
    rig.at(100);
    assert_eq!(rig.release(), Released { sent: 1, expired: 0 });
    assert_eq!((rig.session.wait(rig.now), &rig.written[..]), (None, &[1, 4][..]));
    rig.at(199);
    assert_eq!(rig.offer(5, key("a")), Verdict::Kept, "once in a window");
    rig.at(200);
    rig.release();
    rig.at(300);
    assert_eq!(rig.offer(6, key("a")), Verdict::Send, "it was quiet");
    assert_eq!(rig.written, [1, 4, 5, 6]);
}

#[test]
fn what_does_not_wait_takes_along_what_waits_before_it() {
    let mut rig = Rig::wide();
    rig.offer(1, key("a"));
    rig.offer(2, key("a"));
    assert_eq!(rig.written, [1]);
    rig.offer(3, What::default());
    assert_eq!(rig.written, [1, 2, 3], "an entry without a key");
    rig.offer(4, key("a"));
    rig.offer(5, key("b"));
    assert_eq!(rig.written, [1, 2, 3, 4, 5], "a quiet key");
    rig.at(40);
    rig.offer(6, key("b"));
    rig.offer(7, key("a"));
    rig.at(99);
    rig.offer(8, key("b"));
    rig.at(100);
    rig.release();
    assert_eq!(rig.written[5..], [7, 8], "each of its own key only is dropped");
}

#[test]
fn many_keys_settle_into_one_write_of_each_in_a_window() {
    let mut rig = Rig::wide();
    let names: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let mut seq = 0;
    for round in 0..100 {
        for name in &names {
            seq += 1;
            rig.at(round * 10);
            rig.release();
            rig.offer(seq, key(name));
        }
    }
    let writes = rig.written.len();
    assert!((200..=240).contains(&writes), "{writes} of 2000 in ten windows, for 20 keys");
}

#[test]
fn the_same_word_for_another_target_is_another_key() {
    let mine = DeviceId::new("mine").expect("valid");
    let mut rig = Rig::wide();
    assert_eq!(rig.offer(1, key("a")), Verdict::Send);
    assert_eq!(rig.offer(2, What { device: Some(&mine), ..key("a") }), Verdict::Send);
    assert_eq!(rig.offer(3, key("a")), Verdict::Kept);
    assert_eq!(rig.offer(4, What { device: Some(&mine), ..key("a") }), Verdict::Kept);
    rig.at(100);
    rig.release();
    assert_eq!(rig.written, [1, 2, 3, 4]);
}

#[test]
fn what_waits_is_not_acknowledged_and_what_was_dropped_has_no_receipt() {
    let mut rig = Rig::wide();
    rig.offer(1, key("a"));
    rig.offer(2, key("a"));
    rig.offer(3, key("a"));
    let refused = AckError::AboveSent { sent: Seq(2), got: Seq(3) };
    assert_eq!(rig.ack(3), Err(refused), "it has not been written");
    rig.session.ping();
    assert_eq!(rig.session.pong(rig.now, |_, _, _| {}).len(), 1);
    assert_eq!(rig.cursor(), Some(2), "the pong acknowledges what was written, and what is gone for good");
    rig.at(100);
    rig.release();
    assert_eq!(rig.ack(3), Ok(vec![3]));
    assert_eq!(rig.cursor(), Some(3));
}

#[test]
fn what_expires_while_it_waits_is_not_written() {
    let mut rig = Rig::wide();
    rig.offer(1, key("a"));
    rig.offer(2, What { lives_ms: Some(50), ..key("a") });
    rig.offer(3, What { lives_ms: Some(500), ..key("b") });
    rig.offer(4, What { lives_ms: Some(50), ..key("b") });
    rig.at(100);
    assert_eq!(rig.release(), Released { sent: 0, expired: 1 });
    assert_eq!(rig.written, [1, 2, 3]);
    rig.ack(3).expect("it was written");
    assert_eq!(rig.cursor(), Some(4));
}

#[test]
fn a_full_connection_gets_the_rest_when_it_has_drained_and_no_page_passes_it() {
    let mut rig = Rig::wide();
    for (seq, name) in (1..).zip(["a", "b", "c"]) {
        rig.offer(seq, key(name));
    }
    for (seq, name) in (4..).zip(["a", "b", "c"]) {
        assert_eq!(rig.offer(seq, key(name)), Verdict::Kept);
    }
    rig.room = 2;
    rig.at(100);
    assert_eq!(rig.release().sent, 2);
    assert_eq!(rig.session.wait(rig.now), None, "the connection says when it goes on");
    assert_eq!(rig.offer(7, key("d")), Verdict::Lagged);
    assert_eq!(rig.page(6, &[7], 7), Next::Lagged, "6 is not written");
    rig.room = usize::MAX;
    assert_eq!(rig.session.drained(), [stream()]);
    rig.release();
    assert_eq!(rig.session.begin_read(&stream(), rig.now).map(|read| read.after), Some(Seq(6)));
    assert_eq!(rig.page(6, &[7], 7), Next::Wait);
    assert_eq!(rig.written, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_waits_is_gone_once_a_newer_one_is_known_that_must_be_read() {
    let mut rig = Rig::wide();
    rig.offer(1, key("a"));
    rig.offer(2, key("a"));
    assert_eq!(rig.offer(4, key("b")), Verdict::Read, "3 is missing");
    assert_eq!(rig.offer(3, key("a")), Verdict::Held, "for the read brings it");
    rig.at(100);
    rig.release();
    assert_eq!(rig.written, [1], "2 is superseded by 3");
    assert!(rig.session.begin_read(&stream(), rig.now).is_some());
    assert_eq!(rig.page(2, &[3, 4], 4), Next::Wait);
    assert_eq!(rig.written, [1, 3, 4]);
    rig.ack(4).expect("it was written");
    assert_eq!(rig.cursor(), Some(4));
}

#[test]
fn what_waits_is_gone_once_a_newer_one_is_known_that_has_expired_or_came_before() {
    let mut rig = Rig::wide();
    rig.offer(1, key("a"));
    rig.offer(2, key("a"));
    assert_eq!(rig.offer(3, What { lives_ms: Some(0), ..key("a") }), Verdict::Skip);
    rig.offer(4, key("a"));
    assert_eq!(rig.offer(2, key("a")), Verdict::Skip, "it came again, and is older than what waits");
    rig.at(100);
    rig.release();
    assert_eq!(rig.written, [1, 4]);
}

#[test]
fn what_waits_counts_in_the_window_and_gives_its_room_to_what_replaces_it() {
    let mut rig = Rig::new(Window { entries: 2, bytes: 1_000 }, Rules::SOUND);
    rig.offer(1, key("a"));
    assert_eq!(rig.offer(2, key("a")), Verdict::Kept);
    assert_eq!(rig.offer(3, key("a")), Verdict::Kept, "in the room of the other one");
    assert_eq!(rig.session.unacked(), 2);
    assert_eq!(rig.offer(4, key("b")), Verdict::Lagged);
}

#[test]
fn a_clock_that_goes_back_lets_nobody_wait_for_longer_than_a_window() {
    let mut rig = Rig::wide();
    rig.at(1_000_000);
    rig.offer(1, key("a"));
    rig.offer(2, key("a"));
    rig.at(500);
    assert_eq!(rig.session.wait(rig.now), Some(Duration::ZERO));
    assert_eq!(rig.release().sent, 1);
}

#[test]
fn only_so_many_keys_are_merged_and_quiet_ones_are_forgotten() {
    let mut rig = Rig::wide();
    let names: Vec<String> = (0..=KEYS).map(|number| format!("k{number}")).collect();
    for (seq, name) in (1..).zip(&names) {
        assert_eq!(rig.offer(seq, key(name)), Verdict::Send);
    }
    let next = KEYS as u64 + 2;
    assert_eq!(rig.offer(next, key(&names[KEYS])), Verdict::Send, "one key too many to be known");
    assert_eq!(rig.offer(next + 1, key(&names[0])), Verdict::Kept);
    rig.at(100);
    rig.release();
    rig.session.forget_quiet(rig.now);
    assert_eq!(rig.offer(next + 2, key(&names[1])), Verdict::Send);
    assert_eq!(rig.offer(next + 3, key(&names[KEYS])), Verdict::Send);
    assert_eq!(rig.offer(next + 4, key(&names[KEYS])), Verdict::Kept, "there is room for it now");
}

/// Random runs of commits of few keys, pushes (dropped, doubled, reordered), reads, acks, time and full connections: what is
/// written is in order and without doubles, nothing is acknowledged before it, and in the end nothing that was not
/// replaced is missing.
#[test]
fn on_random_runs_the_newest_of_each_key_is_written_and_all_in_order() {
    for seed in 0..2_000 {
        run(seed);
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut rig = Rig::new(Window { entries: 6, bytes: 1_000 }, Rules::SOUND);
    let mut log: Vec<Option<&str>> = Vec::new();
    let mut in_flight: Vec<u64> = Vec::new();
    let (mut page, mut acked, mut at) = (None, 0, 0);
    for step in 0..500 {
        let calm = step >= 300;
        at += random.random_range(0..30);
        rig.at(at);
        match random.random_range(0..8) {
            0 | 1 if !calm => {
                log.push([None, Some("a"), Some("a"), Some("b"), Some("c")][random.random_range(0..5)]);
                in_flight.push(log.len() as u64);
            }
            2 | 3 if !in_flight.is_empty() => {
                let at = if random.random_bool(0.8) { 0 } else { random.random_range(0..in_flight.len()) };
                let seq = if random.random_bool(0.9) { in_flight.remove(at) } else { in_flight[at] };
                if random.random_bool(0.95) {
                    rig.offer(seq, What { key: log[seq as usize - 1], ..What::default() });
                }
            }
            4 => match page.take() {
                None => {
                    page = rig.session.begin_read(&stream(), rig.now).map(|read| (read.after.0, log.len()))
                }
                // A snapshot: what was replaced by then is absent.
                Some((after, head)) => {
                    rig.page(after, &newest(&log[..head], after), head as u64);
                }
            },
            5 => {
                acked = rig.written.last().copied().unwrap_or(0).max(acked);
                rig.ack(acked).expect("it was written");
            }
            6 if !calm && random.random_bool(0.2) => rig.room = random.random_range(1..4),
            _ => rig.stir(log.len() as u64),
        }
        assert!(rig.written.windows(2).all(|pair| pair[0] < pair[1]), "seed {seed}: {:?}", rig.written);
    }
    rig.at(at + 1_000);
    for _ in 0..20 {
        rig.catch_up(&log);
    }
    for seq in (1..=log.len() as u64).filter(|seq| is_newest(&log, *seq)) {
        assert!(rig.written.contains(&seq), "seed {seed}: {seq} is missing of {:?}", rig.written);
    }
}

/// What a read finds after this seq.
fn newest(log: &[Option<&str>], after: u64) -> Vec<u64> {
    (after + 1..=log.len() as u64).filter(|seq| is_newest(log, *seq)).collect()
}

fn is_newest(log: &[Option<&str>], seq: u64) -> bool {
    let key = log[seq as usize - 1];
    key.is_none() || !log[seq as usize..].contains(&key)
}
