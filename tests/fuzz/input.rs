//! An input as text, so that it can be given again.

use std::fmt::Write;

/// Two digits a byte.
pub(crate) fn to_hex(input: &[u8]) -> String {
    input.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a text does not fail");
        hex
    })
}

/// The bytes again.
///
/// # Errors
/// Names the place of what is no pair of digits.
pub(crate) fn from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let pairs = hex.as_bytes().chunks(2).enumerate();
    pairs
        .map(|(at, pair)| {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            let byte = (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten();
            byte.ok_or_else(|| {
                format!("FUZZ_INPUT must be pairs of hexadecimal digits; the {at}th is {pair:?}")
            })
        })
        .collect()
}
