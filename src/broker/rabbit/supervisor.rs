//! Sessions, one after the other, for ever.
//!
//! Owns the rebuilding: connections, channels, topology and consumers are opened together and end together;
//! whatever breaks ends the session, and after a jittered, capped pause the next one is opened on the next URL.
//! It must never give up, and never run two sessions at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::ConfirmSelectOptions;
use lapin::uri::{AMQPUri, SASLMechanism};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::consume::Envelopes;
use super::control::{self, Caller};
use super::dead::{DROPPED_PREFETCH, Sorter};
use super::events::{self, Emission, publish_events};
use super::ingress::Lane;
use super::letters::{self, Clerk, Errand};
use super::open::{Link, OpenError, connect, explain_declare};
use super::publish::Publisher;
use super::shared::{Doors, Intake, SessionError, Shared};
use super::topology::{DROPPED, Declarer};
use crate::broker::Health;
use crate::domain::Priority;

/// A session that lived this long starts the pauses anew.
const SETTLED: Duration = Duration::from_secs(10);
/// For saying goodbye; RabbitMQ notices a closed socket as well.
const GOODBYE: Duration = Duration::from_secs(1);

/// Everything that one session needs, open.
pub(super) struct Session {
    /// Publishes; under an alarm the broker does not read it, not even acknowledgements.
    publishing: Arc<Link>,
    /// Consumes.
    consuming: Arc<Link>,
    parts: Parts,
    doors: Doors,
    /// Ends its tasks.
    cancel: CancellationToken,
}

/// Channels and consumers of a session.
struct Parts {
    to_nodes: Channel,
    to_control: Channel,
    to_dead: Channel,
    to_events: Channel,
    emissions: mpsc::Receiver<Emission>,
    errands: mpsc::Receiver<Errand>,
    envelopes: Envelopes,
    control: Consumer,
    sorting: Channel,
    dropped: Consumer,
    lanes: Vec<(Priority, Channel)>,
}

/// Opens a session: connections, channels, topology, consumers; lanes are not consumed yet.
pub(super) async fn open(shared: &Shared, uri: &AMQPUri) -> Result<Session, OpenError> {
    let settings = &shared.settings;
    // By a certificate RabbitMQ finds a name of its own.
    let is_named = uri.query.auth_mechanism != Some(SASLMechanism::External);
    shared.set_login(is_named.then(|| uri.authority.userinfo.username.clone()));
    let publishing = connect(settings, uri, "publish").await?;
    let consuming = connect(settings, uri, "consume").await?;
    let first = channel(shared, &publishing).await?;
    declarer(shared, &first).durable(&settings.bounds).await?;
    // Exclusive queues belong to the connection that declares them (AMQP 0-9-1, queue.declare).
    let envelopes =
        Envelopes::declare(shared, channel(shared, &consuming).await?).await.map_err(into_open)?;
    let inbound = channel(shared, &consuming).await?;
    let queue = declarer(shared, &inbound).control_queue(settings, shared.next_control()).await?;
    let control = declarer(shared, &inbound).consume(&queue, 256).await?;
    let sorting = channel(shared, &consuming).await?;
    let dropped = declarer(shared, &sorting).consume(DROPPED, DROPPED_PREFETCH).await?;
    let mut lanes = Vec::new();
    for lane in Priority::ALL {
        lanes.push((lane, channel(shared, &consuming).await?));
    }
    let (events, emissions) = mpsc::channel(events::WAITING);
    let (letters, errands) = mpsc::channel(letters::WAITING);
    let parts = Parts {
        to_nodes: confirming(shared, &publishing).await?,
        to_control: confirming(shared, &publishing).await?,
        to_dead: confirming(shared, &publishing).await?,
        to_events: confirming(shared, &publishing).await?,
        emissions,
        errands,
        envelopes,
        control,
        sorting,
        dropped,
        lanes,
    };
    let cancel = shared.cancel.child_token();
    let caller = Caller { channel: parts.to_control.clone(), cancel: cancel.clone() };
    let doors = Doors { caller, events, letters };
    let (publishing, consuming) = (Arc::new(publishing), Arc::new(consuming));
    Ok(Session { publishing, consuming, parts, doors, cancel })
}

fn into_open(error: SessionError) -> OpenError {
    match error {
        SessionError::Declare(error) => error,
        other => OpenError::Other(other.to_string()),
    }
}

fn declarer<'a>(shared: &Shared, channel: &'a Channel) -> Declarer<'a> {
    Declarer { channel, patience: shared.settings.operation_timeout }
}

async fn channel(shared: &Shared, link: &Link) -> Result<Channel, OpenError> {
    let patience = shared.settings.operation_timeout;
    match timeout(patience, link.connection.create_channel()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(explain_declare(&error, "a channel")),
        Err(_) => Err(OpenError::Other(format!("no channel within {patience:?}"))),
    }
}

async fn confirming(shared: &Shared, link: &Link) -> Result<Channel, OpenError> {
    let opened = channel(shared, link).await?;
    let patience = shared.settings.operation_timeout;
    match timeout(patience, opened.confirm_select(ConfirmSelectOptions::default())).await {
        Ok(Ok(())) => Ok(opened),
        Ok(Err(error)) => Err(explain_declare(&error, "confirms")),
        Err(_) => Err(OpenError::Other(format!("no confirms within {patience:?}"))),
    }
}

