//! A throng: somebody comes with more connections than are allowed, or a few, and says `hello` in whatever order.
//!
//! They name no device, read nothing, and leave soon. It must never judge; the roll does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare::auth::UserClaims;
use fanfare::delivery::outlet::Outlet;
use fanfare::delivery::{Attach, Connection};
use fanfare::domain::{TopicName, UnixMillis, UserId};
use fanfare::wire::Hello;

use super::line::Line;
use super::node::Node;
use super::scenario::World;

/// Comes again and again.
pub async fn come(world: Arc<World>) {
    let stage = &world.shared.stage;
    loop {
        stage.pause(500..=4_000).await;
        let nodes: Vec<Node> = world.nodes.lock().expect("no panic under it").values().cloned().collect();
        if nodes.is_empty() {
            continue;
        }
        let user = stage.one_of(&world.users).clone();
        let limit = world.shared.plan.crowd.limit as u64;
        let at_once = *stage.one_of(&[1, 2, limit + 1, limit + 4]);
        let (to_one, first) = (stage.chance(50), stage.one_of(&nodes).clone());
        // The last to come may be the first to speak.
        let (step, is_reversed) = (stage.pick(0..=60), stage.chance(60));
        for place in 0..at_once {
            let node = if to_one { first.clone() } else { stage.one_of(&nodes).clone() };
            let order = if is_reversed { at_once - place } else { place };
            let accepted_at = node.clock.now();
            let guest = visit(
                Arc::clone(&world),
                node,
                user.clone(),
                accepted_at,
                Duration::from_millis(order * step),
            );
            tokio::spawn(guest);
            stage.pause(1..=2).await;
        }
    }
}

async fn visit(world: Arc<World>, node: Node, user: UserId, accepted_at: UnixMillis, silent: Duration) {
    let (stage, line) =
        (&world.shared.stage, Arc::new(Line::new(1_000, node.freezer.clone(), node.clock.clone())));
    tokio::time::sleep(silent).await;
    let mut hello = Hello::default();
    hello.topics = vec![TopicName::new(format!("t{}", stage.pick(1..=9))).expect("a topic")];
    let claims = claims(&user);
    let attach = Attach { claims, hello, peer: SocketAddr::from(([127, 0, 0, 1], 9)), accepted_at };
    let enter = |made: &Arc<Connection>| {
        stage.say(format_args!("{user}: comes as {} to {}", made.id(), node.id));
        world.shared.roll.enter(&node.id, &user, None, made, &line);
    };
    let attached = tokio::select! {
        biased;
        () = node.death.cancelled() => return,
        attached = node.delivery.attach(attach, Arc::clone(&line) as Arc<dyn Outlet>, enter) => attached,
    };
    match attached {
        Ok(connection) => {
            stage.pause(100..=4_000).await;
            line.end();
            connection.on_closed();
        }
        Err(error) => line.close(error.close_code()),
    }
}

/// What a token says that is good for ever.
pub fn claims(user: &UserId) -> UserClaims {
    UserClaims {
        user: user.clone(),
        expires_at: UnixMillis(u64::MAX / 2),
        topics: vec![fanfare::auth::Pattern::everything()],
        issued_at: None,
        token_id: None,
    }
}
