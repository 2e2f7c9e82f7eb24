//! The node: the composition root. The only place that names concrete backends.
//!
//! Owns what is built from the configuration, in which order it starts and in which it stops. It must
//! hold no behaviour of its own: everything it wires can be wired by a test in the same way.
//!
//! | file | what it does |
//! |---|---|
//! | `backends` | inbox, presence and broker, as configured |
//! | `banner` | what a newcomer reads |
//! | `watch` | the health of the backends, and what follows from a change |
//! | `stop` | the end: staged, bounded, reported |

mod backends;
mod banner;
mod stop;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::service::TowerToHyperService;
use rand::RngExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch as channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use warp::Filter;

use crate::auth::{Admins, Publishers, SigningKey, UserTokens};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{AuthConfig, Config, Trial};
use crate::delivery::{self, Delivery};
use crate::gateway::accept::{self, AcceptSettings, Lifetime};
use crate::gateway::codec;
use crate::gateway::{ClientSettings, Clients, SocketSettings, Sockets};
use crate::http::{self, Demo, Readiness};
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::presence::{NodeLease, Presence};
use crate::publish::{self, Publishing};
use crate::routing::Router;
use crate::session::{Rules, Window};
use crate::wire::publish::Limits;

pub use stop::Report;

/// How large a page of a replay is, in entries.
const PAGE_ENTRIES: u32 = 128;
/// How long a gap may close by itself before it is read.
const GAP_GRACE: Duration = Duration::from_millis(5);
/// How often merged cursors are committed.
const CURSOR_FLUSH: Duration = Duration::from_secs(2);
/// Over how long the check of all heads after an outage is spread.
const RECOVERY_CHECK: Duration = Duration::from_secs(10);
/// How many publish requests may wait for their commit, for each priority.
const PUBLISH_QUEUE: usize = 10_000;
/// How many notifications are committed together, and how many such groups are in flight.
const COMMIT_GROUP: usize = 64;
const COMMIT_WORKERS: usize = 2;
/// How many ingress messages are under way.
const INGRESS_CONCURRENT: usize = 512;
/// How long tokens of the demo page last.
const DEMO_TOKEN_TTL: Duration = Duration::from_secs(3_600);

/// A running node.
pub struct Node {
    config: Config,
    clock: Clock,
    trial: Option<Trial>,
    http: SocketAddr,
    admin: SocketAddr,
    metrics: Arc<Metrics>,
    inbox: Arc<dyn Inbox>,
    broker: Arc<dyn Broker>,
    delivery: Arc<Delivery>,
    readiness: channel::Sender<Readiness>,
    /// Asked for by an operator.
    drain: Arc<Notify>,
    tracker: TaskTracker,
    /// Stops the client listener.
    stop_clients: CancellationToken,
    /// Stops everything.
    cancel: CancellationToken,
}

/// Runs a node until it is told to stop, and prints what a newcomer needs.
///
/// # Errors
/// What keeps it from starting, in one line that says what to change.
pub async fn serve(config: Config) -> Result<()> {
    let stopped = stop::Signals::listen()?;
    let node = Node::start(config).await?;
    banner::print(&node)?;
    let why = stopped.wait(&node.drain).await;
    info!(node.id = %node.config.node.id, "stopping: {why}");
    let report = node.stop().await;
    info!("{report}");
    Ok(())
}

