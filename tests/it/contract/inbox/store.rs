//! A fresh store, and short words for what cases do with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanfare::clock::Clock;
use fanfare::domain::{
    DeviceId, Epoch, Notification, NotificationId, PublisherId, Recipient, Seq, Stream, UnixMillis, UserId,
};
use fanfare::inbox::{
    Append, Appended, Audience, Content, Cursor, Entry, Idempotency, Inbox, InboxError, Open, Opened,
    OutOfDate, Page, Place, PostgresInbox, Read, Resume, Settings, SqliteInbox, migrate,
};
use fanfare::metrics::inbox::InboxMetrics;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::support::backends;

/// How many devices a user may have in these tests.
pub const MAX_DEVICES: u32 = 4;

/// When `undelivered` is told in these tests.
pub const UNDELIVERED_AFTER: Duration = Duration::from_secs(600);

/// What time it is at first.
pub const START: UnixMillis = UnixMillis(1_764_547_200_000);

/// A store of its own for one case.
pub struct Store {
    pub inbox: Arc<dyn Inbox>,
    pub settings: Settings,
    pub metrics: InboxMetrics,
    time: Arc<AtomicU64>,
    _folder: Option<tempfile::TempDir>,
}

impl Store {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the file");
        let url = format!("sqlite://{}/new/inbox.db", folder.path().display());
        Self::at(url, Some(folder)).await
    }

    pub async fn postgres() -> Self {
        Self::at(backends::postgres_url().await, None).await
    }

    async fn at(url: String, folder: Option<tempfile::TempDir>) -> Self {
        let settings = Settings {
            url,
            max_connections: 5,
            timeout: Duration::from_secs(20),
            max_devices: MAX_DEVICES,
            receipt_events: true,
            undelivered_after: Some(UNDELIVERED_AFTER),
        };
        let report = migrate(&settings.url).await.expect("tables are made");
        assert!(!report.applied.is_empty());
        let time = Arc::new(AtomicU64::new(START.0));
        let metrics = InboxMetrics::default();
        let inbox = open(&settings, &time, &metrics).await;
        Self { inbox, settings, metrics, time, _folder: folder }
    }

    /// Lets go of the store and opens it again.
    pub async fn reopen(&mut self) {
        self.inbox.close().await;
        self.inbox = open(&self.settings, &self.time, &self.metrics).await;
    }

    /// Another inbox of the same store, with other settings.
    pub async fn another(&self, settings: &Settings) -> Arc<dyn Inbox> {
        open(settings, &self.time, &self.metrics).await
    }

    pub fn now(&self) -> UnixMillis {
        UnixMillis(self.time.load(Ordering::SeqCst))
    }

    pub fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        self.time.fetch_add(millis, Ordering::SeqCst);
    }

    /// Changes the tables behind the inbox's back, as retention or a restore would.
    pub async fn sql(&self, statement: String) {
        let url = &self.settings.url;
        let done = if url.starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(url).await.expect("the file");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.map(drop)
        } else {
            let mut connection = PgConnection::connect(url).await.expect("PostgreSQL");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.map(drop)
        };
        done.expect("the statement works");
    }

    /// Removes what is up to `floor`, as retention does.
    pub async fn retain_after(&self, stream: &Stream, floor: u64) {
        self.sql(format!(
            "update streams set floor_seq = {floor} where name = '{stream}';
             delete from entries where seq <= {floor}
                 and stream = (select id from streams where name = '{stream}');"
        ))
        .await;
    }

    /// Puts the whole store into another epoch, as belongs to a restore.
    pub async fn new_epoch(&self, epoch: u32) {
        self.sql(format!("update store set epoch = {epoch}; update streams set epoch = {epoch};")).await;
    }

    /// Appends one item.
    pub async fn append_one(&self, item: Append) -> Result<Appended, InboxError> {
        let mut answers = self.inbox.append(vec![item]).await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Appends `count` notifications to a stream, one by one.
    pub async fn fill(&self, stream: &Stream, count: u64) {
        for _ in 0..count {
            places(self.append_one(item(stream)).await);
        }
    }

    pub async fn open_one(&self, open: Open) -> Result<Opened, InboxError> {
        let mut answers = self.inbox.open(vec![open]).await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Opens the user's own stream on a device.
    pub async fn attach(&self, name: &str, on: &str) -> Opened {
        self.open_one(opening(name, Some(on))).await.expect("the device is let in")
    }

    pub async fn read_one(&self, read: Read) -> Page {
        let pages = self.inbox.read(vec![read], self.now()).await;
        let mut pages = pages.expect("the page is read");
        assert_eq!(pages.len(), 1);
        pages.remove(0)
    }

    /// Acknowledges on the user's own stream.
    pub async fn ack(&self, name: &str, on: &str, epoch: Epoch, seq: u64) {
        let cursor =
            Cursor { user: user(name), device: device(on), stream: own(name), epoch, acked: Seq(seq) };
        let committed = self.inbox.commit(vec![cursor]).await;
        committed.expect("the cursor is committed");
    }
}

async fn open(settings: &Settings, time: &Arc<AtomicU64>, metrics: &InboxMetrics) -> Arc<dyn Inbox> {
    let (time, metrics) = (Arc::clone(time), metrics.clone());
    let clock = Clock::new(move || UnixMillis(time.load(Ordering::SeqCst)));
    if settings.url.starts_with("sqlite:") {
        let inbox = SqliteInbox::open(settings, clock, metrics).await;
        Arc::new(inbox.expect("the file opens"))
    } else {
        let inbox = PostgresInbox::open(settings, clock, metrics).await;
        Arc::new(inbox.expect("PostgreSQL answers"))
    }
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid id")
}

pub fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a valid id")
}

