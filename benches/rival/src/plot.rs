//! Bars as SVG: what a unit of work costs each peer, one chart a scenario and phase.

use serde_json::Value;
use std::fmt::Write;

/// Scenario, phase (empty: the last), where the figure is (the first of these that is there), what it is, its unit.
const CHARTS: &[(&str, &str, &[&str], &str, &str)] = &[
    ("idle", "", SERVERS_MEMORY, "Memory of an idle connection in the servers, without their backends", "kB"),
    ("connect", "1", &["/cpu_ms_per_conn/total"], "CPU to connect a known device", "ms"),
    ("fanout", "paced", &["/cpu_us_per_delivery/total"], "CPU a delivery, one to all", "us"),
    ("fanout", "burst", &["/cpu_us_per_delivery/total"], "CPU a delivery, 100 to all at once", "us"),
    ("unicast", "5000", &["/cpu_us_per_delivery/total"], "CPU a message to one user, 5 000 a second", "us"),
];
const SERVERS_MEMORY: &[&str] = &["/groups/nodes/pss_kb_per_conn", "/groups/server/pss_kb_per_conn"];
const WIDTH: f64 = 720.0;
const LEFT: f64 = 170.0;
const BAR: f64 = 18.0;

pub fn write(path: &str, files: &[String]) {
    let lines = crate::table::read(files);
    let (mut body, mut y) = (String::new(), 10.0);
    for (scenario, phase, pointers, title, unit) in CHARTS {
        let mut bars: Vec<(&str, f64)> = Vec::new();
        for ((of, peer, at), line) in &lines {
            let value = pointers.iter().find_map(|pointer| line.pointer(pointer)).and_then(Value::as_f64);
            let (true, Some(value)) = (of == scenario && (phase.is_empty() || at == phase), value) else { continue };
            // Without a phase the last, which has the most connections.
            if bars.last().is_some_and(|(last, _)| last == peer) {
                bars.pop();
            }
            bars.push((peer, value));
        }
        if !bars.is_empty() {
            y = chart(&mut body, y, &format!("{title} ({unit})"), &bars);
        }
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <style>text{{fill:#1f2328}}.bar{{fill:#9aa4b2}}.ours{{fill:#2f6feb}}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.bar{{fill:#6e7681}}.ours{{fill:#58a6ff}}}}</style>\n{body}</svg>\n"
    );
    std::fs::write(path, svg).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Adds a chart below `y`; answers where the next may begin.
fn chart(svg: &mut String, y: f64, title: &str, bars: &[(&str, f64)]) -> f64 {
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{title}</text>", y + 14.0);
    let mut at = y + 24.0;
    for (peer, value) in bars {
        let kind = if peer.starts_with("fanfare") { "ours" } else { "bar" };
        let width = (value / most * (WIDTH - LEFT - 80.0)).max(1.0);
        let text = at + BAR - 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{peer}</text>\
             <rect class=\"{kind}\" x=\"{LEFT}\" y=\"{at}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{value}</text>",
            LEFT - 8.0,
            BAR - 4.0,
            LEFT + width + 6.0
        );
        at += BAR;
    }
    at + 14.0
}
