//! `fanfare listen`: a client of `GET /v1/connect` that comes back until it is told not to.
//!
//! Owns when to connect again and when to give up. What frames mean is [`follow`]'s, one
//! connection is [`connection`]'s.

mod connection;
mod follow;
mod show;

use std::time::Duration;

use rand::RngExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{AckArgument, ListenArguments};
use super::failure::Failure;
use super::place::Place;
use crate::auth::Secret;
use crate::config::Sources;
use crate::domain::{DeviceId, UserId};
use connection::{Connection, End};
use follow::{Follower, Hello};
use show::Show;

/// The first ceiling of the waiting time; it doubles with each failure …
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// A connection that lived this long was a success: the next failure is a first one.
const SETTLED: Duration = Duration::from_secs(10);
/// Who connects in a trial set-up if nobody is named: whom the README's examples publish to.
const TRIAL_USER: &str = "alice";

pub(super) fn listen(arguments: &ListenArguments, sources: &Sources) -> Result<(), Failure> {
    let (url, tokens) = whereto(arguments, sources)?;
    let hello = Hello {
        device: device(arguments)?,
        manual_ack: arguments.ack == AckArgument::Manual,
        topics: arguments.topic.clone(),
    };
    let mut listening = Listening {
        url: connect_url(&url)?,
        tokens,
        follower: Follower::new(hello),
        show: Show::new(arguments.json, arguments.count),
    };
    super::block_on(async { listening.run(&mut Stop::new()?).await })
}

/// The address and where tokens come from; the configuration is read only if needed.
fn whereto(arguments: &ListenArguments, sources: &Sources) -> Result<(String, Tokens), Failure> {
    if let (Some(url), Some(token)) = (&arguments.url, &arguments.token) {
        return Ok((url.clone(), Tokens::Given(token.clone())));
    }
    let place = Place::find(sources)?;
    let url = place.url(arguments.url.as_deref());
    let tokens = match (&arguments.token, &arguments.user) {
        (Some(token), _) => Tokens::Given(token.clone()),
        (None, Some(user)) => Tokens::signed(place, user.clone(), arguments),
        (None, None) if place.trial.is_some() => {
            let user = UserId::new(TRIAL_USER).expect("a valid id");
            Tokens::signed(place, user, arguments)
        }
        _ => {
            return Err(Failure::new(
                "no token: give --token or FANFARE_TOKEN, or --user beside a configuration",
            ));
        }
    };
    Ok((url, tokens))
}

/// Where the token of each connection comes from.
enum Tokens {
    /// One that somebody gave; when it has run out, listening ends.
    Given(Secret),
    /// Signed anew for each connection.
    Signed {
        place: Box<Place>,
        user: UserId,
        topics: Vec<String>,
    },
}

impl Tokens {
    fn signed(place: Place, user: UserId, arguments: &ListenArguments) -> Self {
        Self::Signed {
            place: Box::new(place),
            user,
            topics: arguments.topic.iter().map(ToString::to_string).collect(),
        }
    }

    fn next(&self) -> Result<Secret, Failure> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::Signed {
                place,
                user,
                topics,
            } => place.listen_token(user, topics.clone()),
        }
    }
}

fn device(arguments: &ListenArguments) -> Result<DeviceId, Failure> {
    if let Some(device) = &arguments.device {
        return Ok(device.clone());
    }
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    DeviceId::new(format!("cli-{host}")).map_err(|error| {
        Failure::new(format!(
            "give --device, since the host name is no id: {error}"
        ))
    })
}

/// `http://host` or `ws://host` as the WebSocket's address.
fn connect_url(url: &str) -> Result<String, Failure> {
    let socket = match url.split_once("://") {
        Some(("http" | "ws", rest)) => format!("ws://{rest}"),
        Some(("https" | "wss", rest)) => format!("wss://{rest}"),
        _ => {
            let message =
                format!("--url must begin with http://, https://, ws:// or wss://; got {url:?}");
            return Err(Failure::new(message));
        }
    };
    Ok(format!("{}/v1/connect", socket.trim_end_matches('/')))
}

/// Ctrl-C or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits until the program is to stop.
    ///
    /// # Cancel safety
    /// Yes: a signal that was not waited for stays until the next call.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Listening {
    url: String,
    tokens: Tokens,
    follower: Follower,
    show: Show,
}

impl Listening {
    async fn run(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        let mut failures = 0;
        loop {
            let token = self.tokens.next()?;
            let connection = Connection {
                url: &self.url,
                token: &token,
                follower: &mut self.follower,
                show: &mut self.show,
            };
            let (why, after, lived) = match connection.run(stop).await? {
                End::Done => return Ok(()),
                End::Refused(why) => return Err(Failure::new(why)),
                End::Lost { why, after, lived } => (why, after, lived),
            };
            failures = if lived >= SETTLED { 0 } else { failures + 1 };
            let wait = after.unwrap_or_else(|| full_jitter(failures, rand::rng().random()));
            self.show
                .status(&format!("{why}; back in {} ms", wait.as_millis()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.asked() => return Ok(()),
            }
        }
    }
}

/// Anything from nothing to a ceiling that doubles: clients that lost one node do not come to
/// the next at the same moment. `random` is from 0 to 1.
fn full_jitter(failures: u32, random: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.min(16));
    doubled.min(BACKOFF_LAST).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_up_to_its_ceiling_and_is_spread_from_zero() {
        assert_eq!(full_jitter(0, 0.5), Duration::from_millis(500));
        assert_eq!(full_jitter(2, 0.5), Duration::from_secs(2));
        assert_eq!(full_jitter(u32::MAX, 1.0), BACKOFF_LAST);
        assert_eq!(full_jitter(9, 0.0), Duration::ZERO);
    }

    #[test]
    fn addresses_become_those_of_the_web_socket() {
        let url = |url| connect_url(url).ok();
        assert_eq!(url("http://a:1/").as_deref(), Some("ws://a:1/v1/connect"));
        assert_eq!(url("wss://a").as_deref(), Some("wss://a/v1/connect"));
        assert_eq!(url("a:1"), None);
    }
}
