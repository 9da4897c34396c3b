//! The `etherply` command.

use std::process::ExitCode;

use etherply_server::{commands, settings};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let environment: Vec<_> = std::env::vars_os().collect();
    match settings::ask(&arguments, &environment) {
        Ok(asked) => commands::run(asked),
        Err(refused) => commands::refuse(refused),
    }
}
