//! How fast a connection is read from. It pays for what it sent once that was acted upon; while a bucket owes, it is
//! not read from, and its peer's TCP waits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, State};
use crate::runtime;
use crate::throttle::{Held, Ticket};

/// What a connection owes, and to whom.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Its place among those of its address; one without does not pay.
    pub(super) ticket: Option<Box<Ticket>>,
    /// Operations that are not paid for.
    operations: u64,
    /// Bytes that are not paid for, beside those of frames.
    bytes: u64,
    /// Until when it is not read from; 0 if it is.
    held_until_us: u64,
    has_timer: bool,
}

impl Pace {
    pub(super) fn new(ticket: Option<Box<Ticket>>) -> Self {
        Self { ticket, ..Self::default() }
    }

    /// It has asked for so much.
    pub(super) fn count(&mut self, operations: u64) {
        self.operations += operations;
    }

    /// It has sent so many bytes that belong to no frame.
    pub(super) fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Its tokens are of this subject.
    pub(super) fn belongs_to(&mut self, subject: &Arc<str>, now_us: u64) {
        if let Some(ticket) = &mut self.ticket {
            ticket.belongs_to(subject, now_us);
        }
    }

    /// It has closed a document.
    pub(super) fn forget(&mut self, handle: u32) {
        if let Some(ticket) = &mut self.ticket {
            ticket.forget(handle);
        }
    }

    /// Another core has it from now on.
    pub(super) fn depart(&mut self) {
        self.has_timer = false;
    }

    pub(super) fn is_held(&self) -> bool {
        self.held_until_us > 0
    }

    fn hold(&mut self, held: Option<(u64, Held)>, now_us: u64) -> Option<Held> {
        let (held_us, why) = held?;
        self.held_until_us = self.held_until_us.max(now_us + held_us);
        Some(why)
    }
}

/// Pays for what was acted upon of what a connection sent.
pub(super) fn pay(state: &mut State, id: u64, bytes: usize) {
    let State { connections, setup, .. } = state;
    let Some(pace) = connections.get_mut(id).map(|connection| &mut connection.pace) else { return };
    let (operations, own_bytes) = (std::mem::take(&mut pace.operations), std::mem::take(&mut pace.bytes));
    let Some(ticket) = &pace.ticket else { return };
    let now_us = setup.now_us();
    let held = ticket.charge(operations, own_bytes + bytes as u64, now_us);
    if let Some(why) = pace.hold(held, now_us) {
        setup.metrics.held.with_label_values(&[why.name()]).inc();
    }
}

/// Pays for changes that a connection pushes to a document.
pub(super) fn pay_document(state: &mut State, id: u64, handle: u32, changes: usize, bytes: usize) {
    let State { connections, setup, .. } = state;
    let Some(pace) = connections.get_mut(id).map(|connection| &mut connection.pace) else { return };
    // The frame itself counts as one.
    pace.count((changes as u64).saturating_sub(1));
    let Some(ticket) = &mut pace.ticket else { return };
    let now_us = setup.now_us();
    let held = ticket.charge_document(handle, changes as u64, bytes as u64, now_us);
    if let Some(why) = pace.hold(held, now_us) {
        setup.metrics.held.with_label_values(&[why.name()]).inc();
    }
}

/// Whether a connection is held back; it is woken when it is not any more.
pub(super) fn is_held_back(core: &Rc<Core>, id: u64) -> bool {
    let mut state = core.state.borrow_mut();
    let now_us = state.setup.now_us();
    let Some(connection) = state.connections.get_mut(id) else { return false };
    let pace = &mut connection.pace;
    if pace.held_until_us <= now_us {
        pace.held_until_us = 0;
        return false;
    }
    connection.is_paused = true;
    let left = Duration::from_micros(pace.held_until_us - now_us);
    if !std::mem::replace(&mut pace.has_timer, true) {
        drop(state);
        let core = Rc::clone(core);
        runtime::spawn(async move {
            runtime::sleep(left).await;
            if let Some(connection) = core.state.borrow_mut().connections.get_mut(id) {
                connection.pace.has_timer = false;
                connection.wake();
            }
        });
    }
    true
}
