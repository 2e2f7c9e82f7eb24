//! `rival`: a neutral WebSocket push load generator; `benches/beside` runs it.

mod fanfare;
mod floor;
mod hist;
mod plot;
mod procs;
mod profile;
mod publisher;
mod table;
mod wire;
mod worker;

use procs::*;
use profile::*;
use publisher::{Plan, Published};
use serde_json::{json, Map, Value};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use wire::*;
use worker::*;

const USAGE: &str = "rival SCENARIO --profile NAME --pids FILE [options]
scenarios:
  idle     --steps 1000,5000,15000 --settle 4 --quiet 2   memory a connection
  connect  --n 5000 --window 100                  handshake storm
  fanout   --n 5000 --m 50 --rate 5 --burst 100   one message to all (paced, then as fast as acknowledged)
  unicast  --n 5000 --rates 1000,5000,10000,max --secs 6
  slow     --n 1000 --m 600 --rate 20 --size 16384 --every 100
  churn    --n 1000 --rate 200 --secs 60 --life 2
  storm    --n 15000 --others 500 --rate 500 --secs 20   all but a few drop and come back at once; the few's latency
  table    FILE...                                readable table of result lines
  plot     SVG FILE...                            bars: CPU a unit and memory a connection of each peer
  floor    [ADDR]                                 a server that does the least possible, for scale
options: --subs both|user|all  --ws A,B  --pub A,B  --conns 32 (publish connections, unicast)
         --size 200  --out DIR  --label TEXT  --workers K  --drain 20 (s)";

struct Args(std::collections::HashMap<String, String>);

impl Args {
    fn get<T: std::str::FromStr>(&self, k: &str, d: T) -> T {
        match self.0.get(k) {
            Some(v) => v.parse().unwrap_or_else(|_| panic!("--{k} {v}?")),
            None => d,
        }
    }
    fn text(&self, k: &str, d: &str) -> String {
        self.0.get(k).cloned().unwrap_or_else(|| d.to_string())
    }
}

struct Bench {
    name: String,
    scenario: String,
    profile: Arc<dyn Profile>,
    groups: Groups,
    workers: Vec<Worker>,
    pubs: Vec<Addr>,
    args: Args,
    run: u32,
}

fn r1(v: f64) -> f64 {
    (v * 10.0).round() / 10.0
}
fn r3(v: f64) -> f64 {
    (v * 1000.0).round() / 1000.0
}

fn sleep(s: f64) {
    std::thread::sleep(Duration::from_secs_f64(s))
}

impl Bench {
    fn stats(&self) -> Stats {
        let mut s = Stats::default();
        for w in &self.workers {
            s.merge(&w.shared.stats.lock().unwrap());
        }
        s
    }

    /// Opens clients `from..to`; returns seconds taken.
    fn connect(&self, from: u32, to: u32) -> f64 {
        let window: usize = self.args.get("window", 100);
        let k = self.workers.len() as u32;
        let before = self.stats();
        let t = now();
        for (i, w) in self.workers.iter().enumerate() {
            w.send(Cmd::Connect {
                ids: (from..to).filter(|id| id % k == i as u32).collect(),
                window: (window / k as usize).max(1),
            });
        }
        let limit = self.args.get("connect-limit", 90.0);
        loop {
            sleep(0.005);
            let s = self.stats();
            let d = (s.ready + s.failed + s.cut + s.closed) - (before.ready + before.failed + before.cut + before.closed);
            let secs = (now() - t) as f64 / 1e9;
            if d >= (to - from) as u64 || secs > limit {
                return secs;
            }
        }
    }

    fn reset(&mut self, mode: Mode) {
        self.run = self.run.wrapping_add(1);
        for w in &self.workers {
            w.send(Cmd::Reset { run: self.run, mode });
        }
        sleep(0.15);
    }