impl Node {
    /// Starts a node. Listeners are bound first, so that a port in use is told before anything else is touched.
    ///
    /// # Errors
    /// What keeps it from starting, in one line that says what to change.
    pub async fn start(config: Config) -> Result<Self> {
        let clients = bind("http.listen", config.http.listen)?;
        let operators = bind("admin.listen", config.admin.listen)?;
        let (http, admin) = (clients.local_addr()?, operators.local_addr()?);
        let (auth, trial) = secrets(&config, http)?;
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::new()));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let lease = lease(&config, http, admin);

        let inbox = backends::inbox(&config, &clock, &metrics).await?;
        let presence = backends::presence(&config, &clock, &metrics).await?;
        backends::check_skew(presence.as_ref()).await?;
        backends::claim_id(presence.as_ref(), &lease, config.node.lease_ttl).await?;
        let connected = backends::broker(&config, &lease.boot, &clock, &metrics, &tracker, &cancel).await;
        let (broker, inlets) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                // So that the next try does not have to wait for this one's lease; what fails runs out.
                let _ = presence.release(&lease.node, &lease.boot).await;
                return Err(error);
            }
        };

        let router = Arc::new(Router::new(
            config.node.id.clone(),
            Arc::clone(&presence),
            Arc::clone(&broker),
            config.publish.locate_timeout,
            metrics.publish.clone(),
        ));
        let tokens = Arc::new(UserTokens::new(auth.users.clone()).map_err(|bad| key_error(&bad))?);
        let publishers = Arc::new(Publishers::new(
            auth.publishers.clone(),
            config.broker.default_publisher.clone(),
            Arc::clone(&tokens),
        ));
        let delivery = Delivery::new(
            delivery::Parts {
                node: config.node.id.clone(),
                settings: delivery_settings(&config),
                clock: clock.clone(),
                inbox: Arc::clone(&inbox),
                presence: Arc::clone(&presence),
                broker: Arc::clone(&broker),
                router: Arc::clone(&router),
                tokens: Arc::clone(&tokens),
                metrics: metrics.delivery.clone(),
                tracker: tracker.clone(),
                cancel: cancel.clone(),
            },
            lease.clone(),
        );
        let publishing = Publishing::start(
            publish_settings(&config),
            Arc::clone(&inbox),
            router,
            clock.clone(),
            metrics.publish.clone(),
            &tracker,
            &cancel,
        );
        let crate::broker::Inlets { envelopes, control, ingress } = inlets;
        delivery.run(envelopes, control);
        tracker.spawn(publish::ingress::run(
            Arc::clone(&publishing),
            Arc::clone(&publishers),
            ingress,
            INGRESS_CONCURRENT,
            tracker.clone(),
            cancel.clone(),
        ));

        let (readiness, ready) = channel::channel(Readiness::starting());
        let node = Self {
            http,
            admin,
            trial,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            inbox: Arc::clone(&inbox),
            broker,
            delivery: Arc::clone(&delivery),
            readiness,
            drain: Arc::new(Notify::new()),
            tracker,
            stop_clients: CancellationToken::new(),
            cancel,
            config,
        };
        let state = Arc::new(http::State {
            settings: node.http_settings(),
            node: lease,
            clock: clock.clone(),
            publishing,
            delivery,
            presence: Arc::clone(&presence),
            inbox,
            publishers,
            tokens: Arc::clone(&tokens),
            admins: Arc::new(Admins::new(auth.admins)),
            metrics,
            demo: node.demo()?,
            readiness: ready,
            drain: {
                let drain = Arc::clone(&node.drain);
                Box::new(move || drain.notify_one())
            },
        });
        node.serve_clients(accept::listen(clients)?, &state, presence.clone(), tokens);
        node.serve_operators(accept::listen(operators)?, state);
        node.start_watching(presence);
        Ok(node)
    }

    fn serve_clients(
        &self,
        listener: TcpListener,
        state: &Arc<http::State>,
        presence: Arc<dyn Presence>,
        tokens: Arc<UserTokens>,
    ) {
        let lifetime = Lifetime { tracker: self.tracker.clone(), stop: self.stop_clients.clone() };
        let sockets = Sockets::start(
            self.socket_settings(),
            self.metrics.gateway.clone(),
            lifetime.tracker.clone(),
            lifetime.stop.clone(),
        );
        let clients = Arc::new(Clients {
            settings: ClientSettings {
                hello_timeout: self.config.gateway.hello_timeout,
                allowed_origins: self.config.http.allowed_origins.clone(),
            },
            delivery: Arc::clone(&self.delivery),
            tokens,
            presence,
            clock: self.clock.clone(),
            tracker: self.tracker.clone(),
        });
        let connect = clients.routes(sockets).map(warp::reply::Reply::into_response);
        let routes =
            connect.or(http::client_routes(Arc::clone(state))).unify().recover(http::recover).unify();
        let service = TowerToHyperService::new(warp::service(routes));
        let metrics = self.metrics.gateway.clone();
        self.tracker.spawn(accept::serve(listener, service, self.accept_settings(), lifetime, metrics));
    }

    /// The admin listener goes on until the very end: it says how the stop is going.
    fn serve_operators(&self, listener: TcpListener, state: Arc<http::State>) {
        let lifetime = Lifetime { tracker: self.tracker.clone(), stop: self.cancel.clone() };
        let service = TowerToHyperService::new(warp::service(http::admin_routes(state)));
        let metrics = self.metrics.gateway.clone();
        self.tracker.spawn(accept::serve(listener, service, self.accept_settings(), lifetime, metrics));
    }

    fn accept_settings(&self) -> AcceptSettings {
        AcceptSettings {
            max_connections: self.config.http.max_connections,
            header_timeout: self.config.http.header_timeout,
            drain_timeout: self.config.drain.deadline / 2,
            ..AcceptSettings::default()
        }
    }

    fn socket_settings(&self) -> SocketSettings {
        let gateway = &self.config.gateway;
        SocketSettings {
            limits: codec::Limits {
                max_message_bytes: u32::try_from(gateway.max_frame_bytes).unwrap_or(u32::MAX),
                ..codec::Limits::default()
            },
            write_timeout: gateway.write_deadline,
            max_sockets: self.config.http.max_connections,
            ..SocketSettings::default()
        }
    }

    fn http_settings(&self) -> http::Settings {
        http::Settings {
            max_body_bytes: self.config.http.max_body_bytes,
            body_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            ask_timeout: Duration::from_secs(2),
            allowed_origins: self.config.http.allowed_origins.clone(),
        }
    }

    fn demo(&self) -> Result<Demo> {
        let Some(trial) = self.trial.as_ref().filter(|_| self.config.http.demo) else {
            return Ok(if self.config.http.demo { Demo::On } else { Demo::Off });
        };
        Ok(Demo::Trial(http::Trial {
            key: SigningKey::new(&trial.user_key())?,
            token_ttl: DEMO_TOKEN_TTL,
            publisher_key: trial.publisher_key.clone(),
        }))
    }
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpSocket> {
    accept::bind(address)
        .with_context(|| format!("cannot listen on {address}: change {key} or free the port"))
}

