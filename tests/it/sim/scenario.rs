//! One run: a cluster, its people, its publishers and its weather, all from one seed.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::domain::{DeviceId, NodeId, TopicName, UserId};
use fanfare::presence::embedded::EmbeddedPresence;
use fanfare::session::Window;
use fanfare::wire::AckMode;
use tokio::time::Instant;

use super::device::{Device, Nodes};
use super::freeze::Freezer;
use super::held::{Holder, View};
use super::ledger::Ledger;
use super::model_broker::Exchange;
use super::node::{Node, Shared};
use super::plan::Plan;
use super::publisher;
use super::roll::Roll;
use super::stage::{Finding, Stage};
use super::store::Store;
use super::verdict;
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
    play_on_stage(plan, seed, false)
}

/// The same, and keeps the trace.
pub fn retell(plan: Plan, seed: u64) -> Outcome {
    play_on_stage(plan, seed, true)
}

fn play_on_stage(plan: Plan, seed: u64, is_told: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets");
    let outcome = runtime.block_on(play(plan, seed, is_told));
    runtime.shutdown_background();
    outcome
}

async fn play(plan: Plan, seed: u64, is_told: bool) -> Outcome {
    let stage = Stage::new(seed, is_told);
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
        stage.pause(10..=plan.pace_ms).await;
        verdict::check_step(&stage, &world);
    }
    // What was asked for is answered, then the sky clears.
    stage.pause(500..=500).await;
    weather::clear(&world);
    stage.calm_down();
    tokio::time::sleep(plan.settle).await;
    verdict::check_end(&stage, &world);
    conclude(&stage, &world)
}

fn build(plan: Plan, stage: &Stage) -> World {
    let names = (1..=stage.pick(2..=3)).map(|n| NodeId::new(format!("n{n}")).expect("an id")).collect();
    let users = (1..=stage.pick(2..=3)).map(|n| UserId::new(format!("u{n}")).expect("an id")).collect();
    let topics = (1..=plan.topics).map(|n| TopicName::new(format!("t{n}")).expect("a topic")).collect();
    World { shared: shared(plan, stage), nodes: Arc::default(), names, users, topics }
}

/// What all nodes of a run share.
pub fn shared(plan: Plan, stage: &Stage) -> Shared {
    let window =
        Window { entries: *stage.one_of(&[3, 8, 256]), bytes: *stage.one_of(&[900, 1 << 20, 1 << 20]) };
    let margin = Duration::from_millis(plan.weather.skew_ms);
    Shared {
        stage: stage.clone(),
        plan,
        store: Store {
            stage: stage.clone(),
            plan,
            ledger: Arc::new(Mutex::new(Ledger::new(margin))),
            away: Arc::new(AtomicBool::new(false)),
            hang: Freezer::new(),
        },
        presence: EmbeddedPresence::new(stage.clock()),
        presence_mood: Arc::default(),
        exchange: Exchange::new(stage.clone(), plan),
        roll: Roll::default(),
        window,
        page: *stage.one_of(&[1, 2, 5, 100]),
    }
}

/// One to three devices for each user, and now and then a client that names none.
fn people(world: &Arc<World>) {
    let stage = &world.shared.stage;
    for user in &world.users {
        for number in 0..stage.pick(1..=3) {
            let anonymous = number > 0 && stage.chance(15);
            let device = DeviceId::new(format!("d{number}")).expect("an id");
            let device = (!anonymous).then_some(device);
            let ack = if stage.chance(30) { AckMode::Auto } else { AckMode::Manual };
            let holder = Holder {
                user: user.clone(),
                device: device.clone(),
                auto: ack == AckMode::Auto,
                got: BTreeMap::new(),
                view: View::default(),
            };
            let device = cast(world, holder, ack);
            tokio::spawn(device.live());
        }
    }
}

/// Gives the holder its place in the ledger, and its life.
fn cast(world: &Arc<World>, holder: Holder, ack: AckMode) -> Device {
    let (stage, plan) = (&world.shared.stage, world.shared.plan);
    let (user, device) = (holder.user.clone(), holder.device.clone());
    let number = {
        let mut ledger = world.shared.store.lock();
        ledger.holders.push(holder);
        ledger.holders.len() - 1
    };
    let of_fashion = plan.fashion.is_some();
    Device {
        world: Arc::clone(world),
        stage: stage.clone(),
        plan,
        holder: number,
        user,
        device,
        ack,
        following: world.topics.iter().filter(|_| !of_fashion && stage.chance(60)).cloned().collect(),
        connections: 0,
    }
}

fn conclude(stage: &Stage, world: &World) -> Outcome {
    let (hash, trace, findings) = stage.outcome();
    let ledger = world.shared.store.lock();
    let logs = ledger.lives.values().flat_map(|life| life.logs.values());
    let entries = logs.map(|log| log.entries.len() + log.gone.len()).sum();
    let got = ledger.holders.iter().flat_map(|holder| holder.got.values());
    let received = got.map(|got| got.received.len()).sum();
    Outcome { hash, trace, findings, entries, received }
}