    fn plan(&self, rate: f64, count: u32, secs: f64, users: u32, size: usize) -> Plan {
        Plan {
            profile: self.profile.clone(),
            addrs: self.pubs.clone(),
            conns: self.args.get("conns", 8),
            rate,
            count,
            limit_ns: (secs * 1e9) as u64,
            size,
            run: self.run,
            users,
            seed: 0x9e3779b97f4a7c15 ^ self.run as u64,
        }
    }

    /// Publishes and waits for the deliveries; returns what was sent and the server's CPU use meanwhile.
    fn push(&self, plan: Plan, per_message: u64) -> (Published, Stats, Usage, f64) {
        let u0 = self.groups.usage(false);
        let c0 = self_cpu();
        let th = std::thread::spawn(move || publisher::run(plan));
        while !th.is_finished() {
            sleep(0.02);
        }
        let p = th.join().unwrap();
        let limit: f64 = self.args.get("drain", 20.0);
        let t = now();
        let mut last = (0, now());
        loop {
            let s = self.stats();
            if s.got >= p.sent * per_message {
                break;
            }
            if s.got != last.0 {
                last = (s.got, now());
            }
            if now() - last.1 > 3_000_000_000 || (now() - t) as f64 / 1e9 > limit {
                break;
            }
            sleep(0.02);
        }
        let u1 = self.groups.usage(false);
        let c1 = self_cpu();
        sleep(0.2); // duplicates, if any
        let used = diff(&u1, &u0);
        (p, self.stats(), used, c1 - c0)
    }

    fn emit(&self, mut v: Value) {
        let m = v.as_object_mut().unwrap();
        let mut o = Map::new();
        o.insert("profile".into(), json!(self.name));
        o.insert("scenario".into(), json!(self.scenario));
        let label = self.args.text("label", "");
        if !label.is_empty() {
            o.insert("label".into(), json!(label));
        }
        o.append(m);
        o.insert("subs".into(), json!(self.args.text("subs", "both")));
        o.insert("load1".into(), json!(load1()));
        static BEFORE: std::sync::Mutex<(u64, u64)> = std::sync::Mutex::new((0, 0));
        let (all, stolen) = steal();
        let mut b = BEFORE.lock().unwrap();
        // Since the last line, or since boot in the first.
        o.insert("steal_pct".into(), json!(r1((stolen - b.1) as f64 * 100.0 / (all - b.0).max(1) as f64)));
        *b = (all, stolen);
        o.insert("at".into(), json!(wall()));
        let line = Value::Object(o).to_string();
        println!("{line}");
        let dir = self.args.text("out", "/tmp/rival-results");
        let _ = std::fs::create_dir_all(&dir);
        let f = std::fs::OpenOptions::new().create(true).append(true).open(format!("{dir}/{}-{}.jsonl", self.name, self.scenario));
        if let Ok(mut f) = f {
            let _ = writeln!(f, "{line}");
        }
    }

    fn mem(&self) -> Mem {
        Mem { use_: self.groups.usage(true), tcp: tcp_mem_kb(), slab: slab_kb() }
    }
}

struct Mem {
    use_: Usage,
    tcp: u64,
    slab: u64,
}

fn diff(a: &Usage, b: &Usage) -> Usage {
    a.iter()
        .map(|(k, x)| {
            let y = b.get(k).copied().unwrap_or_default();
            (k.clone(), Use { cpu_s: x.cpu_s - y.cpu_s, ..*x })
        })
        .collect()
}

/// CPU of each group and in all, divided by `n` units, in `scale` (1e6: microseconds).
fn per(u: &Usage, n: u64, scale: f64) -> Value {
    let n = n.max(1) as f64;
    let mut m = Map::new();
    m.insert("total".into(), json!(r3(total_cpu(u) * scale / n)));
    for (k, x) in u {
        m.insert(k.clone(), json!(r3(x.cpu_s * scale / n)));
    }
    Value::Object(m)
}

fn reasons(s: &Stats) -> Value {
    json!(s.reasons)
}

