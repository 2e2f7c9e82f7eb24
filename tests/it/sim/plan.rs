//! What one kind of run is like: the weather, and what is broken on purpose.

use std::time::Duration;

use fanfare::session::Rules;

/// What goes wrong by itself, as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Of a hundred envelopes so many are lost.
    pub lost: u32,
    /// Of a hundred calls to presence or inbox so many fail.
    pub failing: u32,
    /// RabbitMQ is away for some seconds now and then.
    pub broker_away: bool,
    /// Redis is.
    pub presence_away: bool,
    /// SQL is.
    pub inbox_away: bool,
    /// Redis forgets everything now and then.
    pub flushes: bool,
    /// Nodes die, or stop in order, and come back.
    pub deaths: bool,
    /// The store is put back to a backup, once.
    pub restore: bool,
    /// Retention removes entries.
    pub retention: bool,
    /// Clients change nodes without a goodbye, stop reading for a while, and so on.
    pub restless: bool,
}

impl Weather {
    /// Only delays, doubles and reordering: nothing that a head check is for.
    pub const CALM: Self = Self {
        lost: 0,
        failing: 0,
        broker_away: false,
        presence_away: false,
        inbox_away: false,
        flushes: false,
        deaths: false,
        restore: false,
        retention: false,
        restless: true,
    };
    /// Everything at once.
    pub const STORM: Self = Self {
        lost: 10,
        failing: 3,
        broker_away: true,
        presence_away: true,
        inbox_away: true,
        flushes: true,
        deaths: true,
        restore: true,
        retention: true,
        restless: true,
    };
}

/// What a double of a part does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Nothing: every contract is kept.
    Nothing,
    /// A page's entries are of one moment, its head and `through` of a later one.
    TornPages,
    /// Reads come from a replica that is up to a second behind.
    StaleReads,
    /// An announce of a connection is answered before it is applied.
    HastyAnnounce,
    /// An announce of a topic is answered at once if another for it is in flight.
    UnawaitedRoute,
    /// The publisher asks who is there before it commits.
    LocateFirst,
    /// A device's cursor is not there yet when `open` answers, and may never be.
    CursorLater,
    /// Redis says after a flush that it has forgotten nothing.
    SilentFlush,
    /// The broker says it is up while it is not.
    SilentOutage,
    /// A commit of cursors stores what was sent, not what was acknowledged.
    GreedyCursor,
    /// The answer to a publish comes before its commit, which then may fail.
    HastyCommit,
}

/// One kind of run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub weather: Weather,
    pub plant: Plant,
    pub rules: Rules,
    /// How long notifications are published, in virtual time.
    pub active: Duration,
    /// How often heads are checked.
    pub head_check: Duration,
    /// How long after the end of all faults everything must have arrived.
    pub settle: Duration,
}

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(100_000);

impl Plan {
    /// Everything at once; one head check heals it.
    pub const STORM: Self = Self {
        weather: Weather::STORM,
        plant: Plant::Nothing,
        rules: Rules::SOUND,
        active: Duration::from_secs(16),
        head_check: Duration::from_secs(30),
        settle: Duration::from_secs(40),
    };
    /// Nothing fails, and no head check helps: the order of things alone loses nothing.
    pub const CALM: Self = Self {
        weather: Weather::CALM,
        plant: Plant::Nothing,
        rules: Rules::SOUND,
        active: Duration::from_secs(12),
        head_check: NEVER,
        settle: Duration::from_secs(6),
    };
    /// As calm, and so short that nothing which comes later heals what was missed while devices came.
    pub const BRIEF: Self = Self { active: Duration::from_secs(4), ..Self::CALM };

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
