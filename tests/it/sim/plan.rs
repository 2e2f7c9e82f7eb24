//! What one kind of run is like: the weather, and what is broken on purpose.

use std::time::Duration;

use fanfare::delivery::{Crowd, OverLimit, Recycling};
use fanfare::session::Rules;

/// What goes wrong by itself, as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Of a hundred envelopes so many are lost.
    pub lost: u32,
    /// Of a hundred calls to presence or inbox so many fail.
    pub failing: u32,
    /// RabbitMQ is away now and then, for so many milliseconds at least and at most.
    pub broker_away: Option<(u64, u64)>,
    /// RabbitMQ takes nothing for some seconds now and then (memory alarm).
    pub broker_blocked: bool,
    /// Redis is away, or takes no writes.
    pub presence_away: bool,
    /// SQL is away.
    pub inbox_away: bool,
    /// SQL answers nothing for some seconds now and then.
    pub inbox_hangs: bool,
    /// Redis forgets everything now and then in so many cases of a hundred, one connection in the others.
    pub flushes: Option<u32>,
    /// Nodes die, or stop in order, and come back.
    pub deaths: bool,
    /// Nodes stand still for so many seconds, at least and at most, and go on.
    pub freezes: Option<(u64, u64)>,
    /// The store is put back to a backup, once.
    pub restore: bool,
    /// Retention removes entries.
    pub retention: bool,
    /// Clients change nodes without a goodbye, stop reading for a while, and so on.
    pub restless: bool,
    /// How far the nodes' clocks are apart, in milliseconds.
    pub skew_ms: u64,
}

impl Weather {
    /// Only delays, doubles and reordering: nothing that a head check is for.
    pub const CALM: Self = Self {
        lost: 0,
        failing: 0,
        broker_away: None,
        broker_blocked: false,
        presence_away: false,
        inbox_away: false,
        inbox_hangs: false,
        flushes: None,
        deaths: false,
        freezes: None,
        restore: false,
        retention: false,
        restless: true,
        skew_ms: 0,
    };
    /// Everything at once.
    pub const STORM: Self = Self {
        lost: 10,
        failing: 3,
        broker_away: Some((200, 6_000)),
        broker_blocked: true,
        presence_away: true,
        inbox_away: true,
        inbox_hangs: true,
        flushes: Some(60),
        deaths: true,
        freezes: Some((1, 12)),
        restore: true,
        retention: true,
        restless: true,
        skew_ms: 0,
    };
}

/// What a double of a part does wrong on purpose. `planted` maps the rules of the design to these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Nothing: every contract is kept.
    Nothing,
    /// A page's entries are of one moment, its head and `through` of a later one.
    TornPages,
    /// Reads come from a replica that is up to a second behind.
    StaleReads,
    /// The inbox is opened as it was before the announce.
    ReadFirst,
    /// A seq is taken at one moment and its entry seen at a later one (no lock from counter to commit).
    LateVisible,
    /// An announce of a connection is answered before it is applied.
    HastyAnnounce,
    /// An announce of a topic is answered at once if another for it is in flight.
    UnawaitedRoute,
    /// A topic that nobody follows is withdrawn, and not announced again when somebody does.
    AssumedRoute,
    /// A goodbye removes whatever connection the device has.
    LateGoodbye,
    /// The publisher asks who is there before it commits.
    LocateFirst,
    /// The publisher answers when the broker has confirmed.
    AwaitedConfirm,
    /// A replayed key answers and sends nothing.
    SilentReplay,
    /// An idempotency key is not remembered.
    ForgottenKeys,
    /// A device's cursor is not there yet when `open` answers, and may never be.
    CursorLater,
    /// A user's first device starts at the head.
    StartAtHead,
    /// Redis says after a flush that it has forgotten nothing.
    SilentFlush,
    /// The broker says it is up while it is not.
    SilentOutage,
    /// Nodes are not told when the broker goes away; they see it when they look.
    UnnoticedOutage,
    /// A commit of cursors stores what was sent, not what was acknowledged.
    GreedyCursor,
    /// The answer to a publish comes before its commit, which then may fail.
    HastyCommit,
    /// A cancellation is pushed, but is no entry.
    UnenteredCancel,
    /// Reads bring what was cancelled.
    CancelledKept,
    /// Reads bring what was superseded.
    CollapsedKept,
    /// What a cancelled one had superseded is there again.
    RevivedByCancel,
    /// Reads bring what has expired, as if it lived for ever.
    ExpiredKept,
    /// A schedule may fire when it has ended.
    UnguardedFiring,
    /// Heads say nothing of read marks.
    MarksForgotten,
    /// A mark is answered with how many there are, not with its own number.
    MarksUnnumbered,
    /// `new-epoch` leaves the unread versions as they were.
    VersionsGoBack,
    /// Nodes send whatever they have, whatever was acknowledged.
    NoWindow,
    /// Nodes take whoever comes.
    NoLimit,
}

