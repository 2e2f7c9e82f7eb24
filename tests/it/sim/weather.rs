//! What happens to the cluster by itself: outages, flushes, deaths, a restore, retention.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::node::Node;
use super::scenario::World;

/// Starts what the plan's weather has. Everything ends with [`clear`].
pub fn start(world: &Arc<World>) {
    let weather = world.shared.plan.weather;
    if weather.broker_away {
        spawn(world, broker_outages);
    }
    if weather.presence_away {
        spawn(world, presence_outages);
    }
    if weather.inbox_away {
        spawn(world, inbox_outages);
    }
    if weather.flushes {
        spawn(world, flushes);
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
}

/// Everything is up again.
pub fn clear(world: &World) {
    world.shared.exchange.set_away(false);
    *world.shared.presence_away.lock().expect("no panic under it") = false;
    *world.shared.inbox_away.lock().expect("no panic under it") = false;
}

fn spawn<F, Fut>(world: &Arc<World>, weather: F)
where
    F: FnOnce(Arc<World>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let quiet = world.shared.stage.quiet().clone();
    let weather = weather(Arc::clone(world));
    tokio::spawn(async move { quiet.run_until_cancelled(weather).await });
}

async fn broker_outages(world: Arc<World>) {
    loop {
        world.shared.stage.pause(4_000..=30_000).await;
        world.shared.exchange.set_away(true);
        world.shared.stage.pause(200..=6_000).await;
        world.shared.exchange.set_away(false);
    }
}

async fn presence_outages(world: Arc<World>) {
    loop {
        world.shared.stage.pause(4_000..=30_000).await;
        world.shared.stage.say("presence: away");
        *world.shared.presence_away.lock().expect("no panic under it") = true;
        world.shared.stage.pause(200..=6_000).await;
        world.shared.stage.say("presence: back");
        *world.shared.presence_away.lock().expect("no panic under it") = false;
    }
}

async fn inbox_outages(world: Arc<World>) {
    loop {
        world.shared.stage.pause(6_000..=40_000).await;
        world.shared.stage.say("inbox: away");
        *world.shared.inbox_away.lock().expect("no panic under it") = true;
        world.shared.stage.pause(200..=3_000).await;
        world.shared.stage.say("inbox: back");
        *world.shared.inbox_away.lock().expect("no panic under it") = false;
    }
}

async fn flushes(world: Arc<World>) {
    loop {
        world.shared.stage.pause(3_000..=30_000).await;
        world.shared.stage.say("presence: forgets everything");
        world.shared.presence.forget_everything();
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
    let report = node.delivery.drain(Duration::from_secs(1), deadline).await;
    stage.say(format_args!("{}: {report:?}", node.id));
    node.cancel.cancel();
    world.shared.exchange.leave(&node.id);
    node.death.cancel();
}

/// The backup is of some moment; what was committed since is gone, and the epoch says so.
async fn restore(world: Arc<World>) {
    let stage = &world.shared.stage;
    stage.pause(3_000..=60_000).await;
    {
        let mut ledger = world.shared.ledger.lock().expect("no panic under it");
        let now = ledger.life().clone();
        ledger.backup = Some(now);
        stage.say("inbox: backup");
    }
    stage.pause(500..=20_000).await;
    stage.say("inbox: restored");
    world.shared.ledger.lock().expect("no panic under it").restore();
}

async fn retention(world: Arc<World>) {
    let stage = &world.shared.stage;
    loop {
        stage.pause(1_000..=15_000).await;
        let mut ledger = world.shared.ledger.lock().expect("no panic under it");
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
