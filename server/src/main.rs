//! The `etherply` command.

use std::process::ExitCode;

use clap::Parser as _;
use etherply_server::cli::{Cli, Command};
use etherply_server::commands;

fn main() -> ExitCode {
    let Cli { command, serve } = Cli::parse();
    commands::run(command.unwrap_or(Command::Serve(serve)))
}
