//! JSON frames of clients (`wire::client`), `hello` first: read the same however they are written, refused in brief.

use bytes::Bytes;
use fanfare::domain::UserId;
use fanfare::wire::client::FrameError;
use fanfare::wire::{ClientFrame, Frame, server};
use serde_json::Value;

use super::{LONGEST_ERROR, Target, demand, kind_of};

pub(super) const TARGET: Target = Target {
    name: "hello",
    corpus,
    words: &[
        br#""type":"hello""#,
        br#""id":7,"#,
        br#""token":"a.b.c","#,
        br#""device":"web-1","#,
        br#""resume":{"topic:news":{"epoch":"k3","seq":1}},"#,
        br#""topics":["a","b"],"#,
        br#""stream":"everyone","#,
        br#""up_to":9,"#,
        br#""since":1,"#,
        b"null",
        b"[[[[[[[[",
        b"\\u0000",
        b"\\ud800",
        b"\xe2\x82\xac",
    ],
    check,
};

fn corpus() -> Vec<Vec<u8>> {
    [
        r#"{"type":"hello","token":"t","device":"web-1","ack":"auto","topics":["news","a.b"],"resume":{"user":{"epoch":"k3","seq":118}},"ping":true}"#,
        r#"{"type":"hello"}"#,
        r#"{"type":"ack","id":7,"stream":"user","seq":119}"#,
        r#"{"type":"read","id":4,"ids":["019ab3f0-c7d2-7f04-a1b2-0123456789ab"]}"#,
        r#"{"type":"read","stream":"topic:news","up_to":119}"#,
        r#"{"type":"subscribe","id":7,"topic":"news","since":5}"#,
        r#"{"type":"unsubscribe","topic":"news"}"#,
        r#"{"type":"refresh","id":9,"token":"t"}"#,
        r#"{"type":"ping","id":1}"#,
        r#"{"type":"pong"}"#,
    ]
    .map(Vec::from)
    .to_vec()
}

fn check(input: &[u8]) -> Result<String, String> {
    // The codec has made sure of it.
    let Ok(text) = std::str::from_utf8(input) else {
        return Ok("no text".to_owned());
    };
    let alice = UserId::new("alice").expect("valid");
    let kinds = [None, Some(&alice)].map(|user| match ClientFrame::parse(text, user) {
        Ok(frame) => accepted(text, user, &frame),
        Err(error) => refused(text, &error),
    });
    let [before, after] = kinds;
    Ok(format!("{}; {}", before?, after?))
}

/// Written in another order and without escapes it is the same frame.
fn accepted(text: &str, user: Option<&UserId>, frame: &ClientFrame) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it was taken, but {error}"))?;
    let again = ClientFrame::parse(&value.to_string(), user);
    demand(again.as_ref() == Ok(frame), || format!("{frame:?} was written anew and read as {again:?}"))?;
    let debug = format!("{frame:?}");
    let kind = debug.split(|letter: char| !letter.is_alphabetic()).next().unwrap_or_default();
    let shape = debug.matches("Some").count() + debug.matches("Seq").count();
    Ok(format!("{kind} {shape}"))
}

/// The refusal is a short frame that clients can read, with the frame's `id` if it had one.
fn refused(text: &str, error: &FrameError) -> Result<String, String> {
    let length = error.message.len();
    demand(length <= LONGEST_ERROR, || format!("an error of {length} bytes; at most {LONGEST_ERROR}"))?;
    let told: Value = serde_json::from_slice(&payload(&server::error(error.id, error.code, &error.message)))
        .map_err(|wrong| format!("the error frame is no JSON: {wrong}"))?;
    demand(told["message"] == error.message.as_str(), || format!("the error frame says {told}"))?;
    if let Ok(Value::Object(object)) = serde_json::from_str::<Value>(text)
        && object.get("type").is_some_and(Value::is_string)
        && error.id.is_some()
    {
        let id = object.get("id").and_then(Value::as_u64);
        demand(id == error.id, || format!("the id is {id:?}, and the error has {:?}", error.id))?;
    }
    Ok(kind_of(&error.message))
}

/// A server frame without its header.
fn payload(frame: &Frame) -> Bytes {
    let bytes = Bytes::from([&frame.head[..], &frame.body[..]].concat());
    let header = match bytes[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    bytes.slice(header..)
}
