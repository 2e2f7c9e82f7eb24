//! The server's refusals, for people.

use serde_json::Value;

use super::output;

/// An RFC 9457 problem in one line: status, code, and what to change.
pub(super) fn refusal(status: u16, body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| {
        let text = problem.get(name).and_then(Value::as_str);
        text.map(output::harmless)
    };
    let code = text("code").unwrap_or_else(|| "no code".to_owned());
    let detail = text("detail").or_else(|| text("title"));
    let detail = detail.unwrap_or_else(|| "the answer does not say why".to_owned());
    let errors = problem.get("errors").map_or_else(String::new, |errors| {
        format!(" {}", output::harmless(&errors.to_string()))
    });
    format!("refused with {status} ({code}): {detail}{errors}")
}
