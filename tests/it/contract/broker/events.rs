//! Events for backends: confirmed, whole, and an error in time when that cannot be.

use std::time::{Duration, Instant};

use fanfare::broker::{EmitError, Event, Health};
use lapin::ExchangeKind;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::bench::{Bench, Rabbit, eventually, within};
use crate::support::proxy::ChaosProxy;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

fn event(number: usize, key: &str) -> Event {
    Event {
        id: format!("{key}/{number}"),
        routing_key: key.to_owned(),
        json: format!("{{\"n\":{number}}}").into(),
    }
}

/// A backend's queue, bound with `pattern`.
async fn bind(rabbit: &Rabbit, pattern: &str, arguments: FieldTable) {
    let name = "backend";
    let declared = rabbit.channel.queue_declare(name.into(), QueueDeclareOptions::default(), arguments).await;
    declared.expect("it is declared");
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound =
        rabbit.channel.queue_bind(name.into(), "fanfare.events".into(), pattern.into(), options, none);
    bound.await.expect("it is bound");
}

/// What the backend's queue holds, as `message_id` and body.
async fn take_all(rabbit: &Rabbit) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(got) = rabbit.channel.basic_get("backend".into(), options).await.expect("it is there") {
        assert_eq!(*got.properties.delivery_mode(), Some(2), "persistent");
        assert_eq!(
            got.properties.content_type().as_ref().map(|kind| kind.as_str()),
            Some("application/json")
        );
        let id = got.properties.message_id().as_ref().expect("an id").to_string();
        taken.push((id, String::from_utf8(got.data.clone()).expect("JSON")));
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_emitted_is_in_every_queue_that_is_bound_for_it() {
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    bind(&rabbit, "receipt.*", FieldTable::default()).await;
    let mut events: Vec<_> = (0..600).map(|number| event(number, "receipt.read")).collect();
    events.push(event(0, "presence.online"));
    one.broker.emit(events, LONG).await.expect("all are confirmed");
    let mut expected: Vec<_> =
        (0..600).map(|number| (format!("receipt.read/{number}"), format!("{{\"n\":{number}}}"))).collect();
    let mut taken = take_all(&rabbit).await;
    expected.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, expected, "each once, and not what the backend does not want");
    assert_eq!(one.broker.emit(Vec::new(), LONG).await, Ok(()));
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_full_queue_refuses_is_named_and_the_others_are_there() {
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    bind(&rabbit, "receipt.read", full).await;
    let events = vec![event(1, "receipt.stored"), event(2, "receipt.read"), event(3, "receipt.stored")];
    let emitted = one.broker.emit(events, LONG).await;
    assert_eq!(emitted, Err(EmitError::Refused(vec!["receipt.read/2".to_owned()])));
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_or_is_away_costs_an_emitter_no_more_than_its_deadline() {
    let rabbit = Rabbit::new().await;
    let (proxy, through) = ChaosProxy::before(&rabbit.url).await;
    let mut settings = rabbit.settings("n1");
    settings.urls = vec![through];
    let one = rabbit.join_with(settings).await;
    proxy.freeze();
    for _ in 0..30 {
        let began = Instant::now();
        let emitted = one.broker.emit(vec![event(1, "receipt.read")], Duration::from_millis(20)).await;
        assert_eq!(emitted, Err(EmitError::Slow(Duration::from_millis(20))));
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    }
    proxy.cut();
    one.healthy(Health::Down).await;
    let emitted = one.broker.emit(vec![event(1, "receipt.read")], LONG).await;
    assert_eq!(emitted, Err(EmitError::NotTaken), "at once");
    proxy.heal();
    one.healthy(Health::Up).await;
    one.broker.emit(vec![event(1, "receipt.read")], LONG).await.expect("it is back");
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_events_exchange_is_declared_again() {
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    rabbit.channel.exchange_delete("fanfare.events".into(), Default::default()).await.expect("deleted");
    eventually("an event is confirmed", async || {
        one.broker.emit(vec![event(1, "receipt.read")], SHORT).await.is_ok()
    })
    .await;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Topic;
    let there =
        rabbit.channel.exchange_declare("fanfare.events".into(), kind, passive, FieldTable::default());
    there.await.expect("it is there");
    drop(one);
    rabbit.end().await;
}

#[tokio::test]
async fn an_embedded_broker_says_that_it_has_no_events() {
    let bench = Bench::embedded();
    let one = bench.join("n1").await;
    let emitted = within("the answer", one.broker.emit(vec![event(1, "receipt.read")], LONG)).await;
    assert_eq!(emitted, Err(EmitError::Unsupported));
    drop(one);
    bench.end().await;
}
