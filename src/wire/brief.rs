//! Errors about what others sent, short enough to be sent back and kept.

/// The longest, in bytes.
pub const MAX_BYTES: usize = 512;

/// `sentence`, cut between two characters where it is longer than [`MAX_BYTES`]: it may quote what was sent.
pub(super) fn brief(mut sentence: String) -> String {
    const CUT: char = '…';
    if sentence.len() > MAX_BYTES {
        sentence.truncate(sentence.floor_char_boundary(MAX_BYTES - CUT.len_utf8()));
        sentence.push(CUT);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_between_two_characters_and_says_so() {
        let just = "x".repeat(MAX_BYTES);
        assert_eq!(brief(just.clone()), just);
        for sentence in [just + "x", "é".repeat(300), format!("x{}", "😀".repeat(200))] {
            let cut = brief(sentence.clone());
            assert!((MAX_BYTES - 4..=MAX_BYTES).contains(&cut.len()), "{} bytes", cut.len());
            assert!(sentence.starts_with(cut.strip_suffix('…').expect("a mark")), "{cut}");
        }
    }
}
