//! A process that is killed without a word while it writes to a SQLite file: what it was answered is there.
//!
//! The process is this very program, told to run one test; that test, run as any other, does the same load and
//! is not killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare::clock::Clock;
use fanfare::domain::{NotificationId, Seq, UnixMillis};
use fanfare::inbox::{
    Append, Appended, Cancelled, Cursor, Inbox, Mark, Marked, Schedule, Scheduled, Settings, SqliteInbox,
    State, migrate,
};
use fanfare::metrics::inbox::InboxMetrics;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::mpsc;

use super::store::*;

/// Where the process that is to be killed finds its file.
const FILE: &str = "FANFARE_TEST_KILLED_FILE";

/// The test that it runs.
const LIFE: &str = "contract::inbox::killed::what_was_answered_in_a_whole_life_is_in_the_file";

/// How many things each part of the load does in a life that nobody ends.
const WHOLE_LIFE: usize = 30;

/// What the inbox answered: the line that the process writes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Stored(NotificationId, u64),
    Collapsing(NotificationId, u64),
    Cancelled(NotificationId),
    Scheduled(NotificationId),
    Fired(NotificationId),
    Read(NotificationId, u64),
    Acknowledged(u64),
}

impl Fact {
    fn line(&self) -> String {
        match self {
            Self::Stored(id, seq) => format!("@stored {id} {seq}"),
            Self::Collapsing(id, seq) => format!("@collapsing {id} {seq}"),
            Self::Cancelled(id) => format!("@cancelled {id} 0"),
            Self::Scheduled(id) => format!("@scheduled {id} 0"),
            Self::Fired(id) => format!("@fired {id} 0"),
            Self::Read(id, version) => format!("@read {id} {version}"),
            Self::Acknowledged(seq) => format!("@acknowledged {} {seq}", NotificationId(uuid::Uuid::nil())),
        }
    }

    /// Other lines are the test harness's own.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_once('@')?.1.split_whitespace();
        let word = words.next()?;
        let id = NotificationId::from_str(words.next()?).ok()?;
        let number = words.next()?.parse().ok()?;
        Some(match word {
            "stored" => Self::Stored(id, number),
            "collapsing" => Self::Collapsing(id, number),
            "cancelled" => Self::Cancelled(id),
            "scheduled" => Self::Scheduled(id),
            "fired" => Self::Fired(id),
            "read" => Self::Read(id, number),
            "acknowledged" => Self::Acknowledged(number),
            _ => return None,
        })
    }
}

async fn open(url: &str) -> Arc<dyn Inbox> {
    let settings = Settings {
        url: url.to_owned(),
        max_connections: 3,
        timeout: Duration::from_secs(20),
        max_devices: MAX_DEVICES,
        receipt_events: true,
        undelivered_after: Some(UNDELIVERED_AFTER),
    };
    let inbox = SqliteInbox::open(&settings, Clock::system(), InboxMetrics::default()).await;
    Arc::new(inbox.expect("the file opens"))
}

async fn append(inbox: &Arc<dyn Inbox>, item: Append) -> (NotificationId, u64) {
    let id = item.notification.id;
    (id, places(inbox.append(vec![item]).await.remove(0))[0].seq.0)
}

async fn cancelling(inbox: &Arc<dyn Inbox>) -> Vec<Fact> {
    let (id, seq) = append(inbox, item(&own("alice"))).await;
    let cancelled = inbox.cancel(id, &publisher(), START).await.expect("cancelled");
    assert!(matches!(cancelled, Cancelled::Stored { .. }));
    vec![Fact::Stored(id, seq), Fact::Cancelled(id)]
}

async fn collapsing(inbox: &Arc<dyn Inbox>) -> Vec<Fact> {
    let mut item = item(&own("alice"));
    item.collapse_key = Some("badge".to_owned());
    let (id, seq) = append(inbox, item).await;
    vec![Fact::Collapsing(id, seq)]
}

/// Every other one fires.
async fn scheduling(inbox: &Arc<dyn Inbox>) -> Vec<Fact> {
    let id = NotificationId(uuid::Uuid::now_v7());
    let schedule = Schedule {
        id,
        fire_at: START,
        publisher: publisher(),
        request: Bytes::from_static(b"{}"),
        created_at: START,
        idempotency: None,
    };
    assert_eq!(inbox.schedule(schedule).await.expect("kept"), Scheduled::Kept);
    if rand::random() {
        return vec![Fact::Scheduled(id)];
    }
    let mut item = item(&own("alice"));
    item.notification.id = id;
    item.scheduled = true;
    append(inbox, item).await;
    vec![Fact::Scheduled(id), Fact::Fired(id)]
}

async fn marking(inbox: &Arc<dyn Inbox>) -> Vec<Fact> {
    let (id, seq) = append(inbox, item(&own("alice"))).await;
    let mark = Mark { stream: own("alice"), marked: Marked::Ids(vec![id]) };
    let (marked, unread) = inbox.mark_read(&user("alice"), &mark, START).await.expect("marked");
    assert_eq!(marked, Marked::Ids(vec![id]));
    vec![Fact::Stored(id, seq), Fact::Read(id, unread.version)]
}

async fn acknowledging(inbox: &Arc<dyn Inbox>) -> Vec<Fact> {
    let opened = inbox.open(vec![opening("alice", Some("web"))]).await.remove(0).expect("it opens");
    let cursor = Cursor {
        user: user("alice"),
        device: device("web"),
        stream: own("alice"),
        epoch: opened.epoch,
        acked: opened.head,
    };
    inbox.commit(vec![cursor]).await.expect("committed");
    vec![Fact::Acknowledged(opened.head.0)]
}

