//! What the generator must know of a peer. One implementation a protocol.

use crate::fanfare::Fanfare;
use crate::wire::{self, Addr, Frames, ALL};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Subs {
    User,
    All,
    Both,
}

#[derive(PartialEq, Debug)]
pub enum Ev {
    /// Nothing to note.
    Wait,
    /// The client is subscribed to all it asked for.
    Ready,
    /// The server refused.
    Fail(String),
}

pub struct Request {
    pub path: String,
    pub subprotocol: Option<&'static str>,
    pub headers: String,
}

impl Request {
    pub fn path(p: String) -> Request {
        Request { path: p, subprotocol: None, headers: String::new() }
    }
}

/// The last seq received and not acknowledged yet, of the user's stream and of everyone's; 0: none.
#[derive(Default, Clone, Copy)]
pub struct Due {
    pub user: u64,
    pub everyone: u64,
}

pub trait Profile: Send + Sync {
    /// Default listening addresses; client i goes to ws_addrs[i % len].
    fn ws_addrs(&self) -> Vec<&'static str>;
    /// Default publish addresses; connection i goes to pub_addrs[i % len].
    fn pub_addrs(&self) -> Vec<&'static str>;
    fn request(&self, id: u32, subs: Subs) -> Request;
    /// Right after the 101.
    fn opened(&self, _id: u32, _subs: Subs, _st: &mut u32, _out: &mut Frames) -> Ev {
        Ev::Ready
    }
    /// A data frame that carries no payload of ours: handshake answers, the protocol's own pings.
    /// `st` is the connection's own state, zero at first. (WebSocket pings are answered before this.)
    fn frame(&self, _id: u32, _subs: Subs, _st: &mut u32, _data: &[u8], _out: &mut Frames) -> Ev {
        Ev::Wait
    }
    /// A frame that carried a payload: what a client must remember of it for its acknowledgement.
    fn delivered(&self, _data: &[u8], _due: &mut Due) {}
    /// All frames that were there to read have been handled: one acknowledgement of each stream for all of them.
    fn acks(&self, _due: &mut Due, _out: &mut Frames) {}
    /// Connections are kept alive, with one request at a time; an answer 2xx is the acknowledgement.
    /// One message to user `to`, or to everyone when `to` is ALL: a whole HTTP request.
    fn publish(&self, addr: Addr, to: u32, body: &str, out: &mut Frames);
}

pub fn find(name: &str) -> Option<Box<dyn Profile>> {
    Some(match name {
        "ws" => Box::new(Naive { addrs: &["127.0.0.1:7101", "127.0.0.1:7102"] }),
        "floor" => Box::new(Naive { addrs: &["127.0.0.1:7100"] }),
        "nchan" => Box::new(Nchan),
        name if name.starts_with("fanfare") => Box::new(Fanfare::new(name)),
        _ => return None,
    })
}

pub const NAMES: &[&str] =
    &["floor", "ws", "nchan", "fanfare", "fanfare-1", "fanfare-3", "fanfare-embedded"];

/// The article's design: Node, `ws` and Redis.
struct Naive {
    addrs: &'static [&'static str],
}

impl Profile for Naive {
    fn ws_addrs(&self) -> Vec<&'static str> {
        self.addrs.to_vec()
    }
    fn pub_addrs(&self) -> Vec<&'static str> {
        self.ws_addrs()
    }
    fn request(&self, id: u32, _: Subs) -> Request {
        Request::path(format!("/?user={id}&token=t{id}"))
    }
    fn opened(&self, _: u32, _: Subs, _: &mut u32, _: &mut Frames) -> Ev {
        Ev::Wait
    }
    fn frame(&self, _: u32, _: Subs, _: &mut u32, d: &[u8], _: &mut Frames) -> Ev {
        if d == b"ready" {
            Ev::Ready
        } else {
            Ev::Wait
        }
    }
    fn publish(&self, a: Addr, to: u32, body: &str, out: &mut Frames) {
        let path = if to == ALL { "/publish".into() } else { format!("/publish?user={to}") };
        wire::http_post(a, &path, "text/plain", "", body, &mut out.0)
    }
}

struct Nchan;

impl Profile for Nchan {
    fn ws_addrs(&self) -> Vec<&'static str> {
        vec!["127.0.0.1:7110"]
    }
    fn pub_addrs(&self) -> Vec<&'static str> {
        self.ws_addrs()
    }
    fn request(&self, id: u32, s: Subs) -> Request {
        Request::path(match s {
            Subs::User => format!("/one?id=u{id}"),
            Subs::All => "/one?id=all".into(),
            Subs::Both => format!("/both?id=u{id}"),
        })
    }
    fn publish(&self, a: Addr, to: u32, body: &str, out: &mut Frames) {
        let path = if to == ALL { "/pub?id=all".into() } else { format!("/pub?id=u{to}") };
        wire::http_post(a, &path, "text/plain", "", body, &mut out.0)
    }
}