/// Configured secrets, or those of the trial set-up.
fn secrets(config: &Config, http: SocketAddr) -> Result<(AuthConfig, Option<Trial>)> {
    if !config.is_trial {
        return Ok((config.auth.clone(), None));
    }
    let mut trial = Trial::load_or_create(&config.data_dir)?;
    trial.keep_url(&config.data_dir, &format!("http://{http}"))?;
    Ok((trial.auth(config.auth.users.leeway), Some(trial)))
}

fn key_error(bad: &[(usize, crate::auth::KeyError)]) -> anyhow::Error {
    let lines: Vec<String> =
        bad.iter().map(|(index, error)| format!("auth.users.keys[{index}]: {error}")).collect();
    anyhow::anyhow!(lines.join("; "))
}

fn lease(config: &Config, http: SocketAddr, admin: SocketAddr) -> NodeLease {
    NodeLease {
        node: config.node.id.clone(),
        boot: format!("{:016x}", rand::rng().random::<u64>()),
        http: http.to_string(),
        admin: admin.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connections: 0,
        draining: false,
    }
}

fn delivery_settings(config: &Config) -> delivery::Settings {
    delivery::Settings {
        heartbeat: config.gateway.heartbeat,
        presence_ttl: config.presence.ttl,
        lease_ttl: config.node.lease_ttl,
        window: Window { entries: config.gateway.window_entries, bytes: config.gateway.window_bytes },
        page_entries: PAGE_ENTRIES,
        head_check: config.delivery.head_check,
        blind_check: config.delivery.blind_check,
        recovery_check: RECOVERY_CHECK.min(config.delivery.head_check),
        gap_grace: GAP_GRACE,
        cursor_flush: CURSOR_FLUSH,
        max_topics: config.gateway.max_topics_per_connection,
        rules: Rules::SOUND,
    }
}

fn publish_settings(config: &Config) -> publish::Settings {
    publish::Settings {
        limits: Limits {
            max_recipients: config.publish.max_users,
            max_notification_bytes: config.publish.max_notification_bytes,
            max_ttl: config.publish.max_ttl,
            max_schedule: config.publish.max_schedule,
        },
        queue: PUBLISH_QUEUE,
        group: COMMIT_GROUP,
        workers: COMMIT_WORKERS,
    }
}
