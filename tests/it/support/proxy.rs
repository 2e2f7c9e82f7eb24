//! A TCP proxy in front of one backend, so that one test can lose it without all others losing it.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections are closed, new ones as soon as they are made: the backend is down.
    Cut,
    /// Connections stay, new ones are taken, and no byte passes: the backend, or the network, hangs.
    Freeze,
}

/// A proxy that passes everything until told otherwise; gone when dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl ChaosProxy {
    /// Stands in front of `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (mode, modes) = watch::channel(Mode::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target.to_owned(), modes));
        Self { address, mode, _tasks: tasks }
    }

    /// Stands in front of the host of `url`; answers itself and the URL that goes through it.
    pub async fn before(url: &str) -> (Self, String) {
        let (_, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let target = authority.rsplit('@').next().unwrap_or_default();
        let proxy = Self::start(target).await;
        let through = url.replacen(target, &proxy.address.to_string(), 1);
        (proxy, through)
    }

    /// As if the backend had died: connections end, new ones end at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// As if the backend or the network hung: everything stays open and silent.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Freeze);
    }

    /// As before. What was frozen goes on where it was.
    pub fn heal(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

async fn accept(listener: TcpListener, target: String, modes: watch::Receiver<Mode>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *modes.borrow() != Mode::Cut {
            connections.spawn(carry(client, target.clone(), modes.clone()));
        }
    }
}

async fn carry(client: TcpStream, target: String, mut modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    // Small frames must not wait for each other.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (up, down) = (modes.clone(), modes.clone());
    // Whatever ends first ends all of it.
    tokio::select! {
        () = pump(client_read, server_write, up) => {}
        () = pump(server_read, client_write, down) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// One direction, until its end.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if modes.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

mod tests {
    use std::time::Duration;

    use deadpool_redis::redis::{Client, cmd};

    use super::ChaosProxy;
    use crate::support::backends::redis_url;
    use crate::support::{DEADLINE, within};

    #[tokio::test]
    async fn a_proxy_freezes_cuts_and_heals_what_goes_through_it() {
        let (proxy, url) = ChaosProxy::before(&redis_url().await).await;
        let client = Client::open(url).expect("a URL");
        let mut connection = within(DEADLINE, "a connection", client.get_multiplexed_async_connection())
            .await
            .expect("Redis answers through the proxy");

        proxy.freeze();
        let ping = cmd("PING");
        let frozen =
            tokio::time::timeout(Duration::from_millis(100), ping.query_async::<String>(&mut connection));
        assert!(frozen.await.is_err(), "an answer came through the ice");

        proxy.heal();
        let pong = within(DEADLINE, "a pong", ping.query_async::<String>(&mut connection)).await;
        assert_eq!(pong.as_deref(), Ok("PONG"));

        proxy.cut();
        let lost = within(DEADLINE, "an error", ping.query_async::<String>(&mut connection)).await;
        assert!(lost.is_err());
        let refused = within(DEADLINE, "an end", client.get_multiplexed_async_connection()).await;
        assert!(refused.is_err());
    }
}