/// Does everything at once, `times` over; answers are handed out as they come.
fn load(inbox: &Arc<dyn Inbox>, times: usize) -> mpsc::Receiver<Fact> {
    let (facts, answers) = mpsc::channel(1);
    macro_rules! part {
        ($part:ident) => {
            let (inbox, facts) = (Arc::clone(inbox), facts.clone());
            tokio::spawn(async move {
                for _ in 0..times {
                    for fact in $part(&inbox).await {
                        facts.send(fact).await.expect("somebody listens");
                    }
                }
            });
        };
    }
    part!(cancelling);
    part!(collapsing);
    part!(scheduling);
    part!(marking);
    part!(acknowledging);
    answers
}

/// Sees that all of it is in the file.
async fn verify(url: &str, facts: &[Fact]) {
    let inbox = open(url).await;
    let now = UnixMillis(START.0 + 1);
    let heads = inbox.heads(&[own("alice")]).await.expect("the head");
    let (unread, _) = inbox.unread(&user("alice"), now).await.expect("known");
    let opened = inbox.open(vec![opening("alice", Some("web"))]).await.remove(0).expect("it opens");
    let mut current = 0;
    for fact in facts {
        let (Fact::Stored(id, _)
        | Fact::Collapsing(id, _)
        | Fact::Cancelled(id)
        | Fact::Scheduled(id)
        | Fact::Fired(id)
        | Fact::Read(id, _)) = fact
        else {
            let Fact::Acknowledged(seq) = fact else { unreachable!("the only other") };
            assert!(opened.position >= Seq(*seq), "{fact:?}: {opened:?}");
            continue;
        };
        let receipt = inbox.receipt(*id, &publisher(), now).await.expect("an answer");
        let receipt = receipt.unwrap_or_else(|| panic!("{fact:?} is lost"));
        let recipients = inbox.recipients(*id, &publisher(), None, 10, now).await.expect("known");
        let is_there = recipients.len() == 1 && receipt.deliver_at.is_none();
        match fact {
            Fact::Stored(_, seq) => assert!(is_there && heads[0].head >= Seq(*seq), "{fact:?}"),
            Fact::Collapsing(_, seq) => {
                assert!(is_there && heads[0].head >= Seq(*seq), "{fact:?}");
                current += usize::from(recipients[0].state == State::Stored);
            }
            Fact::Cancelled(_) => assert!(receipt.is_cancelled, "{fact:?}"),
            Fact::Scheduled(_) => assert!(is_there != receipt.deliver_at.is_some(), "{fact:?}"),
            Fact::Fired(_) => {
                assert!(is_there, "{fact:?}");
                let mut again = item(&own("alice"));
                (again.notification.id, again.scheduled) = (*id, true);
                let again = inbox.append(vec![again]).await.remove(0).expect("an answer");
                assert_eq!(again, Appended::NotScheduled, "{fact:?}");
            }
            Fact::Read(_, version) => {
                assert_eq!(recipients[0].state, State::Read, "{fact:?}");
                assert!(unread.version >= *version, "{fact:?}: {unread:?}");
            }
            Fact::Acknowledged(_) => unreachable!("seen above"),
        }
    }
    assert!(current <= 1, "{current} of one collapse key are current");
    inbox.close().await;
    let mut file = SqliteConnection::connect(url).await.expect("the file");
    let (entries, head): (i64, i64) =
        sqlx::query_as("select (select count(*) from entries), max(last_seq) from streams")
            .fetch_one(&mut file)
            .await
            .expect("the rows");
    assert_eq!(entries, head, "no hole, nothing doubled");
    let sound: String =
        sqlx::query_scalar("pragma integrity_check").fetch_one(&mut file).await.expect("an answer");
    assert_eq!(sound, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_in_a_whole_life_is_in_the_file() {
    if let Ok(url) = std::env::var(FILE) {
        let mut answers = load(&open(&url).await, usize::MAX);
        while let Some(fact) = answers.recv().await {
            // A line at a time, so that none is written by halves. Whoever listens ends this process.
            let line = fact.line() + "\n";
            std::io::stdout().lock().write_all(line.as_bytes()).expect("somebody listens");
        }
        return;
    }
    let store = Store::sqlite().await;
    let mut answers = load(&open(&store.settings.url).await, WHOLE_LIFE);
    let mut facts = Vec::new();
    while let Some(fact) = answers.recv().await {
        facts.push(fact);
    }
    assert!(facts.len() >= 6 * WHOLE_LIFE, "{} facts", facts.len());
    verify(&store.settings.url, &facts).await;
}

/// Starts the load on the file in a process of its own and kills it after so many answers.
fn live_and_be_killed(url: &str, answers: usize) -> Vec<Fact> {
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", LIFE, "--nocapture"])
        .env(FILE, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let mut facts = Vec::new();
    for line in lines {
        let Some(fact) = line.ok().as_deref().and_then(Fact::parse) else { continue };
        facts.push(fact);
        if facts.len() == answers {
            process.kill().expect("it is killed");
        }
    }
    process.wait().expect("it is gone");
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_a_kill_is_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/inbox.db", folder.path().display());
    migrate(&url).await.expect("tables are made");
    let mut facts = Vec::new();
    for _ in 0..5 {
        let (url, answers) = (url.clone(), rand::random_range(1..150));
        println!("killed after {answers} answers");
        let life = tokio::task::spawn_blocking(move || live_and_be_killed(&url, answers));
        let life = life.await.expect("it ends");
        assert!(life.len() >= answers, "it lived until it was killed");
        facts.extend(life);
    }
    verify(&url, &facts).await;
}