/// Runs `first`, then one session after the other, until cancelled.
pub(super) async fn supervise(shared: Arc<Shared>, uris: Vec<AMQPUri>, first: Session) {
    let mut uris = uris.iter().cycle();
    let mut session = first;
    let mut failures = 0;
    loop {
        let opened = Instant::now();
        let ended = run(&shared, session).await;
        shared.report(Health::Down);
        shared.set_doors(None);
        shared.pending.clear();
        if shared.cancel.is_cancelled() {
            break;
        }
        if let Err(error) = ended {
            shared.metrics.failures.inc();
            tracing::warn!(%error, "the session with RabbitMQ ended; opening the next");
        }
        if opened.elapsed() > SETTLED {
            failures = 0;
        }
        let reopening = reopen(&shared, &mut uris, &mut failures);
        tokio::select! {
            () = shared.cancel.cancelled() => break,
            next = reopening => session = next,
        }
    }
    shared.ended.cancel();
}

/// Tries one URL after the other, with pauses, until a session is open.
async fn reopen<'a>(
    shared: &Shared,
    uris: &mut (impl Iterator<Item = &'a AMQPUri> + Send),
    failures: &mut u32,
) -> Session {
    for uri in uris {
        sleep(pause(shared.settings.backoff, *failures)).await;
        *failures = failures.saturating_add(1);
        match open(shared, uri).await {
            Ok(session) => return session,
            Err(error) => {
                shared.metrics.failures.inc();
                // The end of the last session was worth a line; each attempt is not.
                tracing::debug!(%error, attempt = *failures, "RabbitMQ is not back yet");
            }
        }
    }
    unreachable!("a cycle over at least one URL has no end")
}

/// Full jitter: anything up to the doubled, capped pause.
fn pause((first, longest): (Duration, Duration), failures: u32) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    doubled.min(longest).mul_f64(rand::random_range(0.1..1.0))
}

/// Lets envelopes, requests and events out through this session.
pub(super) fn announce(shared: &Shared, session: &Session) {
    shared.set_doors(Some(session.doors.clone()));
    shared.report(Health::Up);
}

/// Runs one session until something breaks or all ends.
async fn run(shared: &Arc<Shared>, session: Session) -> Result<(), SessionError> {
    announce(shared, &session);
    let mut tasks = JoinSet::new();
    let Session { publishing, consuming, parts, cancel, .. } = session;
    spawn(shared, (&publishing, &consuming), parts, &cancel, &mut tasks);
    let mut ended = Ok(());
    while let Some(task) = tasks.join_next().await {
        let task = task.unwrap_or(Err(SessionError::Panicked));
        let lane_done = task.is_ok() && *shared.intake.borrow() == Intake::Closing;
        if ended.is_ok() {
            ended = task;
        }
        // When closing, lanes end one by one, and the rest goes on.
        if !lane_done {
            cancel.cancel();
        }
    }
    for link in [&consuming, &publishing] {
        let closing = link.connection.close(200, "bye".into());
        // A connection that is gone cannot be closed, and that is as good.
        let _ = timeout(GOODBYE, closing).await;
    }
    ended
}

/// Starts the tasks of a session; each ends with `cancel`.
fn spawn(
    shared: &Arc<Shared>,
    (publishing, consuming): (&Arc<Link>, &Arc<Link>),
    parts: Parts,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<(), SessionError>>,
) {
    let connection = &publishing.connection;
    let tracker = shared.tracker.clone();
    let mut spawn = |task: BoxFuture<'static, Result<(), SessionError>>| {
        tasks.spawn(tracker.track_future(task));
    };
    shared.metrics.sessions.inc();
    let publisher = Publisher::new(Arc::clone(shared), parts.to_nodes, connection.status().clone());
    let events = connection.events_listener();
    spawn(publisher.run(events, cancel.clone()).boxed());
    spawn(parts.envelopes.run(Arc::clone(shared), cancel.clone()).boxed());
    let serving = control::serve(Arc::clone(shared), parts.control, parts.to_control, cancel.clone());
    spawn(serving.boxed());
    let sorter = Sorter {
        shared: Arc::clone(shared),
        channel: parts.sorting,
        consumer: Some(parts.dropped),
        graveyard: parts.to_dead.clone(),
    };
    spawn(sorter.run(cancel.clone()).boxed());
    let emitting = publish_events(Arc::clone(shared), parts.to_events, parts.emissions, cancel.clone());
    spawn(emitting.boxed());
    let clerk = Clerk {
        shared: Arc::clone(shared),
        publishing: Arc::clone(publishing),
        consuming: Arc::clone(consuming),
    };
    spawn(clerk.run(parts.errands, cancel.clone()).boxed());
    for (lane, channel) in parts.lanes {
        let lane = Lane::new(Arc::clone(shared), lane, channel, parts.to_dead.clone());
        spawn(lane.run(cancel.clone()).boxed());
    }
}
