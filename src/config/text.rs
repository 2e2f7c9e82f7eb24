//! Texts in and about the configuration: hints, shapes of URLs and origins.

use crate::auth::Secret;

/// What to say of a key that does not exist: with the nearest one, if one is near.
pub(super) fn unknown_key<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest = known.map(|candidate| (distance(key, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= 2 => {
            format!("there is no such key; did you mean {candidate}?")
        }
        _ => "there is no such key; config/default.toml lists all".to_owned(),
    }
}

/// Levenshtein's distance: how many characters differ.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, character) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *candidate);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// A TOML error without the lines of the file that it quotes.
pub(super) fn without_quotes(error: &str) -> String {
    let kept: Vec<&str> =
        error.lines().filter(|line| !line.contains('|') && !line.trim().is_empty()).map(str::trim).collect();
    kept.join("; ")
}

/// Whether `url` begins with one of `schemes` and has something after `://`.
pub(super) fn has_scheme(url: &Secret, schemes: &[&str]) -> bool {
    url.expose().split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
}

/// `scheme://host[:port]` in lower case, as browsers send it (RFC 6454 section 6.1).
pub(super) fn origin(text: &str) -> Option<String> {
    let (scheme, host) = text.split_once("://")?;
    let of = |allowed: &str, part: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
        !part.is_empty() && part.chars().all(is_allowed)
    };
    (of("+-.", scheme) && of(".-:[]_", host)).then(|| text.to_ascii_lowercase())
}

/// Whether keys may be fetched from there: nobody on the way can put others in their place.
pub(super) fn is_key_set_url(text: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    is_bare && (url.scheme() == "https" || url.scheme() == "http" && is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toml_error_keeps_its_place_and_loses_the_line() {
        let error = "TOML parse error at line 1, column 9\n  |\n1 | secret = hunter2\n  |          ^\nexpected a string\n";
        assert_eq!(without_quotes(error), "TOML parse error at line 1, column 9; expected a string");
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        let good =
            ["https://id.example/jwks", "http://localhost:80/k", "http://127.0.0.1/", "http://[::1]:8/"];
        for good in good {
            assert!(is_key_set_url(good), "{good}");
        }
        for bad in [
            "http://id.example/jwks",
            "http://127.0.0.1.example/",
            "http://localhost@id.example/",
            "https://user:word@id.example/",
            "https://id.example/#x",
            "https://",
            "file:///etc/keys",
            "id.example/jwks",
        ] {
            assert!(!is_key_set_url(bad), "{bad}");
        }
    }

    #[test]
    fn origins_have_a_scheme_and_a_host_and_nothing_else() {
        for good in ["https://app.example.com", "http://localhost:3000", "http://[::1]:80"] {
            assert_eq!(origin(good).as_deref(), Some(good));
        }
        for bad in ["*", "example.com", "https://a/", "https://", "://a", "https://a b"] {
            assert_eq!(origin(bad), None, "{bad:?}");
        }
    }
}
