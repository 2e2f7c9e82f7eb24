//! A session that gives back what only a busy stream needs, beside one that never does.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::domain::{DeviceId, Epoch, Seq, Stream, TopicName, UnixMillis};
use crate::session::{Flow, Offered, PageView, Place, Pushed, ReadFrom, Rules, Session, Window};
use crate::wire::Frame;

const EPOCH: Epoch = Epoch(3);

/// What `act` answers, which must be the same for both.
fn both<T: Debug>(pair: &mut [Session; 2], act: impl Fn(&mut Session) -> T) -> T {
    let [one, other] = pair;
    let (answer, same) = (act(one), act(other));
    assert_eq!(format!("{answer:?}"), format!("{same:?}"));
    answer
}

/// An entry that was committed: whom it is for, when it expires, of which key it is.
struct Entry {
    device: Option<DeviceId>,
    expires_at: Option<UnixMillis>,
    key: Option<Bytes>,
    frame: Frame,
}

impl Entry {
    fn any(random: &mut StdRng, devices: &[DeviceId], now: UnixMillis) -> Self {
        let device = random.random_bool(0.3).then(|| devices[random.random_range(0..2)].clone());
        let expires_at = random.random_bool(0.3).then(|| UnixMillis(now.0 + random.random_range(0..9_000)));
        let key = random.random_bool(0.3).then(|| Bytes::from_static(b"key"));
        Self { device, expires_at, key, frame: Frame::ping().expiring(expires_at) }
    }

    fn offered(&self, seq: u64, pushed: bool) -> Offered<'_> {
        let pushed = pushed.then_some(Pushed { frame: &self.frame, collapse_key: self.key.as_ref() });
        let (device, expires_at) = (self.device.as_ref(), self.expires_at);
        Offered { seq: Seq(seq), device, expires_at, bytes: 10, receipt: !seq.is_multiple_of(3), pushed }
    }
}

fn page(
    session: &mut Session,
    stream: &Stream,
    read: ReadFrom,
    log: &[Entry],
    floor: u64,
    now: UnixMillis,
) -> String {
    let after = read.after.0.max(floor);
    let due = (after + 1..=log.len() as u64).map(|seq| log[seq as usize - 1].offered(seq, false));
    let entries: Vec<_> = due.take(read.entries).collect();
    let (head, floor) = (Seq(log.len() as u64), Seq(floor));
    let through =
        if entries.len() == read.entries { entries.last().map_or(head, |last| last.seq) } else { head };
    let view = PageView { epoch: EPOCH, floor, after: read.after, head, through, entries: &entries };
    let mut steps = Vec::new();
    let next = session.page(stream, view, now, |step| {
        steps.push(step);
        if steps.len() % 5 == 4 { Flow::Full } else { Flow::Open }
    });
    format!("{steps:?} {next:?}")
}

/// Everything that can be asked of a session without changing it.
fn seen(session: &Session, now: UnixMillis) -> String {
    let cursors: Vec<_> = session.cursors().collect();
    let status: Vec<_> = session.status().collect();
    let state = (session.is_congested(), session.is_lagged(), session.is_caught_up(), session.unacked());
    format!("{cursors:?} {status:?} {state:?} {:?}", session.wait(now))
}

#[test]
fn on_random_runs_a_stream_that_rests_differs_in_nothing_from_one_that_never_does() {
    for seed in 0..1_000 {
        println!("seed {seed}");
        run(seed);
    }
}

/// A stream as the inbox has it, and what of it is being read.
struct Log {
    stream: Stream,
    entries: Vec<Entry>,
    read: Option<ReadFrom>,
}

impl Log {
    fn new(stream: Stream) -> Self {
        Self { stream, entries: Vec::new(), read: None }
    }

