//! Headers of AMQP messages (`broker::rabbit::epitaph`, `death`): whatever a backend writes there, a dead letter names the
//! right publisher, is the same letter when it fails again, and carries nothing that RabbitMQ would act upon.
//!
//! An input is `user_id`, `expiration`, `message_id`, the exchange and the routing key, a line each, then headers
//! (`name:kind:value`) up to an empty line, then the body. A kind is a letter ([`value`]).

use bytes::Bytes;
use fanfare::broker::DeadLetter;
use fanfare::broker::rabbit::death::Death;
use fanfare::broker::rabbit::epitaph::{Original, epitaph, read, requeued};
use fanfare::clock::Clock;
use fanfare::domain::{Priority, UnixMillis};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

use super::{Target, demand};

/// The login of the nodes; no backend has it.
const LOGIN: &str = "fanfare";
/// The longest text of a dead letter, in bytes.
const LONGEST_TEXT: usize = 1_024;
/// An AMQP short string has no more (AMQP 0-9-1 section 4.2.5.3).
const SHORT_STRING_BYTES: usize = 255;
const CODE: &str = "invalid_json";

pub(super) const TARGET: Target = Target {
    name: "headers",
    corpus,
    words: &[
        b"fanfare\n",
        b"\n\n",
        b"fanfare-id:s:",
        b"fanfare-user-id:s:admin\n",
        b"fanfare-failures:i:9223372036854775807\n",
        b"fanfare-first-failed-ms:i:-1\n",
        b"fanfare-lane:s:high\n",
        b"x-death:a:reason=expired,queue=fanfare.ingress.low\n",
        b"x-death:s:",
        b"x-first-death-reason:s:maxlen\n",
        b"x-delivery-count:i:3\n",
        b"CC:a:\n",
        b":f:a=b",
        b":h:",
        b":v:\n",
        b"\xc3\xa9",
    ],
    check,
};

fn corpus() -> Vec<Vec<u8>> {
    [
        "shop\n60000\norder-42\nfanfare.notifications\nlow\ntraceparent:s:00-1-2-01\nCC:a:\n\n{",
        "shop\n\n\nfanfare.notifications\n\nfanfare-id:s:1\nfanfare-user-id:s:admin\nfanfare-failures:i:7\n\n{",
        "fanfare\n\nkey\n\nfanfare.ingress.high\nfanfare-id:s:0-1\nfanfare-user-id:s:shop\nfanfare-failures:i:7\n\n{",
        "\n\n\nx\nhigh\nx-death:a:reason=maxlen,queue=fanfare.ingress.low,exchange=x;reason=expired\n\nbody",
        "shop\n\n\n\n\nx-first-death-queue:s:q\nx-first-death-reason:s:r\na:b:1\nb:n:2\nc:d:3\nd:t:4\ne:y:5\n\n",
    ]
    .map(Vec::from)
    .to_vec()
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(&text[..text.floor_char_boundary(SHORT_STRING_BYTES)]).expect("short")
}

fn table(text: &str) -> FieldTable {
    let mut table = FieldTable::default();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        table.insert(short(name), AMQPValue::LongString(text.into()));
    }
    table
}

fn value(kind: &str, text: &str) -> AMQPValue {
    let number = text.parse::<i64>().unwrap_or(0);
    match kind {
        "i" => AMQPValue::LongLongInt(number),
        "n" => AMQPValue::LongInt(number as i32),
        "t" => AMQPValue::Timestamp(number as u64),
        "d" => AMQPValue::Double(number as f64),
        "b" => AMQPValue::Boolean(number != 0),
        "h" => AMQPValue::ShortString(short(text)),
        "f" => AMQPValue::FieldTable(table(text)),
        "y" => AMQPValue::ByteArray(text.as_bytes().to_vec().into()),
        "a" => {
            let mut array = FieldArray::default();
            text.split(';').for_each(|one| array.push(AMQPValue::FieldTable(table(one))));
            AMQPValue::FieldArray(array)
        }
        "v" => AMQPValue::Void,
        _ => AMQPValue::LongString(text.into()),
    }
}

/// The message of an input.
fn original(input: &[u8]) -> Original {
    let mut lines = input.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut line = || lines.next().unwrap_or_default().into_owned();
    let (user_id, expiration, message_id, exchange, routing_key) = (line(), line(), line(), line(), line());
    let mut headers = FieldTable::default();
    loop {
        let header = line();
        let mut parts = header.splitn(3, ':');
        let (Some(name), Some(kind)) = (parts.next(), parts.next()) else { break };
        let text = parts.next().unwrap_or_default();
        // Nodes write no longer ones.
        let end = if user_id == LOGIN { text.floor_char_boundary(LONGEST_TEXT) } else { text.len() };
        headers.insert(short(name), value(kind, &text[..end]));
    }
    let mut properties = BasicProperties::default().with_headers(headers);
    if !user_id.is_empty() {
        properties = properties.with_user_id(short(&user_id));
    }
    if !expiration.is_empty() {
        properties = properties.with_expiration(short(&expiration));
    }
    if !message_id.is_empty() {
        properties = properties.with_message_id(short(&message_id));
    }
    let (exchange, routing_key) = (short(&exchange).to_string(), short(&routing_key).to_string());
    Original { exchange, routing_key, lane: Priority::Low, properties, body: Bytes::from(line()) }
}

