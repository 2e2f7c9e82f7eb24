//! Backends of the simulation: they publish through the real publishing, and try again with the same key.

use std::sync::Arc;

use bytes::Bytes;
use fanfare::auth::{Permissions, Publisher};
use fanfare::domain::{Notification, NotificationId, PublisherId, Recipient, Target};
use fanfare::inbox::{Append, Appended};
use fanfare::publish::{How, Request};
use fanfare::wire::Tail;

use super::node::Node;
use super::plan::Plant;
use super::scenario::World;
use super::stage::Kind;

/// One notification, or several at once.
pub fn burst(world: &Arc<World>) {
    let stage = &world.shared.stage;
    let many = if stage.chance(15) { stage.pick(2..=10) } else { 1 };
    for _ in 0..many {
        let (target, json) = request(world);
        let key = format!("k{}", stage.pick(0..=u64::MAX));
        let world = Arc::clone(world);
        if world.shared.plan.plant == Plant::LocateFirst {
            tokio::spawn(async move { locate_first(&world, target).await });
        } else {
            tokio::spawn(async move { publish(&world, json, key).await });
        }
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
    let ttl = match stage.pick(0..=19) {
        0 => r#","ttl":0"#,
        1 | 2 => r#","ttl":1"#,
        _ => "",
    };
    let body = "x".repeat(stage.pick(0..=200) as usize);
    (target, format!(r#"{{"to":{to},"title":"t","body":"{body}"{ttl}}}"#))
}

fn any_node(world: &World) -> Option<Node> {
    let nodes = world.nodes.lock().expect("no panic under it");
    let all: Vec<&Node> = nodes.values().collect();
    (!all.is_empty()).then(|| (*world.shared.stage.one_of(&all)).clone())
}

async fn publish(world: &World, json: String, key: String) {
    let stage = &world.shared.stage;
    for _ in 0..4 {
        let Some(node) = any_node(world) else {
            stage.pause(200..=900).await;
            continue;
        };
        let request = Request {
            publisher: publisher(),
            json: Bytes::from(json.clone()),
            idempotency_key: Some(key.clone()),
            default_ttl: None,
            source: "http",
        };
        let answer = tokio::select! {
            biased;
            () = node.death.cancelled() => None,
            answer = node.publishing.publish(request) => Some(answer),
        };
        match answer {
            Some(Ok(accepted)) => {
                let kept = world.shared.ledger.lock().expect("no panic under it");
                let is_kept = kept.stored.contains(&accepted.id.to_string());
                drop(kept);
                if accepted.how != How::Sent && !is_kept {
                    stage.find(Kind::Unkept, format_args!("{} was accepted, and is not stored", accepted.id));
                }
                return;
            }
            Some(Err(error)) => stage.say(format_args!("publish: {error}")),
            None => stage.say("publish: no answer"),
        }
        stage.pause(20..=1_500).await;
    }
}

fn publisher() -> Publisher {
    Publisher { id: PublisherId::new("backend").expect("an id"), may: Permissions::all() }
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
