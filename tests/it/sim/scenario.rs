//! One run: a cluster, its people, its publishers and its weather, all from one seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fanfare::domain::{DeviceId, NodeId, Stream, TopicName, UserId};
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::session::Window;
use fanfare::wire::AckMode;
use tokio::time::Instant;

use super::device::{Device, Nodes};
use super::ledger::{Holder, Ledger};
use super::model_broker::Exchange;
use super::node::{Node, Shared};
use super::plan::Plan;
use super::publisher;
use super::stage::{Finding, Kind, Stage};
use super::weather;

/// What became of a run.
pub struct Outcome {
    /// Of the whole trace.
    pub hash: u64,
    pub trace: Vec<String>,
    pub findings: Vec<Finding>,
    /// How many entries there were, and how many reached a device.
    pub entries: usize,
    pub received: usize,
}

/// The cluster of one run.
pub struct World {
    pub shared: Shared,
    pub nodes: Nodes,
    pub names: Vec<NodeId>,
    pub users: Vec<UserId>,
    pub topics: Vec<TopicName>,
}

/// Runs a seed to its end. Virtual time: it takes as long as the CPU needs.
pub fn run(plan: Plan, seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets");
    let outcome = runtime.block_on(play(plan, seed));
    runtime.shutdown_background();
    outcome
}

async fn play(plan: Plan, seed: u64) -> Outcome {
    let stage = Stage::new(seed);
    let world = Arc::new(build(plan, &stage));
    for (number, name) in (0..).zip(&world.names) {
        let node = Node::boot(&world.shared, name, 0).await;
        world.nodes.lock().expect("no panic under it").insert(number, node);
    }
    people(&world);
    weather::start(&world);
    let end = Instant::now() + plan.active;
    while Instant::now() < end {
        if stage.has_findings() {
            return conclude(&stage, &world);
        }
        publisher::burst(&world);
        stage.pause(10..=900).await;
    }
    // What was asked for is answered, then the sky clears.
    stage.pause(500..=500).await;
    weather::clear(&world);
    stage.calm_down();
    tokio::time::sleep(plan.settle).await;
    check_end(&stage, &world);
    conclude(&stage, &world)
}

fn build(plan: Plan, stage: &Stage) -> World {
    let names = (1..=stage.pick(2..=3)).map(|n| NodeId::new(format!("n{n}")).expect("an id")).collect();
    let users = (1..=stage.pick(2..=3)).map(|n| UserId::new(format!("u{n}")).expect("an id")).collect();
    let topics = (1..=2).map(|n| TopicName::new(format!("t{n}")).expect("a topic")).collect();
    let window =
        Window { entries: *stage.one_of(&[3, 8, 256]), bytes: *stage.one_of(&[900, 1 << 20, 1 << 20]) };
    let shared = Shared {
        stage: stage.clone(),
        plan,
        ledger: Arc::new(Mutex::new(Ledger::new())),
        inbox_away: Arc::default(),
        presence: EmbeddedPresence::new(stage.clock()),
        presence_away: Arc::default(),
        exchange: Exchange::new(stage.clone(), plan),
        window,
        page: *stage.one_of(&[1, 2, 5, 100]),
    };
    World { shared, nodes: Arc::default(), names, users, topics }
}

/// One to three devices for each user, and now and then a client that names none.
fn people(world: &World) {
    let stage = &world.shared.stage;
    for user in &world.users {
        for number in 0..stage.pick(1..=3) {
            let anonymous = number > 0 && stage.chance(15);
            let device = DeviceId::new(format!("d{number}")).expect("an id");
            let device = (!anonymous).then_some(device);
            let ack = if stage.chance(30) { AckMode::Auto } else { AckMode::Manual };
            let mut ledger = world.shared.ledger.lock().expect("no panic under it");
            let holder = ledger.holders.len();
            ledger.holders.push(Holder {
                user: user.clone(),
                device: device.clone(),
                auto: ack == AckMode::Auto,
                got: BTreeMap::new(),
            });
            drop(ledger);
            let device = Device {
                stage: stage.clone(),
                ledger: Arc::clone(&world.shared.ledger),
                nodes: Arc::clone(&world.nodes),
                holder,
                user: user.clone(),
                device,
                ack,
                topics: world.topics.clone(),
                following: world.topics.iter().filter(|_| stage.chance(60)).cloned().collect(),
                restless: world.shared.plan.weather.restless,
                may_be_restored: world.shared.plan.weather.restore,
                connections: 0,
            };
            tokio::spawn(device.live());
        }
    }
}

/// Everybody has everything that was meant for them and that they follow.
fn check_end(stage: &Stage, world: &World) {
    let ledger = world.shared.ledger.lock().expect("no panic under it");
    let mut found = Vec::new();
    for (number, holder) in ledger.holders.iter().enumerate() {
        let own = Stream::User(holder.user.clone());
        let who = format!("{}/{:?}", holder.user, holder.device);
        for stream in [own, Stream::Everyone] {
            if !holder.got.contains_key(&stream) {
                found.push((Kind::Stall, format!("{who} never got to know {stream}")));
            }
        }
        for (stream, got) in &holder.got {
            if got.epoch != ledger.epoch {
                // A topic that it does not follow any more stays as it was.
                if !matches!(stream, Stream::Topic(_)) {
                    found.push((Kind::Stall, format!("{who} does not know of the new life of {stream}")));
                }
                continue;
            }
            let Some(log) = ledger.log(stream, got.epoch) else { continue };
            // Of a topic that it left, what came later is due when it comes back.
            let to = if is_followed(&ledger, number, stream) { log.head } else { got.position };
            let start = due_from(&ledger, holder, stream).map_or(got.start, |start| start.min(got.start));
            for seq in ledger.missing(number, stream, start, to) {
                let kind = if seq <= got.position { Kind::Loss } else { Kind::Stall };
                found.push((kind, format!("{who} at {} of {stream} has no {seq}", got.position)));
            }
            for seq in ledger.gone_untold(number, stream).into_iter().filter(|seq| *seq <= got.position) {
                found.push((Kind::Loss, format!("{who} was not told that {seq} of {stream} is gone")));
            }
        }
    }
    drop(ledger);
    found.into_iter().for_each(|(kind, text)| stage.find(kind, text));
}

/// Where the stored cursor of the device began.
fn due_from(ledger: &Ledger, holder: &Holder, stream: &Stream) -> Option<u64> {
    let key = (holder.user.clone(), holder.device.clone()?, stream.clone());
    let place = ledger.lives.get(&ledger.epoch)?.cursors.get(&key)?;
    (place.epoch == ledger.epoch).then_some(place.start)
}

fn is_followed(ledger: &Ledger, holder: usize, stream: &Stream) -> bool {
    match stream {
        Stream::User(_) | Stream::Everyone => true,
        Stream::Topic(topic) => ledger.follows.get(&holder).is_some_and(|topics| topics.contains(topic)),
    }
}

fn conclude(stage: &Stage, world: &World) -> Outcome {
    let (hash, trace, findings) = stage.outcome();
    let ledger = world.shared.ledger.lock().expect("no panic under it");
    let logs = ledger.lives.values().flat_map(|life| life.logs.values());
    let entries = logs.map(|log| log.entries.len() + log.gone.len()).sum();
    let got = ledger.holders.iter().flat_map(|holder| holder.got.values());
    let received = got.map(|got| got.received.len()).sum();
    Outcome { hash, trace, findings, entries, received }
}
