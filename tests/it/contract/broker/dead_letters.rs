//! Dead letters as operators see them: listed in order, shown whole, requeued without loss, deleted.

use std::time::Duration;

use fanfare::broker::{DeadLetter, DeadLetterError, DeadLetters, Ingress, Outcome};
use fanfare::domain::Priority;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

use super::bench::{Bench, Node, Rabbit, eventually, within};
use super::refusals::{as_user, import_definitions};
use crate::support::proxy::ChaosProxy;

const LONG: Duration = Duration::from_secs(20);

fn refusal(reason: &str) -> Outcome {
    Outcome::Dead { code: "invalid_json", reason: reason.to_owned() }
}

/// Publishes it, has it refused by `one`, and waits until it is kept.
async fn refuse(rabbit: &Rabbit, one: &mut Node, key: &str, body: &[u8], properties: BasicProperties) {
    let before = buried(one);
    rabbit.publish(key, body, properties).await;
    one.ingress().await.settle.settle(refusal("this is no JSON"));
    eventually("the letter is kept", async || buried(one) > before).await;
}

fn buried(one: &Node) -> u64 {
    let reason = fanfare::metrics::broker::Reason { reason: "invalid_json" };
    one.metrics.dead_letters.get_or_create(&reason).get()
}

async fn all(one: &Node) -> Vec<DeadLetter> {
    let found = within("the list", one.graveyard.list(None, 1000)).await.expect("they are listed");
    assert!(!found.more);
    found.letters
}

