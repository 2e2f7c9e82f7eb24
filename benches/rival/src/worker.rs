//! The subscribing side: one thread with its own file-descriptor table and epoll, thousands of connections.

use crate::fanfare::number;
use crate::hist::Hist;
use crate::profile::{Due, Ev, Profile, Subs};
use crate::wire::*;
use memchr::memmem;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, Default)]
pub enum Mode {
    #[default]
    Idle,
    /// Each client expects seq 0..m.
    Fan { m: u32 },
    /// Each seq below `max` goes to one client.
    Uni { max: u32 },
}

pub enum Cmd {
    Connect { ids: Vec<u32>, window: usize },
    /// New connections at `rate` a second, each closed `life` ns after it is ready; until `until`.
    Churn { first: u32, rate: f64, life: u64, until: u64 },
    Reset { run: u32, mode: Mode },
    /// Stop reading on every client whose id is a multiple of `every`.
    Slow { every: u32 },
    Resume,
    /// Whoever is refused from now on comes again when it was told to, and somewhen within a second after that.
    Patience,
    /// From now on this worker leaves the processor to all others: a real crowd is elsewhere.
    GiveWay,
    /// Every client loses its connection without a word and comes back at once.
    Storm,
    CloseAll,
    Exit,
}

#[derive(Default, Clone)]
pub struct Stats {
    pub attempted: u64,
    pub ready: u64,
    pub failed: u64,
    pub cut: u64,
    pub closed: u64,
    pub reasons: BTreeMap<String, u64>,
    pub handshake: Hist,
    pub got: u64,
    pub bytes: u64,
    pub dup: u64,
    pub disorder: u64,
    pub misdirected: u64,
    pub foreign: u64,
    pub latency: Hist,
    pub last: u64,
    pub slow: u64,
    pub slow_got: u64,
    pub slow_cut: u64,
    /// Refused in a storm; they came again.
    pub again: u64,
}

impl Stats {
    pub fn merge(&mut self, o: &Stats) {
        self.attempted += o.attempted;
        self.ready += o.ready;
        self.failed += o.failed;
        self.cut += o.cut;
        self.closed += o.closed;
        for (k, v) in &o.reasons {
            *self.reasons.entry(k.clone()).or_default() += v;
        }
        self.handshake.merge(&o.handshake);
        self.got += o.got;
        self.bytes += o.bytes;
        self.dup += o.dup;
        self.disorder += o.disorder;
        self.misdirected += o.misdirected;
        self.foreign += o.foreign;
        self.latency.merge(&o.latency);
        self.last = self.last.max(o.last);
        self.slow += o.slow;
        self.slow_got += o.slow_got;
        self.slow_cut += o.slow_cut;
        self.again += o.again;
    }
}

pub struct Shared {
    pub stats: Mutex<Stats>,
    cmds: Mutex<VecDeque<Cmd>>,
    flag: AtomicBool,
}

#[derive(Clone)]
pub struct Config {
    pub profile: Arc<dyn Profile>,
    pub addrs: Vec<Addr>,
    pub subs: Subs,
    pub rcvbuf: i32,
    pub slow_rcvbuf_every: u32,
}

#[derive(PartialEq, Clone, Copy)]
enum State {
    Connecting,
    Upgrade,
    Handshake,
    Ready,
}

struct Conn {
    fd: i32,
    id: u32,
    state: State,
    st: u32,
    last_seq: u32,
    gen: u32,
    slow: bool,
    t0: u64,
    rem: Vec<u8>,
    out: Frames,
    life: u64,
    due: Due,
    /// Seconds, as the refusal says.
    retry_after: u64,
}

