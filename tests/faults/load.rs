//! The load: publishers that post at a steady pace, each one after the other, and try again with the same
//! idempotency key until they are answered 202.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::account::Mark;
use crate::books::Books;
use crate::crowd::{DEVICES, TOPICS, To, USERS};
use crate::device::stalls;

/// Publishers over HTTP, and how often each posts: 550 a second together.
const PUBLISHERS: u16 = 110;
const PACE: Duration = Duration::from_millis(200);
/// An answer takes this long at most; then nobody knows what became of it.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause before another try: `Retry-After` is one second, spread.
const AGAIN: std::ops::Range<u64> = 200..1_200;
/// How large a notification is that is to fill a window.
const LARGE: usize = 48 * 1024;

/// What all publishers share.
#[derive(Debug)]
pub struct Work {
    /// The account.
    pub books: Arc<Books>,
    /// Where they post: a node each at first, another after a failure.
    pub nodes: Vec<String>,
    /// How many of these run.
    up: AtomicUsize,
    /// The publisher's API key.
    pub key: String,
    /// For everybody's choices.
    pub seed: u64,
    /// So that keys of two runs on one store never meet.
    run: String,
    numbers: AtomicU32,
    heavy: AtomicBool,
}

/// One notification, before anybody has it.
#[derive(Debug)]
pub struct Parcel {
    /// Its number, also its idempotency key.
    pub number: u32,
    /// Who it is for.
    pub to: To,
    /// The request.
    pub json: String,
}

impl Work {
    /// For nodes at these URLs, of which the first `up` run.
    pub fn new(books: &Arc<Books>, nodes: Vec<String>, up: usize, key: &str, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            books: Arc::clone(books),
            nodes,
            up: AtomicUsize::new(up),
            key: key.to_owned(),
            seed,
            run: uuid::Uuid::now_v7().simple().to_string(),
            numbers: AtomicU32::new(1),
            heavy: AtomicBool::new(false),
        })
    }

    /// From now on so many nodes run.
    pub fn reach(&self, nodes: usize) {
        self.up.store(nodes, Ordering::Relaxed);
    }

    /// A third of everything becomes large and goes to those who may stop reading.
    pub fn heavy(&self, on: bool) {
        self.heavy.store(on, Ordering::Relaxed);
    }

    /// The next notification of a publisher.
    pub fn next(&self, random: &mut StdRng, turn: Option<(u16, u32)>) -> Parcel {
        let (to, bytes) = self.choose(random);
        self.parcel(to, bytes, turn)
    }

    fn parcel(&self, to: To, bytes: usize, turn: Option<(u16, u32)>) -> Parcel {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let body = json!({
            "to": to.json(), "type": "fault", "body": "x".repeat(bytes), "data": Mark { number, turn },
        });
        Parcel { number, to, json: body.to_string() }
    }

    /// The idempotency key of a number.
    pub fn idempotency_key(&self, number: u32) -> String {
        format!("{}-{number}", self.run)
    }

    fn choose(&self, random: &mut StdRng) -> (To, usize) {
        if self.heavy.load(Ordering::Relaxed) && random.random_ratio(1, 3) {
            let users = (0..USERS).filter(|place| stalls(*place)).count();
            let chosen = random.random_range(0..users);
            let chosen = (0..USERS).filter(|place| stalls(*place)).nth(chosen).expect("one of them");
            return (To::Users(vec![chosen]), LARGE);
        }
        let (kind, first, second) =
            (random.random_range(0..10_000), random.random_range(0..USERS), random.random_range(0..USERS));
        let to = match kind {
            // Two thousand deliveries each: one in eight seconds.
            0..2 => To::Everyone,
            2..40 => To::Topic(first % TOPICS),
            40..300 => To::Device(random.random_range(0..DEVICES)),
            300..700 if first != second => To::Users(vec![first, second]),
            _ => To::Users(vec![first]),
        };
        (to, 100)
    }

    /// Posts until it is accepted. Which node first: `target`; the one that took it is left there.
    pub async fn post(&self, client: &reqwest::Client, parcel: &Parcel, target: &mut usize) {
        loop {
            let url = format!("{}/v1/notifications", self.nodes[*target % self.up.load(Ordering::Relaxed)]);
            let request = client
                .post(url)
                .timeout(ANSWER)
                .bearer_auth(&self.key)
                .header("content-type", "application/json")
                .header("idempotency-key", self.idempotency_key(parcel.number))
                .body(parcel.json.clone());
            match request.send().await.map(|answer| (answer.status().as_u16(), answer)) {
                Ok((202, _)) => return self.accepted(parcel),
                // 409: the first try is still under way. 5xx: perhaps done, perhaps not.
                Ok((409 | 429 | 500.., _)) | Err(_) => *target += 1,
                Ok((status, answer)) => {
                    let text = answer.text().await.unwrap_or_default();
                    panic!("number {} was answered {status}: {text}", parcel.number);
                }
            }
            self.books.with(|account| account.on_try_again());
            sleep(Duration::from_millis(rand::random_range(AGAIN))).await;
        }
    }

    /// One notification to every user by name, from a publisher of its own.
    pub async fn post_to_all(&self) {
        self.post_one(To::Users((0..USERS).collect())).await;
    }

    /// One notification into every stream that devices share.
    pub async fn post_to_shared(&self) {
        for topic in 0..TOPICS {
            self.post_one(To::Topic(topic)).await;
        }
        self.post_one(To::Everyone).await;
    }

    async fn post_one(&self, to: To) {
        let parcel = self.parcel(to, 10, None);
        self.post(&client(), &parcel, &mut 0).await;
    }

    fn accepted(&self, parcel: &Parcel) {
        let devices = parcel.to.devices();
        self.books.with(|account| account.on_accepted(parcel.number, &devices));
    }

    /// It was confirmed over AMQP.
    pub fn confirmed(&self, parcel: &Parcel) {
        let devices = parcel.to.devices();
        self.books.with(|account| {
            account.on_accepted(parcel.number, &devices);
            account.on_confirmed();
        });
    }
}

