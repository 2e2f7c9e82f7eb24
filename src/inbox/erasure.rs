//! What remains of a scheduled request when one of its recipients is erased.
//!
//! Owns the reading of `to`. Whatever else is in the request stays byte for byte. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::UserId;

/// A request without one person.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Without {
    /// It does not name the person.
    Same,
    /// It names nobody else.
    Nobody,
    /// The request for whoever is left.
    Others(Bytes),
}

/// Takes a person out of a publish request. One that cannot be read names nobody.
pub(super) fn without(request: &[u8], user: &UserId) -> Without {
    let Ok(mut fields) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(request) else {
        return Without::Same;
    };
    let to = fields.get("to").and_then(|to| serde_json::from_str::<Value>(to.get()).ok());
    let Some(Value::Object(mut to)) = to else {
        return Without::Same;
    };
    let is_person = |recipient: &Value| {
        let named = recipient.as_str().or_else(|| recipient.get("user")?.as_str());
        named == Some(user.as_str())
    };
    let (mut before, mut after) = (0, 0);
    for list in to.values_mut().filter_map(Value::as_array_mut) {
        before += list.len();
        list.retain(|recipient| !is_person(recipient));
        after += list.len();
    }
    if before == after {
        return Without::Same;
    }
    let left = serde_json::value::to_raw_value(&to).ok().filter(|_| after > 0);
    let Some(left) = left else {
        return Without::Nobody;
    };
    fields.insert("to".to_owned(), left);
    serde_json::to_vec(&fields).map_or(Without::Nobody, |request| Without::Others(Bytes::from(request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, expected: Without) {
        let alice = UserId::new("alice").expect("a valid id");
        assert_eq!(without(request.as_bytes(), &alice), expected, "{request}");
    }

    fn others(request: &'static str) -> Without {
        Without::Others(Bytes::from_static(request.as_bytes()))
    }

    #[test]
    fn a_person_is_taken_out_of_a_request_and_nothing_else() {
        check(r#"{"to":{"users":["bob"]},"title":"alice"}"#, Without::Same);
        check(r#"{"to":{"topic":"alice"}}"#, Without::Same);
        check(r#"{"to":{"everyone":true}}"#, Without::Same);
        check(r#"{"to":{"users":["alice"]}}"#, Without::Nobody);
        check(r#"{"to":{"users":["\u0061lice"]}}"#, Without::Nobody);
        check(
            r#"{"to":{"devices":[{"user":"alice","device":"a"},{"user":"alice","device":"b"}]}}"#,
            Without::Nobody,
        );
        check(
            r#"{"to":{"users":["alice","bob"]},"data":{"b": 1.50, "a":"alice"}}"#,
            others(r#"{"data":{"b": 1.50, "a":"alice"},"to":{"users":["bob"]}}"#),
        );
        check(
            r#"{"to":{"devices":[{"user":"alice","device":"a"},{"user":"bob","device":"b"}]}}"#,
            others(r#"{"to":{"devices":[{"device":"b","user":"bob"}]}}"#),
        );
        check("not JSON", Without::Same);
    }
}
