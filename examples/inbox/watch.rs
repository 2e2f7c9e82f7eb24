//! What the kernel says of watched processes: CPU time and memory.
//!
//! Owns the reading of `/proc` (proc(5)). CPU time is of a process and all its descendants, those that have
//! ended and been waited for included, so it only grows.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;

/// `sysconf(_SC_CLK_TCK)`: 100 on every Linux of today.
const TICKS_A_SECOND: f64 = 100.0;

/// A process to watch.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    name: String,
    pid: u32,
}

/// CPU seconds, user and system together, by name.
#[derive(Debug)]
pub(super) struct CpuTimes(Vec<(String, f64)>);

/// Memory of one process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// `Pss` of `smaps_rollup`: its own pages, and its share of those that it shares.
    pub(super) pss: u64,
    /// `VmRSS`.
    pub(super) rss: u64,
}

impl Watched {
    /// Reads `NAME=PID`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or("must be NAME=PID")?;
        let pid = pid.parse().map_err(|error| format!("{pid:?}: {error}"))?;
        Ok(Self { name: name.to_owned(), pid })
    }

    /// Its memory, without its children's.
    pub(super) fn memory(&self) -> anyhow::Result<Memory> {
        Ok(Memory {
            pss: field(self.pid, "smaps_rollup", "Pss:")?,
            rss: field(self.pid, "status", "VmRSS:")?,
        })
    }
}

impl CpuTimes {
    /// All of now.
    pub(super) fn of(watched: &[Watched]) -> anyhow::Result<Self> {
        let processes = processes()?;
        let mut times: Vec<(String, f64)> = vec![];
        for one in watched {
            let ticks = ticks_of_tree(one.pid, &processes)
                .with_context(|| format!("{} (process {}) is gone", one.name, one.pid))?;
            let seconds = ticks as f64 / TICKS_A_SECOND;
            match times.iter_mut().find(|(name, _)| *name == one.name) {
                Some((_, sum)) => *sum += seconds,
                None => times.push((one.name.clone(), seconds)),
            }
        }
        Ok(Self(times))
    }

    /// What was used since `before`, by name, in the order of the command line.
    pub(super) fn since(&self, before: &Self) -> Vec<(String, f64)> {
        let spent = self.0.iter().zip(&before.0).map(|((name, now), (_, then))| (name.clone(), now - then));
        spent.collect()
    }
}

/// Prints one line for each name: CPU seconds, and microseconds a unit.
pub(super) fn print_cpu(spent: &[(String, f64)], units: u64, unit: &str) {
    for (name, seconds) in spent {
        let each = seconds * 1e6 / units.max(1) as f64;
        println!("CPU of {name}: {seconds:.2} s, {each:.1} us a {unit}");
    }
}

/// The three load averages.
pub(super) fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

struct Process {
    parent: u32,
    ticks: u64,
}

fn processes() -> anyhow::Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the listing and the reading.
        if let Some(process) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(stat)
        {
            found.insert(pid, process);
        }
    }
    Ok(found)
}

fn stat(text: &str) -> Option<Process> {
    // The name, in parentheses, may hold anything; what follows starts with field 3, the state.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    // utime, stime, cutime, cstime.
    let ticks = (14..=17).map(number).sum::<Option<u64>>()?;
    Some(Process { parent: u32::try_from(number(4)?).ok()?, ticks })
}

fn ticks_of_tree(root: u32, processes: &BTreeMap<u32, Process>) -> Option<u64> {
    let own = processes.get(&root)?.ticks;
    let children = processes.iter().filter(|(_, process)| process.parent == root);
    let below = children.filter_map(|(pid, _)| ticks_of_tree(*pid, processes)).sum::<u64>();
    Some(own + below)
}

/// A field in kB of a file of `/proc/PID`, in bytes.
fn field(pid: u32, file: &str, name: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes =
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("{path} has no {name}"))? * 1024)
}
