//! The node: the composition root. The only place that names concrete backends.
//!
//! Owns what is built from the configuration, in which order it starts and in which it stops. It must
//! hold no behaviour of its own: everything it wires can be wired by a test in the same way.
//!
//! | file | what it does |
//! |---|---|
//! | `backends` | inbox, presence and broker, as configured |
//! | `banner` | what a newcomer reads |
//! | `listeners` | who is served where, and from when |
//! | `settings` | what the parts are told of the configuration |
//! | `standing` | whether the inbox counts as up |
//! | `watch` | the health of the backends, and what follows from a change |
//! | `stop` | the end: staged, bounded, reported |

mod backends;
mod banner;
mod listeners;
mod settings;
mod standing;
mod stop;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch as channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::auth::{Admins, KeySet, Publishers, Revocations, SigningKey, UserTokens};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{AuthConfig, Config, Trial};
use crate::delivery::{self, Delivery};
use crate::gateway::accept;
use crate::gateway::codec;
use crate::gateway::{ClientSettings, Clients, SocketSettings, Sockets};
use crate::http::{self, Demo, Readiness};
use crate::inbox::Inbox;
use crate::jobs;
use crate::metrics::Metrics;
use crate::presence::{NodeLease, Presence};
use crate::publish::{self, Publishing};
use crate::routing::Router;

