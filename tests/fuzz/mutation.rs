//! New inputs from old ones, by chance that is seeded.
//!
//! Knows bytes, digits and a target's words; must not know what a target reads.

use rand::RngExt;
use rand::rngs::StdRng;

/// The longest input: several times what a client may send.
const LONGEST: usize = 64 * 1024;

/// Bytes at which parsers turn.
const BYTES: &[u8] = b"\x00\x01\x7d\x7e\x7f\x80\xbf\xc0\xed\xf4\xff\"\\{}[],:0-+eE. \n";

/// Numbers at which types end.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e3",
    "1e400",
    "0.5",
    "-0",
];

/// Makes inputs.
pub(crate) struct Mutation {
    pub(crate) random: StdRng,
    pub(crate) words: &'static [&'static [u8]],
}

impl Mutation {
    /// One of `pool`, changed in a few places.
    pub(crate) fn next(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool[self.random.random_range(0..pool.len())].clone();
        for _ in 0..1_u32 << self.random.random_range(0..4) {
            self.change(&mut input, pool);
            input.truncate(LONGEST);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let (from, to) = self.range(input.len());
        match self.random.random_range(0..10) {
            0 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= 1 << self.random.random_range(0..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = self.random.random();
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = BYTES[self.random.random_range(0..BYTES.len())];
                }
            }
            3 => drop(input.drain(from..to)),
            4 => {
                let times = [1, 1, 2, 3, 17, 150, 300, 5_000][self.random.random_range(0..8)];
                let piece = &input[from..to];
                let times = times.min(LONGEST / piece.len().max(1));
                let repeated = piece.repeat(times);
                input.splice(to..to, repeated);
            }
            5 | 6 => {
                let word = self.words[self.random.random_range(0..self.words.len())];
                let to = if self.random.random_bool(0.5) { from } else { to };
                input.splice(from..to, word.iter().copied());
            }
            7 => {
                let other = &pool[self.random.random_range(0..pool.len())];
                let (start, end) = self.range(other.len());
                input.splice(from..to, other[start..end].iter().copied());
            }
            8 => self.change_number(input, from),
            _ => {
                let bytes: Vec<u8> =
                    (0..self.random.random_range(1..9)).map(|_| self.random.random()).collect();
                input.splice(from..from, bytes);
            }
        }
    }

    /// Puts another number in the place of the first one from `from` on.
    fn change_number(&mut self, input: &mut Vec<u8>, from: usize) {
        let Some(start) = input[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else {
            return;
        };
        let end = input[start..]
            .iter()
            .position(|byte| !byte.is_ascii_digit())
            .map_or(input.len(), |at| start + at);
        let number = NUMBERS[self.random.random_range(0..NUMBERS.len())];
        input.splice(start..end, number.bytes());
    }

    /// A range within `0..length`; mostly a short one.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.random.random_range(0..=length);
        let longest = if self.random.random_bool(0.8) { 16.min(length - from) } else { length - from };
        (from, from + self.random.random_range(0..=longest))
    }
}
