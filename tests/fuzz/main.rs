//! Mutated input for whatever reads what others send: frames, client frames, requests, envelopes, AMQP properties and headers.
//!
//! `cargo test --test fuzz` gives each target ten seconds; CONTRIBUTING.md says what can be chosen. A program of its
//! own and no list of tests: it ends by the clock, not when a case is done. It must not know what a target checks.

mod input;
mod mutation;
mod targets;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use mutation::Mutation;
use targets::Target;

/// How many inputs that showed something new are kept to go on from.
const POOL: usize = 2_000;
/// What this program may ever have used of memory: inputs are small, and so must be what is made of them.
const MEMORY_BYTES: u64 = 256 << 20;
/// How long one input may take; generous, as machines are busy.
const SLOW: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let setting = |name| std::env::var(name).ok();
    let seconds = setting("FUZZ_SECONDS").map_or(10, |text| text.parse().expect("FUZZ_SECONDS is a number"));
    let seed = setting("FUZZ_SEED").map(|text| text.parse().expect("FUZZ_SEED is a number"));
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let name = setting("FUZZ_TARGET");
    let all = targets::all();
    let chosen: Vec<&Target> =
        all.iter().filter(|target| name.as_deref().is_none_or(|name| name == target.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|target| target.name).collect();
        eprintln!("there is no target {:?}; there are: {}", name.unwrap_or_default(), names.join(", "));
        return ExitCode::from(2);
    }
    let outcome = match setting("FUZZ_INPUT") {
        Some(hex) => input::from_hex(&hex).and_then(|input| replay(&chosen, &input)),
        None => chosen.iter().try_for_each(|target| fuzz(target, seed, Duration::from_secs(seconds))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// One input again, as an earlier run printed it.
fn replay(chosen: &[&Target], input: &[u8]) -> Result<(), String> {
    for target in chosen {
        println!("{}: {}", target.name, run(target, input)?);
    }
    Ok(())
}

fn fuzz(target: &Target, seed: u64, time: Duration) -> Result<(), String> {
    println!("{}: FUZZ_SEED={seed}, {} s", target.name, time.as_secs());
    let mut hash = DefaultHasher::new();
    (seed, target.name).hash(&mut hash);
    let mut mutation = Mutation { random: StdRng::seed_from_u64(hash.finish()), words: target.words };
    let mut pool = (target.corpus)();
    let (mut seen, mut tried) = (HashSet::new(), 0_u64);
    let explain = |what: String, input: &[u8]| {
        let hex = input::to_hex(input);
        format!(
            "{}: {what}\nthe input: {:?}\nagain: FUZZ_TARGET={} FUZZ_INPUT={hex} cargo test --test fuzz",
            target.name,
            input.escape_ascii().to_string(),
            target.name
        )
    };
    for input in &pool {
        seen.insert(run(target, input).map_err(|what| explain(what, input))?);
    }
    let until = Instant::now() + time;
    while Instant::now() < until {
        let input = mutation.next(&pool);
        tried += 1;
        let kind = run(target, &input).map_err(|what| explain(what, &input))?;
        if pool.len() < POOL && seen.insert(kind) {
            pool.push(input);
        }
    }
    let used = most_memory();
    println!("{}: {tried} inputs of {} kinds, at most {} MiB", target.name, seen.len(), used >> 20);
    if used > MEMORY_BYTES {
        return Err(format!("{}: more than {} MiB were used", target.name, MEMORY_BYTES >> 20));
    }
    Ok(())
}

/// What kind of input it was, or what is wrong.
fn run(target: &Target, input: &[u8]) -> Result<String, String> {
    let start = Instant::now();
    let checked = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    let kind = checked.unwrap_or_else(|_| Err("it panicked".to_owned()))?;
    match start.elapsed() {
        took if took > SLOW => Err(format!("it took {took:?}")),
        _ => Ok(kind),
    }
}

/// The most memory that this process has ever had in use (Linux: `VmHWM`), in bytes.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1_024
}
