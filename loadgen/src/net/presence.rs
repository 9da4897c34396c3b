//! A member of a room that only tells where it is, again and again, and sees where the others are.
//!
//! A state carries when it was due, who set it and which of its states it is, so that whoever sees it knows
//! how long it took, and whether it is the latest.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use etherply_client::{Client, Event, Next, OpenOptions, StreamId};
use etherply_wire::Rights;
use etherply_wire::limits::{PRESENCE_BYTES_MAX, PRESENCE_TTL_MS_MAX};

use crate::net::Ctx;
use crate::net::session::{MemberOutcome, Session};
use crate::net::sync::client_of;
use crate::stats::{count, shift};
use crate::writer::Stamp;

/// Shortest state: its stamp and its number.
pub const STATE_BYTES_MIN: usize = 24;
/// Longest state.
pub const STATE_BYTES_MAX: usize = PRESENCE_BYTES_MAX;
/// When a state was due that says "I am here" after an open: nobody measures it.
const ANNOUNCEMENT_US: u64 = 0xFFFF_FFFF_FFFF;
/// A state that is set anew after this time cannot expire.
const RENEW_MS: u64 = PRESENCE_TTL_MS_MAX as u64 / 3;

/// A member's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    stamp: Stamp,
    /// Which of its member's states it is, counted from 1.
    number: u32,
}

impl State {
    fn text(self, bytes: usize) -> String {
        let mut text = self.stamp.text(16);
        text.push_str(&format!("{:08x}", self.number));
        text.extend(std::iter::repeat_n('.', bytes.saturating_sub(STATE_BYTES_MIN)));
        text
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let stamp = Stamp::parse(bytes)?;
        let number = std::str::from_utf8(bytes.get(16..STATE_BYTES_MIN)?).ok()?;
        Some(Self { stamp, number: u32::from_str_radix(number, 16).ok()? })
    }
}

/// What a member sees of its room.
#[derive(Debug)]
struct Room {
    own: u16,
    bytes: usize,
    /// The members behind sessions that are here.
    here: HashMap<[u8; 16], u16>,
    /// Number of each member's state as it is seen now; 0 where nothing is seen.
    seen: Vec<u32>,
    /// The highest number that was ever seen of each member.
    highest: Vec<u32>,
    /// States of others that were new.
    received: u64,
    /// States that came after a newer one of the same member.
    stale: u64,
}

impl Room {
    fn new(own: u16, members: u32, bytes: usize) -> Self {
        let nothing = vec![0; members as usize];
        let here = HashMap::new();
        Self { own, bytes, here, seen: nothing.clone(), highest: nothing, received: 0, stale: 0 }
    }

    /// A session's state. Tells when it was due if it is a new state of another member.
    fn set(&mut self, session: [u8; 16], bytes: &[u8]) -> Result<Option<u64>> {
        let state = State::parse(bytes).context("a state that nobody of this run set")?;
        if state.text(self.bytes).as_bytes() != bytes {
            bail!("a state with other contents than it was given");
        }
        let member = usize::from(state.stamp.writer);
        let missing = "a state of a member that this run has not";
        let (seen, highest) = (self.seen.get_mut(member), self.highest.get_mut(member));
        let (seen, highest) = (seen.context(missing)?, highest.context(missing)?);
        self.here.insert(session, state.stamp.writer);
        *seen = state.number;
        if state.stamp.writer == self.own || state.number == *highest {
            return Ok(None);
        }
        if state.number < *highest {
            self.stale += 1;
            return Ok(None);
        }
        *highest = state.number;
        self.received += 1;
        Ok(Some(state.stamp.due_us))
    }

    /// A session is gone. Tells whether it was here and another's.
    fn leave(&mut self, session: &[u8; 16]) -> bool {
        let Some(member) = self.here.remove(session) else { return false };
        // It may have come back under another session in between.
        if !self.here.values().any(|&other| other == member)
            && let Some(seen) = self.seen.get_mut(usize::from(member))
        {
            *seen = 0;
        }
        member != self.own
    }

