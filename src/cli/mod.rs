//! The command line: what `fanfare` can be asked to do, and how it answers people.
//!
//! Owns arguments, help and exit codes: 0 done, 1 failed (one line to standard error says what
//! to change), 2 wrong usage. Results go to standard output. The server itself is the node's.

mod args;
mod check;
mod dead_letters;
mod desk;
mod failure;
mod inbox;
mod listen;
mod output;
mod place;
mod problem;
mod publish;
mod revocations;
mod seam;
mod serve;
mod token;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use args::{Arguments, Command};
use failure::Failure;

/// Runs the program with the arguments and the environment of this process.
pub fn main() -> ExitCode {
    let Arguments { command, config } = Arguments::parse();
    let sources = crate::config::Sources::of_process(config);
    let outcome = match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::serve(&sources),
        Command::Migrate => serve::migrate(&sources),
        Command::Check { json } => check::check(&sources, json),
        Command::Completions { shell } => completions(shell),
        Command::Token { what } => token::token(&what, &sources),
        Command::Inbox { what } => inbox::inbox(&what, &sources),
        Command::Publish(arguments) => publish::publish(&arguments, &sources),
        Command::DeadLetters(arguments) => dead_letters::dead_letters(&arguments, &sources),
        Command::Revocations(arguments) => revocations::revocations(&arguments, &sources),
        Command::Listen(arguments) => listen::listen(&arguments, &sources),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show();
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "fanfare", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}

/// Runs a client command to its end on one thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // reqwest and tungstenite share the TLS provider; that it is installed already is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?.block_on(work)
}