fn idle(b: &mut Bench) {
    let steps: Vec<u32> = b.args.text("steps", "1000,5000,15000").split(',').map(|v| v.parse().unwrap()).collect();
    let settle = b.args.get("settle", 4.0);
    let m0 = b.mem();
    let mut from = 0;
    for n in steps {
        let u0 = b.groups.usage(false);
        let secs = b.connect(from, n);
        let conn_cpu = diff(&b.groups.usage(false), &u0);
        sleep(settle);
        let v0 = b.groups.usage(false);
        let quiet = b.args.get("quiet", 2.0);
        sleep(quiet);
        let idle = diff(&b.groups.usage(false), &v0);
        let idle_cpu = total_cpu(&idle) / quiet;
        let s = b.stats();
        let m = b.mem();
        let ready = s.ready.max(1) as f64;
        let mut groups = Map::new();
        for (k, x) in &m.use_ {
            let y = m0.use_.get(k).copied().unwrap_or_default();
            let cores = idle.get(k).copied().unwrap_or_default().cpu_s / quiet;
            groups.insert(k.clone(), json!({"idle_cpu_cores": r3(cores), "pss_mb": r1(x.pss_kb as f64 / 1024.0), "procs": x.procs,
                "pss_kb_per_conn": r1((x.pss_kb as f64 - y.pss_kb as f64) / ready)}));
        }
        b.emit(json!({
            "n": n, "ready": s.ready, "failed": s.failed, "cut": s.cut, "reasons": reasons(&s),
            "base_pss_mb": r1(total_pss(&m0.use_) as f64 / 1024.0),
            "pss_mb": r1(total_pss(&m.use_) as f64 / 1024.0),
            "pss_kb_per_conn": r1((total_pss(&m.use_) as f64 - total_pss(&m0.use_) as f64) / ready),
            "rss_kb_per_conn": r1((total_rss(&m.use_) as f64 - total_rss(&m0.use_) as f64) / ready),
            "slab_kb_per_conn_both_ends": r1((m.slab as f64 - m0.slab as f64) / ready),
            "tcp_mem_kb": m.tcp as i64 - m0.tcp as i64,
            "idle_cpu_cores": r3(idle_cpu),
            "connect_s": r3(secs), "connect_cpu_ms": per(&conn_cpu, (n - from) as u64, 1e3),
            "groups": groups,
        }));
        from = n;
    }
}

fn connect(b: &mut Bench) {
    let n: u32 = b.args.get("n", 5000);
    let rounds: u32 = b.args.get("rounds", 2);
    for round in 0..rounds {
        b.reset(Mode::Idle);
        for w in &b.workers {
            w.shared.stats.lock().unwrap().handshake = Default::default();
        }
        let s0 = b.stats();
        let u0 = b.groups.usage(false);
        let c0 = self_cpu();
        // The same devices each time: new to the server at first, known from the second round on.
        let secs = b.connect(0, n);
        let cpu = diff(&b.groups.usage(false), &u0);
        let own = self_cpu() - c0;
        let s = b.stats();
        let up = s.ready - s0.ready;
        let u1 = b.groups.usage(false);
        for w in &b.workers {
            w.send(Cmd::CloseAll);
        }
        sleep(3.0);
        let close = diff(&b.groups.usage(false), &u1);
        b.emit(json!({
            "n": n, "round": round, "ready": up, "failed": s.failed - s0.failed, "reasons": reasons(&s),
            "secs": r3(secs), "conn_per_s": r1(up as f64 / secs),
            "cpu_ms_per_conn": per(&cpu, up, 1e3),
            "close_cpu_ms_per_conn": per(&close, up, 1e3),
            "handshake_p50_ms": s.handshake.ms(0.5), "handshake_p99_ms": s.handshake.ms(0.99), "handshake_max_ms": s.handshake.max_ms(),
            "generator_cpu_ms_per_conn": r3(own * 1e3 / up.max(1) as f64),
        }));
    }
}

