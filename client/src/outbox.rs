//! Pushes of one document that are not on the server's disk yet, in causal order.
//!
//! Pushes are pipelined and go back N: a refusal makes the server pass over every later push of the same
//! generation, so the outbox sends the refused one and all behind it again, under a higher generation. What
//! is not acked survives disconnects; the server answers what it already has with an ack.

use std::collections::VecDeque;

use etherply_wire::ErrorCode;
use etherply_wire::kinds;

/// Most pushes that wait in one outbox.
pub const OUTBOX_PUSHES_MAX: usize = 65_536;
/// Most bytes of changes that wait in one outbox.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Changes that are pushed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Its number in this outbox, counted from 1.
    pub number: u64,
    /// What the application gave with it, to know it again.
    pub tag: u64,
    /// Bytes of each change.
    pub lengths: Vec<u32>,
    /// The changes, one behind the other.
    pub bytes: Vec<u8>,
}

impl Push {
    /// Each change's bytes.
    pub fn changes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map_while(move |&length| {
            let (change, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Some(change)
        })
    }
}

/// What a refusal means for the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is about a push that was sent anew since, or is acked.
    Stale,
    /// The outbox sends again by itself.
    Resends,
    /// The outbox holds until the application says what to do.
    Blocks,
}

/// How much is in flight: counted against the server's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Pushes that are not answered.
    pub pushes: usize,
    /// Bytes of their changes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Entry {
    push: Push,
    generation: u32,
    /// Its ack was told before: it is sent once more to be certain.
    is_told: bool,
}

/// The outbox. The first `sent` entries are in flight, each under the generation that it names.
#[derive(Debug)]
pub struct Outbox {
    entries: VecDeque<Entry>,
    sent: usize,
    /// Pushes that are acked, each with its last position, which the member has not come to: if the connection ends
    /// before it does, an older copy of the log, put back meanwhile, might lack them without anybody's noticing.
    ahead: VecDeque<(u64, Push)>,
    in_flight: InFlight,
    bytes: usize,
    generation: u32,
    last_number: u64,
    not_before_ms: u64,
    /// Nothing is sent while earlier pushes are in flight: their answers decide what comes next.
    settle: bool,
    blocked: Option<ErrorCode>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            sent: 0,
            ahead: VecDeque::new(),
            in_flight: InFlight::default(),
            bytes: 0,
            generation: 1,
            last_number: 0,
            not_before_ms: 0,
            settle: false,
            blocked: None,
        }
    }
}

