//! Real parts broken under load, each with an exact account: nothing that was accepted is lost.
//!
//! `tests/faults/run` starts it; `tests/faults/run NAME…` runs some of the faults, `SEED=17` chooses as
//! another run did, `FAULTS_RATE=250` demands a smaller load of a slow machine. A program of its own and not a list of tests: the faults share one cluster, which is dear to start.
#![expect(unreachable_pub, reason = "modules of one program speak through pub items")]

#[expect(dead_code, unused_imports, reason = "shared with tests/it, which needs more of it")]
#[path = "../it/support/mod.rs"]
mod support;

mod account;
mod amqp;
mod books;
mod course;
mod crowd;
mod device;
mod faults;
mod load;
mod postgres;
mod rabbit;
mod rolling;
mod signs;
mod stage;
mod table;
mod verdict;

use std::process::ExitCode;
use std::time::Instant;

use faults::Fault;
use stage::Stage;
use table::table;
use verdict::Row;

/// Accepted a second before each fault: less proves less.
const RATE: f64 = 500.0;

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let unknown = names.iter().find(|name| Fault::all().all(|fault| fault.name() != **name));
    if let Some(name) = unknown {
        let known: Vec<&str> = Fault::all().map(Fault::name).collect();
        eprintln!("there is no fault {name:?}; there are:\n  {}", known.join("\n  "));
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rate = std::env::var("FAULTS_RATE");
    let demand = rate.map_or(RATE, |rate| rate.parse().expect("FAULTS_RATE is a number"));
    let (rows, farewell) = runtime.block_on(run(&names, demand));
    println!("\n{}\n{farewell}", table(&rows));
    let bad: Vec<&str> = rows.iter().filter(|row| !row.wrong.is_empty()).map(|row| row.name).collect();
    println!(
        "{} faults, {} went wrong{}{}",
        rows.len(),
        bad.len(),
        if bad.is_empty() { "" } else { ": " },
        bad.join(", ")
    );
    if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Answers the rows, and what became of the cursors at the end.
async fn run(names: &[String], demand: f64) -> (Vec<Row>, String) {
    let began = Instant::now();
    let seed =
        std::env::var("SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    let mut stage = Stage::start(seed).await;
    println!("{:>6.1} s: everything is up", began.elapsed().as_secs_f64());
    let (mut rows, mut on_clusters) = (vec![], false);
    for fault in
        Fault::all().filter(|fault| names.is_empty() || names.iter().any(|name| name == fault.name()))
    {
        if fault.needs_clusters() && !on_clusters {
            stage.move_to_clusters().await;
            on_clusters = true;
        }
        if let Some(settings) = fault.needs_three_nodes() {
            stage.move_to_all(settings).await;
        }
        let row = course::run(&mut stage, fault, demand).await;
        println!(
            "{:>6.1} s: {}",
            began.elapsed().as_secs_f64(),
            table(std::slice::from_ref(&row)).lines().nth(2).unwrap_or_default()
        );
        for what in &row.wrong {
            println!("          WRONG: {what}");
        }
        if !row.wrong.is_empty() {
            println!("{}", stage.warnings());
        }
        rows.push(row);
        // After each one: a run that is ended early leaves what it has found.
        if let Ok(path) = std::env::var("FAULTS_TABLE") {
            std::fs::write(&path, table(&rows)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
    let (cursors, behind, mut wrong) = stage.farewell(course::FLUSH).await;
    let farewell = format!("{cursors} cursors of topics and everyone at the end, {behind} of them behind");
    if behind > 0 {
        wrong.push(farewell.clone());
    }
    for what in &wrong {
        println!("          WRONG: {what}");
    }
    if let Some(row) = rows.last_mut() {
        row.wrong.extend(wrong);
    }
    (rows, farewell)
}
