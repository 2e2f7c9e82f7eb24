//! `Authorization: Bearer` (RFC 6750 section 2.1).

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::problem::Problem;

/// The one credential of a request. `whose` says what is expected, such as `a publisher's key`.
pub(super) fn bearer<'a>(headers: &'a HeaderMap, whose: &str) -> Result<&'a str, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Problem::unauthorized(format!("{whose} is needed: Authorization: Bearer …")));
    };
    if values.next().is_some() {
        return Err(Problem::unauthorized("Authorization came more than once"));
    }
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    match bearer {
        // RFC 9110 section 11.1: the scheme is case-insensitive.
        Some((scheme, credential))
            if scheme.eq_ignore_ascii_case("bearer") && !credential.trim().is_empty() =>
        {
            Ok(credential.trim())
        }
        _ => Err(Problem::unauthorized(format!("Authorization must be Bearer and {whose}"))),
    }
}