    fn head(&self) -> u64 {
        self.entries.len() as u64
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let devices = ["mine", "other"].map(|name| DeviceId::new(name).expect("valid"));
    let topic = Stream::Topic(TopicName::new("news").expect("valid"));
    let mut logs = [Log::new(Stream::Everyone), Log::new(topic)];
    let window = Window { entries: 4, bytes: 1_000 };
    let conflation = Duration::from_secs(random.random_range(0..2) * 3);
    let new = || Session::new(Some(devices[0].clone()), window, Rules::SOUND).conflating(conflation);
    let mut pair = [new(), new()];
    let mut now = UnixMillis(1_000_000);
    for _ in 0..300 {
        now.0 += random.random_range(0..1_000);
        let log = &mut logs[random.random_range(0..2)];
        match random.random_range(0..4) {
            0 => log.entries.push(Entry::any(&mut random, &devices, now)),
            1 => node_acts(&mut pair, log, &mut random, now),
            2 => client_acts(&mut pair, log, &mut random, now),
            _ => socket_acts(&mut pair, &mut random, now),
        }
        both(&mut pair, |session| seen(session, now));
        if random.random_bool(0.3) {
            pair[0].forget_quiet(now);
        }
    }
}

/// A push, a read or a head check.
fn node_acts(pair: &mut [Session; 2], log: &mut Log, random: &mut StdRng, now: UnixMillis) {
    let (stream, head) = (&log.stream, log.head());
    let seq = random.random_range(0..=head);
    match random.random_range(0..7) {
        0..3 if head > 0 => {
            // Mostly the next one, as it is pushed when it comes.
            let seq = if random.random_bool(0.7) { head } else { seq.max(1) };
            let offered = log.entries[seq as usize - 1].offered(seq, true);
            both(pair, |session| session.offer(stream, EPOCH, offered, now));
        }
        3 => log.read = both(pair, |session| session.begin_read(stream, now)).or(log.read),
        4 => {
            let before = Seq(seq / 2);
            both(pair, |session| session.head(stream, EPOCH, Seq(head), before));
        }
        _ => match log.read.take() {
            Some(_) if random.random_bool(0.1) => both(pair, |session| session.read_failed(stream)),
            Some(read) => {
                let floor = if random.random_bool(0.1) { seq } else { 0 };
                both(pair, |session| session.flush(stream, now, |_| Flow::Open));
                both(pair, |session| page(session, stream, read, &log.entries, floor, now));
            }
            None => {}
        },
    }
}

/// It follows, leaves or acknowledges a stream.
fn client_acts(pair: &mut [Session; 2], log: &Log, random: &mut StdRng, now: UnixMillis) {
    let stream = &log.stream;
    let seq = random.random_range(0..=log.head());
    match random.random_range(0..12) {
        0..2 => {
            let cursor = Seq(seq.saturating_sub(random.random_range(0..3)));
            both(pair, |session| session.follow(stream.clone()));
            both(pair, |session| session.open(stream, Place { epoch: EPOCH, position: Seq(seq), cursor }));
        }
        2 => both(pair, |session| session.follow(stream.clone())),
        3 if random.random_bool(0.2) => {
            both(pair, |session| session.unfollow(stream));
        }
        _ => {
            let acked = |session: &mut Session| {
                let mut crossed = Vec::new();
                let sent = session.position(stream).unwrap_or_default();
                let acked = session.ack(stream, sent.min(Seq(seq + 1)), now, |_, seq| crossed.push(seq));
                (acked, crossed)
            };
            drop(both(pair, acked));
        }
    }
}

/// Pings, rounds of the node, and a socket that fills and drains.
fn socket_acts(pair: &mut [Session; 2], random: &mut StdRng, now: UnixMillis) {
    let moved =
        |session: &mut Session| session.take_moved_shared().map(|(_, _, seq)| seq).collect::<Vec<_>>();
    match random.random_range(0..8) {
        0 => both(pair, Session::congested),
        1..3 => both(pair, Session::ping),
        3 => drop(both(pair, |session| session.pong(now, |_, _, _| {}))),
        4 => drop(both(pair, |session| session.stuck(now))),
        5 => drop(both(pair, moved)),
        6 => {
            both(pair, |session| session.release(now, |_| Flow::Open));
            both(pair, Session::take_merged);
        }
        _ => drop(both(pair, Session::drained)),
    }
}
