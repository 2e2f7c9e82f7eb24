//! The stage of one run: virtual time, the one source of chance, the trace and the findings.
//!
//! Everything that is random or worth telling goes through here, so that a seed says it all. It must
//! never know what is right; that is for the ledger and the devices.

use std::collections::hash_map::DefaultHasher;
use std::fmt::{Display, Write};
use std::hash::Hasher;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::clock::Clock;
use fanfare::domain::UnixMillis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Some day in 2026; only differences matter.
const BEGAN: UnixMillis = UnixMillis(1_780_000_000_000);

/// What can go wrong for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The device is past an entry that it was to get and never got: nothing can heal that.
    Loss,
    /// The device waits below an entry that it is to get, and nothing is on its way.
    Stall,
    /// A seq went back within a connection, or came before its stream was opened.
    Order,
    /// A seq came twice within a connection.
    Double,
    /// It got what was for another device, what never was, or what had expired.
    Stranger,
    /// The stored cursor passes what the device has not acknowledged.
    Cursor,
    /// Accepted, and not in the inbox.
    Unkept,
    /// The newest connection of a device was told that it was displaced.
    Displaced,
    /// It got what had ended long before: superseded or cancelled, or, however short before, expired.
    Stale,
    /// It has a notification that was cancelled, and was not told.
    Uncancelled,
    /// More was sent ahead of acknowledgements than the window has room for.
    Window,
    /// What it knows of the read state is wrong, or went back.
    Read,
    /// Published twice: under one idempotency key, or by one schedule.
    Twice,
    /// A receipt says delivered of what nobody acknowledged.
    Receipt,
    /// A device began elsewhere in a stream than it was to.
    Start,
    /// An answer to a publisher waited for what it must not wait for.
    Late,
    /// A user had more connections on a node than allowed, or one was ended for others that did not live.
    Crowd,
}

/// One thing that must never happen, and did.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

#[derive(Default)]
struct Told {
    hash: DefaultHasher,
    lines: Vec<String>,
    findings: Vec<Finding>,
}

struct Inner {
    dice: Mutex<StdRng>,
    told: Mutex<Told>,
    start: Instant,
    faulty: AtomicBool,
    quiet: CancellationToken,
    clock: Clock,
    seed: u64,
    /// Whether the trace is kept: telling takes longer than the run itself.
    is_told: bool,
}

/// Clones are the same stage.
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

impl Stage {
    /// Must be made inside the runtime, whose time is paused.
    pub fn new(seed: u64, is_told: bool) -> Self {
        let start = Instant::now();
        let clock = Clock::new(move || BEGAN.after(start.elapsed())).with_seed(seed ^ 0x5eed);
        Self(Arc::new(Inner {
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            told: Mutex::default(),
            start,
            faulty: AtomicBool::new(true),
            quiet: CancellationToken::new(),
            clock,
            seed,
            is_told,
        }))
    }

    /// The true wall clock.
    pub fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    /// The true time.
    pub fn now(&self) -> UnixMillis {
        BEGAN.after(self.0.start.elapsed())
    }

    /// The wall clock of a node that is `ahead` of the true time, with dice of its own.
    pub fn clock_of(&self, number: u64, ahead: Duration) -> Clock {
        let start = self.0.start;
        let dice = self.0.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Clock::new(move || BEGAN.after(start.elapsed() + ahead)).with_seed(dice)
    }

    /// Whether something with this probability happens.
    pub fn chance(&self, percent: u32) -> bool {
        percent > 0 && self.pick(0..=99) < u64::from(percent)
    }

    /// One of a range.
    pub fn pick(&self, range: RangeInclusive<u64>) -> u64 {
        self.0.dice.lock().expect("no panic under it").random_range(range)
    }

    /// One of some things.
    pub fn one_of<'a, T>(&self, things: &'a [T]) -> &'a T {
        &things[self.pick(0..=things.len() as u64 - 1) as usize]
    }

    /// Waits for a random number of virtual milliseconds.
    pub async fn pause(&self, millis: RangeInclusive<u64>) {
        tokio::time::sleep(Duration::from_millis(self.pick(millis))).await;
    }

    /// What a round trip takes: mostly little, now and then a lot. However little, what is ready on the node itself
    /// runs first: a whole announce that is answered before the gateway has read the end of a socket, which is there
    /// already, is no network's doing.
    pub async fn trip(&self) {
        tokio::task::yield_now().await;
        let millis = if self.chance(80) { self.pick(0..=6) } else { self.pick(10..=70) };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Whether faults may still be made.
    pub fn is_faulty(&self) -> bool {
        self.0.faulty.load(Ordering::Relaxed)
    }

    /// No more faults, and clients come and stay.
    pub fn calm_down(&self) {
        self.0.faulty.store(false, Ordering::Relaxed);
        self.say("--- faults end");
        self.0.quiet.cancel();
    }

    /// Fires when faults have ended.
    pub fn quiet(&self) -> &CancellationToken {
        &self.0.quiet
    }

    /// Adds a line to the trace, where that is kept.
    pub fn say(&self, what: impl Display) {
        if !self.0.is_told {
            return;
        }
        let mut line = format!("{:>9.3} ", self.0.start.elapsed().as_secs_f64());
        let _ = write!(line, "{what}");
        let mut told = self.told();
        told.hash.write(line.as_bytes());
        told.lines.push(line);
    }

    /// Notes what must never happen.
    pub fn find(&self, kind: Kind, text: impl Display) {
        let text = text.to_string();
        self.say(format_args!("!!! {kind:?}: {text}"));
        self.told().findings.push(Finding { kind, text });
    }

    /// Whether something was found.
    pub fn has_findings(&self) -> bool {
        !self.told().findings.is_empty()
    }

    /// Everything that was told: its hash, its lines, what was found.
    pub fn outcome(&self) -> (u64, Vec<String>, Vec<Finding>) {
        let told = self.told();
        (told.hash.finish(), told.lines.clone(), told.findings.clone())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().expect("no panic under it")
    }
}
