//! What happens to the cluster by itself: outages, flushes, deaths, a restore, retention.

use std::sync::Arc;
use std::time::Duration;

use std::sync::atomic::Ordering;

use fanfare::delivery::Drain;
use fanfare::domain::Stream;
use fanfare::presence::{Presence, Route};
use tokio::time::Instant;

use super::model_presence::Mood;
use super::node::Node;
use super::plan::Plant;
use super::publisher;
use super::scenario::World;
use super::throng;

/// Starts what the plan's weather has. Everything ends with [`clear`].
pub fn start(world: &Arc<World>) {
    let weather = world.shared.plan.weather;
    if let Some(millis) = weather.broker_away {
        spawn(world, move |world| broker_outages(world, millis));
    }
    if weather.broker_blocked {
        spawn(world, alarms);
    }
    if weather.inbox_hangs {
        spawn(world, hangs);
    }
    if let Some(seconds) = weather.freezes {
        spawn(world, move |world| freezes(world, seconds));
    }
    if weather.presence_away {
        spawn(world, presence_outages);
    }
    if weather.inbox_away {
        spawn(world, inbox_outages);
    }
    if let Some(whole) = weather.flushes {
        spawn(world, move |world| flushes(world, whole));
    }
    if weather.deaths {
        spawn(world, deaths);
    }
    if weather.restore {
        spawn(world, restore);
    }
    if weather.retention {
        spawn(world, retention);
    }
    if world.shared.plan.throngs {
        spawn(world, throng::come);
    }
}

/// Everything is up again.
pub fn clear(world: &World) {
    world.shared.exchange.set_blocked(false);
    world.shared.exchange.set_away(false);
    *world.shared.presence_mood.lock().expect("no panic under it") = Mood::Well;
    world.shared.store.away.store(false, Ordering::Relaxed);
    world.shared.store.hang.set(false);
    world.nodes.lock().expect("no panic under it").values().for_each(|node| node.freezer.set(false));
}

fn spawn<F, Fut>(world: &Arc<World>, weather: F)
where
    F: FnOnce(Arc<World>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let quiet = world.shared.stage.quiet().clone();
    let weather = weather(Arc::clone(world));
    tokio::spawn(async move {
        tokio::select! {
            biased; // A fault that is due in the moment in which faults end would never be undone.
            () = quiet.cancelled() => {}
            () = weather => {}
        }
    });
}

async fn broker_outages(world: Arc<World>, (least, most): (u64, u64)) {
    loop {
        world.shared.stage.pause(4_000..=30_000).await;
        world.shared.exchange.set_away(true);
        rush_for_somebody(&world);
        world.shared.stage.pause(least..=most).await;
        world.shared.exchange.set_away(false);
    }
}

/// A memory alarm: nothing gets through, and nothing fails.
async fn alarms(world: Arc<World>) {
    loop {
        world.shared.stage.pause(3_000..=30_000).await;
        world.shared.exchange.set_blocked(true);
        world.shared.stage.pause(200..=8_000).await;
        world.shared.exchange.set_blocked(false);
    }
}

async fn presence_outages(world: Arc<World>) {
    loop {
        world.shared.stage.pause(4_000..=30_000).await;
        let mood = *world.shared.stage.one_of(&[Mood::Away, Mood::ReadOnly, Mood::Hangs]);
        for now in [mood, Mood::Well] {
            world.shared.stage.say(format_args!("presence: {now:?}"));
            *world.shared.presence_mood.lock().expect("no panic under it") = now;
            world.shared.stage.pause(200..=6_000).await;
        }
    }
}

async fn inbox_outages(world: Arc<World>) {
    loop {
        world.shared.stage.pause(6_000..=40_000).await;
        world.shared.stage.say("inbox: away");
        world.shared.store.away.store(true, Ordering::Relaxed);
        world.shared.stage.pause(200..=3_000).await;
        world.shared.stage.say("inbox: back");
        world.shared.store.away.store(false, Ordering::Relaxed);
    }
}

async fn hangs(world: Arc<World>) {
    loop {
        world.shared.stage.pause(5_000..=30_000).await;
        world.shared.stage.say("inbox: hangs");
        world.shared.store.hang.set(true);
        world.shared.stage.pause(500..=9_000).await;
        world.shared.stage.say("inbox: goes on");
        world.shared.store.hang.set(false);
    }
}

/// Somebody is sent something that may not get through.
fn rush_for_somebody(world: &Arc<World>) {
    let user = world.shared.stage.one_of(&world.users).clone();
    publisher::rush(world, &Stream::User(user), 1_500);
}