/// A user's own stream.
pub fn own(name: &str) -> Stream {
    Stream::User(user(name))
}

pub fn notification() -> Notification {
    notification_of("{\"body\":\"\\u0000 hello\"}")
}

pub fn notification_of(json: &str) -> Notification {
    Notification {
        id: NotificationId(uuid::Uuid::now_v7()),
        created_at: START,
        expires_at: None,
        json: Bytes::copy_from_slice(json.as_bytes()),
    }
}

/// A notification for all who follow the stream.
pub fn item(stream: &Stream) -> Append {
    item_for(vec![to(stream)])
}

pub fn item_for(recipients: Vec<Recipient>) -> Append {
    Append {
        notification: notification(),
        recipients,
        publisher: publisher(),
        idempotency: None,
        collapse_key: None,
        scheduled: false,
    }
}

pub fn to(stream: &Stream) -> Recipient {
    Recipient { stream: stream.clone(), device: None }
}

pub fn to_device(name: &str, on: &str) -> Recipient {
    Recipient { stream: own(name), device: Some(device(on)) }
}

/// The same with a key of the publisher `shop`.
pub fn keyed(mut item: Append, key: &str, hash: u8) -> Append {
    item.idempotency =
        Some(Idempotency { publisher: publisher(), key: key.to_owned(), request_hash: [hash; 32] });
    item
}

pub fn publisher() -> PublisherId {
    PublisherId::new("shop").expect("a valid id")
}

pub fn opening(name: &str, on: Option<&str>) -> Open {
    Open { user: user(name), device: on.map(device), stream: own(name), resume: None }
}

pub fn resuming(mut open: Open, epoch: Option<Epoch>, seq: u64) -> Open {
    open.resume = Some(Resume { epoch, seq: Seq(seq) });
    open
}

/// A request for everything after `after` that a device gets.
pub fn reading(stream: &Stream, after: u64) -> Read {
    Read {
        stream: stream.clone(),
        after: Seq(after),
        audience: Audience::Device(None),
        max_entries: 100,
        max_bytes: 1 << 20,
    }
}

/// Where a stored item ended up; panics if it was not stored.
pub fn places(answer: Result<Appended, InboxError>) -> Vec<Place> {
    match answer {
        Ok(Appended::Stored(places)) => places,
        other => panic!("expected it to be stored; got {other:?}"),
    }
}

pub fn seqs(places: &[Place]) -> Vec<u64> {
    places.iter().map(|place| place.seq.0).collect()
}

pub fn page_seqs(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.seq.0).collect()
}

/// The JSON of an entry that is a notification.
pub fn json_of(entry: &Entry) -> &[u8] {
    match &entry.content {
        Content::Notification { json, .. } => json,
        other => panic!("expected a notification; got {other:?}"),
    }
}

/// What to sweep: what expired before `expired`, and keys from before `keys`; no devices.
pub fn out_of_date(expired: UnixMillis, keys: UnixMillis) -> OutOfDate {
    OutOfDate { keys, due: keys, expired, devices: UnixMillis(0), revocations: UnixMillis(0) }
}

/// The ids of all events with this routing key that wait; claims them for no time.
pub async fn told(store: &Store, routing_key: &str) -> Vec<String> {
    let events = store.inbox.claim_events(store.now(), Duration::ZERO, 10_000).await;
    let events = events.expect("the events").into_iter();
    events.filter(|event| event.routing_key == routing_key).map(|event| event.id).collect()
}