fn delivery(p: &Published, s: &Stats, used: &Usage, own: f64, expect: u64) -> Map<String, Value> {
    let secs = (s.last.max(p.last).saturating_sub(p.first)) as f64 / 1e9;
    let v = json!({
        "sent": p.sent, "acked": p.acked, "publish_errors": p.errors, "publish_reconnects": p.reconnects, "behind_ms": r1(p.behind_ms),
        "expected": expect, "got": s.got, "lost": expect as i64 - s.got as i64, "dup": s.dup, "disorder": s.disorder,
        "misdirected": s.misdirected, "foreign": s.foreign, "secs": r3(secs),
        "deliveries_per_s": r1(s.got as f64 / secs.max(1e-9)),
        "cpu_us_per_delivery": per(used, s.got, 1e6),
        "cpu_cores": r3(total_cpu(used) / secs.max(1e-9)),
        "p50_ms": s.latency.ms(0.5), "p99_ms": s.latency.ms(0.99), "p999_ms": s.latency.ms(0.999), "max_ms": s.latency.max_ms(),
        "ack_p50_ms": p.ack.ms(0.5), "ack_p99_ms": p.ack.ms(0.99),
        "generator_cpu_us": r3(own * 1e6 / s.got.max(1) as f64),
    });
    v.as_object().unwrap().clone()
}

fn fanout(b: &mut Bench) {
    let n: u32 = b.args.get("n", 5000);
    let size = b.args.get("size", 200);
    b.connect(0, n);
    sleep(1.0);
    // Not measured: just-in-time compilers, buffers and page tables warm up.
    b.reset(Mode::Fan { m: 5 });
    let s0 = b.stats();
    b.push(b.plan(0.0, 5, 10.0, 0, size), s0.ready);
    for (phase, rate, m) in [("paced", b.args.get("rate", 5.0), b.args.get("m", 50u32)), ("burst", 0.0, b.args.get("burst", 100u32))] {
        if m == 0 {
            continue;
        }
        b.reset(Mode::Fan { m });
        let s0 = b.stats();
        let mut plan = b.plan(rate, m, 60.0, 0, size);
        plan.conns = 1; // one publisher, so that order has a meaning
        let (p, s, used, own) = b.push(plan, s0.ready);
        let mut o = json!({"phase": phase, "n": n, "ready": s0.ready, "failed": s.failed, "cut": s.cut, "reasons": reasons(&s),
            "m": m, "rate": rate, "size": size});
        o.as_object_mut().unwrap().append(&mut delivery(&p, &s, &used, own, p.sent * s0.ready));
        b.emit(o);
    }
}

fn unicast(b: &mut Bench) {
    let n: u32 = b.args.get("n", 5000);
    let secs = b.args.get("secs", 6.0);
    let size = b.args.get("size", 200);
    b.connect(0, n);
    sleep(1.0);
    b.reset(Mode::Uni { max: 3000 });
    b.push(b.plan(0.0, 3000, 3.0, n, size), 1); // warm-up, not measured
    let mut behind = false;
    for r in b.args.text("rates", "1000,5000,10000,max").split(',') {
        let rate: f64 = if r == "max" { 0.0 } else { r.parse().unwrap() };
        let count = if rate > 0.0 { (rate * secs) as u32 } else { 4_000_000 };
        b.reset(Mode::Uni { max: count });
        let s0 = b.stats();
        if rate > 0.0 && behind {
            continue; // it did not keep up with a lower rate
        }
        let mut plan = b.plan(rate, count, if rate > 0.0 { secs * 1.25 } else { secs }, n, size);
        plan.conns = b.args.get("conns", 32);
        let (p, s, used, own) = b.push(plan, 1);
        behind = rate > 0.0 && p.sent < count as u64;
        let mut o = json!({"phase": r, "n": n, "ready": s0.ready, "failed": s.failed, "cut": s.cut, "reasons": reasons(&s), "rate": rate, "size": size,
            "publish_per_s": r1(p.sent as f64 / ((p.last.saturating_sub(p.first)) as f64 / 1e9).max(1e-9))});
        o.as_object_mut().unwrap().append(&mut delivery(&p, &s, &used, own, p.sent));
        b.emit(o);
    }
}

