//! The publish request (`wire::publish`): what is taken is within its limits and reaches clients unchanged.

use std::time::Duration;

use fanfare::domain::{NotificationId, Publication, Ttl, UnixMillis};
use fanfare::wire::publish::{Limits, accept, check_schedule, parse, with_ttl};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{LONGEST_ERROR, Target, demand, kind_of};

pub(super) const TARGET: Target = Target {
    name: "publish",
    corpus,
    words: &[
        br#""to":{"users":["a"]},"#,
        br#""devices":[{"user":"a","device":"d"}]"#,
        br#""everyone":true"#,
        br#""topic":"news""#,
        br#""data":{"n":1.50,"deep":[{"x":null}]},"#,
        br#""ttl":0,"#,
        br#""deliver_at":"2026-12-01T09:00:00Z","#,
        br#""collapse_key":"k","#,
        br#""priority":"low","#,
        b"\\u0000",
        b"\\\\u0000",
        b"\\ud83d",
        b"[[[[[[[[",
        b"]]]]]]]]",
        br#"{"d":{"d":{"d":{"d":"#,
        b"}}}}",
        b"0000-01-01T00:00:00+23:59",
        b"9999-12-31T23:59:59.999999999Z",
        b"\xf0\x9f\x98\x80",
    ],
    check,
};

const CODES: &[&str] = &[
    "invalid_json",
    "invalid_request",
    "invalid_target",
    "too_many_recipients",
    "invalid_ttl",
    "invalid_text",
    "data_too_deep",
    "invalid_deliver_at",
    "notification_too_large",
];

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

fn corpus() -> Vec<Vec<u8>> {
    [
        r#"{"to":{"users":["alice","bob","alice"]},"type":"order.shipped","title":"T","body":"B","data":{"n":1.50,"deep":[{"x":null}]},"priority":"high","ttl":3600,"collapse_key":"order-42"}"#,
        r#"{"to":{"devices":[{"user":"alice","device":"web-1"}]},"title":"\u00e9"}"#,
        r#"{"to":{"topic":"news.eu"},"deliver_at":"2026-12-01T10:00:00.5+01:00","body":"x"}"#,
        r#"{"to":{"everyone":true},"ttl":0,"data":"\\u0000"}"#,
        r#"{"to":{"users":["a"],"topic":"t"}}"#,
        r#"{"to":{"users":["a"]},"titel":"x"}"#,
        r#"{"to":{"users":["a"]},"data":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"#,
    ]
    .map(Vec::from)
    .to_vec()
}

fn limits() -> Limits {
    let day = Duration::from_secs(86_400);
    Limits { max_recipients: 5, max_notification_bytes: 4_096, max_ttl: 30 * day, max_schedule: 90 * day }
}

fn check(input: &[u8]) -> Result<String, String> {
    match parse(input, &limits()) {
        Ok(publication) => accepted(input, publication),
        Err(refusal) => refused(refusal.code, &refusal.detail),
    }
}

fn refused(code: &str, detail: &str) -> Result<String, String> {
    demand(CODES.contains(&code), || format!("nobody knows the code {code:?}"))?;
    let length = detail.len();
    demand((1..=LONGEST_ERROR).contains(&length), || {
        format!("a detail of {length} bytes; 1..={LONGEST_ERROR}")
    })?;
    Ok(format!("{code} {}", kind_of(detail)))
}

fn accepted(input: &[u8], publication: Publication) -> Result<String, String> {
    let limits = limits();
    let recipients = publication.target.recipients();
    let most = limits.max_recipients;
    demand((1..=most).contains(&recipients.len()), || {
        format!("{} recipients; 1..={most}", recipients.len())
    })?;
    if let Ttl::Lives(ttl) = publication.ttl {
        demand(ttl <= limits.max_ttl && !ttl.is_zero(), || format!("a ttl of {ttl:?}"))?;
    }
    if let Some(at) = publication.deliver_at
        && let Err(refusal) = check_schedule(at, NOW, &limits)
    {
        refused(refusal.code, &refusal.detail)?;
    }
    let kind = match accept(&publication, NotificationId::new(NOW, [7; 10]), NOW, &limits) {
        Ok(notification) => reaches_clients(&publication, &notification.json, limits.max_notification_bytes)?,
        Err(refusal) => refused(refusal.code, &refusal.detail)?,
    };
    with_another_ttl(input, publication, &limits)?;
    Ok(kind)
}

/// What clients get of it.
#[derive(Deserialize)]
struct Told<'a> {
    title: Option<String>,
    body: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    collapse_key: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn reaches_clients(publication: &Publication, json: &[u8], most: usize) -> Result<String, String> {
    demand(json.len() <= most, || format!("{} bytes; at most {most}", json.len()))?;
    // Which stops at a depth of 128; a number that is too large for it is for clients to judge.
    let read = serde_json::from_slice::<serde_json::Value>(json).map_err(|error| error.to_string());
    demand(!read.is_err_and(|error| error.contains("recursion")), || "it nests too deep".to_owned())?;
    let told: Told<'_> =
        serde_json::from_slice(json).map_err(|error| format!("clients cannot read it: {error}"))?;
    let data = told.data.map(RawValue::get).filter(|data| *data != "null");
    let sent = publication.data.as_deref().map(RawValue::get).filter(|data| *data != "null");
    demand(data == sent, || format!("data {sent:?} was sent on as {data:?}"))?;
    let texts = [
        (&told.title, &publication.title),
        (&told.body, &publication.body),
        (&told.kind, &publication.kind),
        (&told.collapse_key, &publication.collapse_key),
    ];
    for (told, sent) in texts {
        demand(told == sent, || format!("{sent:?} was sent on as {told:?}"))?;
        demand(!told.as_ref().is_some_and(|text| text.contains('\0')), || "a null character".to_owned())?;
    }
    let given = texts.iter().filter(|(told, _)| told.is_some()).count();
    Ok(format!("{given} texts, data {}, {:?}", sent.is_some(), publication.ttl == Ttl::NowOrNever))
}

/// Putting in a `ttl` changes nothing else.
fn with_another_ttl(input: &[u8], mut publication: Publication, limits: &Limits) -> Result<(), String> {
    let ttl = Duration::from_secs(77);
    let with = with_ttl(input, ttl).map_err(|refusal| format!("with a ttl it is refused: {refusal}"))?;
    let again = parse(&with, limits).map_err(|refusal| format!("with a ttl it is refused: {refusal}"))?;
    publication.ttl = Ttl::Lives(ttl);
    let (sent, got) = (format!("{publication:?}"), format!("{again:?}"));
    demand(sent == got, || format!("{sent} with a ttl is {got}"))
}