/// Everything, or one connection of somebody.
async fn flushes(world: Arc<World>, whole: u32) {
    let (stage, presence) = (&world.shared.stage, &world.shared.presence);
    loop {
        stage.pause(3_000..=30_000).await;
        if stage.chance(whole) {
            stage.say("presence: forgets everything");
            presence.forget_everything();
            rush_for_somebody(&world);
            continue;
        }
        let route = Route::User(stage.one_of(&world.users).clone());
        let there = presence.locate(&[route]).await.unwrap_or_default();
        let members: Vec<_> = there.into_iter().flat_map(|located| located.members).collect();
        if !members.is_empty() {
            let member = stage.one_of(&members);
            stage.say(format_args!("presence: forgets {} {}", member.user, member.connection));
            // The embedded store does not fail.
            let _ = presence.withdraw(std::slice::from_ref(member)).await;
        }
    }
}

/// A node stands still (SIGSTOP), whatever it was about to do, and goes on.
async fn freezes(world: Arc<World>, seconds: (u64, u64)) {
    let stage = &world.shared.stage;
    loop {
        stage.pause(1_000..=9_000).await;
        let number = stage.pick(0..=world.names.len() as u64 - 1);
        let freezer =
            world.nodes.lock().expect("no panic under it").get(&number).map(|node| node.freezer.clone());
        let Some(freezer) = freezer else { continue };
        stage.say(format_args!("{}: stands still", world.names[number as usize]));
        freezer.set(true);
        stage.pause(seconds.0 * 1_000..=seconds.1 * 1_000).await;
        freezer.set(false);
        stage.say(format_args!("{}: goes on", world.names[number as usize]));
    }
}

/// A node dies, or stops in order; a new life of it comes after a while.
async fn deaths(world: Arc<World>) {
    let stage = &world.shared.stage;
    for life in 1.. {
        stage.pause(5_000..=40_000).await;
        let number = stage.pick(0..=world.names.len() as u64 - 1);
        let node = world.nodes.lock().expect("no panic under it").remove(&number);
        let Some(node) = node else { continue };
        if stage.chance(50) {
            stage.say(format_args!("{}: killed", node.id));
            world.shared.exchange.leave(&node.id);
            node.death.cancel();
            node.cancel.cancel();
            world.shared.roll.leave(&node.id);
        } else {
            drain(&world, &node).await;
        }
        // It comes back even if the sky clears meanwhile.
        let (world, away) = (Arc::clone(&world), stage.pick(100..=8_000));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(away)).await;
            let node = Node::boot(&world.shared, &world.names[number as usize], life).await;
            world.nodes.lock().expect("no panic under it").insert(number, node);
        });
    }
}

async fn drain(world: &World, node: &Node) {
    let stage = &world.shared.stage;
    stage.say(format_args!("{}: drains", node.id));
    let deadline = Instant::now() + Duration::from_secs(5);
    let window = Duration::from_millis(stage.pick(0..=2_000));
    let how = Drain { window, spread: Duration::from_secs(1) };
    let report = node.delivery.drain(how, deadline, || {}).await;
    stage.say(format_args!("{}: {report:?}", node.id));
    node.cancel.cancel();
    world.shared.exchange.leave(&node.id);
    node.death.cancel();
    world.shared.roll.leave(&node.id);
}

/// The backup is of some moment; what was committed since is gone, and the epoch says so.
async fn restore(world: Arc<World>) {
    let stage = &world.shared.stage;
    stage.pause(3_000..=60_000).await;
    {
        let mut ledger = world.shared.store.lock();
        let now = ledger.life().clone();
        ledger.backup = Some(now);
        stage.say("inbox: backup");
    }
    stage.pause(500..=20_000).await;
    stage.say("inbox: restored");
    let now = stage.now().0;
    let mut ledger = world.shared.store.lock();
    let base = if world.shared.plan.plant == Plant::VersionsGoBack { ledger.now().version_base } else { now };
    ledger.restore(base);
}

async fn retention(world: Arc<World>) {
    let stage = &world.shared.stage;
    loop {
        stage.pause(1_000..=15_000).await;
        let mut ledger = world.shared.store.lock();
        let streams: Vec<_> = ledger.life().logs.keys().cloned().collect();
        if streams.is_empty() {
            continue;
        }
        let stream = stage.one_of(&streams);
        let log = ledger.life().logs.get_mut(stream).expect("it was listed");
        let floor = stage.pick(log.floor..=log.head);
        let kept = log.entries.split_off(&(floor + 1));
        log.gone.append(&mut std::mem::replace(&mut log.entries, kept));
        log.floor = floor;
        stage.say(format_args!("inbox: {stream} begins after {floor}"));
    }
}