fn client() -> reqwest::Client {
    crate::support::backends::http_client()
}

/// Publishers at work.
pub struct Load {
    stop: CancellationToken,
    publishers: JoinSet<()>,
}

impl Load {
    /// Starts all of them, HTTP and AMQP.
    pub fn start(work: &Arc<Work>, amqp_urls: &[String], turn: &Arc<Vec<AtomicU32>>) -> Self {
        let (stop, mut publishers) = (CancellationToken::new(), JoinSet::new());
        let client = client();
        for place in 0..PUBLISHERS {
            let (work, client, stop, turn) =
                (Arc::clone(work), client.clone(), stop.clone(), Arc::clone(turn));
            publishers
                .spawn(async move { publish(&work, &client, place, &turn[usize::from(place)], &stop).await });
        }
        for place in 0..crate::amqp::PUBLISHERS {
            let (work, urls, stop) = (Arc::clone(work), amqp_urls.to_vec(), stop.clone());
            publishers.spawn(async move { crate::amqp::publish(&work, &urls, place, &stop).await });
        }
        Self { stop, publishers }
    }

    /// The turns of all publishers, which go on from load to load.
    pub fn turns() -> Arc<Vec<AtomicU32>> {
        Arc::new((0..PUBLISHERS).map(|_| AtomicU32::new(1)).collect())
    }

    /// Ends it: each publisher still gets its last one accepted. Answers whether all did by the deadline.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.publishers.join_next().await {
                ended.expect("publishers do not panic");
            }
        };
        tokio::time::timeout(deadline, all).await.is_ok()
    }
}

async fn publish(
    work: &Work,
    client: &reqwest::Client,
    place: u16,
    turn: &AtomicU32,
    stop: &CancellationToken,
) {
    let mut random =
        StdRng::seed_from_u64(work.seed ^ u64::from(turn.load(Ordering::Relaxed)) << 16 ^ u64::from(place));
    let first = Instant::now() + PACE.mul_f64(f64::from(place) / f64::from(PUBLISHERS));
    let mut pace = interval_at(first, PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut target = usize::from(place);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = pace.tick() => {}
        }
        let parcel = work.next(&mut random, Some((place, turn.fetch_add(1, Ordering::Relaxed))));
        work.post(client, &parcel, &mut target).await;
    }
}
