//! Parts that several statements share.
//!
//! Owns when an entry counts, so that reads, unread counts, cancellations and receipts agree. Texts only.

/// A newer one of an entry's collapse key was appended, whatever became of that one.
macro_rules! replaced {
    () => {
        "(entries.collapse is not null and exists (
            select 1 from entries as newer indexed by entries_collapse_idx
            where newer.stream = entries.stream and newer.collapse = entries.collapse
                and newer.seq > entries.seq and newer.device is entries.device
        ))"
    };
}

/// A notification that nothing has taken the place of: it was neither replaced, cancelled, dropped nor noted as
/// expired. Whether it has expired since is another question.
macro_rules! current {
    () => {
        concat!("entries.kind = 0 and entries.state = 0 and not ", replaced!())
    };
}

/// Whether an entry has not expired at the time `$now`.
macro_rules! alive {
    ($now:literal) => {
        concat!("(entries.expires_at is null or entries.expires_at > ", $now, ")")
    };
}

/// Nobody acknowledged or read an entry.
macro_rules! untouched {
    () => {
        "entries.delivered_at is null and entries.read_at is null and entries.delivered_count = 0"
    };
}

/// A UUID that is kept as a blob, as text.
macro_rules! uuid_text {
    ($blob:literal) => {
        concat!(
            "lower(substr(hex(",
            $blob,
            "), 1, 8) || '-' || substr(hex(",
            $blob,
            "), 9, 4) || '-' || ",
            "substr(hex(",
            $blob,
            "), 13, 4) || '-' || substr(hex(",
            $blob,
            "), 17, 4) || '-' || ",
            "substr(hex(",
            $blob,
            "), 21))"
        )
    };
}

/// A time in milliseconds as RFC 3339.
macro_rules! time_text {
    ($millis:literal) => {
        concat!("strftime('%Y-%m-%dT%H:%M:%fZ', ", $millis, " / 1000.0, 'unixepoch')")
    };
}
