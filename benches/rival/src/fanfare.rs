//! Fanfare: a token for each user, `hello` with a device, an ack of each stream for all that was there to read.

use base64::prelude::{Engine, BASE64_URL_SAFE_NO_PAD};
use hmac::Mac;
use memchr::memmem;

use crate::profile::{Due, Ev, Profile, Request, Subs};
use crate::wire::{self, Addr, Frames, ALL};

/// Of servers that live for one measurement, on the loopback interface.
const SECRET: &str = "only-for-measuring-0123456789abcdef0123456789abcdef";
const KEY: &str = "ffk_rival_0123456789abcdef0123456789abcdef0123456789abcdef";
const HOURS: u64 = 3600;

/// One server of its kind: where it listens, and how clients acknowledge.
pub struct Fanfare {
    addrs: Vec<&'static str>,
    /// `manual`, `auto` or `none`.
    ack: String,
    /// `ttl: 0`: nothing is stored.
    ephemeral: bool,
    /// Topics that each client follows besides its own stream.
    topics: u32,
    run: u64,
}

impl Fanfare {
    /// RIVAL_ACK, RIVAL_TTL0 and RIVAL_TOPICS choose what else is asked of it.
    pub fn new(name: &str) -> Self {
        let set = |name| std::env::var(name).ok();
        let nodes = match name {
            "fanfare-embedded" | "fanfare-1" => 1,
            "fanfare-3" => 3,
            _ => 2,
        };
        Self {
            addrs: ["127.0.0.1:7181", "127.0.0.1:7182", "127.0.0.1:7183"][..nodes].to_vec(),
            ack: set("RIVAL_ACK").unwrap_or_else(|| "manual".into()),
            ephemeral: set("RIVAL_TTL0").is_some(),
            topics: set("RIVAL_TOPICS").and_then(|v| v.parse().ok()).unwrap_or(0),
            run: wire::wall(),
        }
    }

    fn token(&self, id: u32) -> String {
        let text = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
        let head = text(r#"{"alg":"HS256","typ":"JWT"}"#.into());
        let now = self.run;
        let topics = if self.topics > 0 { r#","topics":["t.*"]"# } else { "" };
        let claims = text(format!(r#"{{"sub":"u{id}","iat":{now},"exp":{}{topics}}}"#, now + 2 * HOURS));
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
        mac.update(format!("{head}.{claims}").as_bytes());
        format!("{head}.{claims}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    fn topics(&self, id: u32) -> String {
        // Shared by a hundred clients each.
        (0..self.topics).map(|n| format!("\"t.{}\"", (id / 100) * 1000 + n)).collect::<Vec<_>>().join(",")
    }
}

impl Profile for Fanfare {
    fn ws_addrs(&self) -> Vec<&'static str> {
        self.addrs.clone()
    }

    fn pub_addrs(&self) -> Vec<&'static str> {
        self.addrs.clone()
    }

    fn request(&self, _: u32, _: Subs) -> Request {
        Request { path: "/v1/connect".into(), subprotocol: Some("fanfare.v1"), headers: String::new() }
    }

    fn opened(&self, id: u32, _: Subs, _: &mut u32, out: &mut Frames) -> Ev {
        let (token, topics) = (self.token(id), self.topics(id));
        let ack = if self.ack == "auto" { "auto" } else { "manual" };
        out.text(&format!(
            r#"{{"type":"hello","token":"{token}","device":"d","ack":"{ack}","topics":[{topics}]}}"#
        ));
        Ev::Wait
    }

    fn frame(&self, _: u32, _: Subs, _: &mut u32, data: &[u8], _: &mut Frames) -> Ev {
        let is = |kind: &[u8]| memmem::find(&data[..data.len().min(64)], kind).is_some();
        if is(br#""type":"welcome""#) {
            Ev::Ready
        } else if is(br#""type":"bye""#) || is(br#""type":"error""#) || is(br#""type":"gap""#) {
            Ev::Fail(String::from_utf8_lossy(&data[..data.len().min(160)]).into_owned())
        } else {
            Ev::Wait
        }
    }

    fn delivered(&self, data: &[u8], due: &mut Due) {
        let Some(seq) = number(data, br#""seq":"#) else { return };
        let stream = if memmem::find(data, br#""stream":"everyone""#).is_some() {
            &mut due.everyone
        } else if memmem::find(data, br#""stream":"user""#).is_some() {
            &mut due.user
        } else {
            return;
        };
        *stream = seq.max(*stream);
    }

    fn acks(&self, due: &mut Due, out: &mut Frames) {
        let due = std::mem::take(due);
        if self.ack != "manual" {
            return;
        }
        for (stream, seq) in [("user", due.user), ("everyone", due.everyone)] {
            if seq > 0 {
                out.text(&format!(r#"{{"type":"ack","stream":"{stream}","seq":{seq}}}"#));
            }
        }
    }

    fn publish(&self, addr: Addr, to: u32, body: &str, out: &mut Frames) {
        let to = if to == ALL { r#"{"everyone":true}"#.into() } else { format!(r#"{{"users":["u{to}"]}}"#) };
        let ttl = if self.ephemeral { r#","ttl":0"# } else { "" };
        let json = format!(r#"{{"to":{to},"type":"bench","body":"{body}"{ttl}}}"#);
        let key = format!("Authorization: Bearer {KEY}\r\n");
        wire::http_post(addr, "/v1/notifications", "application/json", &key, &json, &mut out.0);
    }
}

/// The number that follows `name`.
pub fn number(data: &[u8], name: &[u8]) -> Option<u64> {
    let at = memmem::find(data, name)? + name.len();
    let digits = data[at..].iter().take_while(|c| c.is_ascii_digit());
    Some(digits.fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}
