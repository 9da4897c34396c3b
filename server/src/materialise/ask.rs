//! The way of a task to a thread of this module. Whoever gives one away hears what becomes of it, also where nobody can
//! take it.

use flume::{Sender, TrySendError};

/// A task that somebody waits for.
pub(super) trait Asked {
    /// Says to whoever waits for it that it is not done.
    fn refuse(self, why: &str);
}

/// Hands a task on; it is refused where nobody does such things, and where the queue is full. Never blocks: executors
/// ask.
pub(super) fn ask<T: Asked>(tasks: Option<&Sender<T>>, task: T) {
    let Some(tasks) = tasks else { return task.refuse("the server does not do that, or stops") };
    match tasks.try_send(task) {
        Ok(()) => {}
        Err(TrySendError::Full(task)) => task.refuse("too many documents wait for the same: try again later"),
        Err(TrySendError::Disconnected(task)) => task.refuse("the server stops"),
    }
}