impl Outbox {
    /// Whether a push of so many bytes has room.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.entries.len() + self.ahead.len() < OUTBOX_PUSHES_MAX && self.bytes + bytes <= OUTBOX_BYTES_MAX
    }

    /// Adds a push behind all others and returns its number. The caller has checked that there is room.
    pub fn add(&mut self, tag: u64, lengths: Vec<u32>, bytes: Vec<u8>) -> u64 {
        self.last_number += 1;
        self.bytes += bytes.len();
        let push = Push { number: self.last_number, tag, lengths, bytes };
        self.entries.push_back(Entry { push, generation: 0, is_told: false });
        self.last_number
    }

    /// Pushes that are not acked, the first to be sent first.
    pub fn unacked(&self) -> impl Iterator<Item = &Push> {
        self.entries.iter().map(|entry| &entry.push)
    }

    /// What a program that goes on later has to send: those, behind what is acked ahead of its cursor.
    pub fn to_be_saved(&self) -> impl Iterator<Item = &Push> {
        self.ahead.iter().map(|(_, push)| push).chain(self.unacked())
    }

    /// How many pushes are not acked.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything is acked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    /// Why nothing is sent until the application decides.
    pub fn blocked(&self) -> Option<ErrorCode> {
        self.blocked
    }

    /// Whether a push may be sent, as far as this document is concerned.
    pub fn can_send(&self, now_ms: u64) -> bool {
        self.wants_to_send() && now_ms >= self.not_before_ms
    }

    /// When a push may be sent that waits for nothing else than time.
    pub fn wakes_at_ms(&self) -> Option<u64> {
        self.wants_to_send().then_some(self.not_before_ms)
    }

    fn wants_to_send(&self) -> bool {
        self.blocked.is_none() && self.sent < self.entries.len() && !(self.settle && self.sent > 0)
    }

    /// Bytes of the push that would be sent next.
    pub fn next_bytes(&self) -> usize {
        self.entries.get(self.sent).map_or(0, |entry| entry.push.bytes.len())
    }

    /// Marks the next push as sent: its frame's body, and its changes for the tail.
    pub fn send(&mut self, now_ms: u64) -> Option<(kinds::Push, &[u8])> {
        if !self.can_send(now_ms) {
            return None;
        }
        let entry = self.entries.get_mut(self.sent)?;
        entry.generation = self.generation;
        self.sent += 1;
        self.settle = false;
        self.in_flight.pushes += 1;
        self.in_flight.bytes += entry.push.bytes.len();
        let push = &entry.push;
        let body =
            kinds::Push { push: push.number, generation: entry.generation, lengths: push.lengths.clone() };
        Some((body, &push.bytes))
    }

    /// A push is on disk, and its last position `ahead` of what the member has come to, if it is. Gives the push,
    /// and whether its ack is the first; `None` if it is not in flight.
    pub fn acked(&mut self, number: u64, ahead: Option<u64>) -> Option<(Push, bool)> {
        let index = self.sent_index(number)?;
        let Entry { push, is_told, .. } = self.entries.remove(index)?;
        self.sent -= 1;
        self.in_flight.pushes -= 1;
        self.in_flight.bytes -= push.bytes.len();
        match ahead {
            Some(seq) => self.ahead.push_back((seq, push.clone())),
            None => self.bytes -= push.bytes.len(),
        }
        self.release();
        Some((push, !is_told))
    }

    /// The member has come to this position: what is acked up to it is part of what it resumes from.
    pub fn passed(&mut self, seq: u64) {
        while let Some((_, push)) = self.ahead.pop_front_if(|(ahead, _)| *ahead <= seq) {
            self.bytes -= push.bytes.len();
        }
        if self.ahead.is_empty() {
            self.ahead = VecDeque::new();
        }
    }

    /// A push was not taken.
    pub fn refused(
        &mut self,
        number: u64,
        generation: u32,
        code: Option<ErrorCode>,
        not_before_ms: u64,
    ) -> Refusal {
        let index = self.sent_index(number);
        let current = |&index: &usize| self.entries.get(index).is_some_and(|e| e.generation == generation);
        let Some(index) = index.filter(current) else { return Refusal::Stale };
        self.take_back(index);
        self.generation = self.generation.max(generation).saturating_add(1);
        self.not_before_ms = not_before_ms;
        match code {
            // What an earlier push brings is not there yet: its answer has to come first. With no earlier
            // push, the outbox does not hold what the server lacks.
            Some(ErrorCode::MissingDependencies | ErrorCode::SequenceGap) if index > 0 => self.settle = true,
            Some(ErrorCode::MissingDependencies | ErrorCode::SequenceGap) => self.blocked = code,
            Some(code) if code.is_retryable() => {}
            other => self.blocked = Some(other.unwrap_or(ErrorCode::Internal)),
        }
        if self.blocked.is_some() { Refusal::Blocks } else { Refusal::Resends }
    }

    /// The connection is gone, or the stream is opened anew: everything unacked is sent again, and what was acked
    /// ahead of what the member had come to.
    pub fn rewind(&mut self) {
        self.take_back(0);
        while let Some((_, push)) = self.ahead.pop_back() {
            self.entries.push_front(Entry { push, generation: 0, is_told: true });
        }
        self.generation = self.generation.saturating_add(1);
        self.not_before_ms = 0;
        self.settle = false;
    }

    /// The stream may write, again perhaps: a block for want of that right ends, and what it held is sent again.
    pub fn may_write(&mut self) {
        self.blocked.take_if(|code| {
            matches!(code, ErrorCode::ReadOnly | ErrorCode::TokenExpired | ErrorCode::TokenRevoked)
        });
    }

    /// Ends a block by putting pushes, as lengths and bytes of changes that the server lacks, before everything
    /// else; with none, what is there is tried again as it is.
    pub fn supply(&mut self, tag: u64, pushes: Vec<(Vec<u32>, Vec<u8>)>) {
        self.blocked = None;
        if pushes.is_empty() {
            return;
        }
        self.take_back(0);
        self.generation = self.generation.saturating_add(1);
        let behind = std::mem::take(&mut self.entries);
        for (lengths, bytes) in pushes {
            self.add(tag, lengths, bytes);
        }
        self.entries.extend(behind);
    }

    /// Ends a block by giving back the refused push and all behind it, which may be built upon it.
    pub fn give_back(&mut self) -> Vec<Push> {
        self.blocked = None;
        let given: Vec<Entry> = self.entries.drain(self.sent..).collect();
        self.bytes -= given.iter().map(|entry| entry.push.bytes.len()).sum::<usize>();
        self.release();
        given.into_iter().filter(|entry| !entry.is_told).map(|entry| entry.push).collect()
    }

    fn sent_index(&self, number: u64) -> Option<usize> {
        self.entries.iter().take(self.sent).position(|entry| entry.push.number == number)
    }

    /// Everything from this entry on is no longer in flight.
    fn take_back(&mut self, index: usize) {
        for entry in self.entries.iter().take(self.sent).skip(index) {
            self.in_flight.pushes -= 1;
            self.in_flight.bytes -= entry.push.bytes.len();
        }
        self.sent = self.sent.min(index);
    }

    /// An outbox that is empty owns no memory: most of a load generator's, and of a game server's, are.
    fn release(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pushes: u8) -> Outbox {
        let mut outbox = Outbox::default();
        for index in 0..pushes {
            outbox.add(u64::from(index), vec![3], vec![index; 3]);
        }
        outbox
    }

    fn send_all(outbox: &mut Outbox) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| outbox.send(0).map(|(body, _)| (body.push, body.generation))).collect()
    }

    #[test]
    fn a_refusal_sends_again_from_there_under_a_higher_generation() {
        let mut outbox = filled(4);
        assert_eq!(send_all(&mut outbox), [(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert_eq!(outbox.refused(2, 1, Some(ErrorCode::Overloaded), 0), Refusal::Resends);
        assert_eq!(outbox.in_flight(), InFlight { pushes: 1, bytes: 3 });
        assert_eq!(send_all(&mut outbox), [(2, 2), (3, 2), (4, 2)]);
        assert_eq!(outbox.refused(3, 1, Some(ErrorCode::Overloaded), 0), Refusal::Stale);
        assert_eq!(outbox.acked(1, None).map(|(push, is_news)| (push.tag, is_news)), Some((0, true)));
        assert_eq!(outbox.acked(1, None), None);
        assert_eq!(outbox.len(), 3);
    }

    #[test]
    fn a_late_refusal_of_an_older_generation_takes_the_newer_back_too() {
        let mut outbox = filled(3);
        send_all(&mut outbox);
        outbox.refused(3, 1, Some(ErrorCode::Overloaded), 0);
        assert_eq!(send_all(&mut outbox), [(3, 2)]);
        assert_eq!(outbox.refused(1, 1, Some(ErrorCode::StorageUnavailable), 0), Refusal::Resends);
        assert_eq!(send_all(&mut outbox), [(1, 3), (2, 3), (3, 3)]);
    }

    #[test]
    fn time_to_wait_is_kept() {
        let mut outbox = filled(1);
        send_all(&mut outbox);
        outbox.refused(1, 1, Some(ErrorCode::Overloaded), 50);
        assert!(!outbox.can_send(49) && outbox.can_send(50));
        assert_eq!(outbox.wakes_at_ms(), Some(50));
    }

    #[test]
    fn what_the_outbox_cannot_mend_blocks_it_and_keeps_the_changes() {
        let mut outbox = filled(3);
        send_all(&mut outbox);
        assert_eq!(outbox.refused(2, 1, Some(ErrorCode::ActorForked), 0), Refusal::Blocks);
        assert!(outbox.send(0).is_none());
        assert_eq!(outbox.len(), 3);
        assert_eq!(outbox.give_back().iter().map(|push| push.number).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((outbox.blocked(), outbox.len()), (None, 1));
    }

    #[test]
    fn a_block_for_want_of_the_right_ends_with_the_right() {
        for (code, ends) in [
            (ErrorCode::ReadOnly, true),
            (ErrorCode::TokenExpired, true),
            (ErrorCode::TokenRevoked, true),
            (ErrorCode::ActorNotYours, false),
        ] {
            let mut outbox = filled(2);
            send_all(&mut outbox);
            assert_eq!(outbox.refused(1, 1, Some(code), 0), Refusal::Blocks);
            assert!(outbox.send(0).is_none());
            outbox.may_write();
            let again: &[(u64, u32)] = if ends { &[(1, 2), (2, 2)] } else { &[] };
            assert_eq!((send_all(&mut outbox).as_slice(), outbox.len()), (again, 2), "{code}");
        }
    }

    #[test]
    fn missing_dependencies_wait_for_earlier_answers_and_then_for_the_application() {
        let mut outbox = filled(2);
        send_all(&mut outbox);
        assert_eq!(outbox.refused(2, 1, Some(ErrorCode::MissingDependencies), 0), Refusal::Resends);
        assert_eq!(outbox.send(0), None, "the first push is not answered yet");
        outbox.acked(1, None);
        assert_eq!(send_all(&mut outbox), [(2, 2)]);
        assert_eq!(outbox.refused(2, 2, Some(ErrorCode::MissingDependencies), 0), Refusal::Blocks);
        outbox.supply(9, vec![(vec![1], vec![7]), (vec![1], vec![8])]);
        assert_eq!(send_all(&mut outbox), [(3, 4), (4, 4), (2, 4)]);
    }

    #[test]
    fn room_ends_at_the_limits() {
        let mut outbox = Outbox::default();
        outbox.add(0, vec![1], vec![0; OUTBOX_BYTES_MAX - 1]);
        assert!(outbox.has_room(0) && outbox.has_room(1) && !outbox.has_room(2));
        let mut outbox = Outbox::default();
        for _ in 0..OUTBOX_PUSHES_MAX - 1 {
            outbox.add(0, vec![], vec![]);
        }
        assert!(outbox.has_room(1));
        outbox.add(0, vec![], vec![]);
        assert!(!outbox.has_room(1));
    }

    #[test]
    fn what_is_acked_ahead_of_the_member_is_sent_again_if_the_connection_ends() {
        let mut outbox = filled(3);
        send_all(&mut outbox);
        // Others' changes stand before these two, and have not come.
        for (number, seq) in [(1, 5), (2, 7)] {
            assert_eq!(outbox.acked(number, Some(seq)).map(|(_, is_news)| is_news), Some(true));
        }
        assert_eq!((outbox.len(), outbox.bytes, outbox.to_be_saved().count()), (1, 9, 3));
        outbox.passed(4);
        assert_eq!(outbox.bytes, 9);
        outbox.passed(5);
        assert_eq!(
            (outbox.bytes, outbox.to_be_saved().count()),
            (6, 2),
            "one is part of what it resumes from"
        );
        outbox.rewind();
        let again: Vec<u64> = send_all(&mut outbox).into_iter().map(|(number, _)| number).collect();
        assert_eq!(again, [2, 3]);
        assert_eq!(outbox.acked(2, None).map(|(_, is_news)| is_news), Some(false), "it was told before");
        assert_eq!(outbox.acked(3, None).map(|(_, is_news)| is_news), Some(true));
        assert_eq!((outbox.bytes, outbox.in_flight()), (0, InFlight::default()));
    }

    #[test]
    fn who_gives_up_gets_back_what_was_never_acked() {
        let mut outbox = filled(2);
        send_all(&mut outbox);
        outbox.acked(1, Some(9)).unwrap();
        outbox.rewind();
        let given: Vec<u64> = outbox.give_back().iter().map(|push| push.number).collect();
        assert_eq!((given, outbox.bytes, outbox.is_empty()), (vec![2], 0, true));
    }

    #[test]
    fn what_is_acked_ahead_takes_room() {
        let mut outbox = Outbox::default();
        outbox.add(0, vec![1], vec![0; OUTBOX_BYTES_MAX - 1]);
        send_all(&mut outbox);
        outbox.acked(1, Some(2)).unwrap();
        assert!(outbox.has_room(1) && !outbox.has_room(2));
        outbox.passed(2);
        assert!(outbox.has_room(OUTBOX_BYTES_MAX));
    }
}