    fn clear(&mut self) {
        self.here.clear();
        self.seen.fill(0);
    }
}

/// A member of a room.
pub struct PresenceSession {
    client: Client,
    stream: Option<StreamId>,
    document: u32,
    member: u32,
    is_ready: bool,
    is_open: bool,
    room: Room,
    /// How many states it set.
    made: u32,
    due_us: u64,
    set_at_ms: u64,
}

impl Session for PresenceSession {
    fn new(ctx: &Ctx, connection: u32) -> Self {
        let (document, member) = ctx.plan.place(connection);
        let own = u16::try_from(member).unwrap_or(u16::MAX);
        Self {
            client: client_of(ctx, connection),
            stream: None,
            document,
            member,
            is_ready: false,
            is_open: false,
            room: Room::new(own, ctx.plan.members, ctx.plan.value_bytes),
            made: 0,
            due_us: ANNOUNCEMENT_US,
            set_at_ms: 0,
        }
    }

    fn connect(&mut self, ctx: &Ctx) -> Result<()> {
        Ok(self.client.connect(ctx.now_ms())?)
    }

    fn receive(&mut self, bytes: &mut [u8], ctx: &Ctx) -> Result<()> {
        let Self { client, room, .. } = self;
        let (mut ready, mut opened, mut fault) = (false, false, None);
        let ended = client.input(bytes, ctx.now_ms(), &mut |event| {
            let taken = match event {
                Event::Ready { .. } => {
                    ready = true;
                    Ok(())
                }
                Event::Opened { .. } => {
                    opened = true;
                    Ok(())
                }
                event => take(event, room, ctx),
            };
            if let Err(error) = taken {
                fault.get_or_insert(error);
            }
        });
        if ready && !self.is_ready {
            self.is_ready = true;
            shift(&ctx.gauges.connected, 1);
        }
        ended?;
        fault.map_or(Ok(()), Err)?;
        if opened {
            self.is_open = true;
            shift(&ctx.gauges.opened, 1);
            self.made = self.made.max(1);
            self.tell(ctx)?;
        }
        Ok(())
    }

    fn output(&mut self, out: &mut Vec<u8>, ctx: &Ctx) {
        self.client.output(out, ctx.now_ms());
    }

