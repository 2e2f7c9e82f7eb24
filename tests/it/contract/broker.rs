//! The contract of `fanfare::broker`, on the embedded bus and on RabbitMQ; what only RabbitMQ has is in `rabbit`.

mod bench;
mod dead_letters;
mod events;
mod rabbit;
mod refusals;
mod slow;

use std::time::Duration;

use bytes::Bytes;
use fanfare::broker::{ControlError, Destination, Health, Outcome, SendError};
use fanfare::domain::Priority;

use self::bench::{Bench, node_id, within};

/// For answers that must not come.
const SHORT: Duration = Duration::from_millis(300);
/// For answers that must.
const LONG: Duration = Duration::from_secs(20);

/// Each case on both brokers.
macro_rules! contract {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::embedded()).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Bench::rabbit().await).await;
            })*
        }
    };
}

contract! {
    an_envelope_reaches_the_node_it_is_for_and_no_other
    a_node_reaches_itself
    a_broadcast_reaches_all_nodes_and_the_sender
    envelopes_of_one_sender_keep_their_order_and_all_their_bytes
    an_envelope_for_a_missing_node_disturbs_nobody
    a_request_is_answered
    a_node_asks_itself
    a_request_that_nobody_answers_ends_at_its_deadline
    a_dropped_request_is_no_answer
    a_request_to_a_missing_node_is_no_answer_at_once
    what_is_done_does_not_come_again
    what_is_for_later_comes_again
    a_dropped_ingress_message_comes_again
    a_dead_letter_is_kept_with_its_reason_and_the_others_go_on
    ingress_waits_until_it_is_wanted
    a_closed_broker_is_down_and_takes_nothing
}

async fn an_envelope_reaches_the_node_it_is_for_and_no_other(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    let mut three = bench.join("n3").await;
    one.send(Destination::Node(two.id.clone()), "for two");
    assert_eq!(two.envelope().await, "for two");
    one.send(Destination::Node(three.id.clone()), "for three");
    assert_eq!(three.envelope().await, "for three");
    assert!(two.inlets.envelopes.try_recv().is_err());
    drop((one, two, three));
    bench.end().await;
}

async fn a_node_reaches_itself(bench: Bench) {
    let mut one = bench.join("n1").await;
    one.send(Destination::Node(one.id.clone()), "for me");
    assert_eq!(one.envelope().await, "for me");
    drop(one);
    bench.end().await;
}

async fn a_broadcast_reaches_all_nodes_and_the_sender(bench: Bench) {
    let mut one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    one.send(Destination::All, "for all");
    assert_eq!(one.envelope().await, "for all");
    assert_eq!(two.envelope().await, "for all");
    drop((one, two));
    bench.end().await;
}

async fn envelopes_of_one_sender_keep_their_order_and_all_their_bytes(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    let envelopes: Vec<Bytes> = (0..1000).map(|number| format!("envelope {number};").into()).collect();
    let sent = envelopes.concat();
    let receiving = tokio::spawn(async move { two.bytes(sent.len()).await == sent });
    for envelope in envelopes {
        one.send(Destination::Node(node_id("n2")), envelope);
        // The embedded inlet holds 256 and never waits: let the receiver run.
        tokio::task::yield_now().await;
    }
    assert!(within("all bytes", receiving).await.expect("the receiver does not panic"));
    drop(one);
    bench.end().await;
}

async fn an_envelope_for_a_missing_node_disturbs_nobody(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    one.send(Destination::Node(node_id("gone")), "for nobody");
    one.send(Destination::Node(two.id.clone()), "for two");
    assert_eq!(two.envelope().await, "for two");
    bench::eventually("the count", async || one.metrics.unroutable.get() == 1).await;
    drop((one, two));
    bench.end().await;
}

async fn a_request_is_answered(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    let answering = tokio::spawn(async move {
        let request = two.control().await;
        assert_eq!(request.body, "who is there?");
        request.answer.send(Bytes::from("me")).expect("it waits");
        two
    });
    let answer = one.broker.request(&node_id("n2"), Bytes::from("who is there?"), LONG).await;
    assert_eq!(answer, Ok(Bytes::from("me")));
    drop((one, answering.await.expect("it answered")));
    bench.end().await;
}

async fn a_node_asks_itself(bench: Bench) {
    let mut one = bench.join("n1").await;
    let me = one.id.clone();
    let request = one.broker.request(&me, Bytes::from("me?"), LONG);
    let answer = async {
        let request = within("a request", one.inlets.control.recv()).await;
        let request = request.expect("the inlet is open");
        request.answer.send(Bytes::from("me.")).expect("it waits");
    };
    let (answered, ()) = tokio::join!(request, answer);
    assert_eq!(answered, Ok(Bytes::from("me.")));
    drop(one);
    bench.end().await;
}

async fn a_request_that_nobody_answers_ends_at_its_deadline(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    let asking = one.broker.request(&two.id, Bytes::from("hello?"), SHORT).await;
    assert_eq!(asking, Err(ControlError::NoAnswer));
    // It got there, and the late answer goes nowhere.
    let late = two.control().await;
    let _ = late.answer.send(Bytes::from("too late"));
    drop((one, two));
    bench.end().await;
}

async fn a_dropped_request_is_no_answer(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    let asking = one.broker.request(&two.id, Bytes::from("hello?"), SHORT);
    let dropping = async {
        let request = within("a request", two.inlets.control.recv()).await;
        drop(request);
    };
    let (answer, ()) = tokio::join!(asking, dropping);
    assert_eq!(answer, Err(ControlError::NoAnswer));
    drop((one, two));
    bench.end().await;
}

