//! What is fuzzed: where inputs begin, which words they may contain, what must hold of each.

mod amqp;
mod client_frames;
mod envelope;
mod frames;
mod headers;
mod publish;

/// The longest text that refuses an input, in bytes: what others send is not sent back to them at length.
const LONGEST_ERROR: usize = 1_024;

/// One thing that reads what others send.
pub(crate) struct Target {
    /// As `FUZZ_TARGET` names it.
    pub(crate) name: &'static str,
    /// Where mutations begin.
    pub(crate) corpus: fn() -> Vec<Vec<u8>>,
    /// What they put in now and then.
    pub(crate) words: &'static [&'static [u8]],
    /// What kind of input this is (another kind is worth going on from), or what is wrong. May panic: that is
    /// wrong as well.
    pub(crate) check: fn(&[u8]) -> Result<String, String>,
}

/// All of them.
pub(crate) fn all() -> [Target; 6] {
    [frames::TARGET, client_frames::TARGET, publish::TARGET, envelope::TARGET, amqp::TARGET, headers::TARGET]
}

/// Fails with `what` unless `holds`.
fn demand(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// A text without what differs from input to input: the kind of an error.
fn kind_of(error: &str) -> String {
    // What is quoted differs.
    let words = error
        .split(['"', '`'])
        .step_by(2)
        .flat_map(|part| part.split(|letter: char| !letter.is_ascii_alphabetic()));
    words.filter(|word| word.len() > 1).take(12).collect::<Vec<_>>().join(" ")
}