fn slow(b: &mut Bench) {
    let n: u32 = b.args.get("n", 1000);
    let m: u32 = b.args.get("m", 600);
    let rate: f64 = b.args.get("rate", 20.0);
    let size = b.args.get("size", 16384);
    let every: u32 = b.args.get("every", 100);
    b.connect(0, n);
    sleep(1.0);
    b.reset(Mode::Fan { m });
    for w in &b.workers {
        w.send(Cmd::Slow { every });
    }
    sleep(0.2);
    let m0 = b.mem();
    let s0 = b.stats();
    let healthy = s0.ready - s0.slow;
    let mut plan = b.plan(rate, m, 90.0, 0, size);
    plan.conns = 1;
    // Memory while it runs.
    let groups = b.groups.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop2 = stop.clone();
    let watch = std::thread::spawn(move || {
        let (mut pss, mut tcp) = (0, 0);
        while !stop2.load(std::sync::atomic::Ordering::Relaxed) {
            pss = pss.max(total_pss(&groups.usage(true)));
            tcp = tcp.max(tcp_mem_kb());
            sleep(0.5);
        }
        (pss, tcp)
    });
    let (p, s, used, own) = b.push(plan, healthy);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (peak, tcp_peak) = watch.join().unwrap();
    let m1 = b.mem();
    for w in &b.workers {
        w.send(Cmd::Resume);
    }
    let mut last = (0, now());
    let t = now();
    loop {
        sleep(0.1);
        let s = b.stats();
        if s.slow_got + s.slow_cut != last.0 {
            last = (s.slow_got + s.slow_cut, now());
        }
        if now() - last.1 > 4_000_000_000 || now() - t > 40_000_000_000 {
            break;
        }
    }
    let e = b.stats();
    let m2 = b.mem();
    let mut o = json!({"n": n, "ready": s0.ready, "slow": s0.slow, "m": m, "rate": rate, "size": size,
        "healthy_cut": s.cut - s.slow_cut, "slow_cut": e.slow_cut, "slow_got_of": [e.slow_got, s0.slow * p.sent],
        "reasons": reasons(&e),
        "pss_mb_before": r1(total_pss(&m0.use_) as f64 / 1024.0), "pss_mb_peak": r1(peak as f64 / 1024.0),
        "pss_mb_end": r1(total_pss(&m1.use_) as f64 / 1024.0), "pss_mb_after_resume": r1(total_pss(&m2.use_) as f64 / 1024.0),
        "pss_mb_growth_per_slow": r1((peak as f64 - total_pss(&m0.use_) as f64) / 1024.0 / s0.slow.max(1) as f64),
        "backlog_mb_per_slow": r1(p.sent as f64 * size as f64 / 1048576.0),
        "tcp_mem_mb_peak": r1((tcp_peak as f64 - m0.tcp as f64) / 1024.0)});
    o.as_object_mut().unwrap().append(&mut delivery(&p, &s, &used, own, p.sent * healthy));
    b.emit(o);
}

