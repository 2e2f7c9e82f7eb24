//! Bodies: read within bounds, and as JSON.
//!
//! Owns the rule that bytes are counted as they arrive: a `Content-Length` is believed when it is too
//! large, never when it is small; a chunked body is as good as any.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap};
use http::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::Problem;

/// How much of a refused body is read and thrown away, and for how long: a client that is still sending
/// when the connection is closed would get a reset, and never see the answer.
const DISCARD_BYTES: usize = 8 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Reads a body of at most `limit` bytes within `deadline`.
///
/// # Errors
/// 413 `request_too_large`, 408 `request_timeout`, or 400 `incomplete_body` when the client stopped.
pub(super) async fn collect<S, B>(
    headers: &HeaderMap,
    body: &mut S,
    limit: usize,
    deadline: Duration,
) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    if declared(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match timeout(deadline, count(body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the body must arrive within {} seconds", deadline.as_secs_f32()),
        )),
    }
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn count<S, B>(body: &mut S, limit: usize) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    // Most bodies arrive in one piece, which is not copied.
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = body.next().await {
        let mut piece = piece.map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "incomplete_body", "the body ended before it was complete")
        })?;
        if first.len() + all.len() + piece.remaining() > limit {
            return Err(too_large(limit));
        }
        let piece = piece.copy_to_bytes(piece.remaining());
        if first.is_empty() && all.is_empty() {
            first = piece;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&piece);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("a request may have at most {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", detail)
}

/// Reads on without keeping anything, so that the client gets to read why it was refused.
pub(super) async fn discard<S, B>(headers: &HeaderMap, body: &mut S)
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    // RFC 9110 section 10.1.1: such a client waits for the answer before it sends.
    if headers.contains_key(EXPECT) {
        return;
    }
    let mut left = DISCARD_BYTES;
    let read = async {
        while let Some(Ok(piece)) = body.next().await {
            match left.checked_sub(piece.remaining()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whoever is slower sees a reset; there is nothing to report.
    let _ = timeout(DISCARD_TIME, read).await;
}

/// Takes `application/json`, `…+json`, or no type at all, uncompressed.
///
/// # Errors
/// 415 `unsupported_media_type` with what is taken.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: String, name, taken| {
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
        Err(problem.with_header(name, taken))
    };
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && encoding != "identity"
    {
        let detail = format!("the body must not be compressed; got Content-Encoding {encoding:?}");
        return refuse(detail, header::ACCEPT_ENCODING, "identity");
    }
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    refuse(
        format!("the content type must be application/json; got {given:?}"),
        header::ACCEPT,
        "application/json",
    )
}

/// Reads a body as JSON of one shape.
///
/// # Errors
/// 400 `invalid_json`; 422 `invalid_request` names the field.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let malformed = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid_json", detail);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let place = if path == "." || path == "?" { String::new() } else { format!("{path}: ") };
        let detail = format!("{place}{inner}");
        if inner.is_data() { Problem::invalid("invalid_request", detail) } else { malformed(detail) }
    })?;
    deserializer.end().map_err(|error| malformed(error.to_string()))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::HeaderValue;

    use super::*;

    async fn read(pieces: &[&'static str], length: Option<&'static str>) -> Result<Bytes, u16> {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        let read = collect(&headers, &mut stream::iter(pieces), 8, Duration::from_secs(1)).await;
        read.map_err(|problem| problem.into_response(None).status().as_u16())
    }

    #[tokio::test]
    async fn what_arrives_is_counted_whatever_was_declared() {
        assert_eq!(read(&[], None).await, Ok(Bytes::new()));
        assert_eq!(read(&["1234", "", "5678"], None).await, Ok(Bytes::from_static(b"12345678")));
        assert_eq!(read(&["1234", "56789"], None).await, Err(413));
        assert_eq!(read(&["123456789"], Some("3")).await, Err(413));
        assert_eq!(read(&["1"], Some("9")).await, Err(413));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let mut never = stream::pending::<Result<Bytes, warp::Error>>();
        let read = collect(&HeaderMap::new(), &mut never, 8, Duration::from_secs(30)).await;
        assert_eq!(read.map_err(|problem| problem.into_response(None).status().as_u16()), Err(408));
        discard(&HeaderMap::new(), &mut never).await;
    }

    #[test]
    fn json_is_taken_by_any_of_its_names() {
        let check = |name, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            check_type(&headers).is_ok()
        };
        assert!(check_type(&HeaderMap::new()).is_ok());
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"] {
            assert!(check(CONTENT_TYPE, json), "{json}");
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert!(!check(CONTENT_TYPE, other), "{other}");
        }
        assert!(check(CONTENT_ENCODING, "identity"));
        assert!(!check(CONTENT_ENCODING, "gzip"));
    }
}
