//! The `etherply` command.

use std::io::{IsTerminal as _, stderr};
use std::process::ExitCode;

use clap::Parser as _;
use etherply_server::cli::{Cli, Command, ExportArgs, LogFormat, ServeArgs};
use etherply_server::verify;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(&cli.serve),
        Some(Command::Serve(args)) => serve(&args),
        Some(Command::Export(args)) => export(&args),
        Some(Command::Verify(args)) => return verify::verify(&args),
        Some(Command::Repair(args)) => return verify::repair(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("etherply: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| format!("--log {}: {error}", args.log))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match args.log_format {
        LogFormat::Human => logs.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().init(),
    }
    etherply_server::serve::serve(args).map_err(|problem| problem.to_string())
}

fn export(args: &ExportArgs) -> Result<(), String> {
    let is_terminal = stderr().is_terminal();
    let exported = etherply_server::export::export(&args.data, &args.out, |done| {
        if is_terminal && done % 1_000 == 0 {
            eprintln!("{done} documents");
        }
    })
    .map_err(|error| error.to_string())?;
    let changes: u64 = exported.iter().map(|document| document.changes).sum();
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "documents": exported.len(), "changes": changes, "out": args.out })
        );
    } else {
        println!("{} documents with {changes} changes are in {}", exported.len(), args.out.display());
    }
    Ok(())
}
