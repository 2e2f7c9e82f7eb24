//! Query strings: pairs of names and values, as forms send them (WHATWG URL, section 5.1).

use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The pairs, decoded, in order. `known` are the names that there may be.
///
/// # Errors
/// 422 `invalid_request` names what is unknown or not UTF-8.
pub(super) fn pairs(query: &str, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?);
        if !known.contains(&name.as_str()) {
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            let detail = format!("the query may have {known}; got {name:?}");
            return Err(Problem::invalid("invalid_request", detail));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Undoes percent-encoding, in a query or a segment of a path.
///
/// # Errors
/// 422 `invalid_request` if that is not UTF-8.
pub(super) fn decode(text: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| {
        Problem::invalid("invalid_request", format!("{text:?} is not UTF-8 once it is percent-decoded"))
    })
}

/// The value of a parameter that may be there once.
///
/// # Errors
/// 422 `invalid_request` if it is there twice or `read` refuses it.
pub(super) fn one<T, E: std::fmt::Display>(
    pairs: &[(String, String)],
    wanted: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Problem> {
    let mut values = pairs.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::invalid("invalid_request", format!("{wanted} may be there once")));
    }
    read(value).map(Some).map_err(|error| Problem::invalid("invalid_request", format!("{wanted}: {error}")))
}

/// `true` or `false`.
///
/// # Errors
/// A sentence that names what came.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("must be true or false; got {text:?}"))
}

/// A number within bounds.
pub(super) fn within(bounds: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> {
    move |text| match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!("must be in {}..={}; got {text:?}", bounds.start(), bounds.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_in_order_and_unknown_names_are_refused() {
        let read = |query| pairs(query, &["user", "node"]).ok();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(""), Some(vec![]));
        let expected = vec![pair("user", "a|b@c"), pair("node", "n 1"), pair("user", "")];
        assert_eq!(read("user=a%7Cb%40c&node=n+1&&user"), Some(expected));
        assert_eq!(read("users=a"), None);
        assert_eq!(read("user=%ff"), None);
    }

    #[test]
    fn a_parameter_may_be_there_once() {
        let found = |query| {
            let pairs = pairs(query, &["limit"]).ok()?;
            one(&pairs, "limit", str::parse::<u32>).ok()
        };
        assert_eq!(found(""), Some(None));
        assert_eq!(found("limit=7"), Some(Some(7)));
        assert_eq!(found("limit=7&limit=8"), None);
        assert_eq!(found("limit=-1"), None);
    }
}
