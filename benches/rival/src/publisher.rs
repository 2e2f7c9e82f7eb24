//! The publishing side: one thread, a few connections, open loop (a rate) or closed loop (as fast as acknowledged).

use crate::hist::Hist;
use crate::profile::*;
use crate::wire::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone)]
pub struct Plan {
    pub profile: Arc<dyn Profile>,
    pub addrs: Vec<Addr>,
    pub conns: usize,
    /// Messages a second; 0 is as fast as acknowledged.
    pub rate: f64,
    pub count: u32,
    pub limit_ns: u64,
    pub size: usize,
    pub run: u32,
    /// 0: to everyone; else to a random user below this.
    pub users: u32,
    pub seed: u64,
}

#[derive(Default, Clone)]
pub struct Published {
    pub sent: u64,
    pub acked: u64,
    pub errors: BTreeMap<String, u64>,
    /// Connections the server closed after an answer, and that were opened anew.
    pub reconnects: u64,
    pub ack: Hist,
    pub first: u64,
    pub last: u64,
    /// How late the last message left, against its due time.
    pub behind_ms: f64,
}

struct Pub {
    fd: i32,
    addr: Addr,
    open: bool,
    inp: Vec<u8>,
    out: Frames,
    flight: std::collections::VecDeque<u64>,
    watching: bool,
}

pub fn run(p: Plan) -> Published {
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000usize) };
    let ep = Epoll::new();
    let mut events = Vec::with_capacity(256);
    let mut res = Published::default();
    let mut pubs: Vec<Pub> = (0..p.conns)
        .map(|i| {
            let addr = p.addrs[i % p.addrs.len()];
            let fd = connect(addr, None, 0);
            ep.ctl(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN | libc::EPOLLOUT, i as u64);
            Pub {
                fd,
                addr,
                open: false,
                inp: Vec::new(),
                out: Frames::default(),
                flight: Default::default(),
                watching: true,
            }
        })
        .collect();
    let mut buf = vec![0u8; 64 * 1024];
    let mut rng = p.seed | 1;
    let started = now();
    let mut t0 = 0u64; // set when every connection is ready
    let mut next = 0usize;
    let mut idle_since = 0u64;
    loop {
        let t = now();
        if t0 == 0 {
            if pubs.iter().all(|c| c.open) {
                t0 = t;
                res.first = t;
            } else if t - started > 10_000_000_000 {
                *res.errors.entry("publisher connections not ready".into()).or_default() += 1;
                break;
            }
        }
        let sending = t0 > 0 && res.sent < p.count as u64 && t - t0 < p.limit_ns;
        let mut sleep = 5_000_000u64;
        if sending {
            loop {
                let due = if p.rate > 0.0 { t0 + (res.sent as f64 * 1e9 / p.rate) as u64 } else { now() };
                let t = now();
                if due > t {
                    sleep = sleep.min(due - t);
                    break;
                }
                if res.sent >= p.count as u64 {
                    break;
                }
                let Some(i) = (0..pubs.len()).map(|k| (next + k) % pubs.len()).find(|&i| pubs[i].open && pubs[i].flight.is_empty() && pubs[i].out.0.len() < 65536)
                else {
                    break;
                };
                next = i + 1;
                let to = if p.users == 0 {
                    ALL
                } else {
                    rng ^= rng << 13;
                    rng ^= rng >> 7;
                    rng ^= rng << 17;
                    ((rng >> 11) % p.users as u64) as u32
                };
                let c = &mut pubs[i];
                let b = body(Stamp { run: p.run, seq: res.sent as u32, sent: due, to }, p.size);
                p.profile.publish(c.addr, to, &b, &mut c.out);
                c.flight.push_back(due);
                res.sent += 1;
                res.last = t;
                res.behind_ms = (t - due) as f64 / 1e6;
                send(c, &ep, i);
            }
            for (i, c) in pubs.iter_mut().enumerate() {
                if !c.out.0.is_empty() && !c.watching {
                    send(c, &ep, i);
                }
            }
        } else if t0 > 0 {
            let left: usize = pubs.iter().map(|c| c.flight.len()).sum();
            if left == 0 {
                break;
            }
            if idle_since == 0 {
                idle_since = t;
            }
            if t - idle_since > 10_000_000_000 {
                *res.errors.entry(format!("{left} publishes never acknowledged")).or_default() += 1;
                break;
            }
        }
        let evs: Vec<(u64, u32)> = ep.wait(&mut events, sleep).iter().map(|e| (e.u64, e.events)).collect();
        for (i, ev) in evs {
            let i = i as usize;
            let c = &mut pubs[i];
            if c.fd < 0 {
                continue;
            }
            if ev & libc::EPOLLOUT as u32 != 0 {
                c.open = true;
                send(c, &ep, i);
            }
            if ev & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32 == 0 {
                continue;
            }
            let n = unsafe { libc::recv(c.fd, buf.as_mut_ptr() as *mut libc::c_void, buf.len(), 0) };
            if n < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
                continue;
            }
            let mut dead = n <= 0;
            let mut polite = dead && c.flight.is_empty();
            if n > 0 {
                idle_since = 0;
                c.inp.extend_from_slice(&buf[..n as usize]);
                dead = answers(c, &mut res);
                polite = dead && c.flight.is_empty(); // "Connection: close" after the answer
                if !c.out.0.is_empty() {
                    send(c, &ep, i);
                }
            }
            if dead {
                if polite {
                    res.reconnects += 1;
                } else {
                    *res.errors.entry("publish connection lost".into()).or_default() += 1;
                }
                unsafe { libc::close(c.fd) };
                c.flight.clear();
                c.inp.clear();
                c.open = false;
                c.out = Frames::default();
                if res.errors.values().sum::<u64>() > 1000 {
                    c.fd = -1;
                    if pubs.iter().all(|c| c.fd < 0) {
                        return res;
                    }
                    continue;
                }
                c.fd = connect(c.addr, None, 0);
                c.watching = true;
                ep.ctl(libc::EPOLL_CTL_ADD, c.fd, libc::EPOLLIN | libc::EPOLLOUT, i as u64);
            }
        }
    }
    for c in &pubs {
        if c.fd >= 0 {
            unsafe { libc::close(c.fd) };
        }
    }
    res
}