    fn disconnected(&mut self, ctx: &Ctx) -> Next {
        let next = self.client.disconnected();
        // Nobody is seen without a connection, and whoever comes back is told anew.
        self.room.clear();
        if std::mem::take(&mut self.is_ready) {
            shift(&ctx.gauges.connected, -1);
        }
        if std::mem::take(&mut self.is_open) {
            shift(&ctx.gauges.opened, -1);
        }
        next
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn open(&mut self, ctx: &Ctx) -> Result<()> {
        let document = ctx.plan.document_name(self.document);
        let options = OpenOptions { document, rights: Rights::PRESENCE, token: None, cursor: None };
        self.stream = Some(self.client.open(options)?);
        Ok(())
    }

    fn edit(&mut self, due_us: u64, ctx: &Ctx) -> Result<()> {
        self.made += 1;
        self.due_us = due_us;
        count(&ctx.gauges.sent);
        self.tell(ctx)
    }

    fn tick(&mut self, ctx: &Ctx) {
        self.client.tick(ctx.now_ms());
        if self.is_open
            && ctx.now_ms().saturating_sub(self.set_at_ms) > RENEW_MS
            && let Err(error) = self.tell(ctx)
        {
            ctx.fail(&error);
        }
    }

    fn outcome(&mut self) -> MemberOutcome {
        MemberOutcome {
            document: self.document,
            member: self.member,
            seen: self.room.seen.clone(),
            made: self.made,
            received: self.room.received,
            duplicated: self.room.stale,
            ..MemberOutcome::default()
        }
    }
}

impl PresenceSession {
    /// Sets the latest state; without a connection it is set once there is one.
    fn tell(&mut self, ctx: &Ctx) -> Result<()> {
        let Some(stream) = self.stream.filter(|_| self.is_open) else { return Ok(()) };
        let stamp = Stamp { due_us: self.due_us, writer: u16::try_from(self.member)? };
        let state = State { stamp, number: self.made }.text(ctx.plan.value_bytes);
        self.set_at_ms = ctx.now_ms();
        Ok(self.client.set_presence(stream, state.as_bytes(), PRESENCE_TTL_MS_MAX)?)
    }
}

fn take(event: Event<'_>, room: &mut Room, ctx: &Ctx) -> Result<()> {
    match event {
        Event::Presence { full, entries, .. } => {
            if full {
                room.clear();
            }
            let now_us = ctx.run_us();
            for (session, state) in entries.iter() {
                if let Some(due_us) = room.set(session, state)? {
                    count(&ctx.gauges.received);
                    if due_us != ANNOUNCEMENT_US {
                        ctx.delivered(due_us, now_us)?;
                    }
                }
            }
        }
        Event::PresenceLeft { members, .. } => {
            for session in members {
                if room.leave(session)
                    && let Some(took_us) = ctx.since_moment_us()
                {
                    ctx.stats.borrow_mut().since_moment.record(took_us)?;
                }
            }
        }
        Event::OpenFailed { fault, .. } => bail!("a room could not be opened: {fault}"),
        Event::Closed { fault, .. } => bail!("the server closed a room: {fault}"),
        Event::Failed { fault, .. } => bail!("the server refused a state: {fault}"),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(writer: u16, number: u32, bytes: usize) -> String {
        State { stamp: Stamp { due_us: u64::from(number) * 10, writer }, number }.text(bytes)
    }

    #[test]
    fn the_latest_state_of_each_member_is_seen_and_what_is_older_is_stale() {
        let mut room = Room::new(0, 3, 40);
        assert_eq!(room.set([1; 16], state(1, 1, 40).as_bytes()).unwrap(), Some(10));
        assert_eq!(room.set([1; 16], state(1, 4, 40).as_bytes()).unwrap(), Some(40));
        assert_eq!(room.set([1; 16], state(1, 4, 40).as_bytes()).unwrap(), None, "the same again");
        assert_eq!(room.set([0; 16], state(0, 9, 40).as_bytes()).unwrap(), None, "its own");
        assert_eq!((room.received, room.stale, room.seen.as_slice()), (2, 0, &[9, 4, 0][..]));
        assert_eq!(room.set([1; 16], state(1, 3, 40).as_bytes()).unwrap(), None);
        assert_eq!((room.received, room.stale, room.seen.as_slice()), (2, 1, &[9, 3, 0][..]));
        for wrong in
            ["", "nonsense", &state(1, 5, 41), &state(3, 1, 40), &state(1, 5, 40).replace("...", "..,")]
        {
            assert!(room.set([1; 16], wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_left_is_not_seen_until_it_comes_back() {
        let mut room = Room::new(0, 3, 24);
        room.set([1; 16], state(1, 1, 24).as_bytes()).unwrap();
        room.set([2; 16], state(2, 1, 24).as_bytes()).unwrap();
        room.set([3; 16], state(2, 2, 24).as_bytes()).unwrap();
        assert!(room.leave(&[1; 16]) && !room.leave(&[1; 16]));
        assert!(room.leave(&[2; 16]), "an older session of a member that is still here");
        assert_eq!(room.seen, [0, 0, 2]);
        assert_eq!(room.set([4; 16], state(1, 1, 24).as_bytes()).unwrap(), None, "back with the same state");
        assert_eq!((room.seen.as_slice(), room.received), (&[0, 1, 2][..], 3));
        room.clear();
        assert_eq!(room.seen, [0, 0, 0]);
    }
}
