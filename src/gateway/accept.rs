//! The accept loop: TCP connections in, HTTP/1.1 requests to a service.
//!
//! Owns what `warp::serve` leaves out: timeouts, limits, what to do when descriptors run out, and
//! an orderly end. Must know no route. HTTP/1.1 only, without TLS: a proxy in front ends both.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sockets::RETRY_AFTER_S;
use crate::metrics::gateway::GatewayMetrics;

pub(super) mod head_clock;

use head_clock::{HeadClock, InRequest};

/// The address of the other end, put into the extensions of each request; its
/// [`http::Version`] is put there too.
#[derive(Debug, Clone, Copy)]
pub struct Remote(pub SocketAddr);

/// Bounds of HTTP connections. A WebSocket is one of them until its 101 only.
#[derive(Debug, Clone)]
pub struct AcceptSettings {
    /// HTTP connections open at a time. One more is answered 503 with `Retry-After` and closed,
    /// so that a balancer goes elsewhere at once instead of waiting in the backlog.
    pub max_connections: usize,
    /// From the accept, later from a request's first byte, to the end of its head.
    pub header_timeout: Duration,
    /// How long a kept-alive connection may be idle between two requests. Longer than a proxy
    /// keeps its connections, else it sends requests into ones that are being closed.
    pub idle_timeout: Duration,
    /// A request's line and headers together; more is answered 431. At least 8192.
    pub max_header_bytes: usize,
    /// How long requests in flight may take once the node stops.
    pub drain_timeout: Duration,
}

impl Default for AcceptSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_header_bytes: 8 * 1024,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What stops the accept loop, and who waits for its tasks.
#[derive(Debug, Clone)]
pub struct Lifetime {
    /// Every task of the loop is on it.
    pub tracker: TaskTracker,
    /// From now on nothing is accepted; requests in flight are finished.
    pub stop: CancellationToken,
}

/// The backlog of listening sockets: a restart brings everybody back at once.
const BACKLOG: u32 = 4096;

/// So many are accepted before all others that have something to do get a turn: or thousands that come at once would all stand
/// before who is connected already. tokio's own bound for a task is 128.
const TURN: usize = 16;

/// Connections over the limit that are told so at a time; others are just closed.
const MAX_REFUSALS: usize = 64;

/// How long nothing must have failed until accepting counts as well again: with a descriptor free now and then
/// it works and fails by turns, and would be logged as often.
const CALM: Duration = Duration::from_secs(1);

/// Takes `address` for [`listen`].
///
/// # Errors
/// Those of the socket calls: the address is in use, or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Begins to take connections, which nobody does before: a client that found a listening socket would wait.
///
/// # Errors
/// Those of the socket call.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Serves `service` (such as `TowerToHyperService::new(warp::service(routes))`) on `listener` until
/// told to stop; then the listener is closed, and the connections end by themselves within
/// `drain_timeout` (wait for the tracker). Never ends by an error of `accept`.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    settings: AcceptSettings,
    lifetime: Lifetime,
    metrics: GatewayMetrics,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let (mut failed_at, mut taken) = (None, 0);
    loop {
        if taken == TURN {
            taken = 0;
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = lifetime.stop.cancelled() => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                metrics.accept_errors.inc();
                failed_at = pause(&error, failed_at).await;
                continue;
            }
        };
        if failed_at.take_if(|at: &mut Instant| at.elapsed() >= CALM).is_some() {
            tracing::info!("connections are accepted again");
        }
        metrics.accepted.inc();
        taken += 1;
        // Small frames go out one by one; holding them back for a fuller segment only delays them.
        // A failure means that the connection is gone already, which its task will see.
        let _ = stream.set_nodelay(true);
        match connections.clone().try_acquire_owned() {
            Ok(permit) => {
                let service =
                    WithConnection { service: service.clone(), remote, in_request: InRequest::default() };
                let stop = lifetime.stop.clone();
                let task = connection(stream, service, settings.clone(), stop, permit);
                lifetime.tracker.spawn(task);
            }
            Err(_) => {
                metrics.refused.inc();
                if let Ok(permit) = refusals.clone().try_acquire_owned() {
                    lifetime.tracker.spawn(refuse(stream, permit));
                }
            }
        }
    }
}

/// After a failed `accept`: out of descriptors or memory stays so for a while, and asking again
/// at once would spin; an aborted connection concerns nobody else. Says when the former was last so.
async fn pause(error: &io::Error, failed_at: Option<Instant>) -> Option<Instant> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        return failed_at;
    }
    if failed_at.is_none() {
        // Once, not with each try; the counter has the number.
        tracing::error!(%error, "connections cannot be accepted; is the limit of open files too low?");
    }
    let millis = rand::random_range(50..150);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Some(Instant::now())
}

/// The service, told of the connection with each request.
struct WithConnection<S> {
    service: S,
    remote: SocketAddr,
    in_request: InRequest,
}

impl<S> Service<Request<Incoming>> for WithConnection<S>
where
    S: Service<Request<Incoming>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        request.extensions_mut().insert(version);
        request.extensions_mut().insert(Remote(self.remote));
        let answering = self.in_request.begin();
        let response = self.service.call(request);
        Box::pin(async move {
            let response = response.await;
            drop(answering);
            response
        })
    }
}

async fn connection<S, B>(
    stream: TcpStream,
    service: WithConnection<S>,
    settings: AcceptSettings,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let in_request = service.in_request.clone();
    let stream = HeadClock::new(stream, settings.header_timeout, in_request);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Of the whole wait for a request; the clock bounds its second part.
        .header_read_timeout(settings.idle_timeout.max(settings.header_timeout))
        .max_buf_size(settings.max_header_bytes.max(8192))
        .max_header_size(settings.max_header_bytes.max(8192));
    let serving = builder.serve_connection(stream, service);
    let mut serving = pin!(serving.with_upgrades());
    // What a client does wrong is answered by hyper, or was its own end: nothing to report. The
    // connection is polled where it is pinned, so cancellation takes nothing from it.
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = timeout(settings.drain_timeout, serving).await;
}

/// Says that there is no room, and gives the client a second to read it: closing at once, with its
/// request unread, would send a reset that may overtake the answer.
async fn refuse(mut stream: TcpStream, _permit: OwnedSemaphorePermit) {
    let retry_after_s = rand::random_range(RETRY_AFTER_S);
    let refusal = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {retry_after_s}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    let told = async {
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(Duration::from_secs(1), told).await;
}
