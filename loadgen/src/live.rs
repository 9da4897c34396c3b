//! The progress line in a terminal. Elsewhere each stage is one line on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::stats::{Gauges, level, read};

/// How often the line is renewed and a condition looked at.
const EVERY: Duration = Duration::from_millis(20);

/// The line.
pub struct Live {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Live {
    /// A line on standard error.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        Self { bar, is_terminal: std::io::stderr().is_terminal() }
    }

    /// A stage begins.
    pub fn stage(&self, what: &str) {
        if self.is_terminal {
            self.bar.set_message(what.to_owned());
            self.bar.tick();
        } else {
            eprintln!("{what}");
        }
    }

    /// Says something that stays.
    pub fn say(&self, what: &str) {
        self.bar.suspend(|| eprintln!("{what}"));
    }

    /// Waits until `done`, showing the figures; tells whether that came within `limit`.
    pub fn wait(&self, what: &str, gauges: &Gauges, limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        self.stage(what);
        let begun = Instant::now();
        loop {
            let is_done = done();
            if is_done || begun.elapsed() >= limit {
                return is_done;
            }
            if self.is_terminal {
                let figures = format!(
                    "{what}: {} connected, {} open, {} in sync, {} cut, {} edits, {} acked, {} deliveries, {} in flight",
                    level(&gauges.connected),
                    level(&gauges.opened),
                    level(&gauges.in_sync),
                    read(&gauges.cut),
                    read(&gauges.sent),
                    read(&gauges.acked),
                    read(&gauges.received),
                    level(&gauges.in_flight),
                );
                self.bar.set_message(figures);
                self.bar.tick();
            }
            std::thread::sleep(EVERY);
        }
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
