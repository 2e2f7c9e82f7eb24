//! What requests are taken, and what the refused ones are told.

use super::*;

fn limits() -> Limits {
    let day = Duration::from_secs(86_400);
    Limits { max_recipients: 3, max_notification_bytes: 512, max_ttl: 30 * day, max_schedule: 90 * day }
}

#[track_caller]
fn check_refused(json: &str, code: &str, word: &str) {
    let refusal = parse(json.as_bytes(), &limits()).expect_err(json);
    assert_eq!(refusal.code, code, "{json}: {}", refusal.detail);
    assert!(refusal.detail.contains(word), "{json}: {}", refusal.detail);
}

#[test]
fn a_full_request_is_taken() {
    let json = r#"{"to":{"users":["alice","bob","alice"]},"type":"order.shipped","title":"T","body":"B",
        "data":{"n":1.50,"deep":[{"x":null}]},"priority":"high","ttl":3600,"collapse_key":"order-42"}"#;
    let publication = parse(json.as_bytes(), &limits()).expect("a valid request");
    assert_eq!(publication.target.recipients().len(), 2);
    assert_eq!(publication.ttl, Ttl::Lives(Duration::from_secs(3600)));
    let id = NotificationId::new(UnixMillis(5), [7; 10]);
    let notification = accept(&publication, id, UnixMillis(1_000), &limits()).expect("small enough");
    let text = std::str::from_utf8(&notification.json).expect("UTF-8");
    assert!(text.contains(r#""data":{"n":1.50,"deep":[{"x":null}]}"#), "{text}");
    assert_eq!(notification.expires_at, Some(UnixMillis(3_601_000)));
}

#[test]
fn refusals_name_the_field_the_value_and_the_limit() {
    check_refused("nonsense", "invalid_json", "line 1");
    check_refused(r#"{"to":{"users":["a"]}} x"#, "invalid_json", "trailing");
    check_refused(r#"{"title":"x"}"#, "invalid_request", "to");
    check_refused(r#"{"to":{"users":["a"]},"titel":"x"}"#, "invalid_request", "titel");
    check_refused(r#"{"to":{"users":["a"]},"title":7}"#, "invalid_request", "title");
    check_refused(r#"{"to":{"users":["a b"]}}"#, "invalid_request", "to.users[0]");
    check_refused(r#"{"to":{}}"#, "invalid_target", "none");
    check_refused(r#"{"to":{"users":[]}}"#, "invalid_target", "empty");
    check_refused(r#"{"to":{"users":["a"],"topic":"t"}}"#, "invalid_target", "2");
    check_refused(r#"{"to":{"users":["a","b","c","d"]}}"#, "too_many_recipients", "at most 3; got 4");
    check_refused(r#"{"to":{"users":["a"]},"ttl":-1}"#, "invalid_ttl", "-1");
    check_refused(r#"{"to":{"users":["a"]},"ttl":2592001}"#, "invalid_ttl", "2592000");
    check_refused(r#"{"to":{"users":["a"]},"title":"x\u0000y"}"#, "invalid_text", "title");
    check_refused(r#"{"to":{"users":["a"]},"data":["\u0000"]}"#, "invalid_text", "data");
    for (text, word) in [("tomorrow", "tomorrow"), ("2026-12-01", "RFC 3339"), ("", "RFC 3339")] {
        let json = format!(r#"{{"to":{{"users":["a"]}},"deliver_at":"{text}"}}"#);
        check_refused(&json, "invalid_deliver_at", word);
    }
    let now_or_never = r#"{"to":{"users":["a"]},"ttl":0,"deliver_at":"2026-12-01T09:00:00Z"}"#;
    check_refused(now_or_never, "invalid_deliver_at", "ttl of 0");
}

#[test]
fn data_nests_to_a_depth_that_every_client_can_read() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let request = |data: &str| format!(r#"{{"to":{{"users":["a"]}},"data":{data}}}"#);
    let objects = format!("{}1{}", r#"{"[\"{":"#.repeat(32), "}".repeat(32));
    let side_by_side = format!("[{},{},{}]", deep(31), deep(31), r#""[[\\""#);
    for data in [deep(32), objects, side_by_side, format!("\"{}\\\\\"", "[{".repeat(100)), "7".to_owned()] {
        let taken = parse(request(&data).as_bytes(), &limits());
        assert!(taken.is_ok(), "{data}: {taken:?}");
    }
    check_refused(&request(&deep(33)), "data_too_deep", "at most 32 arrays and objects");
    check_refused(&request(&deep(100_000)), "data_too_deep", "got 100000");
    let mixed = format!(r#"{}{{"\"":{}}}{}"#, "[".repeat(16), deep(17), "]".repeat(16));
    check_refused(&request(&mixed), "data_too_deep", "got 34");
}

#[test]
fn refusals_are_short_whatever_they_are_about() {
    let long = "é".repeat(100_000);
    for (json, code) in [
        (format!(r#"{{"{long}":1}}"#), "invalid_request"),
        (format!(r#""{long}""#), "invalid_request"),
        (format!(r#"{{"to":{{"users":["a"]}},"priority":"{long}"}}"#), "invalid_request"),
        (format!(r#"{{"to":{{"users":["a"]}},"ttl":"{long}"}}"#), "invalid_request"),
        (format!(r#"{{"to":{{"users":["a"]}},"deliver_at":"{long}"}}"#), "invalid_deliver_at"),
    ] {
        let refusal = parse(json.as_bytes(), &limits()).expect_err("refused");
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.detail.len() <= 512, "{} bytes: {refusal}", refusal.detail.len());
    }
}

#[test]
fn a_schedule_is_after_now_and_within_its_limit() {
    let json = r#"{"to":{"users":["a"]},"deliver_at":"2026-12-01T10:00:00.5+01:00"}"#;
    let at = parse(json.as_bytes(), &limits()).expect("valid").deliver_at.expect("a time");
    assert_eq!(at.to_string(), "2026-12-01T09:00:00.5Z");
    let check = |now| check_schedule(at, now, &limits());
    let earliest = UnixMillis(at.0 - 90 * 86_400_000);
    assert_eq!((check(UnixMillis(at.0 - 1)), check(earliest)), (Ok(()), Ok(())));
    for (now, word) in [(at, "now"), (UnixMillis(at.0 + 1), "now"), (UnixMillis(earliest.0 - 1), "90 days")] {
        let refusal = check(now).expect_err("out of bounds");
        assert_eq!(refusal.code, "invalid_deliver_at");
        assert!(refusal.detail.contains(word) && refusal.detail.contains("09:00:00.5Z"), "{refusal}");
    }
    let long_ago = r#"{"to":{"users":["a"]},"deliver_at":"1961-04-12T06:07:00Z"}"#;
    let long_ago = parse(long_ago.as_bytes(), &limits()).expect("a time").deliver_at;
    assert_eq!(long_ago, Some(UnixMillis(0)));
}

#[test]
fn a_ttl_is_put_into_a_request_and_nothing_else_changes() {
    let json = r#"{"to":{"users":["a"]},"data":{"n":1.50,"deep":[1e2]},"title":"\u00e9"}"#;
    let with = with_ttl(json.as_bytes(), Duration::from_millis(1_500)).expect("an object");
    let publication = parse(&with, &limits()).expect("still valid");
    assert_eq!(publication.ttl, Ttl::Lives(Duration::from_secs(2)));
    assert_eq!(publication.data.expect("data").get(), r#"{"n":1.50,"deep":[1e2]}"#);
    assert_eq!(publication.title.as_deref(), Some("é"));
    assert_eq!(with_ttl(b"[]", Duration::ZERO).expect_err("no object").code, "invalid_json");
}

#[test]
fn an_escaped_backslash_before_u0000_is_no_null_character() {
    let json = r#"{"to":{"users":["a"]},"data":"\\u0000"}"#;
    assert!(parse(json.as_bytes(), &limits()).is_ok());
}

#[test]
fn a_notification_over_the_limit_is_refused_with_its_size() {
    let json = format!(r#"{{"to":{{"users":["a"]}},"body":"{}"}}"#, "x".repeat(600));
    let publication = parse(json.as_bytes(), &limits()).expect("the request itself is fine");
    let refusal = accept(&publication, NotificationId::new(UnixMillis(0), [0; 10]), UnixMillis(0), &limits());
    assert_eq!(refusal.expect_err("too large").code, "notification_too_large");
}