pub use stop::Report;

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
    /// Stops the jobs.
    jobs: CancellationToken,
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
        config.warnings().iter().for_each(|warning| warn!("{warning}"));
        let clients = bind("http.listen", config.http.listen)?;
        let operators = bind("admin.listen", config.admin.listen)?;
        let (http, admin) = (clients.local_addr()?, operators.local_addr()?);
        let (auth, trial) = secrets(&config, http)?;
        let (clock, metrics) = (Clock::system(), Arc::new(Metrics::new()));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        // A start that fails leaves nothing running.
        let failed = cancel.clone().drop_guard();
        let lease = lease(&config, http, admin);
        let (readiness, ready) = channel::channel(Readiness::starting());
        let open = listeners::serve_operators(
            accept::listen(operators)?,
            ready.clone(),
            listeners::accept_settings(&config),
            listeners::lifetime(&tracker, &cancel),
            metrics.gateway.clone(),
        );

        let inbox = backends::inbox(&config, &clock, &metrics).await?;
        let presence = backends::presence(&config, &clock, &metrics).await?;
        backends::check_skew(presence.as_ref()).await?;
        backends::claim_id(presence.as_ref(), &lease, config.node.lease_ttl).await?;
        let connected = backends::broker(&config, &lease.boot, &clock, &metrics, &tracker, &cancel).await;
        let (broker, graveyard, inlets) = match connected {
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
        let jobs = cancel.child_token();
        let tokens = UserTokens::new(auth.users.clone()).map_err(|bad| key_error(&bad))?;
        let tokens = tokens.with_revocations(Arc::new(Revocations::new(metrics.auth.clone())));
        let tokens = Arc::new(tokens.with_key_set(fetched_keys(&auth, &clock, &metrics, &tracker, &jobs)?));
        let publishers = Arc::new(Publishers::new(
            auth.publishers.clone(),
            config.broker.default_publisher.clone(),
            Arc::clone(&tokens),
        ));
        let (inbox_up, inbox_is_up) = channel::channel(true);
        let delivery = Delivery::new(
            delivery::Parts {
                node: config.node.id.clone(),
                settings: settings::delivery(&config),
                clock: clock.clone(),
                inbox: Arc::clone(&inbox),
                inbox_up: inbox_is_up.clone(),
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
        // Before anybody is let in.
        if let Err(error) = delivery.read_revocations().await {
            // So that the next try does not have to wait for this one's lease; what fails runs out.
            let _ = presence.release(&lease.node, &lease.boot).await;
            return Err(error).context("inbox.url: which tokens are revoked cannot be read");
        }
        let publishing = Publishing::start(
            settings::publish(&config),
            Arc::clone(&inbox),
            Arc::clone(&router),
            clock.clone(),
            metrics.publish.clone(),
            &tracker,
            &cancel,
        );
        jobs::start(jobs::Parts {
            settings: settings::jobs(&config),
            lease: lease.clone(),
            clock: clock.clone(),
            inbox: Arc::clone(&inbox),
            inbox_up: inbox_is_up,
            presence: Arc::clone(&presence),
            broker: Arc::clone(&broker),
            router,
            publishing: Arc::clone(&publishing),
            delivery: Arc::clone(&delivery),
            grown: publishing.watch_growth(config.retention.max_entries),
            metrics: metrics.jobs.clone(),
            tracker: tracker.clone(),
            cancel: jobs.clone(),
        });
        let crate::broker::Inlets { envelopes, control, ingress } = inlets;
        delivery.run(envelopes, control);
        tracker.spawn(publish::ingress::run(
            Arc::clone(&publishing),
            Arc::clone(&publishers),
            ingress,
            tracker.clone(),
            cancel.clone(),
        ));

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
            jobs,
            cancel,
            config,
        };
        let appends = publishing.watch_appends();
        let state = Arc::new(http::State {
            settings: node.http_settings(),
            node: lease,
            clock: clock.clone(),
            publishing,
            delivery,
            presence: Arc::clone(&presence),
            graveyard,
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
        open(http::admin_routes(state));
        node.start_watching(presence, inbox_up, appends);
        failed.disarm();
        Ok(node)
    }

    fn serve_clients(
        &self,
        listener: TcpListener,
        state: &Arc<http::State>,
        presence: Arc<dyn Presence>,
        tokens: Arc<UserTokens>,
    ) {
        let lifetime = listeners::lifetime(&self.tracker, &self.stop_clients);
        let sockets = Sockets::start(
            self.socket_settings(),
            self.clock.clone(),
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
        let rest = http::client_routes(Arc::clone(state));
        let settings = listeners::accept_settings(&self.config);
        let metrics = self.metrics.gateway.clone();
        listeners::serve_clients(listener, clients, sockets, rest, settings, lifetime, metrics);
    }

    fn socket_settings(&self) -> SocketSettings {
        let gateway = &self.config.gateway;
        SocketSettings {
            limits: codec::Limits {
                max_message_bytes: u32::try_from(gateway.max_frame_bytes).unwrap_or(u32::MAX),
                ..codec::Limits::default()
            },
            frames_per_second: gateway.frames_per_second,
            frame_burst: gateway.frames_per_second.saturating_mul(2),
            flood_after: gateway.flood_after,
            write_timeout: gateway.write_deadline,
            max_sockets: self.config.http.max_connections,
            max_sockets_per_address: self.config.http.max_connections_per_address,
            accept_rate: self.config.http.accept_rate,
            trusted_proxies: self.config.http.trusted_proxies.clone(),
            ..SocketSettings::default()
        }
    }

    fn http_settings(&self) -> http::Settings {
        http::Settings {
            max_body_bytes: self.config.http.max_body_bytes,
            body_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            ask_timeout: Duration::from_secs(2),
            revocation_life: self.config.retention.revocation,
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

/// Keys that come from a URL, fetched from now on: nothing waits for them but the tokens that need them.
fn fetched_keys(
    auth: &AuthConfig,
    clock: &Clock,
    metrics: &Metrics,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<Option<Arc<KeySet>>> {
    let Some(settings) = auth.key_set.clone() else { return Ok(None) };
    let source = jobs::key_set::Download::new(settings.url.clone());
    let source = source.context("auth.users.jwks_url: the system's certificates cannot be used")?;
    let set = Arc::new(KeySet::new(settings.timeout, metrics.auth.clone()));
    let refresher = jobs::key_set::Refresher {
        source,
        settings,
        set: Arc::clone(&set),
        clock: clock.clone(),
        metrics: metrics.auth.clone(),
    };
    tracker.spawn(refresher.run(cancel.clone()));
    Ok(Some(set))
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
