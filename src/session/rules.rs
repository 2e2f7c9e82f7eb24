//! The rules that a simulation breaks on purpose, to prove that it would notice.

/// Which rules hold. Everything but a simulation uses [`Rules::SOUND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// While not live, the highest seq offered is remembered, and going live waits for it.
    pub remember_offers: bool,
    /// After a page the position is its `through`, not the last contiguous entry.
    pub move_to_through: bool,
    /// An entry above position + 1 is a gap and has to be read before anything is sent.
    pub read_gaps: bool,
    /// A pushed entry at or under the position is a double and is not sent.
    pub skip_lower: bool,
    /// A page, push or head of another epoch, or a head under the position, ends the connection.
    pub compare_epochs: bool,
    /// What presence knows of a user's connections on a node counts only if that node says so, too.
    pub count_the_living: bool,
    /// What is for another device of the user is passed over, and not sent.
    pub skip_others: bool,
    /// Only what is written is acknowledged, and not what waits for its collapse key's time.
    pub ack_written: bool,
}

impl Rules {
    /// All rules hold.
    pub const SOUND: Self = Self {
        remember_offers: true,
        move_to_through: true,
        read_gaps: true,
        skip_lower: true,
        compare_epochs: true,
        count_the_living: true,
        skip_others: true,
        ack_written: true,
    };
}