fn check(input: &[u8]) -> Result<String, String> {
    let original = original(input);
    let death = Death::of(&original.properties);
    let (code, why) = death.explained();
    demand(!why.is_empty(), || "it has no reason".to_owned())?;
    let user_id = original.properties.user_id().as_ref().map(ToString::to_string);
    let by_node = user_id.as_deref() == Some(LOGIN);
    let publisher = original.user_id(Some(LOGIN));
    demand(by_node || publisher == user_id, || format!("{user_id:?} is taken for {publisher:?}"))?;
    let expiration = original.expiration(Some(LOGIN));
    let letter = buried(&original, &why)?;
    let is_new = letter.failures == 1;
    if !by_node {
        demand(is_new, || format!("its first failure is the {}th", letter.failures))?;
        let told = (&letter.publisher, &letter.expiration, &letter.routing_key);
        let sent = (&publisher, &expiration, &original.routing_key);
        demand(told == sent, || format!("{sent:?} is told as {told:?}"))?;
    }
    let again = buried(&back_in_its_lane(&original, &letter, &why)?, &why)?;
    let count = letter.failures.saturating_add(1).min(i64::MAX.unsigned_abs());
    demand(again.failures == count, || format!("{} and one more is {}", letter.failures, again.failures))?;
    let same = |letter: &DeadLetter| (letter.id.clone(), letter.publisher.clone(), letter.first_failed_at);
    demand(same(&letter) == same(&again), || format!("{letter:?} failed again as {again:?}"))?;
    let found = read(&original.properties, &original.routing_key, &original.body, Some(LOGIN));
    demand(by_node || found.code == "foreign", || format!("{user_id:?} wrote a letter: {found:?}"))?;
    let headers = original.properties.headers().as_ref().map_or(0, |headers| headers.inner().len().min(8));
    let (publisher, dead) = (publisher.is_some(), death.reason.len().min(4));
    Ok(format!(
        "{code} {dead}, by a node {by_node}, new {is_new}, publisher {publisher}, {headers} headers, {}",
        found.lane.as_str()
    ))
}

/// What it is in `fanfare.dead`.
fn buried(original: &Original, why: &str) -> Result<DeadLetter, String> {
    let properties = dead(original, why)?;
    let letter = read(&properties, "fanfare.dead", &original.body, Some(LOGIN));
    let told = (letter.code.as_str(), letter.lane, letter.size);
    demand(told == (CODE, original.lane, original.body.len()), || format!("told as {told:?}"))?;
    demand(why.starts_with(&letter.reason), || format!("{why:?} is told as {:?}", letter.reason))?;
    demand(letter.failures > 0 && letter.reason.len() <= LONGEST_TEXT, || format!("{letter:?}"))?;
    Ok(letter)
}

fn dead(original: &Original, why: &str) -> Result<BasicProperties, String> {
    let clock = Clock::new(|| UnixMillis(1_790_000_000_000));
    let properties = epitaph(original, CODE, why, Some(LOGIN), &clock);
    means_nothing(&properties)?;
    Ok(properties)
}

/// The letter after an operator has put it back into its lane.
fn back_in_its_lane(original: &Original, letter: &DeadLetter, why: &str) -> Result<Original, String> {
    let properties = requeued(&dead(original, why)?, letter, LOGIN);
    means_nothing(&properties)?;
    let back = Original {
        exchange: String::new(),
        routing_key: "fanfare.ingress.low".to_owned(),
        properties,
        ..original.clone()
    };
    let told = (back.user_id(Some(LOGIN)), back.expiration(Some(LOGIN)));
    let of = (letter.publisher.clone(), letter.expiration.clone());
    demand(told == of, || format!("{of:?} came back as {told:?}"))?;
    Ok(back)
}

/// RabbitMQ acts upon nothing of it, and who reads it knows that a node wrote it.
fn means_nothing(properties: &BasicProperties) -> Result<(), String> {
    demand(properties.user_id().as_ref().is_some_and(|user| user.as_str() == LOGIN), || {
        format!("it is by {:?}", properties.user_id())
    })?;
    demand(properties.expiration().is_none(), || "it expires".to_owned())?;
    for (name, _) in properties.headers().iter().flat_map(|headers| headers.inner()) {
        let name = name.as_str();
        let acts = ["CC", "BCC", "x-death", "x-delivery-count"].contains(&name)
            || ["x-first-death-", "x-last-death-"].iter().any(|start| name.starts_with(start));
        demand(!acts, || format!("the header {name:?} is kept"))?;
    }
    Ok(())
}