pub struct Worker {
    pub shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    pub fn start(cfg: Config, n: usize) -> Worker {
        let shared = Arc::new(Shared { stats: Default::default(), cmds: Default::default(), flag: AtomicBool::new(false) });
        let s = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("client{n}"))
            .spawn(move || {
                // Its own descriptor table: the per-process limit then holds for each worker alone.
                unsafe { libc::unshare(libc::CLONE_FILES) };
                Loop::new(cfg, s).run()
            })
            .unwrap();
        Worker { shared, thread: Some(thread) }
    }
    pub fn send(&self, c: Cmd) {
        self.shared.cmds.lock().unwrap().push_back(c);
        self.shared.flag.store(true, Ordering::Release);
    }
    pub fn stop(&mut self) {
        self.send(Cmd::Exit);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

struct Loop {
    cfg: Config,
    shared: Arc<Shared>,
    ep: Epoll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    pending: VecDeque<u32>,
    window: usize,
    opening: usize,
    churn: Option<(u32, u64, u64, u64)>, // next id, interval, life, until
    churn_next: u64,
    dying: VecDeque<(u64, usize, u32)>,
    /// Who is refused comes again, and when.
    patient: bool,
    again: BinaryHeap<Reverse<(u64, u32)>>,
    run: u32,
    mode: Mode,
    seen: Vec<u64>,
    gen: u32,
    finder: memmem::Finder<'static>,
}

impl Loop {
    fn new(cfg: Config, shared: Arc<Shared>) -> Loop {
        Loop {
            cfg,
            shared,
            ep: Epoll::new(),
            conns: Vec::new(),
            free: Vec::new(),
            pending: VecDeque::new(),
            window: 64,
            opening: 0,
            churn: None,
            churn_next: 0,
            dying: VecDeque::new(),
            patient: false,
            again: BinaryHeap::new(),
            run: 0,
            mode: Mode::Idle,
            seen: Vec::new(),
            gen: 0,
            finder: memmem::Finder::new(MARK),
        }
    }

    fn run(mut self) {
        let mut events: Vec<libc::epoll_event> = Vec::with_capacity(512);
        let mut buf = vec![0u8; 256 * 1024];
        let shared = self.shared.clone();
        loop {
            if shared.flag.swap(false, Ordering::Acquire) {
                loop {
                    let c = shared.cmds.lock().unwrap().pop_front();
                    match c {
                        None => break,
                        Some(Cmd::Exit) => {
                            self.close_all(&mut shared.stats.lock().unwrap());
                            return;
                        }
                        Some(c) => self.command(c, &mut shared.stats.lock().unwrap()),
                    }
                }
            }
            let wait = if self.churn.is_some() || !self.dying.is_empty() { 1_000_000 } else { 20_000_000 };
            let evs: Vec<(u64, u32)> = self.ep.wait(&mut events, wait).iter().map(|e| (e.u64, e.events)).collect();
            let mut stats = shared.stats.lock().unwrap();
            for (tok, ev) in evs {
                self.event(tok as usize, ev, &mut buf, &mut stats);
            }
            while self.again.peek().is_some_and(|Reverse((at, _))| *at <= now()) {
                self.pending.extend(self.again.pop().map(|Reverse((_, id))| id));
            }
            while self.opening < self.window {
                let Some(id) = self.pending.pop_front() else { break };
                self.open(id, 0, &mut stats);
            }
            if self.churn.is_some() || !self.dying.is_empty() {
                self.tick(&mut stats);
            }
        }
    }

    fn tick(&mut self, stats: &mut Stats) {
        let t = now();
        if let Some((id, every, life, until)) = self.churn {
            let mut id = id;
            while self.churn_next <= t {
                self.churn_next += every;
                if self.opening < 2000 {
                    self.open(id, life, stats);
                    id += 1;
                }
            }
            self.churn = if t < until { Some((id, every, life, until)) } else { None };
        }
        while let Some(&(at, tok, id)) = self.dying.front() {
            if at > t {
                break;
            }
            self.dying.pop_front();
            if let Some(c) = self.conns[tok].as_mut() {
                if c.id == id {
                    c.out.frame(CLOSE, &1000u16.to_be_bytes());
                    flush(c);
                    stats.closed += 1;
                    stats.ready -= 1;
                    self.drop_conn(tok);
                }
            }
        }
    }

    fn command(&mut self, c: Cmd, stats: &mut Stats) {
        match c {
            Cmd::Connect { ids, window } => {
                self.window = window;
                self.pending.extend(ids);
            }
            Cmd::Churn { first, rate, life, until } => {
                self.churn = Some((first, (1e9 / rate) as u64, life, until));
                self.churn_next = now();
            }
            Cmd::Reset { run, mode } => {
                self.run = run;
                self.mode = mode;
                self.gen += 1;
                let bits = match mode {
                    Mode::Idle => 0,
                    Mode::Fan { m } => self.conns.len() * m as usize,
                    Mode::Uni { max } => max as usize,
                };
                self.seen = vec![0; bits / 64 + 1];
                let keep = stats.clone();
                *stats = Stats {
                    attempted: keep.attempted,
                    ready: keep.ready,
                    failed: keep.failed,
                    cut: keep.cut,
                    closed: keep.closed,
                    reasons: keep.reasons,
                    handshake: keep.handshake,
                    slow: keep.slow,
                    slow_cut: keep.slow_cut,
                    ..Default::default()
                };
            }
            Cmd::Slow { every } => {
                for (tok, c) in self.conns.iter_mut().enumerate() {
                    if let Some(c) = c {
                        if c.id % every == 0 {
                            c.slow = true;
                            stats.slow += 1;
                            self.ep.ctl(libc::EPOLL_CTL_MOD, c.fd, 0, tok as u64);
                        }
                    }
                }
            }
            Cmd::Resume => {
                for (tok, c) in self.conns.iter_mut().enumerate() {
                    if let Some(c) = c.as_mut().filter(|c| c.slow) {
                        self.ep.ctl(libc::EPOLL_CTL_MOD, c.fd, libc::EPOLLIN, tok as u64);
                    }
                }
            }
            Cmd::Patience => self.patient = true,
            Cmd::GiveWay => {
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
            }
            Cmd::Storm => {
                self.window = usize::MAX;
                for tok in 0..self.conns.len() {
                    let Some((id, state)) = self.conns[tok].as_ref().map(|c| (c.id, c.state)) else { continue };
                    stats.ready -= u64::from(state == State::Ready);
                    self.drop_conn(tok);
                    self.pending.push_back(id);
                }
            }
            Cmd::CloseAll => self.close_all(stats),
            Cmd::Exit => unreachable!(),
        }
    }

    fn close_all(&mut self, stats: &mut Stats) {
        self.pending.clear();
        self.churn = None;
        for t in 0..self.conns.len() {
            if let Some(c) = self.conns[t].as_mut() {
                if c.state == State::Ready {
                    c.out.frame(CLOSE, &1000u16.to_be_bytes());
                    flush(c);
                    stats.closed += 1;
                    stats.ready -= 1;
                }
                self.drop_conn(t);
            }
        }
        self.dying.clear();
    }

    fn open(&mut self, id: u32, life: u64, stats: &mut Stats) {
        stats.attempted += 1;
        let a = self.cfg.addrs[id as usize % self.cfg.addrs.len()];
        let src = [127, 0, 0, 10 + (id / 2 % 8) as u8];
        let every = self.cfg.slow_rcvbuf_every;
        let rcv = if every > 0 && id % every == 0 { self.cfg.rcvbuf } else { 0 };
        let fd = connect(a, Some(src), rcv);
        if fd < 0 {
            stats.failed += 1;
            *stats.reasons.entry(format!("connect errno {}", std::io::Error::last_os_error())).or_default() += 1;
            return;
        }
        let r = self.cfg.profile.request(id, self.cfg.subs);
        let c = Conn {
            fd,
            id,
            state: State::Connecting,
            st: 0,
            last_seq: 0,
            gen: 0,
            slow: false,
            t0: now(),
            rem: Vec::new(),
            out: Frames(upgrade(a, &r.path, r.subprotocol, &r.headers)),
            life,
            due: Due::default(),
            retry_after: 1,
        };
        let tok = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.conns[tok] = Some(c);
        self.opening += 1;
        self.ep.ctl(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN | libc::EPOLLOUT, tok as u64);
    }

    fn drop_conn(&mut self, tok: usize) {
        if let Some(c) = self.conns[tok].take() {
            if c.state != State::Ready {
                self.opening -= 1;
            }
            unsafe { libc::close(c.fd) };
            self.free.push(tok);
        }
    }

    fn fail(&mut self, tok: usize, why: String, stats: &mut Stats) {
        let Some(c) = &self.conns[tok] else { return };
        if c.state == State::Ready {
            stats.cut += 1;
            stats.ready -= 1;
            if c.slow {
                stats.slow_cut += 1;
            }
        } else if self.patient {
            stats.again += 1;
            let within_a_second = u64::from(c.id) * 7_919 % 1_000;
            self.again.push(Reverse((now() + (c.retry_after * 1_000 + within_a_second) * 1_000_000, c.id)));
        } else {
            stats.failed += 1;
        }
        if stats.reasons.len() < 20 || stats.reasons.contains_key(&why) {
            *stats.reasons.entry(why).or_default() += 1;
        }
        self.drop_conn(tok);
    }

    fn event(&mut self, tok: usize, ev: u32, buf: &mut [u8], stats: &mut Stats) {
        let Some(c) = self.conns.get_mut(tok).and_then(|c| c.as_mut()) else { return };
        if ev & (libc::EPOLLOUT as u32) != 0 {
            if c.state == State::Connecting {
                c.state = State::Upgrade;
            }
            if flush(c) {
                self.ep.ctl(libc::EPOLL_CTL_MOD, c.fd, libc::EPOLLIN, tok as u64);
            }
        }
        if ev & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32 == 0 {
            return;
        }
        for _ in 0..8 {
            let Some(c) = self.conns[tok].as_mut() else { return };
            let n = unsafe { libc::recv(c.fd, buf.as_mut_ptr() as *mut libc::c_void, buf.len(), 0) };
            if n <= 0 {
                let e = std::io::Error::last_os_error();
                if n < 0 && e.kind() == std::io::ErrorKind::WouldBlock {
                    return;
                }
                let phase = match c.state {
                    State::Connecting => "connecting",
                    State::Upgrade => "before 101",
                    State::Handshake => "before ready",
                    State::Ready => "when ready",
                };
                let why = if n == 0 { format!("end of stream {phase}") } else { format!("{e} {phase}") };
                return self.fail(tok, why, stats);
            }
            let n = n as usize;
            let mut c = self.conns[tok].take().unwrap();
            let was = c.state;
            let r = if c.rem.is_empty() {
                let used = self.input(tok, &mut c, &buf[..n], stats);
                if let Ok(u) = used {
                    if u < n {
                        c.rem.extend_from_slice(&buf[u..n]);
                    }
                }
                used.map(|_| ())
            } else {
                let mut rem = std::mem::take(&mut c.rem);
                rem.extend_from_slice(&buf[..n]);
                let used = self.input(tok, &mut c, &rem, stats);
                if let Ok(u) = used {
                    rem.drain(..u);
                    if !rem.is_empty() {
                        c.rem = rem;
                    }
                }
                used.map(|_| ())
            };
            if was != State::Ready && c.state == State::Ready {
                self.opening -= 1;
                stats.ready += 1;
                let t = now();
                stats.handshake.add(t - c.t0);
                if c.life > 0 {
                    self.dying.push_back((t + c.life, tok, c.id));
                }
            }
            if !c.out.0.is_empty() && !flush(&mut c) {
                self.ep.ctl(libc::EPOLL_CTL_MOD, c.fd, libc::EPOLLIN | libc::EPOLLOUT, tok as u64);
            }
            self.conns[tok] = Some(c);
            if r.is_err() {
                let why = LAST_ERR.with(|e| e.take());
                return self.fail(tok, why, stats);
            }
            if n < buf.len() {
                return;
            }
        }
    }

    /// Takes whole units off `b`; returns how much was used.
    fn input(&mut self, tok: usize, c: &mut Conn, b: &[u8], stats: &mut Stats) -> Result<usize, ()> {
        let mut at = 0;
        if c.state == State::Upgrade {
            let Some(p) = memmem::find(b, b"\r\n\r\n") else { return Ok(0) };
            if !b.starts_with(b"HTTP/1.1 101") {
                let line = String::from_utf8_lossy(&b[..b.len().min(80)]);
                c.retry_after = number(&b[..p], b"etry-after: ").unwrap_or(1);
                return err(format!("refused: {}", line.lines().next().unwrap_or("")));
            }
            at = p + 4;
            c.state = State::Handshake;
            let e = self.cfg.profile.opened(c.id, self.cfg.subs, &mut c.st, &mut c.out);
            step(c, e)?;
        }
        while let Some((op, s, e)) = parse_frame(&b[at..]) {
            let d = &b[at + s..at + e];
            at += e;
            match op {
                0..=2 => {
                    let mut any = false;
                    let mut p = 0;
                    while let Some((m, q)) = find_stamp(d, p, &self.finder) {
                        p = q;
                        any = true;
                        self.delivered(tok, c, m, d.len(), stats);
                    }
                    if any {
                        self.cfg.profile.delivered(d, &mut c.due);
                    } else {
                        let e = self.cfg.profile.frame(c.id, self.cfg.subs, &mut c.st, d, &mut c.out);
                        step(c, e)?;
                    }
                }
                PING => c.out.frame(PONG, d),
                CLOSE => {
                    let code = if d.len() >= 2 { u16::from_be_bytes([d[0], d[1]]) } else { 0 };
                    let text = String::from_utf8_lossy(d.get(2..).unwrap_or(&[])).into_owned();
                    return err(format!("close frame {code} {text}"));
                }
                _ => {}
            }
        }
        self.cfg.profile.acks(&mut c.due, &mut c.out);
        Ok(at)
    }

    fn delivered(&mut self, tok: usize, c: &mut Conn, m: Stamp, len: usize, stats: &mut Stats) {
        if m.run != self.run {
            stats.foreign += 1;
            return;
        }
        let bit = match self.mode {
            Mode::Fan { m: n } if m.seq < n => tok * n as usize + m.seq as usize,
            Mode::Uni { max } if m.seq < max => {
                if m.to != c.id {
                    stats.misdirected += 1;
                    return;
                }
                m.seq as usize
            }
            _ => return,
        };
        if self.seen[bit / 64] >> (bit % 64) & 1 == 1 {
            stats.dup += 1;
            return;
        }
        self.seen[bit / 64] |= 1 << (bit % 64);
        if c.gen != self.gen {
            c.gen = self.gen;
            c.last_seq = 0;
        } else if m.seq < c.last_seq {
            stats.disorder += 1;
        }
        c.last_seq = c.last_seq.max(m.seq);
        let t = now();
        if c.slow {
            stats.slow_got += 1;
            return;
        }
        stats.got += 1;
        stats.bytes += len as u64;
        stats.last = t;
        stats.latency.add(t.saturating_sub(m.sent));
    }
}

thread_local! {
    static LAST_ERR: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

fn err<T>(s: String) -> Result<T, ()> {
    LAST_ERR.with(|e| *e.borrow_mut() = s);
    Err(())
}

fn step(c: &mut Conn, e: Ev) -> Result<(), ()> {
    match e {
        Ev::Wait => Ok(()),
        Ev::Ready => {
            c.state = State::Ready;
            Ok(())
        }
        Ev::Fail(s) => err(s),
    }
}

/// Writes what it can; true when nothing is left.
fn flush(c: &mut Conn) -> bool {
    let o = &mut c.out.0;
    if o.is_empty() {
        return true;
    }
    let n = unsafe { libc::send(c.fd, o.as_ptr() as *const libc::c_void, o.len(), libc::MSG_NOSIGNAL) };
    if n as usize == o.len() {
        c.out = Frames::default(); // gives the memory back: there are thousands
        return true;
    }
    if n > 0 {
        o.drain(..n as usize);
    }
    false
}