/// One kind of run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub weather: Weather,
    pub plant: Plant,
    pub rules: Rules,
    /// How long notifications are published, in virtual time.
    pub active: Duration,
    /// The longest pause between two of them, in milliseconds.
    pub pace_ms: u64,
    /// How often heads are checked.
    pub head_check: Duration,
    /// How long after the end of all faults everything must have arrived: where they heal by it, one head check.
    pub settle: Duration,
    /// How long after it ended (cancelled, superseded) a notification may still arrive.
    pub stale_after: Duration,
    /// How soon publishers must have their answer, where nothing but the broker fails.
    pub answer_within: Duration,
    /// Clients read and acknowledge at once.
    pub keen: bool,
    /// How soon whoever is connected must have what is entered. Only for keen clients.
    pub prompt: Duration,
    /// So many notifications of a hundred have a collapse key.
    pub keyed: u32,
    /// How far apart a connection is sent updates of one collapse key.
    pub conflation: Duration,
    /// So many times of a hundred that something is marked as read, several are, over HTTP, all at once.
    pub marks_at_once: u32,
    /// How many topics there are.
    pub topics: u64,
    /// All follow one and the same topic, the next one every so many milliseconds; else each what it likes.
    pub fashion: Option<u64>,
    /// So many times of a hundred somebody publishes just when routes change: for who comes, follows, is cut off.
    pub rush: u32,
    /// How many connections a user may have.
    pub crowd: Crowd,
    /// Now and then somebody comes with more.
    pub throngs: bool,
    /// How long connections last.
    pub recycling: Option<Recycling>,
}

/// Enough for a burst through the smallest window in the smallest pages; no check of heads comes so soon.
const PROMPT: Duration = Duration::from_secs(3);
/// Longer than any run.
const NEVER: Duration = Duration::from_secs(100_000);

impl Plan {
    /// Everything at once; one head check heals it.
    pub const STORM: Self = Self {
        weather: Weather::STORM,
        plant: Plant::Nothing,
        rules: Rules::SOUND,
        active: Duration::from_secs(16),
        pace_ms: 900,
        head_check: Duration::from_secs(30),
        settle: Duration::from_secs(30),
        stale_after: NEVER,
        answer_within: NEVER,
        keen: false,
        prompt: NEVER,
        keyed: 25,
        conflation: Duration::ZERO,
        marks_at_once: 0,
        topics: 2,
        fashion: None,
        rush: 0,
        crowd: Crowd { limit: 64, over_limit: OverLimit::DisplaceOldest },
        throngs: false,
        recycling: None,
    };
    /// Nothing fails, and no head check helps: the order of things alone loses nothing.
    pub const CALM: Self = Self {
        weather: Weather::CALM,
        active: Duration::from_secs(12),
        head_check: NEVER,
        settle: Duration::from_secs(6),
        stale_after: Duration::from_millis(1_000),
        answer_within: Duration::from_secs(2),
        ..Self::STORM
    };
    /// As calm, and so short that nothing which comes later heals what was missed while devices came.
    pub const BRIEF: Self = Self { active: Duration::from_secs(4), ..Self::CALM };
    /// Nodes stand still for longer than leases and presence last; nothing else fails.
    pub const FROZEN: Self = Self {
        weather: Weather { freezes: Some((20, 40)), ..Weather::CALM },
        active: Duration::from_secs(80),
        pace_ms: 5_000,
        ..Self::STORM
    };
    /// As calm, with few entries, most of them for who is just coming: so none heals what an earlier one missed,
    /// and none may wait.
    pub const ARRIVING: Self = Self {
        active: Duration::from_secs(40),
        pace_ms: 4_000,
        keen: true,
        prompt: PROMPT,
        rush: 50,
        ..Self::CALM
    };
    /// The same with a topic that all follow for a while and then leave, so that its routes come and go.
    pub const FASHION: Self =
        Self { active: Duration::from_secs(50), topics: 8, fashion: Some(4_000), rush: 30, ..Self::ARRIVING };
    /// The nodes' clocks are up to a second apart, as is allowed; nothing else is wrong.
    pub const SKEWED: Self =
        Self { weather: Weather { skew_ms: 1_000, ..Weather::CALM }, stale_after: NEVER, ..Self::CALM };

    /// Users come with more connections than are allowed, all at once, and nodes die.
    pub const CROWDED: Self = Self {
        weather: Weather { deaths: true, ..Weather::CALM },
        active: Duration::from_secs(30),
        crowd: Crowd { limit: 3, over_limit: OverLimit::DisplaceOldest },
        throngs: true,
        ..Self::STORM
    };
    /// The same where the newest are refused.
    pub const FULL: Self =
        Self { crowd: Crowd { limit: 3, over_limit: OverLimit::RefuseNewest }, ..Self::CROWDED };

    /// Connections last for a few seconds, and as calm.
    pub const RECYCLED: Self = Self {
        recycling: Some(Recycling { age: Duration::from_secs(2), per_second: 2 }),
        active: Duration::from_secs(20),
        ..Self::CALM
    };
    /// As calm, with many updates of few collapse keys, which are merged.
    pub const MERGED: Self =
        Self { pace_ms: 250, keyed: 70, conflation: Duration::from_millis(400), ..Self::CALM };

    /// The same with something broken in a double.
    pub const fn planted(self, plant: Plant) -> Self {
        Self { plant, ..self }
    }

    /// The same with other rules of the session.
    pub const fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// The same in another weather.
    pub const fn in_weather(self, weather: Weather) -> Self {
        Self { weather, ..self }
    }
}
