//! How a stream begins and ends: what the server says to an `Open`, and its `Close`.

use etherply_wire::ErrorCode;
use etherply_wire::kinds::{Close, Cursor, Error, Opened, resume};

use super::{Context, Output, Replica, State, is_end};
use crate::rng::Rng;

impl Replica {
    pub(super) fn on_close(
        &mut self,
        close: &Close,
        context: Context,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        let was_asked = matches!(self.state, State::Closing { .. });
        self.state = State::Closed;
        match ErrorCode::from_number(close.code) {
            Some(ErrorCode::DocumentDeleted) => self.is_deleted = true,
            Some(ErrorCode::DocumentReset | ErrorCode::DocumentDamaged) => {}
            None if was_asked => {}
            Some(ErrorCode::ActorForked) => self.start_over(rng, out),
            Some(_) if was_asked => {}
            Some(ErrorCode::StorageUnavailable) => {}
            // It was asked what it has, and may not know any more what the server has.
            code if is_end(code, context) => {}
            // The server takes a clock that it asked for.
            Some(ErrorCode::ProtocolViolation) if self.is_out_of_turn => {}
            _ => return Err(format!("closed with {}: {}", close.code, close.message)),
        }
        self.end_stream();
        Ok(())
    }

    /// The document cannot be opened, now or ever.
    pub(crate) fn on_open_refused(&mut self, error: &Error, context: Context) -> Result<(), String> {
        self.state = State::Closed;
        self.opens_at_us = context.now_us + u64::from(error.retry_after_ms) * 1_000;
        match ErrorCode::from_number(error.code) {
            Some(ErrorCode::DocumentDeleted) => self.is_deleted = true,
            Some(ErrorCode::DocumentReset | ErrorCode::DocumentDamaged | ErrorCode::StorageUnavailable) => {}
            code if is_end(code, context) => {}
            _ => return Err(format!("{} is not opened: {}: {}", self.document, error.code, error.message)),
        }
        Ok(())
    }

    /// Is sent the document from its beginning. What it has of another epoch, as an own change that was acked before
    /// all that stands in front of it had come, may be in the document no longer.
    fn begin_epoch(&mut self, start: Cursor, handle: u32, rng: &mut Rng, out: &mut Output) {
        let is_behind = self.position.is_some_and(|cursor| cursor.epoch != start.epoch);
        if is_behind && !self.known.is_empty() {
            self.start_over(rng, out);
            out.frames.pop();
            self.state = State::Open { handle };
        }
        self.position = Some(start);
    }

    pub(crate) fn on_opened(
        &mut self,
        opened: &Opened,
        handle: u32,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        if self.is_deleted {
            return Err(format!("{} is open again, and was deleted", self.document));
        }
        let start = Cursor { epoch: opened.cursor.epoch, seq: 0, chain: [0; 32] };
        self.state = State::Open { handle };
        self.openings += 1;
        self.expires_ms = opened.expires_at_ms;
        match (opened.resume, self.position) {
            (resume::START, position) => {
                if self.force_reconcile || position.is_some_and(|cursor| cursor.seq > 0) {
                    return Err("a cursor was given, and passed over".to_owned());
                }
                self.begin_epoch(start, handle, rng, out);
            }
            (resume::SNAPSHOT, _) if !self.force_reconcile => self.begin_epoch(start, handle, rng, out),
            (resume::CURSOR, Some(position)) if position.epoch == start.epoch && !self.force_reconcile => {}
            (resume::RECONCILE, _) => {
                self.position = Some(start);
                self.state = State::Reconciling { handle, clock: Vec::new() };
            }
            // Nothing of this copy counts any more.
            (resume::RESET, Some(position)) if position.epoch < start.epoch => {
                self.start_over(rng, out);
                out.frames.pop();
                self.state = State::Open { handle };
                self.position = Some(start);
            }
            // A cursor that was made up, to have clocks compared.
            (resume::RESET, _) if self.force_reconcile => {
                self.start_over(rng, out);
                out.frames.pop();
                self.state = State::Open { handle };
                self.position = Some(start);
            }
            (how, position) => return Err(format!("resume {how} from {position:?}")),
        }
        self.force_reconcile = false;
        Ok(())
    }
}
