//! Backends of the simulation: they publish, schedule and cancel through the real publishing, and try again
//! with the same key when they have no answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare::auth::{Permissions, Publisher};
use fanfare::domain::{Notification, NotificationId, PublisherId, Recipient, Stream, Target};
use fanfare::inbox::{Append, Appended, Cancelled};
use fanfare::publish::{Accepted, How, Request};
use fanfare::wire::Tail;
use tokio::time::Instant;

use super::node::Node;
use super::plan::Plant;
use super::scenario::World;
use super::stage::Kind;

/// How long a backend waits for an answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// One notification, or several at once; now and then one is taken back.
pub fn burst(world: &Arc<World>) {
    let stage = &world.shared.stage;
    if stage.chance(20) {
        let world = Arc::clone(world);
        tokio::spawn(async move { take_back(&world).await });
    }
    let many = if stage.chance(15) { stage.pick(2..=10) } else { 1 };
    for _ in 0..many {
        let (target, json) = request(world);
        let key = format!("k{}", stage.pick(0..=u64::MAX));
        let world = Arc::clone(world);
        tokio::spawn(async move { send(&world, target, json, key).await });
    }
}

/// Somebody may publish to `stream` within so many milliseconds, while its routes change.
pub fn rush(world: &Arc<World>, stream: &Stream, within_ms: u64) {
    let stage = &world.shared.stage;
    if !stage.chance(world.shared.plan.rush) {
        return;
    }
    let (target, to) = match stream {
        Stream::User(user) => (Target::Users(vec![user.clone()]), format!(r#"{{"users":["{user}"]}}"#)),
        Stream::Topic(topic) => (Target::Topic(topic.clone()), format!(r#"{{"topic":"{topic}"}}"#)),
        Stream::Everyone => (Target::Everyone, r#"{"everyone":true}"#.to_owned()),
    };
    let (json, key) = (format!(r#"{{"to":{to},"title":"t"}}"#), format!("k{}", stage.pick(0..=u64::MAX)));
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.shared.stage.pause(0..=within_ms).await;
        send(&world, target, json, key).await;
    });
}

async fn send(world: &World, target: Target, json: String, key: String) {
    match world.shared.plan.plant {
        Plant::LocateFirst => locate_first(world, target).await,
        _ => publish(world, json, key).await,
    }
}

/// Whom it is for, and the JSON that says so.
fn request(world: &World) -> (Target, String) {
    let stage = &world.shared.stage;
    let user = stage.one_of(&world.users).clone();
    let (target, to) = match stage.pick(0..=9) {
        0..=3 => (Target::Users(vec![user.clone()]), format!(r#"{{"users":["{user}"]}}"#)),
        4 => {
            let names: Vec<String> = world.users.iter().map(|user| format!("{:?}", user.as_str())).collect();
            (Target::Users(world.users.clone()), format!(r#"{{"users":[{}]}}"#, names.join(",")))
        }
        5 | 6 => {
            let device = fanfare::domain::DeviceId::new(format!("d{}", stage.pick(0..=2))).expect("an id");
            let to = format!(r#"{{"devices":[{{"user":"{user}","device":"{device}"}}]}}"#);
            (Target::Devices(vec![(user, device)]), to)
        }
        7 | 8 => {
            let topic = stage.one_of(&world.topics).clone();
            let to = format!(r#"{{"topic":"{topic}"}}"#);
            (Target::Topic(topic), to)
        }
        _ => (Target::Everyone, r#"{"everyone":true}"#.to_owned()),
    };
    let (mut more, later) = (String::new(), stage.chance(8));
    match stage.pick(0..=19) {
        0 if !later => more += r#","ttl":0"#,
        1 | 2 => more += r#","ttl":1"#,
        3 | 4 => more += r#","ttl":5"#,
        _ => {}
    }
    if stage.chance(world.shared.plan.keyed) {
        more += &format!(r#","collapse_key":"c{}""#, stage.pick(0..=1));
    }
    if later {
        let at = stage.now().after(Duration::from_millis(world.shared.plan.weather.skew_ms));
        let at = at.after(Duration::from_millis(stage.pick(500..=3_500)));
        more += &format!(r#","deliver_at":"{at}""#);
    }
    let body = "x".repeat(stage.pick(0..=200) as usize);
    (target, format!(r#"{{"to":{to},"title":"t","body":"{body}"{more}}}"#))
}

pub fn any_node(world: &World) -> Option<Node> {
    let nodes = world.nodes.lock().expect("no panic under it");
    let all: Vec<&Node> = nodes.values().collect();
    (!all.is_empty()).then(|| (*world.shared.stage.one_of(&all)).clone())
}

/// Asks a node; no answer if it dies or stands still for too long, though it may do it then.
async fn ask<T: Send + 'static>(node: &Node, what: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let freezer = node.freezer.clone();
    let asked = tokio::spawn(async move {
        freezer.thawed().await;
        let answer = what.await;
        freezer.thawed().await;
        answer
    });
    tokio::select! {
        biased;
        () = node.death.cancelled() => None,
        answer = asked => answer.ok(),
        () = tokio::time::sleep(PATIENCE) => None,
    }
}

async fn publish(world: &World, json: String, key: String) {
    let stage = &world.shared.stage;
    for _ in 0..5 {
        let Some(node) = any_node(world) else {
            stage.pause(200..=900).await;
            continue;
        };
        let request = Request {
            publisher: publisher(),
            json: Bytes::from(json.clone()),
            idempotency_key: Some(key.clone()),
            default_ttl: None,
            sent_at: None,
            source: "http",
        };
        let (asked, publishing) = (Instant::now(), Arc::clone(&node.publishing));
        match ask(&node, async move { publishing.publish(request).await }).await {
            Some(Ok(accepted)) => {
                if world.shared.plan.plant == Plant::AwaitedConfirm {
                    world.shared.exchange.confirms().await;
                }
                return answered(world, &accepted, asked);
            }
            Some(Err(error)) => stage.say(format_args!("publish: {error}")),
            None => stage.say("publish: no answer"),
        }
        stage.pause(20..=1_500).await;
    }
}

/// What is accepted is kept, and the answer waited for nothing that may never come.
fn answered(world: &World, accepted: &Accepted, asked: Instant) {
    let (stage, plan) = (&world.shared.stage, world.shared.plan);
    if asked.elapsed() > plan.answer_within {
        stage.find(Kind::Late, format_args!("{} was answered after {:?}", accepted.id, asked.elapsed()));
    }
    if accepted.how == How::Sent {
        return;
    }
    let mut ledger = world.shared.store.lock();
    let (id, epoch) = (accepted.id, ledger.epoch);
    if ledger.now().holds(id) {
        ledger.accepted.insert(id, epoch);
    } else if !ledger.lives.values().any(|life| life.holds(id)) {
        stage.find(Kind::Unkept, format_args!("{id} was accepted, and is not kept"));
    }
}

/// Takes back something that was accepted.
async fn take_back(world: &World) {
    let stage = &world.shared.stage;
    let known: Vec<NotificationId> = world.shared.store.lock().accepted.keys().copied().collect();
    if known.is_empty() {
        return;
    }
    let (id, epoch) = (*stage.one_of(&known), world.shared.store.lock().epoch);
    for _ in 0..4 {
        let Some(node) = any_node(world) else { return };
        let publishing = Arc::clone(&node.publishing);
        let answer = ask(&node, async move { publishing.cancel(id, &publisher().id).await }).await;
        stage.say(format_args!("cancel: {id}: {answer:?}"));
        if let Some(Ok(cancelled)) = answer {
            let ledger = world.shared.store.lock();
            let is_over = match cancelled {
                Cancelled::Unknown => true,
                Cancelled::Unscheduled => ledger.now().unscheduled.contains(&id),
                Cancelled::Stored { .. } => ledger.now().is_over(id, stage.now()),
            };
            if !is_over && ledger.epoch == epoch {
                stage.find(Kind::Unkept, format_args!("{id} was said to be cancelled, and is there"));
            }
            return;
        }
        stage.pause(20..=1_500).await;
    }
}

fn publisher() -> Publisher {
    Publisher { id: PublisherId::new("shop").expect("an id"), may: Permissions::all() }
}

/// The wrong order: asks who is there, then commits, then sends to those who were.
async fn locate_first(world: &World, target: Target) {
    let Some(node) = any_node(world) else { return };
    let clock = world.shared.stage.clock();
    let id = NotificationId::new(clock.now(), clock.random());
    let json = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    let notification = Notification { id, created_at: clock.now(), expires_at: None, json };
    let recipients: Vec<Recipient> = target.recipients();
    let whereabouts = node.router.locate(&[&recipients]).await.remove(0);
    let append = Append {
        notification: notification.clone(),
        recipients: recipients.clone(),
        publisher: fanfare::domain::PublisherId::new("shop").expect("a valid id"),
        idempotency: None,
        collapse_key: None,
        scheduled: false,
    };
    if let Some(Ok(Appended::Stored(places))) = node.inbox.append(vec![append]).await.pop() {
        let tail = Tail::of(&notification.json);
        node.router.send_stored(&tail, None, &recipients, &places, &whereabouts);
    }
}
