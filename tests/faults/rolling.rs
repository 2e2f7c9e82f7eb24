//! A rolling restart: each node in its turn is stopped in good order and started again, under load.
//!
//! Owns the pace at which devices may come to the nodes that are left, and the look at it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::crowd::DEVICES;
use crate::stage::{NODES, Stage};
use crate::support::backends::http_client;

/// What the nodes are told. Of two thousand devices up to 1 500 may be on one when it stops: over twelve seconds,
/// 125 a second to each of the others at most.
pub const SETTINGS: [(&str, &str); 4] = [
    ("http.accept_rate", "200"),
    ("drain.deadline_ms", "20000"),
    ("drain.window_ms", "6000"),
    ("drain.spread_ms", "6000"),
];
/// `http.accept_rate`.
const ACCEPT_RATE: f64 = 200.0;
/// Longer than `drain.deadline_ms`.
const STOP: Duration = Duration::from_secs(25);
/// Until all devices are connected again.
const BACK: Duration = Duration::from_secs(30);
/// How often it is looked at how many were accepted.
const LOOK: Duration = Duration::from_secs(1);

/// Restarts all nodes, the next one when the last one is ready and all devices are back.
pub async fn restart_all(stage: &mut Stage) {
    let most = Arc::new(Mutex::new(0.0_f64));
    let mut looking = JoinSet::new();
    for node in &stage.nodes {
        looking.spawn(look(format!("{}/metrics", node.admin_url()), Arc::clone(&most)));
    }
    for (node, id) in stage.nodes.iter_mut().zip(NODES) {
        node.process().signal("TERM");
        let status = node.process().wait(STOP).await;
        if !status.success() {
            stage.complaints.push(format!("{id} ended with {status}"));
        }
        node.restart().await;
        let all_back = stage.books.wait_for(BACK, |account| account.connected().0 == DEVICES).await;
        if all_back.is_none() {
            stage.complaints.push(format!("not all devices were back within {BACK:?} of {id}"));
        }
    }
    let most = *most.lock().expect("no panic under it");
    println!("         at most {most:.0} accepted by a node in a second");
    if most > ACCEPT_RATE {
        stage.complaints.push(format!("{most:.0} were accepted in a second, and {ACCEPT_RATE} are set"));
    }
    if most == 0.0 {
        stage.complaints.push("no node was seen to accept anybody".to_owned());
    }
}

/// Notes the most that a node accepted in a second, for ever; a start counts anew.
async fn look(url: String, most: Arc<Mutex<f64>>) {
    let (client, mut before) = (http_client(), None::<(Instant, f64)>);
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let Some(accepted) = accepted(&client, &url).await else {
            before = None;
            continue;
        };
        if let Some((at, count)) = before
            && accepted >= count
        {
            let seconds = (asked - at).as_secs_f64().max(LOOK.as_secs_f64());
            let mut most = most.lock().expect("no panic under it");
            *most = most.max((accepted - count) / seconds);
        }
        before = Some((asked, accepted));
    }
}

/// How many WebSockets a node has accepted; `None`: it does not answer.
async fn accepted(client: &reqwest::Client, url: &str) -> Option<f64> {
    let text = client.get(url).timeout(LOOK).send().await.ok()?.text().await.ok()?;
    let count = text.lines().find_map(|line| {
        line.strip_prefix("fanfare_gateway_handshakes_total{outcome=\"accepted\"} ")?.parse().ok()
    });
    Some(count.unwrap_or(0.0))
}