fn send(c: &mut Pub, ep: &Epoll, i: usize) {
    let mut want = false;
    if !c.out.0.is_empty() && c.open {
        let n = unsafe { libc::send(c.fd, c.out.0.as_ptr() as *const libc::c_void, c.out.0.len(), libc::MSG_NOSIGNAL) };
        if n > 0 {
            c.out.0.drain(..n as usize);
        }
        want = !c.out.0.is_empty();
    }
    if want != c.watching {
        c.watching = want;
        let e = libc::EPOLLIN | if want { libc::EPOLLOUT } else { 0 };
        ep.ctl(libc::EPOLL_CTL_MOD, c.fd, e, i as u64);
    }
}

fn done(c: &mut Pub, res: &mut Published) {
    if let Some(t) = c.flight.pop_front() {
        res.acked += 1;
        res.ack.add(now().saturating_sub(t));
    }
}

/// HTTP answers; true when the connection must go.
fn answers(c: &mut Pub, res: &mut Published) -> bool {
    loop {
        let Some(p) = memchr::memmem::find(&c.inp, b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&c.inp[..p]).to_ascii_lowercase();
        let status: u32 = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        let len = head.split("content-length:").nth(1).and_then(|r| r.split_whitespace().next()).and_then(|v| v.parse::<usize>().ok());
        let end = if let Some(n) = len {
            p + 4 + n
        } else if head.contains("transfer-encoding: chunked") {
            match memchr::memmem::find(&c.inp[p + 2..], b"\r\n0\r\n\r\n").or_else(|| c.inp[p + 4..].starts_with(b"0\r\n\r\n").then_some(0)) {
                Some(q) => (p + 2 + q + 7).min(c.inp.len()),
                None => return false,
            }
        } else {
            p + 4
        };
        if c.inp.len() < end {
            return false;
        }
        if !(200..300).contains(&status) {
            let b = String::from_utf8_lossy(&c.inp[p + 4..end]).chars().take(80).collect::<String>();
            if res.errors.len() < 20 {
                *res.errors.entry(format!("status {status} {b}")).or_default() += 1;
            }
            c.flight.pop_front();
        } else {
            done(c, res);
        }
        let close = head.contains("connection: close");
        c.inp.drain(..end);
        if close {
            return true;
        }
    }
}