fn churn(b: &mut Bench) {
    let n: u32 = b.args.get("n", 1000);
    let rate: f64 = b.args.get("rate", 200.0);
    let secs: f64 = b.args.get("secs", 60.0);
    let life: f64 = b.args.get("life", 2.0);
    let warm: f64 = b.args.get("warm", 10.0);
    b.connect(0, n);
    let k = b.workers.len();
    let go = |first: u32, secs: f64| {
        for (i, w) in b.workers.iter().enumerate() {
            w.send(Cmd::Churn {
                first: first + i as u32 * 1_000_000,
                rate: rate / k as f64,
                life: (life * 1e9) as u64,
                until: now() + (secs * 1e9) as u64,
            });
        }
    };
    // Warm-up: the allocator's and the runtime's first growth is no leak.
    go(100_000, warm);
    sleep(warm + life + 2.0);
    let m0 = b.mem();
    let u0 = b.groups.usage(false);
    let s0 = b.stats();
    go(10_000_000, secs);
    let mut samples = Vec::new();
    let t = now();
    while (now() - t) as f64 / 1e9 < secs {
        sleep(5.0f64.min(secs - (now() - t) as f64 / 1e9).max(0.01));
        samples.push(r1(total_pss(&b.groups.usage(true)) as f64 / 1024.0));
    }
    sleep(life + 3.0);
    let cpu = diff(&b.groups.usage(false), &u0);
    let s = b.stats();
    let m1 = b.mem();
    let made = s.attempted - s0.attempted;
    b.emit(json!({
        "n": n, "rate": rate, "secs": secs, "life": life, "made": made, "failed": s.failed - s0.failed, "cut": s.cut - s0.cut, "still_ready": s.ready,
        "reasons": reasons(&s),
        "pss_mb_before": r1(total_pss(&m0.use_) as f64 / 1024.0), "pss_mb_after": r1(total_pss(&m1.use_) as f64 / 1024.0),
        "pss_bytes_per_gone_conn": r1((total_pss(&m1.use_) as f64 - total_pss(&m0.use_) as f64) * 1024.0 / made.max(1) as f64),
        "pss_mb_samples": samples,
        "cpu_ms_per_conn": per(&cpu, made, 1e3),
        "handshake_p99_ms": s.handshake.ms(0.99),
    }));
}

/// What the few who stay get while all others come back, beside the same before it.
fn storm(b: &mut Bench) {
    let n: u32 = b.args.get("n", 15000);
    let others: u32 = b.args.get("others", 500);
    let rate: f64 = b.args.get("rate", 500.0);
    let secs: f64 = b.args.get("secs", 20.0);
    let size = b.args.get("size", 200);
    // Apart, so that nobody waits in the generator for the crowd.
    let (few, crowd) = (&b.workers[0], &b.workers[1]);
    few.send(Cmd::Patience);
    crowd.send(Cmd::Patience);
    crowd.send(Cmd::GiveWay);
    few.send(Cmd::Connect { ids: (0..others).collect(), window: 100 });
    crowd.send(Cmd::Connect { ids: (others..others + n).collect(), window: 100 });
    let t = now();
    while b.stats().ready < (others + n) as u64 && (now() - t) as f64 / 1e9 < b.args.get("connect-limit", 90.0) {
        sleep(0.1);
    }
    sleep(5.0);
    b.reset(Mode::Uni { max: 3000 });
    b.push(b.plan(0.0, 3000, 3.0, others, size), 1); // warm-up, not measured
    for phase in ["before", "storm"] {
        let count = (rate * secs) as u32;
        b.reset(Mode::Uni { max: count });
        for w in &b.workers {
            w.shared.stats.lock().unwrap().handshake = Default::default();
        }
        let (s0, u0, t) = (b.stats(), b.groups.usage(false), now());
        let plan = b.plan(rate, count, secs * 1.25, others, size);
        let published = std::thread::spawn(move || publisher::run(plan));
        let secs_since = || (now() - t) as f64 / 1e9;
        let is_storm = phase == "storm";
        if is_storm {
            b.workers[1].send(Cmd::Storm);
        }
        // Of a storm the latencies until all are back; of the quiet before it those of as long as it may last.
        let during = loop {
            sleep(0.005);
            let s = b.stats();
            let are_back = is_storm && s.attempted >= s0.attempted + n as u64 && s.ready >= s0.ready;
            if are_back || published.is_finished() || (!is_storm && secs_since() >= secs) {
                break s;
            }
        };
        let back = secs_since();
        let p = published.join().unwrap();
        sleep(3.0);
        let s = b.stats();
        let cpu = diff(&b.groups.usage(false), &u0);
        b.emit(json!({
            "phase": phase, "n": n, "others": others, "rate": rate, "ready": s.ready, "failed": s.failed - s0.failed, "cut": s.cut - s0.cut,
            "again": s.again - s0.again, "reasons": reasons(&s), "secs": r3(back), "sent": p.sent, "got": s.got, "dup": s.dup,
            "lost": p.sent as i64 - s.got as i64, "publish_errors": p.errors, "behind_ms": r1(p.behind_ms),
            "measured": during.got, "p50_ms": during.latency.ms(0.5), "p99_ms": during.latency.ms(0.99), "max_ms": during.latency.max_ms(),
            "handshake_p50_ms": during.handshake.ms(0.5), "handshake_p99_ms": during.handshake.ms(0.99),
            "cpu_s": per(&cpu, 1, 1.0),
        }));
    }
}

