//! Opening connections, and saying in one line what is wrong when that fails.
//!
//! Owns the connect deadline and the socket options. lapin runs each connection on a thread of its own that lives
//! as long as its socket, even when nobody waits for it any more; so every socket has a second
//! handle here that ends it. Errors must never show a password: they name host, port and user only.

use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use socket2::{SockRef, Socket};
use tokio::time::timeout;

use super::settings::Settings;

/// Why RabbitMQ cannot be used: one line that says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The settings cannot work.
    #[error("{0}")]
    Settings(String),
    /// Nobody listens there, or the name is unknown.
    #[error("RabbitMQ at {address} cannot be reached ({cause}): check broker.urls, and that it runs")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        cause: String,
    },
    /// It accepts connections and says nothing.
    #[error("RabbitMQ at {address} did not answer within {after:?}: it hangs, or it is no AMQP port")]
    Timeout {
        /// Host and port.
        address: String,
        /// The deadline.
        after: Duration,
    },
    /// User or password is wrong.
    #[error("RabbitMQ at {address} refused the user {user:?}: check user and password in broker.urls")]
    Refused {
        /// Host and port.
        address: String,
        /// The user's name.
        user: String,
    },
    /// The virtual host is missing, or the user may not enter it.
    #[error(
        "RabbitMQ at {address} does not let the user {user:?} into the vhost {vhost:?}: create it, or grant permissions"
    )]
    Vhost {
        /// Host and port.
        address: String,
        /// The virtual host.
        vhost: String,
        /// The user's name.
        user: String,
    },
    /// An exchange or queue exists with another type or other arguments (406).
    #[error(
        "RabbitMQ has an exchange or queue of another kind already, delete it or change the setting: {0}"
    )]
    Mismatch(String),
    /// The user may not declare, write or read something (403).
    #[error(
        "the RabbitMQ user lacks a permission (deploy/rabbitmq-definitions.json shows what a node needs): {0}"
    )]
    Permission(String),
    /// Anything else.
    #[error("RabbitMQ: {0}")]
    Other(String),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    /// lapin's handle.
    pub(super) connection: Connection,
    ender: Ender,
}

/// Ends its socket when dropped, so that lapin's thread ends too.
#[derive(Debug, Clone, Default)]
struct Ender(Arc<Handle>);

#[derive(Debug, Default)]
struct Handle(Mutex<Option<Socket>>);

impl Ender {
    fn watch(&self, socket: Socket) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    fn end(&self) {
        let socket = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = socket {
            // It fails only when the peer has gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ender.end();
    }
}

/// Parses the URLs.
pub(super) fn parse(urls: &[String]) -> Result<Vec<AMQPUri>, OpenError> {
    if urls.is_empty() {
        return Err(OpenError::Settings("broker.urls is empty".to_owned()));
    }
    let parsed = urls.iter().enumerate().map(|(index, url)| {
        // The parser's own message may quote the URL, password and all.
        url.parse().map_err(|_| {
            OpenError::Settings(format!(
                "broker.urls[{index}] is no AMQP URL; the form is amqp://user:password@host:5672/vhost"
            ))
        })
    });
    parsed.collect()
}

/// Opens one connection within the connect timeout.
pub(super) async fn connect(settings: &Settings, uri: &AMQPUri, purpose: &str) -> Result<Link, OpenError> {
    let mut uri = uri.clone();
    let heartbeat = u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
    uri.query.heartbeat.get_or_insert(heartbeat.max(1));
    let name = format!("fanfare {} {purpose}", settings.node.as_str());
    // No `enable_auto_recover`: the supervisor rebuilds everything, on other URLs too.
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let ender = Ender::default();
    let opening = open(uri.clone(), properties, ender.clone(), settings.heartbeat * 2);
    match timeout(settings.connect_timeout, opening).await {
        Ok(Ok(connection)) => Ok(Link { connection, ender }),
        Ok(Err(error)) => {
            ender.end();
            Err(explain_connect(&error, &uri))
        }
        Err(_) => {
            ender.end();
            Err(OpenError::Timeout { address: address(&uri), after: settings.connect_timeout })
        }
    }
}

async fn open(
    uri: AMQPUri,
    properties: ConnectionProperties,
    ender: Ender,
    user_timeout: Duration,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connector(
        uri,
        runtime,
        async move |uri: AMQPUri, runtime| {
            let tls = OwnedTLSConfig::default();
            let mut plain = uri.clone();
            plain.scheme = AMQPScheme::AMQP;
            let stream = plain.connect_with_config_async(tls.as_ref(), &runtime).await?;
            if let AsyncTcpStream::Plain(tcp) = &stream {
                let tcp = tcp.get_ref();
                tcp.set_nodelay(true)?;
                let socket = SockRef::from(tcp);
                // A silent network drop ends writes too, not only by heartbeats (tcp(7), TCP_USER_TIMEOUT).
                socket.set_tcp_user_timeout(Some(user_timeout))?;
                ender.watch(socket.try_clone()?);
            }
            Ok(match uri.scheme {
                AMQPScheme::AMQP => stream,
                AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await?,
            })
        },
        properties,
    )
    .await
}

fn address(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

/// What went wrong before the connection was open.
fn explain_connect(error: &lapin::Error, uri: &AMQPUri) -> OpenError {
    let address = address(uri);
    let user = uri.authority.userinfo.username.clone();
    match error.kind() {
        ErrorKind::IOError(cause) => OpenError::Unreachable { address, cause: cause.to_string() },
        // 403 before tuning: authentication (RabbitMQ, "Authentication failure notifications").
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == 403 => OpenError::Refused { address, user },
        // 530 NOT_ALLOWED: connection.open refused (AMQP 0-9-1, connection.open); 402 INVALID_PATH likewise.
        ErrorKind::ProtocolError(refusal) if [402, 530].contains(&refusal.get_id()) => {
            OpenError::Vhost { address, vhost: uri.vhost.clone(), user }
        }
        _ => OpenError::Other(format!("{address}: {error}")),
    }
}

/// What went wrong while `what` was declared.
pub(super) fn explain_declare(error: &lapin::Error, what: &str) -> OpenError {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == 406 => {
            OpenError::Mismatch(format!("{what}: {}", refusal.get_message()))
        }
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == 403 => {
            OpenError::Permission(format!("{what}: {}", refusal.get_message()))
        }
        _ => OpenError::Other(format!("{what}: {error}")),
    }
}
