//! The command line of Anabranch: `anabranch demo`, `serve`, `install`, `replica`, `inspect`, `backup`,
//! `outbox`, `doctor`, `limits`, `bench`.
//!
//! Everything it does is done by the other crates; here are only arguments, output, exit codes and
//! the demo's story. It is the one crate that prints.

mod args;
mod commands;
mod demo;
mod failure;
mod print;
mod store;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{BenchCommand, Cli, Command},
    failure::Failure,
};

/// Runs the command that the process was started with. The exit code is 0 where all went well, 1
/// where it did not, and 2 where the command line makes no sense.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let json = cli.json;
    match cli.command {
        Command::Demo(args) => on_tokio(demo::run(args, json)),
        Command::Serve(args) => on_tokio(commands::serve::run(args, json)).map(done),
        Command::Install(args) => on_tokio(commands::install::install(args, json)).map(done),
        Command::Uninstall(args) => on_tokio(commands::install::uninstall(args, json)).map(done),
        Command::Replica(command) => commands::replica::run(command, json).map(done),
        Command::Inspect(args) => commands::inspect::run(&args, json).map(done),
        Command::Backup { file, to } => commands::outbox::backup(&file, &to, json).map(done),
        Command::Outbox(command) => commands::outbox::run(&command, json).map(done),
        Command::Bench(BenchCommand::Merge(args)) => commands::bench::merge(args, json).map(done),
        Command::Doctor(args) => commands::doctor::run(&args, json),
        Command::Limits => {
            commands::limits::run(json);
            Ok(ExitCode::SUCCESS)
        }
    }
}

const fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Runs a future to its end on a runtime of its own.
fn on_tokio<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(future)
}