fn main() {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let Some(scenario) = argv.first().cloned() else {
        eprintln!("{USAGE}\nprofiles: {}", NAMES.join(" "));
        std::process::exit(2)
    };
    if scenario == "table" {
        return table::print(&argv[1..]);
    }
    if scenario == "plot" {
        return plot::write(&argv[1], &argv[2..]);
    }
    if scenario == "floor" {
        return floor::serve(Addr::parse(argv.get(1).map(|s| s.as_str()).unwrap_or("127.0.0.1:7100")));
    }
    let mut map = std::collections::HashMap::new();
    let mut it = argv[1..].iter();
    while let Some(k) = it.next() {
        let k = k.strip_prefix("--").unwrap_or_else(|| panic!("{k}?\n{USAGE}"));
        map.insert(k.to_string(), it.next().unwrap_or_else(|| panic!("--{k} needs a value")).clone());
    }
    let args = Args(map);
    let name = args.text("profile", "ws");
    let profile: Arc<dyn Profile> = find(&name).unwrap_or_else(|| panic!("no profile {name}; {NAMES:?}")).into();
    let list = |k: &str, d: Vec<&str>| -> Vec<Addr> { args.text(k, &d.join(",")).split(',').map(Addr::parse).collect() };
    let ws = list("ws", profile.ws_addrs());
    let pubs = list("pub", profile.pub_addrs());
    let subs = match args.text("subs", "both").as_str() {
        "user" => Subs::User,
        "all" => Subs::All,
        _ => Subs::Both,
    };
    let most: u32 = match scenario.as_str() {
        "idle" => args.text("steps", "1000,5000,15000").split(',').map(|v| v.parse::<u32>().unwrap()).max().unwrap(),
        _ => args.get("n", 5000),
    };
    let most = if scenario == "storm" { 18001 } else { most };
    let workers = args.get("workers", most.div_ceil(18000).max(1) as usize);
    let cfg = Config {
        profile: profile.clone(),
        addrs: ws,
        subs,
        rcvbuf: 65536,
        slow_rcvbuf_every: if scenario == "slow" { args.get("every", 100) } else { 0 },
    };
    let pids = args.text("pids", &format!("/tmp/rival-run/{name}/pids"));
    let groups = Groups::load(&pids);
    if groups.0.is_empty() {
        eprintln!("warning: no pids in {pids}: no CPU or memory figures");
    }
    let mut b = Bench {
        workers: (0..workers).map(|i| Worker::start(cfg.clone(), i)).collect(),
        name,
        scenario: scenario.clone(),
        profile,
        groups,
        pubs,
        run: (wall() as u32) << 8,
        args,
    };
    match scenario.as_str() {
        "idle" => idle(&mut b),
        "connect" => connect(&mut b),
        "fanout" => fanout(&mut b),
        "unicast" => unicast(&mut b),
        "slow" => slow(&mut b),
        "churn" => churn(&mut b),
        "storm" => storm(&mut b),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2)
        }
    }
    for w in &mut b.workers {
        w.stop();
    }
}
