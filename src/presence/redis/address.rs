//! What `presence.url` says.
//!
//! Owns the forms of the URL. Must never put a password into an error or a `Display`.

use std::fmt;

use deadpool_redis::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use percent_encoding::percent_decode_str;

/// The port of a sentinel that names none.
const SENTINEL_PORT: u16 = 26379;

/// The forms, as errors show them.
pub(super) const FORMS: &str = "redis://[user:password@]host[:port][/database], rediss:// for TLS, or \
     redis+sentinel://[user:password@]host:port,host:port/service[/database]";

/// Where Redis is.
#[derive(Clone)]
pub(super) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// Sentinels that know which server is the primary.
    Sentinels(Sentinels),
}

/// Sentinels, and what they are asked for.
#[derive(Clone)]
pub(super) struct Sentinels {
    /// Where they are, and with which credentials.
    pub(super) each: Vec<ConnectionInfo>,
    /// The name under which they know the primary.
    pub(super) service: String,
    /// How to log in to the primary, and which database.
    pub(super) server: RedisConnectionInfo,
    /// Whether the primary (and each sentinel) speaks TLS.
    pub(super) tls: bool,
}

impl fmt::Display for Address {
    /// Hosts and ports only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(info) => info.addr().fmt(f),
            Self::Sentinels(sentinels) => {
                for (index, info) in sentinels.each.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{}", info.addr())?;
                }
                write!(f, " ({})", sentinels.service)
            }
        }
    }
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, without the URL itself: it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        match scheme {
            "redis+sentinel" => Sentinels::parse(rest, false).map(Self::Sentinels),
            "rediss+sentinel" => Sentinels::parse(rest, true).map(Self::Sentinels),
            "redis" | "rediss" => {
                url.into_connection_info().map(Self::Server).map_err(|error| error.to_string())
            }
            other => Err(format!("the scheme {other:?} is not known")),
        }
    }
}

impl Sentinels {
    /// Reads `[user:password@]host[:port],…/service[/database][?sentinel_user=…&sentinel_password=…]`.
    fn parse(rest: &str, tls: bool) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').ok_or("it names no service")?;
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err("it names no service".to_owned());
        }
        // The last `@`: a password may have one, a host may not.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let mut server = match login.split_once(':') {
            Some((user, password)) => with_login(user, password)?,
            None => with_login(login, "")?,
        };
        if !database.is_empty() {
            let number = database.parse().map_err(|_| "the database is not a number")?;
            server = server.set_db(number);
        }
        let sentinel_login = sentinel_login(query)?;
        let each =
            hosts.split(',').map(|host| sentinel(host, tls, &sentinel_login)).collect::<Result<_, _>>()?;
        Ok(Self { each, service: decoded(service)?, server, tls })
    }
}

fn sentinel_login(query: &str) -> Result<RedisConnectionInfo, String> {
    let (mut user, mut password) = ("", "");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel_user", value)) => user = value,
            Some(("sentinel_password", value)) => password = value,
            _ => return Err("only sentinel_user and sentinel_password may follow the ?".to_owned()),
        }
    }
    with_login(user, password)
}

fn sentinel(host: &str, tls: bool, login: &RedisConnectionInfo) -> Result<ConnectionInfo, String> {
    // `[::1]:26379` has colons of its own; only one after the bracket begins a port.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            let number = port.parse().map_err(|_| "a port is not a number")?;
            (name, number)
        }
        _ => (host, SENTINEL_PORT),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() {
        return Err("a sentinel has no host".to_owned());
    }
    let address = if tls {
        ConnectionAddr::TcpTls { host: name.to_owned(), port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(name.to_owned(), port)
    };
    let info = address.into_connection_info().map_err(|error| error.to_string())?;
    Ok(info.set_redis_settings(login.clone()))
}

fn with_login(user: &str, password: &str) -> Result<RedisConnectionInfo, String> {
    let mut info = RedisConnectionInfo::default();
    if !user.is_empty() {
        info = info.set_username(decoded(user)?);
    }
    if !password.is_empty() {
        info = info.set_password(decoded(password)?);
    }
    Ok(info)
}

fn decoded(text: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| "a percent-encoded part is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels(url: &str) -> Sentinels {
        match Address::parse(url) {
            Ok(Address::Sentinels(sentinels)) => sentinels,
            Ok(Address::Server(_)) => panic!("{url} is not of one server"),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn a_sentinel_url_has_hosts_a_service_a_database_and_two_logins() {
        let url = "redis+sentinel://bob:p%40ss@a:1,[::1]:2,c/pres/3?sentinel_password=other";
        let found = sentinels(url);
        assert_eq!(found.service, "pres");
        assert_eq!(found.server.db(), 3);
        assert_eq!(found.server.username(), Some("bob"));
        assert_eq!(found.server.password(), Some("p@ss"));
        assert_eq!(found.each[2].redis_settings().password(), Some("other"));
        assert_eq!(found.each[2].redis_settings().username(), None);
        assert_eq!(found.each[0].redis_settings().db(), 0);
        let shown = Address::Sentinels(found).to_string();
        assert_eq!(shown, "a:1,::1:2,c:26379 (pres)");
    }

    #[test]
    fn rediss_means_tls_for_sentinels_and_servers() {
        assert!(sentinels("rediss+sentinel://a/pres").tls);
        assert!(!sentinels("redis+sentinel://a/pres").tls);
        let Ok(Address::Server(info)) = Address::parse("rediss://:secret@a:7/2") else {
            panic!("one server");
        };
        assert!(matches!(info.addr(), ConnectionAddr::TcpTls { .. }));
        assert_eq!(Address::Server(info).to_string(), "a:7");
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in [
            "a:1",
            "amqp://:secret@a",
            "redis+sentinel://:secret@a:1",
            "redis+sentinel://:secret@a:1/",
            "redis+sentinel://:secret@a:x/pres",
            "redis+sentinel://:secret@,/pres",
            "redis+sentinel://:secret@a/pres/x",
            "redis+sentinel://:secret@a/pres?password=secret",
            "redis://:secret@a:x",
            "redis://:secret@a/x",
        ] {
            let Err(error) = Address::parse(url) else {
                panic!("{url} was taken");
            };
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