async fn a_request_to_a_missing_node_is_no_answer_at_once(bench: Bench) {
    let one = bench.join("n1").await;
    // Far beyond the suite's own deadline: at once, or the test fails.
    let gone = node_id("gone");
    let asking = one.broker.request(&gone, Bytes::from("hello?"), Duration::from_secs(3600));
    assert_eq!(within("the answer", asking).await, Err(ControlError::NoAnswer));
    drop(one);
    bench.end().await;
}

async fn what_is_done_does_not_come_again(bench: Bench) {
    let mut one = bench.join("n1").await;
    one.broker.take_ingress(true);
    bench.publish(Priority::High, "first", Some("key-1")).await;
    let first = one.ingress().await;
    assert_eq!(first.lane, Priority::High);
    assert_eq!(first.body, "first");
    assert_eq!(first.message_id.as_deref(), Some("key-1"));
    first.settle.settle(Outcome::Done);
    bench::eventually("the count", async || settled(&one, "high", "done") == 1).await;
    // A second node would get what the first one left behind.
    one.broker.close(LONG).await;
    drop(one);
    let mut two = bench.join("n2").await;
    two.broker.take_ingress(true);
    bench.publish(Priority::High, "second", None).await;
    let second = two.ingress().await;
    assert_eq!(second.body, "second");
    assert_eq!(second.message_id, None);
    second.settle.settle(Outcome::Done);
    two.broker.close(LONG).await;
    drop(two);
    bench.end().await;
}

fn settled(node: &bench::Node, lane: &'static str, outcome: &'static str) -> u64 {
    let label = fanfare::metrics::broker::Settled { lane, outcome };
    node.metrics.ingress.get_or_create(&label).get()
}

async fn what_is_for_later_comes_again(bench: Bench) {
    let mut one = bench.join("n1").await;
    one.broker.take_ingress(true);
    bench.publish(Priority::Normal, "again", None).await;
    for _ in 0..3 {
        let again = one.ingress().await;
        assert_eq!(again.body, "again");
        again.settle.settle(Outcome::Later);
    }
    one.ingress().await.settle.settle(Outcome::Done);
    bench::eventually("the count", async || settled(&one, "normal", "later") == 3).await;
    one.broker.close(LONG).await;
    drop(one);
    bench.end().await;
}

async fn a_dropped_ingress_message_comes_again(bench: Bench) {
    let mut one = bench.join("n1").await;
    one.broker.take_ingress(true);
    bench.publish(Priority::Low, "again", None).await;
    drop(one.ingress().await);
    let again = one.ingress().await;
    assert_eq!(again.body, "again");
    again.settle.settle(Outcome::Done);
    one.broker.close(LONG).await;
    drop(one);
    bench.end().await;
}

async fn a_dead_letter_is_kept_with_its_reason_and_the_others_go_on(bench: Bench) {
    let mut one = bench.join("n1").await;
    one.broker.take_ingress(true);
    bench.publish(Priority::Normal, "poison", Some("p-1")).await;
    let poison = one.ingress().await;
    poison.settle.settle(Outcome::Dead { code: "invalid_json", reason: "this is no JSON".to_owned() });
    for number in 0..5 {
        let body = format!("good {number}");
        bench.publish(Priority::Normal, &body, None).await;
        let good = one.ingress().await;
        assert_eq!(good.body, body);
        good.settle.settle(Outcome::Done);
    }
    let dead = bench.dead().await;
    let expected = bench::Dead {
        code: "invalid_json".to_owned(),
        reason: "this is no JSON".to_owned(),
        body: b"poison".to_vec(),
        message_id: Some("p-1".to_owned()),
    };
    assert_eq!(dead, expected);
    bench::eventually("the count", async || settled(&one, "normal", "done") == 5).await;
    one.broker.close(LONG).await;
    drop(one);
    bench.end().await;
}

async fn ingress_waits_until_it_is_wanted(bench: Bench) {
    let mut one = bench.join("n1").await;
    bench.publish(Priority::High, "early", None).await;
    // What goes through the same node later shows that nothing was taken meanwhile.
    one.send(Destination::Node(one.id.clone()), "tick");
    assert_eq!(one.envelope().await, "tick");
    assert!(one.inlets.ingress.try_recv().is_err());
    one.broker.take_ingress(true);
    let early = one.ingress().await;
    assert_eq!(early.body, "early");
    one.broker.take_ingress(false);
    // What is unsettled may still be settled.
    early.settle.settle(Outcome::Done);
    bench::eventually("the count", async || settled(&one, "high", "done") == 1).await;
    one.broker.take_ingress(true);
    one.broker.take_ingress(true);
    bench.publish(Priority::High, "next", None).await;
    let next = one.ingress().await;
    assert_eq!(next.body, "next");
    next.settle.settle(Outcome::Done);
    one.broker.close(LONG).await;
    drop(one);
    bench.end().await;
}

async fn a_closed_broker_is_down_and_takes_nothing(bench: Bench) {
    let one = bench.join("n1").await;
    let mut two = bench.join("n2").await;
    one.healthy(Health::Up).await;
    // What was taken before is sent.
    one.send(Destination::Node(two.id.clone()), "last words");
    one.broker.close(LONG).await;
    one.healthy(Health::Down).await;
    assert_eq!(two.envelope().await, "last words");
    let sent = one.broker.send(Destination::Node(two.id.clone()), Bytes::from("too late"));
    assert_eq!(sent, Err(SendError::NotTaken));
    let asked = one.broker.request(&two.id, Bytes::new(), SHORT).await;
    assert_eq!(asked, Err(ControlError::NotTaken));
    let back = two.broker.request(&node_id("n1"), Bytes::new(), LONG).await;
    assert_eq!(back, Err(ControlError::NoAnswer));
    drop((one, two));
    bench.end().await;
}
