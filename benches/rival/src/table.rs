//! A readable table of result lines: the last line of each profile, scenario and phase.

use serde_json::Value;
use std::collections::BTreeMap;

const COLUMNS: &[(&str, &[(&str, &str)])] = &[
    ("idle", &[("n", "/n"), ("ready", "/ready"), ("base MB", "/base_pss_mb"), ("PSS MB", "/pss_mb"), ("PSS kB/conn", "/pss_kb_per_conn"), ("server", "/groups/server/pss_kb_per_conn"), ("nodes", "/groups/nodes/pss_kb_per_conn"), ("RSS kB/conn", "/rss_kb_per_conn"), ("slab kB/conn (both ends)", "/slab_kb_per_conn_both_ends"), ("idle cores", "/idle_cpu_cores"), ("of them nodes", "/groups/nodes/idle_cpu_cores"), ("connect ms CPU", "/connect_cpu_ms/total")]),
    ("connect", &[("round", "/round"), ("ready", "/ready"), ("failed", "/failed"), ("conn/s", "/conn_per_s"), ("CPU ms/conn", "/cpu_ms_per_conn/total"), ("nodes", "/cpu_ms_per_conn/nodes"), ("Redis", "/cpu_ms_per_conn/Redis"), ("PostgreSQL", "/cpu_ms_per_conn/PostgreSQL"), ("close CPU ms", "/close_cpu_ms_per_conn/total"), ("p50 ms", "/handshake_p50_ms"), ("p99 ms", "/handshake_p99_ms"), ("gen CPU ms", "/generator_cpu_ms_per_conn")]),
    ("fanout", &[("phase", "/phase"), ("ready", "/ready"), ("sent", "/sent"), ("deliveries/s", "/deliveries_per_s"), ("CPU us/delivery", "/cpu_us_per_delivery/total"), ("server", "/cpu_us_per_delivery/server"), ("nodes", "/cpu_us_per_delivery/nodes"), ("RabbitMQ", "/cpu_us_per_delivery/RabbitMQ"), ("Redis", "/cpu_us_per_delivery/Redis"), ("PostgreSQL", "/cpu_us_per_delivery/PostgreSQL"), ("p50 ms", "/p50_ms"), ("p99 ms", "/p99_ms"), ("max ms", "/max_ms"), ("lost", "/lost"), ("dup", "/dup"), ("disorder", "/disorder"), ("gen us", "/generator_cpu_us")]),
    ("unicast", &[("rate", "/phase"), ("ready", "/ready"), ("sent", "/sent"), ("delivered/s", "/deliveries_per_s"), ("CPU us/msg", "/cpu_us_per_delivery/total"), ("server", "/cpu_us_per_delivery/server"), ("nodes", "/cpu_us_per_delivery/nodes"), ("RabbitMQ", "/cpu_us_per_delivery/RabbitMQ"), ("Redis", "/cpu_us_per_delivery/Redis"), ("PostgreSQL", "/cpu_us_per_delivery/PostgreSQL"), ("p50 ms", "/p50_ms"), ("p99 ms", "/p99_ms"), ("p99.9 ms", "/p999_ms"), ("max ms", "/max_ms"), ("lost", "/lost"), ("dup", "/dup"), ("disorder", "/disorder"), ("gen us", "/generator_cpu_us")]),
    ("slow", &[("ready", "/ready"), ("slow", "/slow"), ("slow cut", "/slow_cut"), ("healthy cut", "/healthy_cut"), ("lost (healthy)", "/lost"), ("p99 ms", "/p99_ms"), ("max ms", "/max_ms"), ("PSS before", "/pss_mb_before"), ("peak MB", "/pss_mb_peak"), ("after MB", "/pss_mb_after_resume"), ("MB/slow", "/pss_mb_growth_per_slow"), ("sent MB/slow", "/backlog_mb_per_slow"), ("slow got", "/slow_got_of"), ("TCP MB", "/tcp_mem_mb_peak"), ("CPU us/delivery", "/cpu_us_per_delivery/total")]),
    ("churn", &[("made", "/made"), ("failed", "/failed"), ("cut", "/cut"), ("before MB", "/pss_mb_before"), ("after MB", "/pss_mb_after"), ("bytes/gone conn", "/pss_bytes_per_gone_conn"), ("CPU ms/conn", "/cpu_ms_per_conn/total"), ("samples MB", "/pss_mb_samples")]),
];

/// The last line of each scenario, peer and phase, in this order.
pub type Lines = BTreeMap<(String, String, String), Value>;

/// Reads files of result lines; what is no such line is left out.
pub fn read(files: &[String]) -> Lines {
    let mut last = Lines::new();
    for f in files {
        for l in std::fs::read_to_string(f).unwrap_or_default().lines() {
            let Ok(v) = serde_json::from_str::<Value>(l) else { continue };
            let t = |k: &str| v.get(k).map(|x| x.to_string().trim_matches('"').to_string()).unwrap_or_default();
            let who = match t("label") {
                l if l.is_empty() => t("profile"),
                l => format!("{} ({l})", t("profile")),
            };
            let phase = match t("scenario").as_str() {
                "idle" => format!("{:>8}", t("n")),
                "connect" => t("round"),
                _ => t("phase"),
            };
            last.insert((t("scenario"), who, phase), v);
        }
    }
    last
}

pub fn print(files: &[String]) {
    let last = read(files);
    for (scenario, cols) in COLUMNS {
        let rows: Vec<_> = last.iter().filter(|((s, _, _), _)| s == scenario).collect();
        if rows.is_empty() {
            continue;
        }
        println!("\n### {scenario}\n");
        println!("| peer | {} |", cols.iter().map(|c| c.0).collect::<Vec<_>>().join(" | "));
        println!("|---|{}", "---|".repeat(cols.len()));
        for ((_, who, _), v) in rows {
            let cells: Vec<String> = cols
                .iter()
                .map(|(_, p)| match v.pointer(p) {
                    None | Some(Value::Null) => "-".into(),
                    Some(Value::String(s)) => s.clone(),
                    Some(Value::Array(a)) => a.iter().map(|x| x.to_string()).collect::<Vec<_>>().join(" "),
                    Some(x) => x.to_string(),
                })
                .collect();
            println!("| {who} | {} |", cells.join(" | "));
        }
    }
}
