//! All WebSockets of a node: their common settings, their number, and their deadlines.
//!
//! Owns the limit on open sockets and one ticker for everybody's deadlines. A timer for each
//! connection would be over 100 bytes in each task and a trip to the timer wheel with each stall;
//! here a socket is put on a list (8 bytes) while it has a deadline, and the ticker looks at those
//! only: none while all clients are healthy. The price is that a deadline is up to one tick late.
//! Must know nothing of users or protocols.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::{self, Household, Households, Network};
use super::codec::Limits;
use super::connection::{Connection, Peer};
use super::handshake::Refusal;
use super::rate::Rate;
use super::socket::Socket;
use super::turnstile::Turnstile;
use crate::clock::Clock;
use crate::metrics::gateway::GatewayMetrics;

/// What all sockets have in common.
#[derive(Debug, Clone)]
pub struct SocketSettings {
    /// How large a message may be.
    pub limits: Limits,
    /// Frames a second that a client may send in the long run, of any kind, fragments included.
    /// Beyond it nothing is read until it is within again, so TCP presses back. It is not closed at once:
    /// a quick client that acks each notification of a long backlog does nothing wrong.
    pub frames_per_second: u32,
    /// Frames that it may send at once.
    pub frame_burst: u32,
    /// One that is beyond it for so long, and never lets half of the burst come back, is closed. `None`: never.
    pub flood_after: Option<Duration>,
    /// Queued bytes above which a push is answered "full".
    pub high_water: usize,
    /// A client for which more than this is queued is dropped: it goes on asking for answers and reads none.
    /// Far above `high_water` and one frame, where notifications stop.
    pub max_queued: usize,
    /// A client that takes nothing for this long while something is queued is dropped.
    pub write_timeout: Duration,
    /// The closing handshake, from the close frame's queueing to the client's end of stream.
    pub close_timeout: Duration,
    /// WebSockets open at a time.
    pub max_sockets: usize,
    /// Of these, from one address (IPv6: from one /64); 0: as many as there are.
    pub max_sockets_per_address: u32,
    /// WebSockets a second that are let in, and as many at once after a quiet second; 0: as many as come.
    pub accept_rate: u32,
    /// Proxies that are believed about where a client is.
    pub trusted_proxies: Vec<Network>,
    /// How often deadlines are looked at.
    pub sweep_every: Duration,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            frames_per_second: 2000,
            frame_burst: 4000,
            flood_after: Some(Duration::from_secs(30)),
            high_water: 64 * 1024,
            max_queued: 256 * 1024,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            max_sockets: 100_000,
            max_sockets_per_address: 0,
            accept_rate: 0,
            trusted_proxies: Vec::new(),
            sweep_every: Duration::from_millis(250),
        }
    }
}

/// Makes the peer of a new socket, which it may keep.
pub type Seat = Box<dyn FnOnce(Arc<Socket>) -> Arc<dyn Peer> + Send>;

/// All WebSockets of a node. Clones are the same.
#[derive(Debug, Clone)]
pub struct Sockets {
    shared: Arc<Shared>,
}

/// What every socket points to.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: SocketSettings,
    pub(super) metrics: GatewayMetrics,
    pub(super) rate: Rate,
    pub(super) clock: Clock,
    tracker: TaskTracker,
    stop: CancellationToken,
    start: Instant,
    open: AtomicUsize,
    /// Empty unless `max_sockets_per_address` is set.
    households: Households,
    /// `None`: as many as come are let in.
    turnstile: Option<Mutex<Turnstile>>,
    /// Sockets with a deadline. At most one entry a socket, so bounded by `max_sockets`.
    listed: Mutex<Vec<Weak<Socket>>>,
}

/// The right to one open socket, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` once it was handed over.
    shared: Option<Arc<Shared>>,
    household: Option<Household>,
}

/// When whoever found no room may come back, in seconds: any of these, so that they do not come back as one.
pub(super) const RETRY_AFTER_S: RangeInclusive<u32> = 5..=10;