async fn bodies(one: &Node) -> Vec<String> {
    let mut bodies = Vec::new();
    for letter in all(one).await {
        let (_, body) = one.graveyard.find(&letter.id).await.expect("it is there");
        bodies.push(String::from_utf8(body.to_vec()).expect("a text"));
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_in_order_and_looking_changes_nothing() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    for number in 0..5 {
        let body = format!("letter {number}");
        refuse(&rabbit, &mut one, "normal", body.as_bytes(), BasicProperties::default()).await;
    }
    for _ in 0..3 {
        let expected: Vec<_> = (0..5).map(|number| format!("letter {number}")).collect();
        assert_eq!(bodies(&one).await, expected);
    }
    let ids: Vec<String> = all(&one).await.into_iter().map(|letter| letter.id).collect();
    let mut paged = Vec::new();
    let mut after: Option<String> = None;
    for (length, more) in [(2, true), (2, true), (1, false)] {
        let page = one.graveyard.list(after.as_deref(), 2).await.expect("a page");
        assert_eq!((page.letters.len(), page.more), (length, more));
        after = page.letters.last().map(|letter| letter.id.clone());
        paged.extend(page.letters.into_iter().map(|letter| letter.id));
    }
    assert_eq!(paged, ids);
    let gone = one.graveyard.list(Some("no-such-letter"), 2).await;
    assert_eq!(gone, Err(DeadLetterError::Unknown("no-such-letter".to_owned())));

    // What comes after a look is behind what was looked at, and another node sees the same.
    refuse(&rabbit, &mut one, "high", b"letter 5", BasicProperties::default()).await;
    let two = rabbit.join("n2").await;
    let (mine, theirs) = tokio::join!(all(&one), all(&two));
    assert_eq!(mine, theirs, "looking at the same time");
    assert_eq!(mine.len(), 6);
    assert_eq!(mine[..5].iter().map(|letter| letter.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(mine[5].lane, Priority::High);
    eventually("the gauge", async || one.metrics.dead_letters_kept.get() == 6).await;
    drop((one, two));
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeued_letter_is_as_it_was_published_and_failing_again_it_counts_up() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString("00-abc-def-01".into()));
    let properties = BasicProperties::default()
        .with_user_id("guest".into())
        .with_message_id("key-1".into())
        .with_expiration("60000".into())
        .with_headers(headers);
    refuse(&rabbit, &mut one, "low", b"\xff\x00 no text", properties).await;
    let first = all(&one).await.remove(0);
    let expected = DeadLetter {
        id: first.id.clone(),
        code: "invalid_json".to_owned(),
        reason: "this is no JSON".to_owned(),
        first_failed_at: first.last_failed_at,
        last_failed_at: first.last_failed_at,
        failures: 1,
        lane: Priority::Low,
        routing_key: "low".to_owned(),
        publisher: Some("guest".to_owned()),
        message_id: Some("key-1".to_owned()),
        expiration: Some("60000".to_owned()),
        size: 10,
    };
    assert_eq!(first, expected);
    assert!(first.first_failed_at.is_some());
    let (shown, body) = one.graveyard.find(&first.id).await.expect("it is there");
    assert_eq!((shown, &body[..]), (expected, &b"\xff\x00 no text"[..]));

    assert_eq!(one.graveyard.requeue(&first.id).await.expect("it goes back").id, first.id);
    assert_eq!(all(&one).await, []);
    let again = one.ingress().await;
    let is_as_it_was = |again: &Ingress| {
        assert_eq!(again.lane, Priority::Low);
        assert_eq!(&again.body[..], b"\xff\x00 no text");
        assert_eq!(again.user_id.as_deref(), Some("guest"));
        assert_eq!(again.message_id.as_deref(), Some("key-1"));
        assert_eq!(again.expiration.as_deref(), Some("60000"));
        assert_eq!(again.traceparent.as_deref(), Some("00-abc-def-01"));
    };
    is_as_it_was(&again);
    let before = buried(&one);
    again.settle.settle(refusal("still no JSON"));
    eventually("the letter is kept", async || buried(&one) > before).await;
    let second = all(&one).await.remove(0);
    assert_eq!((&second.id, second.failures), (&first.id, 2));
    assert_eq!(second.reason, "still no JSON");
    assert_eq!(second.first_failed_at, first.first_failed_at);
    assert!(second.last_failed_at > first.last_failed_at, "{second:?}");
    assert_eq!(second.publisher.as_deref(), Some("guest"));

    one.graveyard.requeue(&second.id).await.expect("it goes back");
    let again = one.ingress().await;
    is_as_it_was(&again);
    again.settle.settle(Outcome::Done);
    eventually("settled", async || one.metrics.unsettled.get() == 0).await;
    assert_eq!(all(&one).await, []);
    let gone = one.graveyard.requeue(&second.id).await;
    assert_eq!(gone, Err(DeadLetterError::Unknown(second.id)));
    assert_eq!(one.metrics.sessions.get(), 1);
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_letter_is_deleted_and_the_others_stay_in_their_order() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    one.broker.take_ingress(true);
    for body in ["a", "b", "c"] {
        refuse(&rabbit, &mut one, "normal", body.as_bytes(), BasicProperties::default()).await;
    }
    let second = all(&one).await.remove(1);
    assert_eq!(one.graveyard.delete(&second.id).await, Ok(second.clone()));
    assert_eq!(bodies(&one).await, ["a", "c"]);
    assert_eq!(one.graveyard.delete(&second.id).await, Err(DeadLetterError::Unknown(second.id)));
    drop(one);
    rabbit.end().await;
}

/// RabbitMQ 3.10 delivers 1 + 20 times, and then moves it itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_drops_at_the_delivery_limit_is_a_letter_that_can_go_back() {
    let rabbit = Rabbit::new().await;
    let mut one = rabbit.join("n1").await;
    let properties = BasicProperties::default().with_user_id("guest".into()).with_message_id("key-1".into());
    rabbit.publish("low", b"{}", properties).await;
    // As nodes that die with it, again and again.
    let (tag, options) = ("victim".into(), BasicConsumeOptions::default());
    let consuming =
        rabbit.channel.basic_consume("fanfare.ingress.low".into(), tag, options, FieldTable::default());
    let mut victim = consuming.await.expect("it consumes");
    let mut deliveries = 0;
    let limit = async || {
        let reason = fanfare::metrics::broker::Reason { reason: "delivery_limit" };
        one.metrics.dead_letters.get_or_create(&reason).get() == 1
    };
    within("the limit", async {
        while !limit().await {
            let next = tokio::time::timeout(Duration::from_millis(200), victim.next()).await;
            let Ok(Some(delivery)) = next else { continue };
            deliveries += 1;
            let again = BasicNackOptions { requeue: true, multiple: false };
            delivery.expect("a delivery").acker.nack(again).await.expect("it goes back");
        }
    })
    .await;
    assert_eq!(deliveries, 21);
    rabbit.channel.basic_cancel("victim".into(), Default::default()).await.expect("it ends");
    let letter = all(&one).await.remove(0);
    assert_eq!((letter.code.as_str(), letter.lane, letter.failures), ("delivery_limit", Priority::Low, 1));
    assert!(letter.reason.contains("fanfare.ingress.low"), "{}", letter.reason);
    assert_eq!((letter.publisher.as_deref(), letter.message_id.as_deref()), (Some("guest"), Some("key-1")));
    assert_eq!(letter.routing_key, "low");
    one.graveyard.requeue(&letter.id).await.expect("it goes back");
    one.broker.take_ingress(true);
    let again = one.ingress().await;
    assert_eq!((&again.body[..], again.user_id.as_deref()), (&b"{}"[..], Some("guest")));
    again.settle.settle(Outcome::Done);
    eventually("settled", async || one.metrics.unsettled.get() == 0).await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_its_lane_has_no_room_for_stays_a_letter() {
    let rabbit = Rabbit::new().await;
    let mut settings = rabbit.settings("n1");
    settings.bounds.ingress_messages = 1;
    let mut one = rabbit.join_with(settings).await;
    one.broker.take_ingress(true);
    refuse(&rabbit, &mut one, "high", b"letter", BasicProperties::default()).await;
    one.broker.take_ingress(false);
    eventually("nothing is under way", async || one.metrics.unsettled.get() == 0).await;
    eventually("the lane is full", async || {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let exchange = "fanfare.notifications".into();
        let sent = rabbit.channel.basic_publish(exchange, "high".into(), options, b"{}", properties).await;
        sent.expect("sent").await.expect("confirmed") != Confirmation::Ack(None)
    })
    .await;
    let letter = all(&one).await.remove(0);
    let refused = one.graveyard.requeue(&letter.id).await;
    assert!(
        matches!(&refused, Err(DeadLetterError::NotRequeued(why)) if why.contains("full")),
        "{refused:?}"
    );
    assert_eq!(all(&one).await, [letter]);
    drop(one);
    rabbit.end().await;
}

/// The node and the backend with the users and permissions that are shipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_cannot_pass_for_another_by_headers_and_a_requeued_letter_is_still_its_own() {
    let rabbit = Rabbit::new().await;
    import_definitions(&rabbit).await;
    let mut settings = rabbit.settings("n1");
    settings.urls = vec![as_user(&rabbit, "fanfare")];
    let mut one = rabbit.join_with(settings).await;
    one.broker.take_ingress(true);
    let node_user = format!("fanfare-{}", rabbit.vhost());
    let backend_user = format!("backend-{}", rabbit.vhost());
    let backend = as_user(&rabbit, "backend");
    let backend = Connection::connect(&backend, ConnectionProperties::default()).await;
    let backend = backend.expect("a backend may connect");
    let forged = |user: &str| {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("fanfare-id", "forged"),
            ("fanfare-user-id", "victim"),
            ("fanfare-first-failed-ms", "1"),
            ("fanfare-expiration", "7"),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        headers.insert("fanfare-failures".into(), AMQPValue::LongLongInt(99));
        BasicProperties::default().with_headers(headers).with_user_id(user.into())
    };
    let publish = async |properties: BasicProperties| {
        let channel = backend.create_channel().await.expect("a channel opens");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms are on");
        let (exchange, key) = ("fanfare.notifications".into(), "normal".into());
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(exchange, key, options, b"{}", properties).await;
        within("a confirm", sent.expect("it is sent")).await
    };
    // As the node's own user: RabbitMQ says no.
    assert!(publish(forged(&node_user)).await.is_err());
    publish(forged(&backend_user)).await.expect("as itself");
    let taken = one.ingress().await;
    assert_eq!((taken.user_id.as_deref(), taken.expiration), (Some(backend_user.as_str()), None));
    taken.settle.settle(refusal("refused"));
    let mut letters = Vec::new();
    eventually("the letter", async || {
        letters = all(&one).await;
        !letters.is_empty()
    })
    .await;
    let letter = letters.remove(0);
    assert_ne!(letter.id, "forged");
    assert_eq!((letter.failures, letter.publisher.as_deref()), (1, Some(backend_user.as_str())));
    assert_eq!(letter.first_failed_at, letter.last_failed_at);

    one.graveyard.requeue(&letter.id).await.expect("the shipped permissions allow it");
    let again = one.ingress().await;
    assert_eq!((again.user_id.as_deref(), again.expiration), (Some(backend_user.as_str()), None));
    again.settle.settle(Outcome::Done);
    eventually("settled", async || one.metrics.unsettled.get() == 0).await;

    // What somebody else put there: no header of it counts, and it has an id all the same.
    let (options, properties) = (BasicPublishOptions::default(), forged("guest"));
    let put = rabbit.channel.basic_publish("".into(), "fanfare.dead".into(), options, b"by hand", properties);
    put.await.expect("sent").await.expect("confirmed");
    let foreign = all(&one).await.remove(0);
    assert!(foreign.id.starts_with("x-"), "{foreign:?}");
    assert_eq!((foreign.code.as_str(), foreign.publisher.as_deref()), ("foreign", Some("guest")));
    assert_eq!(all(&one).await.remove(0), foreign, "its id is the same at the next look");
    one.graveyard.requeue(&foreign.id).await.expect("it goes to the normal lane");
    let taken = one.ingress().await;
    assert_eq!((taken.lane, taken.user_id.as_deref()), (Priority::Normal, Some("guest")));
    taken.settle.settle(Outcome::Done);
    eventually("settled", async || one.metrics.unsettled.get() == 0).await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_of_many_letters_is_found_and_all_others_are_left() {
    const LETTERS: usize = 120;
    let rabbit = Rabbit::new().await;
    let one = rabbit.join("n1").await;
    rabbit.bury((0..LETTERS).map(|number| format!("letter {number}"))).await;
    let letters = all(&one).await;
    assert_eq!(letters.len(), LETTERS);
    let mut left = letters.clone();
    for at in [LETTERS - 1, 0, LETTERS / 2] {
        let letter = left.remove(at.min(left.len() - 1));
        let (found, body) = one.graveyard.find(&letter.id).await.expect("it is found");
        assert!(found == letter && body.starts_with(b"letter "), "{found:?}");
        one.graveyard.delete(&letter.id).await.expect("it is deleted");
        assert!(all(&one).await == left, "the same letters, in the same order");
    }
    let mut seen = std::collections::HashSet::new();
    for letter in left {
        // One after the other from the beginning, as who requeues all of them does.
        one.graveyard.delete(&letter.id).await.expect("it is deleted");
        seen.insert(letter.id);
    }
    assert_eq!(seen.len(), LETTERS - 3, "each has an id of its own");
    assert_eq!(all(&one).await, []);
    drop(one);
    rabbit.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_letters_are_not_to_be_had_and_then_they_are_there_again() {
    let rabbit = Rabbit::new().await;
    let (proxy, through) = ChaosProxy::before(&rabbit.url).await;
    let mut settings = rabbit.settings("n1");
    settings.urls = vec![through];
    let mut one = rabbit.join_with(settings).await;
    one.broker.take_ingress(true);
    refuse(&rabbit, &mut one, "normal", b"letter", BasicProperties::default()).await;
    let letter = all(&one).await.remove(0);
    proxy.cut();
    one.healthy(fanfare::broker::Health::Down).await;
    let away = Err(DeadLetterError::Unavailable);
    assert_eq!(within("an answer", one.graveyard.list(None, 10)).await, away);
    assert_eq!(one.graveyard.requeue(&letter.id).await, Err(DeadLetterError::Unavailable));
    proxy.heal();
    one.healthy(fanfare::broker::Health::Up).await;
    assert_eq!(all(&one).await, [letter]);
    one.broker.close(LONG).await;
    drop(one);
    rabbit.end().await;
}

#[tokio::test]
async fn an_embedded_broker_has_no_letters() {
    let bench = Bench::embedded();
    let one = bench.join("n1").await;
    assert_eq!(one.graveyard.list(None, 10).await, Ok(DeadLetters::default()));
    let unknown = DeadLetterError::Unknown("x".to_owned());
    assert_eq!(one.graveyard.list(Some("x"), 10).await, Err(unknown.clone()));
    assert_eq!(one.graveyard.find("x").await.map(drop), Err(unknown.clone()));
    assert_eq!(one.graveyard.requeue("x").await.map(drop), Err(unknown.clone()));
    assert_eq!(one.graveyard.delete("x").await.map(drop), Err(unknown));
    drop(one);
    bench.end().await;
}
