//! The `etherply` command.

use std::io::{BufWriter, IsTerminal as _, Read as _, Write as _, stderr, stdout};
use std::process::ExitCode;

use clap::Parser as _;
use etherply_server::access::command;
use etherply_server::administration::DELETE_PATH;
use etherply_server::backup::{self, BackupError, Summary};
use etherply_server::cli::{
    BackupArgs, BackupCommand, Cli, Command, DeleteArgs, ExportArgs, HistoryArgs, LogFormat, RestoreArgs,
    ServeArgs,
};
use etherply_server::operator;
use etherply_server::verify;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(&cli.serve),
        Some(Command::Serve(args)) => serve(&args),
        Some(Command::Export(args)) => export(&args),
        Some(Command::Quarantine(args)) => {
            etherply_server::materialise::command::run(&args.command, &mut stdout().lock())
        }
        Some(Command::History(args)) => history(&args),
        Some(Command::Backup(args)) => take_backup(&args),
        Some(Command::Restore(args)) => restore(&args),
        Some(Command::Verify(args)) => return verify::verify(&args),
        Some(Command::Repair(args)) => return verify::repair(&args),
        Some(Command::Delete(args)) => delete(&args),
        Some(Command::Keys(args)) => command::run_keys(&args, &mut stdout().lock()),
        Some(Command::Token(args)) => command::run_token(&args, command::now_s(), &mut stdout().lock()),
        Some(Command::Revoke(args)) => command::run_revoke(&args, &mut stdout().lock()),
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

fn history(args: &HistoryArgs) -> Result<(), String> {
    let mut out = BufWriter::new(stdout().lock());
    let done = etherply_server::history::command::run(args, &mut out).map_err(|error| error.to_string());
    done.and_then(|()| out.flush().map_err(|error| error.to_string()))
}

fn take_backup(args: &BackupArgs) -> Result<(), String> {
    if let Some(BackupCommand::Verify(args)) = &args.command {
        let checked = backup::file::verify(&args.file, &mut bytes_shown("checked"));
        return summarize(checked, args.json, |summary| format!("{}: {summary}", args.file.display()));
    }
    let key = args.operator_key.as_deref().map(operator::read_key_file).transpose();
    let key = key.map_err(|error| error.to_string())?;
    let source = match (&args.control, &args.data) {
        (Some(url), _) => backup::file::Source::Control { url, key: key.as_deref() },
        (None, Some(data)) => backup::file::Source::Data(data),
        (None, None) => return Err("backup: say of what, by --control or --data".to_owned()),
    };
    let Some(to) = &args.to else { return Err("backup: say where to, by --to".to_owned()) };
    let taken = backup::file::backup(source, to, &mut bytes_shown("written"));
    summarize(taken, args.json, |summary| format!("{} holds {summary}", to.display()))
}

fn restore(args: &RestoreArgs) -> Result<(), String> {
    let (mut writing, mut comparing) = (bytes_shown("restored"), bytes_shown("compared"));
    let restored = backup::restore::restore(&args.file, &args.data, &mut |step, bytes| match step {
        backup::restore::Step::Writing => writing(bytes),
        backup::restore::Step::Comparing => comparing(bytes),
    });
    summarize(restored, args.json, |summary| {
        format!(
            "{} holds {summary}\nEvery document has a new epoch: clients compare what they have, and bring what \
             the backup lacks",
            args.data.display()
        )
    })
}

/// Says on a terminal how many bytes are done, now and then.
fn bytes_shown(done: &'static str) -> impl FnMut(u64) {
    const EVERY_BYTES: u64 = 64 * 1024 * 1024;
    let (is_terminal, mut next) = (stderr().is_terminal(), EVERY_BYTES);
    move |bytes| {
        if is_terminal && bytes >= next {
            eprintln!("{} MiB {done}", bytes / (1024 * 1024));
            next = bytes + EVERY_BYTES;
        }
    }
}

/// Prints what a backup holds. One that names damaged documents is there, and is still a failure.
fn summarize(
    done: Result<Summary, BackupError>,
    json: bool,
    say: impl FnOnce(&Summary) -> String,
) -> Result<(), String> {
    let summary = done.map_err(|error| error.to_string())?;
    if json {
        println!("{}", serde_json::json!(summary));
    } else {
        println!("{}", say(&summary));
    }
    if summary.damaged == 0 {
        return Ok(());
    }
    let mut message = format!(
        "{} documents were damaged when the backup was taken; it has what stands before the damage:",
        summary.damaged
    );
    for damaged in &summary.damaged_documents {
        message
            .push_str(&format!("\n  {} from position {}: {}", damaged.document, damaged.seq, damaged.what));
    }
    Err(message)
}

fn delete(args: &DeleteArgs) -> Result<(), String> {
    let key = operator::read_key(&args.data).map_err(|error| error.to_string())?;
    let mut answer = operator::post(&args.control, DELETE_PATH, Some(&key), &args.document)
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    answer.read_to_string(&mut text).map_err(|error| format!("the answer breaks off: {error}"))?;
    println!("{} {}", args.document, text.trim());
    Ok(())
}
