//! Errors as clients get them: RFC 9457 `application/problem+json` with a stable `code`.
//!
//! Owns which status a code has. A detail names the field, the value and the limit, and never a
//! credential or the cause of a failure inside.

use http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::debug;
use warp::reply::Response;

use crate::auth::{CredentialError, TokenError};
use crate::inbox::InboxError;
use crate::publish::PublishError;

/// When to come back where keys cannot be fetched: that takes longer to change than anything else.
const KEYS_RETRY_AFTER_S: &str = "10";

/// What an endpoint answers.
pub(super) type Answer = Result<Response, Problem>;

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    members: Map<String, Value>,
}

#[derive(Serialize)]
struct Shape<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new(), members: Map::new() }
    }

    /// The request makes no sense as it is: a field or parameter is unknown, missing or wrong.
    pub(super) fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn method_not_allowed(method: &str, allow: &str) -> Self {
        let detail = format!("{method} is not for this path: {allow}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).with_header(ALLOW, allow)
    }

    /// Nothing came that says who asks. RFC 6750 section 3: then the challenge has no error.
    pub(super) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .with_header(WWW_AUTHENTICATE, "Bearer realm=\"fanfare\"")
    }

    /// What came was refused (RFC 6750 section 3.1).
    pub(super) fn bad_credential(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .with_header(WWW_AUTHENTICATE, "Bearer realm=\"fanfare\", error=\"invalid_token\"")
    }

    /// Not now: the same request may succeed in a second.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with_header(RETRY_AFTER, "1")
    }

    /// The inbox did not do it. What it says is for the log.
    pub(super) fn inbox(error: InboxError) -> Self {
        debug!(%error, "the inbox was asked for and did not answer");
        Self::unavailable("inbox_unavailable", "the inbox is not available")
    }

    /// The endpoint's deadline passed.
    pub(super) fn timeout() -> Self {
        Self::unavailable(
            "timeout",
            "this took too long; whether it was done is unknown: an idempotency key makes a retry safe",
        )
    }

    /// A mistake of ours.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this should not have happened")
    }

    /// Status, code and detail, for an answer that holds several.
    pub(super) fn into_parts(self) -> (u16, &'static str, String) {
        (self.status.as_u16(), self.code, self.detail)
    }

    /// `value` is one of ours: visible ASCII.
    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// A further member of the object (RFC 9457 section 3.2).
    pub(super) fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// A server's error names the request, so that its log lines are found.
    pub(super) fn into_response(self, request_id: Option<&str>) -> Response {
        let body = serde_json::to_vec(&Shape {
            r#type: "about:blank",
            title: title(self.status),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id: request_id.filter(|_| self.status.is_server_error()),
            members: &self.members,
        })
        .expect("a problem has text keys only");
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// RFC 9457 section 4.2.1: with `about:blank` the title is the status phrase, here as RFC 9110 has it.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match error {
            PublishError::Refused(_) => Self::new(status_of_refusal(code), code, detail),
            PublishError::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, code, detail),
            PublishError::KeyReused | PublishError::NotStorable(_) => Self::invalid(code, detail),
            PublishError::KeyInProgress => {
                Self::new(StatusCode::CONFLICT, code, detail).with_header(RETRY_AFTER, "1")
            }
            PublishError::Overloaded | PublishError::Expired | PublishError::Unavailable(_) => {
                Self::unavailable(code, detail)
            }
        }
    }
}

fn status_of_refusal(code: &str) -> StatusCode {
    match code {
        "invalid_json" => StatusCode::BAD_REQUEST,
        "notification_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        match error {
            // RFC 6750 section 3.1: who it is is known, but the token is for something else.
            CredentialError::MissingScope => {
                Self::new(StatusCode::FORBIDDEN, error.code(), error.to_string()).with_header(
                    WWW_AUTHENTICATE,
                    "Bearer realm=\"fanfare\", error=\"insufficient_scope\", scope=\"publish\"",
                )
            }
            CredentialError::UnknownKey => Self::bad_credential(error.code(), error.to_string()),
            CredentialError::Token(error) => error.into(),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        if error.is_temporary() {
            let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, error.code(), error.to_string());
            return problem.with_header(RETRY_AFTER, KEYS_RETRY_AFTER_S);
        }
        Self::bad_credential(error.code(), error.to_string())
    }
}
