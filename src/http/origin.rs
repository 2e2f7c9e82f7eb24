//! Which sites' pages may use a user's endpoints: the same origin, and those on the list.
//!
//! Owns the check of `Origin` and the CORS headers (Fetch standard, section 3.3). Publishers' and
//! administrators' endpoints have none: they are not for browsers of other sites.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use warp::reply::Response;

use super::problem::{Answer, Problem};

/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Site {
    /// No browser, or a page of this very site.
    Same,
    /// A page of another site that is on the list.
    Listed(HeaderValue),
}

/// Tells where a request comes from.
///
/// # Errors
/// 403 `origin_forbidden`.
pub(super) fn site(headers: &HeaderMap, allowed: &[String]) -> Result<Site, Problem> {
    let Some(value) = headers.get(header::ORIGIN) else { return Ok(Site::Same) };
    let origin = value.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The scheme is not compared: a proxy in front may have ended TLS.
    let is_same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    if is_same {
        return Ok(Site::Same);
    }
    if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(Site::Listed(value.clone()));
    }
    let detail = format!("the origin {origin:?} is not in http.allowed_origins");
    Err(Problem::new(StatusCode::FORBIDDEN, "origin_forbidden", detail))
}

/// Whether an OPTIONS request is a browser's question about another one.
pub(super) fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers that question. The page may send `method` if its site is listed.
pub(super) fn preflight(headers: &HeaderMap, allowed: &[String], method: &'static str) -> Answer {
    let site = site(headers, allowed)?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let out = response.headers_mut();
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(method));
    out.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, x-request-id"),
    );
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    permit(out, site);
    Ok(response)
}

/// Lets the page of a listed site read the answer.
pub(super) fn permit(headers: &mut HeaderMap, site: Site) {
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Site::Listed(origin) = site {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id, retry-after"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(origin: Option<&'static str>) -> Result<Site, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("push.example:8080"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let allowed = ["https://shop.example".to_owned()];
        site(&headers, &allowed).map_err(|problem| problem.into_response(None).status().as_u16())
    }

    #[test]
    fn the_same_site_and_listed_ones_are_let_in() {
        assert_eq!(from(None), Ok(Site::Same));
        assert_eq!(from(Some("http://push.example:8080")), Ok(Site::Same));
        assert_eq!(from(Some("https://PUSH.example:8080")), Ok(Site::Same));
        let listed = Site::Listed(HeaderValue::from_static("https://shop.example"));
        assert_eq!(from(Some("https://shop.example")), Ok(listed));
        for other in ["http://push.example", "https://evil.example", "null", "push.example:8080", ""] {
            assert_eq!(from(Some(other)), Err(403), "{other}");
        }
    }
}
