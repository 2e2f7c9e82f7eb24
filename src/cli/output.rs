//! Writing to the terminal: standard output that may be closed, colours, foreign texts.
//!
//! Owns the rule that a text from elsewhere never reaches a terminal with its control
//! characters: they could rewrite what the person has seen.

use std::io::{IsTerminal, Write};

use super::failure::Failure;

/// Writes a line to standard output and flushes it, so that what follows is known to be shown.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(format!("cannot write to standard output: {error}")))
}

/// Whether standard output shows colours: a terminal, and nobody set `NO_COLOR`.
pub(super) fn has_colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !no_color
}

/// `text` in bold, if `coloured`.
pub(super) fn bold(text: &str, coloured: bool) -> String {
    paint("1", text, coloured)
}

/// `text` in grey, if `coloured`.
pub(super) fn dim(text: &str, coloured: bool) -> String {
    paint("2", text, coloured)
}

/// ECMA-48 section 8.3.117, SGR.
fn paint(code: &str, text: &str, coloured: bool) -> String {
    if coloured {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// `text` on one line, with control characters (and those that turn the direction of text)
/// escaped.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            _ if character.is_control() => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[2Jb\nc\u{202e}d é"),
            "a\\u{1b}[2Jb\\nc\\u{202e}d é"
        );
    }
}