impl Sockets {
    /// Ready for sockets; starts the ticker. From `stop` on no socket is added; those that are
    /// open go on until they are closed, and with the last one the ticker ends. `clock` says which queued frames
    /// have expired.
    pub fn start(
        settings: SocketSettings,
        clock: Clock,
        metrics: GatewayMetrics,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            rate: Rate::new(settings.frames_per_second, settings.frame_burst),
            turnstile: (settings.accept_rate > 0).then(|| Mutex::new(Turnstile::new(settings.accept_rate))),
            settings,
            clock,
            metrics,
            tracker: tracker.clone(),
            stop,
            start: Instant::now(),
            open: AtomicUsize::new(0),
            households: Households::default(),
            listed: Mutex::default(),
        });
        tracker.spawn(tick(shared.clone()));
        Self { shared }
    }

    /// How many are open, or about to be.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub(super) fn metrics(&self) -> &GatewayMetrics {
        &self.shared.metrics
    }

    pub(super) fn tracker(&self) -> &TaskTracker {
        &self.shared.tracker
    }

    /// A place for one more socket from `address`.
    ///
    /// # Errors
    /// All places are taken, or those of the address, or it is not its turn, or the node stops.
    pub(super) fn reserve(&self, address: IpAddr) -> Result<Place, Refusal> {
        let Shared { settings, clock, .. } = &*self.shared;
        let retry_after_s = clock.random_range(RETRY_AFTER_S);
        // Counted first and then looked at: the ticker, which looks in the other order, cannot
        // end while a place is given away.
        let before = self.shared.open.fetch_add(1, Ordering::SeqCst);
        let mut place = Place { shared: Some(self.shared.clone()), household: None };
        if before >= settings.max_sockets || self.shared.stop.is_cancelled() {
            return Err(Refusal::Full { retry_after_s });
        }
        let limit = settings.max_sockets_per_address;
        if limit > 0 {
            let household = Household::of(address);
            if !self.shared.households.enter(household, limit) {
                return Err(Refusal::Address { limit, retry_after_s });
            }
            place.household = Some(household);
        }
        // Last, so that who is refused for another reason takes nobody's turn.
        self.shared.enter().map_err(|wait| {
            let wait_s = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            // Later by chance, never sooner: many are told the same second.
            Refusal::Rate { retry_after_s: clock.random_range(wait_s..=wait_s + wait_s / 4 + 1) }
        })?;
        Ok(place)
    }

    /// Where the client of a request is, that `peer` made or passed on.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::client(peer, headers, &self.shared.settings.trusted_proxies)
    }

    /// Starts a socket in a task of its own. `first` is what was read behind the handshake.
    pub(super) fn run(&self, place: Place, stream: TcpStream, first: Bytes, seat: Seat) {
        let socket = Socket::new(stream, self.shared.clone());
        let peer = seat(socket.clone());
        let mut connection = Connection::new(socket, peer, place);
        if !first.is_empty() {
            connection.take(&mut Vec::from(first));
        }
        self.shared.tracker.spawn(connection);
    }
}

impl Shared {
    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Microseconds since the start.
    pub(super) fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub(super) fn after(&self, wait: Duration) -> u64 {
        self.now() + wait.as_millis() as u64
    }

    /// Gives a place back.
    pub(super) fn leave(&self, household: Option<Household>) {
        if let Some(household) = household {
            self.households.leave(household);
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn enter(&self) -> Result<(), Duration> {
        let Some(turnstile) = &self.turnstile else { return Ok(()) };
        // Two numbers, which a panic cannot leave half-way.
        turnstile.lock().unwrap_or_else(PoisonError::into_inner).enter(self.now_us())
    }

    /// Has the ticker look at `socket` until it has no deadline.
    pub(super) fn list(&self, socket: Weak<Socket>) {
        self.listed().push(socket);
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Socket>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        // Taken out first: nobody holds the list and a socket at once.
        let mut sockets = std::mem::take(&mut *self.listed());
        let now = self.now();
        sockets.retain(|socket| socket.upgrade().is_some_and(|socket| socket.sweep(now)));
        let mut listed = self.listed();
        if listed.is_empty() {
            sockets.shrink_to(64);
            *listed = sockets;
        } else {
            listed.append(&mut sockets);
        }
    }
}

impl Place {
    /// To a connection, which knows what is shared already, and must [leave](Shared::leave) with what this returns.
    pub(super) fn hand_over(mut self) -> Option<Household> {
        self.shared = None;
        self.household.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.leave(self.household);
        }
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.settings.sweep_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !(shared.stop.is_cancelled() && shared.open.load(Ordering::SeqCst) == 0) {
        ticks.tick().await;
        shared.sweep();
    }
}
