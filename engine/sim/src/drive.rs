//! What a server does around the engine: it hands inputs to shards, and carries effects out.

use std::sync::Arc;

use etherply_engine::access::{Grant, Revocation, Revoked};
use etherply_engine::document::Recovery;
use etherply_engine::feed::Gathered;
use etherply_engine::log::{Deleted, LogError, LogReader};
use etherply_engine::peer::{Now, Peer};
use etherply_engine::placement::shard_of;
use etherply_engine::shard::{Effect, Input, Observation, OpenRequest, PushRequest, Shard};
use etherply_wire::kinds::{
    Ack, BroadcastSend, Hello, LimitEntry, Open, Ping, Pong, PresenceSet, Push, Reconcile, Renew, Welcome,
};
use etherply_wire::{ErrorCode, Frame, Kind, PROTOCOL, Rights, encode, limits};

use crate::disk::Waiting;
use crate::frames::{body, parse};
use crate::network::Way;
use crate::rights::is_taken;
use crate::scenario::Trouble;
use crate::server::{Connection, Message, Query, Read, Server, SnapshotRead};
use crate::world::{Event, Link, World};

/// How often a core is told the time.
const TICK_US: u64 = 500_000;

impl World {
    /// A new life of the server.
    pub(crate) fn start(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.lives += 1;
        let other = [2, 3, 4, 8].get(self.rng.index(4)).copied().unwrap_or(2);
        let other = if self.scenario.cores.is_some() { self.config.cores } else { other };
        let cores = if self.rng.chance(70) { self.config.cores } else { other };
        self.server = Some(Server::new(self.lives, cores, self.config.budget, self.config.feeds));
        let life = self.lives;
        self.after(TICK_US, Event::Tick { life });
    }

    fn now(&self) -> Now {
        // The wall clock goes where it likes, 1970 included.
        let wall_ms = 1_700_000_000_000 + (self.now_us / 1_000).wrapping_mul(7) % 10_000;
        let wall_ms = wall_ms.saturating_add_signed(self.wall_offset_ms);
        Now { mono_us: self.now_us, wall_ms }
    }

    /// Sends a message from core to core; those of one pair stay in order.
    pub(crate) fn post(&mut self, from: u16, to: u16, message: Message) {
        let delay_us = self.rng.below(self.config.core_delay_us);
        let Some(server) = &mut self.server else { return };
        let last = server.channels.entry((from, to)).or_insert(0);
        *last = (*last).max(self.now_us + delay_us);
        let (at_us, life) = (*last, server.life);
        self.at(at_us, Event::Core { life, core: to, message });
    }

    /// The log is opened again after a failure, without a restart.
    pub(crate) fn reopen(&mut self) {
        let documents = self.disk.reopen(&mut self.rng);
        self.count("log reopened");
        self.trace.note(self.now_us, "log reopened", &[documents.len() as u8]);
        let cores = self.server.as_ref().map_or(0, Server::shards);
        for core in 0..cores {
            // The storage thread tells each core behind what it told it before.
            let (era, documents) = (self.disk.era, documents.clone());
            self.post(u16::MAX, core, Message::StorageRecovered { era, documents });
        }
    }

    /// A message is at its core.
    pub(crate) fn deliver(&mut self, core: u16, message: Message) {
        if let Some(server) = &mut self.server
            && let Some(core) = server.cores.get_mut(usize::from(core))
        {
            core.inbox.push_back(message);
        }
        self.turn_soon(core);
    }

    /// A core has something to do.
    pub(crate) fn wake(&mut self, core: u16) {
        self.turn_soon(core);
    }

    fn turn_soon(&mut self, number: u16) {
        let Some(server) = &mut self.server else { return };
        let Some(core) = server.cores.get_mut(usize::from(number)).filter(|core| !core.turn_due) else {
            return;
        };
        core.turn_due = true;
        let life = server.life;
        let delay_us = self.rng.below(self.config.core_delay_us);
        self.after(delay_us, Event::Turn { life, core: number });
    }

    pub(crate) fn tick(&mut self, life: u64) {
        let cores = self.server.as_ref().map_or(0, Server::shards);
        for core in 0..cores {
            self.deliver(core, Message::Tick);
        }
        self.after(TICK_US, Event::Tick { life });
    }

    /// A core works off its inbox, lets its batch go, and sends its members what they lack.
    pub(crate) fn turn(&mut self, number: u16) -> Result<(), String> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(number)) else { return Ok(()) };
        core.turn_due = false;
        let inbox = std::mem::take(&mut core.inbox);
        for message in inbox {
            self.message(number, message)?;
        }
        let mut effects = Vec::new();
        if let Some(server) = &mut self.server
            && let Some(core) = server.cores.get_mut(usize::from(number))
        {
            core.shard.flush(&mut effects);
        }
        self.carry_out(number, effects)?;
        self.gather(number)?;
        self.bounds(number)
    }

    fn message(&mut self, number: u16, message: Message) -> Result<(), String> {
        let now = self.now();
        // What a home is not asked, it cannot see the time at.
        let asks_home =
            !matches!(message, Message::Effect(_) | Message::Read { .. } | Message::SnapshotRead { .. });
        if self.config.tokens && asks_home {
            let cores = self.server.as_ref().map_or(1, Server::shards);
            self.check.ends.at(number, cores, now.wall_ms, self.now_us);
        }
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(number)) else { return Ok(()) };
        let shard = &mut core.shard;
        let mut effects = Vec::new();
        let out = &mut effects;
        match message {
            Message::Effect(effect) => return self.apply(number, effect),
            Message::Read { handle, number: member, peer, read } => {
                let mut woken = Vec::new();
                let wake = |peer, _| woken.push(peer);
                match read {
                    Read::Records(records) if core.feeds.fill(handle, member, peer, &records) => {
                        woken.push(peer)
                    }
                    Read::Records(_) => {}
                    Read::Covered(snapshot) => core.feeds.covered(handle, member, peer, snapshot, wake),
                }
                for peer in woken {
                    if let Some(connection) = core.connections.get_mut(&peer.id) {
                        connection.ready.insert(handle);
                    }
                }
                return Ok(());
            }
            Message::SnapshotRead { handle, request, read } => {
                let mut woken = Vec::new();
                let wake = |peer, _| woken.push(peer);
                let mut failed = Vec::new();
                match read {
                    SnapshotRead::Chunks(chunks) => {
                        core.feeds.snapshot_read(handle, &request.snapshot, chunks, wake);
                    }
                    SnapshotRead::Replaced(newer) => core.feeds.snapshot_replaced(handle, newer, wake),
                    SnapshotRead::Failed => failed = core.feeds.snapshot_failed(handle, &request.snapshot),
                }
                for peer in woken {
                    if let Some(connection) = core.connections.get_mut(&peer.id) {
                        connection.ready.insert(handle);
                    }
                }
                let home = Shard::home_of(handle, self.server.as_ref().map_or(1, Server::shards));
                for (peer, _) in failed {
                    let code = ErrorCode::StorageUnavailable;
                    self.post(number, home, Message::Fail { handle, peer, code });
                }
                return Ok(());
            }
            Message::Fail { handle, peer, code } => {
                let message = "a read failed".to_owned();
                shard.step(Input::Fail { peer, handle, code, message }, now, out);
            }
            Message::Delete { document, token } => {
                shard.step(Input::Delete { document, token }, now, out);
            }
            Message::Deleted { document, result } => {
                shard.step(Input::Deleted { document, result }, now, out);
            }
            Message::Quarantine { document } => {
                shard.step(Input::Quarantine { document }, now, out);
            }
            Message::SnapshotCut { handle, result } => {
                shard.step(Input::SnapshotCut { handle, result }, now, out);
            }
            Message::Open(request) => shard.step(Input::Open(request), now, out),
            Message::Frame { peer, bytes } => {
                if let Some(Kind::Push) = parse(&bytes)?.kind() {
                    let frame = parse(&bytes)?;
                    let Push { push, .. } = body(&frame)?;
                    self.check.ends.pushed(peer.id, frame.stream(), push);
                }
                step_frame(shard, peer, &bytes, now, out)?;
            }
            Message::Renew { peer, handle, request, grant } => {
                shard.step(Input::Renew { peer, handle, request, grant: grant.clone() }, now, out);
                if is_taken(out, peer, handle) {
                    self.check.ends.renewed(peer.id, handle, &grant, self.now_us);
                }
            }
            Message::Revoke { revocation, from } => {
                shard.step(Input::Revoke(&revocation), now, out);
                self.revoked(number, &revocation, from);
            }
            Message::Disconnected(peer) => shard.step(Input::Disconnected { peer }, now, out),
            Message::Loaded { handle, result } => shard.step(Input::Loaded { handle, result }, now, out),
            Message::ChainRead { handle, peer, result } => {
                shard.step(Input::ChainRead { handle, peer, result: Ok(result) }, now, out);
            }
            Message::Found { handle, peer, asked_for, found } => {
                shard.step(Input::Found { handle, peer, asked_for, result: Ok(found) }, now, out);
            }
            Message::Committed { batch, stored: true } => shard.step(Input::Committed { batch }, now, out),
            Message::Committed { batch, stored: false } => {
                let why = "the disk failed".to_owned();
                shard.step(Input::CommitFailed { batch, why }, now, out);
            }
            Message::StorageRecovered { era, documents } => {
                core.era = era;
                shard.step(Input::StorageRecovered { documents: &documents }, now, out);
            }
            Message::Tick => shard.step(Input::Tick, now, out),
        }
        self.carry_out(number, effects)
    }

    /// A core has heard of a revocation: by an operator, and tells every home; or by a core, as a home.
    fn revoked(&mut self, number: u16, revocation: &Arc<Revocation>, from: Option<u16>) {
        let cores = self.server.as_ref().map_or(1, Server::shards);
        let (Some(from), Revoked::Token(token)) = (from, &revocation.what) else {
            for home in 0..cores {
                let revocation = Arc::clone(revocation);
                self.post(number, home, Message::Revoke { revocation, from: Some(number) });
            }
            return;
        };
        let now_us = self.now_us;
        self.check.ends.revoked(token, from, |handle| Shard::home_of(handle, cores) == number, now_us);
        self.check.ends.revoked_asked(token, from, |document| shard_of(document, cores) == number);
    }

    fn carry_out(&mut self, from: u16, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            if self.config.tokens {
                let wall_ms = self.now().wall_ms;
                self.check.effect_on_rights(self.lives, &effect, wall_ms)?;
            }
            self.check.effect(self.lives, &effect, &self.disk)?;
            match effect.core() {
                Some(core) if core == from => self.apply(from, effect)?,
                Some(core) => self.post(from, core, Message::Effect(effect)),
                None => self.ask(from, effect),
            }
        }
        Ok(())
    }

    /// What concerns the disk, or is only to be counted.
    fn ask(&mut self, core: u16, effect: Effect) {
        let life = self.lives;
        let query = match effect {
            Effect::Commit { batch, appends } => {
                let era = self.server.as_ref().and_then(|server| server.cores.get(usize::from(core)));
                let era = era.map_or(0, |core| core.era);
                self.disk.queue.push_back(Waiting { core, batch, era, appends });
                self.commit_soon();
                return;
            }
            Effect::Load { handle, document } => {
                self.check.loading(life, handle, &document);
                Query::Load { handle, document, begins_anew: false }
            }
            Effect::Rebuild { handle, document } => {
                self.check.loading(life, handle, &document);
                Query::Load { handle, document, begins_anew: true }
            }
            Effect::Find { handle, peer, document, epoch, asked_for, hashes } => {
                self.count("find");
                Query::Find { handle, peer, asked_for, document, epoch, hashes }
            }
            Effect::ReadChain { handle, peer, document, at } => {
                self.count("read chain");
                Query::Chain { handle, peer, document, at }
            }
            Effect::CutSnapshot { handle, document, through } => {
                self.count("cut asked");
                Query::Cut { handle, document, through }
            }
            Effect::Delete { document } => Query::Delete { document },
            Effect::DeletionAnswered { token, result } => {
                if let (Ok(Deleted::Now | Deleted::Before), Some(document)) =
                    (result, self.documents.get(token as usize).cloned())
                {
                    self.check.deleted(&document);
                    self.count("deleted");
                }
                return;
            }
            Effect::Observe(Observation::Opened { resume }) => {
                self.count(&format!("resume {resume}"));
                return;
            }
            _ => return,
        };
        self.ask_soon(core, query);
    }

    fn ask_soon(&mut self, core: u16, query: Query) {
        let delay_us = self.rng.below(self.config.answer_us);
        let (life, mut at_us) = (self.lives, self.now_us + delay_us);
        if matches!(query, Query::Load { begins_anew: true, .. }) {
            // One inspector does all of them, in their order.
            at_us = at_us.max(self.disk.inspected_us + 1);
            self.disk.inspected_us = at_us;
        }
        self.at(at_us, Event::Answer { life, core, query });
    }

    fn commit_soon(&mut self) {
        if !self.disk.busy && !self.disk.queue.is_empty() {
            self.disk.busy = true;
            let delay_us = self.rng.below(self.config.commit_us);
            let life = self.lives;
            self.after(delay_us, Event::Committed { life });
        }
    }

    pub(crate) fn committed(&mut self, _life: u64) {
        let told = self.disk.commit(&mut self.rng);
        self.disk.busy = false;
        let all_stored = told.iter().all(|(.., stored)| *stored);
        self.trace.note(
            self.now_us,
            if all_stored { "commit" } else { "commit failed" },
            &[told.len() as u8],
        );
        for (core, batch, stored) in told {
            // The storage thread answers each core in order.
            self.post(u16::MAX, core, Message::Committed { batch, stored });
        }
        self.commit_soon();
    }

    pub(crate) fn answer(&mut self, core: u16, query: Query) {
        let is_damaged = self.rng.below(100) < self.config.damage && !self.healing;
        let message = match query {
            Query::Load { handle, document, begins_anew } => {
                let anew = if begins_anew { self.begin_anew(&document) } else { Ok(()) };
                let mut recovery = Recovery::new(document);
                let result = match anew {
                    Err(error) => Box::new(Err(error)),
                    Ok(()) => loop {
                        if let Some(result) = recovery.step(&self.disk).transpose() {
                            break Box::new(result);
                        }
                    },
                };
                if let Err(error) = &*result {
                    self.count(&format!("load failed: {}", read_code(error)));
                }
                Message::Loaded { handle, result }
            }
            Query::Delete { document } => {
                let result = self.disk.delete(&document);
                if result == Ok(Deleted::Now) {
                    self.check.tombstone(&document);
                }
                Message::Deleted { document, result }
            }
            Query::Cut { handle, .. } if is_damaged => {
                self.count("cut failed");
                let why = "no room".to_owned();
                Message::SnapshotCut { handle, result: Err(LogError::Unavailable { why }) }
            }
            Query::Cut { handle, document, through } => {
                let result = self.disk.cut(&document, through, self.config.density);
                self.count(if result.is_ok() { "cut" } else { "cut failed" });
                Message::SnapshotCut { handle, result }
            }
            Query::Snapshot { handle, request } => {
                let read = match self.disk.read_snapshot(handle, &request, self.config.chunk_bytes) {
                    _ if is_damaged => SnapshotRead::Failed,
                    read => read,
                };
                self.count(match read {
                    SnapshotRead::Chunks(_) => "snapshot read",
                    SnapshotRead::Replaced(_) => "snapshot replaced",
                    SnapshotRead::Failed => "snapshot failed",
                });
                Message::SnapshotRead { handle, request, read }
            }
            Query::Chain { handle, peer, document, at } => {
                let result = self.disk.chain_at(&document, at.epoch, at.seq).unwrap_or_default();
                Message::ChainRead { handle, peer, result }
            }
            Query::Find { handle, peer, asked_for, document, epoch, hashes } => {
                let find = |hash| (hash, self.disk.find(&document, epoch, &hash).unwrap_or_default());
                let found = hashes.into_iter().map(find).collect();
                Message::Found { handle, peer, asked_for, found }
            }
            Query::Read { handle, number, peer, request } => {
                let (after, through) = (request.after_seq, request.through_seq);
                let bytes_max = request.bytes_max;
                let (document, epoch) = (&request.document, request.epoch);
                match self.disk.read(document, epoch, after, through, bytes_max) {
                    Ok(records) => Message::Read { handle, number, peer, read: Read::Records(records) },
                    Err(LogError::Covered { .. }) => {
                        let anchor = self.disk.anchor(document, epoch).ok().flatten();
                        let Some(anchor) = anchor else { return };
                        self.count("read of what is covered");
                        Message::Read { handle, number, peer, read: Read::Covered(anchor.snapshot) }
                    }
                    Err(error) => {
                        // Told to the home by the core that asked.
                        let home = Shard::home_of(handle, self.server.as_ref().map_or(1, Server::shards));
                        let code = read_code(&error);
                        self.count(&format!("read failed: {code}"));
                        self.post(core, home, Message::Fail { handle, peer, code });
                        return;
                    }
                }
            }
        };
        self.deliver(core, message);
    }

    /// An effect for a connection or feed of this core.
    fn apply(&mut self, number: u16, effect: Effect) -> Result<(), String> {
        let life = self.lives;
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(number)) else { return Ok(()) };
        match effect {
            Effect::Reply { peer, frame, .. } => {
                if let Some(link) = core.connections.get(&peer.id).map(|connection| connection.link) {
                    self.outgoing(link, frame.frame().to_vec())?;
                }
            }
            Effect::Settle { peer, .. } => {
                if let Some(connection) = core.connections.get_mut(&peer.id) {
                    connection.unsettled =
                        connection.unsettled.checked_sub(1).ok_or("a push was settled twice")?;
                }
            }
            Effect::Attach(attach) => {
                let handle = attach.handle;
                if let Some(start) = attach.feed {
                    let index = start.broadcast_index;
                    self.check.feed_started(life, number, handle, index, &start.tail)?;
                    core.feeds.start(handle, *start);
                }
                if let Some(connection) = core.connections.get_mut(&attach.peer.id) {
                    let member = core.feeds.attach(handle, attach.peer, attach.member);
                    let member = member.ok_or("a member was attached without a feed")?;
                    connection.members.insert(handle, member);
                    connection.ready.insert(handle);
                    self.check.attached(life, number, connection.link, handle, &attach.member);
                }
            }
            Effect::Detach { peer, handle } => {
                if let Some(connection) = core.connections.get_mut(&peer.id)
                    && let Some(member) = connection.members.remove(&handle)
                {
                    connection.ready.remove(&handle);
                    core.feeds.detach(handle, member, peer);
                }
            }
            Effect::Rights { peer, handle, rights, expires_ms } => {
                if let Some(connection) = core.connections.get_mut(&peer.id)
                    && let Some(&member) = connection.members.get(&handle)
                    && core.feeds.set_rights(handle, member, peer, rights, expires_ms)
                {
                    connection.ready.insert(handle);
                }
            }
            Effect::Reconciled { peer, handle, known } => {
                if let Some(connection) = core.connections.get_mut(&peer.id)
                    && let Some(&member) = connection.members.get(&handle)
                {
                    self.check.reconciled(connection.link, handle, &known);
                    core.feeds.reconciled(handle, member, peer, known);
                    connection.ready.insert(handle);
                }
            }
            Effect::Publish { handle, event, .. } => {
                self.check.published(life, number, handle, &event);
                let mut woken = Vec::new();
                core.feeds.publish(handle, event, |peer, _| woken.push(peer));
                for peer in woken {
                    if let Some(connection) = core.connections.get_mut(&peer.id) {
                        connection.ready.insert(handle);
                    }
                }
            }
            Effect::StopFeed { handle, .. } => core.feeds.stop(handle),
            Effect::OpenRefused { .. } => {}
            _ => return Err("an effect of no core was sent to one".to_owned()),
        }
        Ok(())
    }

    fn outgoing(&mut self, link: u64, bytes: Vec<u8>) -> Result<(), String> {
        if self.config.tokens {
            let frame = parse(&bytes)?;
            let is_ack = frame.kind() == Some(Kind::Ack);
            let acked = if is_ack { Some(body::<Ack>(&frame)?.push) } else { None };
            let times = (self.now().wall_ms, self.now_us, 2 * self.config.core_delay_us);
            self.check.ends.outgoing(link, frame.stream(), frame.kind(), acked, times)?;
        }
        self.check.outgoing(self.lives, link, &bytes, &self.disk)?;
        self.send(link, 1, bytes);
        Ok(())
    }

    /// Sends the members of a core what they lack, while their links take it.
    fn gather(&mut self, number: u16) -> Result<(), String> {
        let wall_ms = self.now().wall_ms;
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(number)) else { return Ok(()) };
        core.feeds.expire(wall_ms);
        let waiting: Vec<(u64, u64, u32)> = core
            .connections
            .iter()
            .flat_map(|(id, connection)| {
                connection.ready.iter().map(|handle| (*id, connection.link, *handle))
            })
            .collect();
        for (id, link, handle) in waiting {
            self.gather_one(number, id, link, handle)?;
        }
        Ok(())
    }

    fn gather_one(&mut self, number: u16, id: u64, link: u64, handle: u32) -> Result<(), String> {
        let is_writable =
            self.links.get(&link).is_some_and(|link| link.is_cut || link.unread_bytes < link.window_bytes);
        if !is_writable {
            return Ok(());
        }
        let budget_bytes = [1, 200, 2_000, 65_536].get(self.rng.index(4)).copied().unwrap_or(1);
        let peer = Peer { core: number, id };
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(number)) else { return Ok(()) };
        let Some(connection) = core.connections.get_mut(&id) else { return Ok(()) };
        let Some(&member) = connection.members.get(&handle) else { return Ok(()) };
        let mut frames = Vec::new();
        let gathered: Gathered = core.feeds.gather(handle, member, peer, budget_bytes, |frame| {
            frames.push(frame.frame().to_vec());
        });
        if !gathered.more {
            connection.ready.remove(&handle);
        }
        for frame in frames {
            self.outgoing(link, frame)?;
        }
        if let Some(request) = gathered.read {
            self.count("read for a member");
            self.ask_soon(number, Query::Read { handle, number: member, peer, request });
        }
        if let Some(request) = gathered.snapshot {
            self.ask_soon(number, Query::Snapshot { handle, request });
        }
        if gathered.more {
            self.turn_soon(number);
        }
        Ok(())
    }

    /// A client connects.
    pub(crate) fn connect(&mut self, member: usize) {
        let cores = self.server.as_ref().map_or(0, Server::shards);
        if cores == 0 {
            return;
        }
        let (number, core) = (self.next_link, self.rng.below(u64::from(cores)) as u16);
        self.next_link += 1;
        let is_slow = self.rng.chance(15) && self.scenario.has(Trouble::Slowness) && !self.healing;
        let is_device = self.members.get(member).is_some_and(|member| member.device.is_some());
        let delay_us_max = self.rng.range(50, self.config.link_delay_us) * if is_slow { 20 } else { 1 };
        let window_bytes = if is_slow { 300 } else { self.rng.range(500, 65_536) as usize };
        let link = Link {
            member,
            core,
            id: number,
            is_cut: false,
            delay_us_max,
            window_bytes,
            unread_bytes: 0,
            ways: [if is_device { Way::default() } else { Way::framed() }, Way::framed()],
        };
        self.links.insert(number, link);
        let session = self.rng.name();
        if let Some(server) = &mut self.server
            && let Some(core) = server.cores.get_mut(usize::from(core))
        {
            let connection = Connection {
                link: number,
                session,
                members: Default::default(),
                ready: Default::default(),
                unsettled: 0,
            };
            core.connections.insert(number, connection);
        }
        if let Some(member) = self.members.get_mut(member) {
            member.link = Some(number);
        }
        self.count("connect");
    }

    /// The server learns that a connection is gone.
    pub(crate) fn server_sees(&mut self, number: u64) {
        let Some(link) = self.links.get(&number) else { return };
        let (core_number, peer) = (link.core, Peer { core: link.core, id: link.id });
        let Some(server) = &mut self.server else { return };
        let shards = server.shards();
        let Some(core) = server.cores.get_mut(usize::from(core_number)) else { return };
        let Some(connection) = core.connections.remove(&peer.id) else { return };
        for (handle, member) in connection.members {
            core.feeds.detach(handle, member, peer);
        }
        for home in 0..shards {
            self.post(core_number, home, Message::Disconnected(peer));
        }
    }

    /// What the client behind a link is granted.
    fn grant_for(&mut self, link: u64) -> Grant {
        let member = self.links.get(&link).and_then(|link| self.members.get(link.member));
        let is_device = member.is_some_and(|member| member.device.is_some());
        let wall_ms = self.now().wall_ms;
        self.grant(is_device, wall_ms)
    }

    /// A frame of a client is at its core.
    pub(crate) fn server_receives(&mut self, number: u64, bytes: Vec<u8>) -> Result<(), String> {
        let Some(link) = self.links.get(&number).filter(|link| !link.is_cut) else { return Ok(()) };
        let (core_number, peer) = (link.core, Peer { core: link.core, id: link.id });
        self.trace.note(self.now_us, "to server", &bytes);
        let Some(server) = &mut self.server else { return Ok(()) };
        let shards = server.shards();
        let Some(core) = server.cores.get_mut(usize::from(core_number)) else { return Ok(()) };
        let Some(connection) = core.connections.get_mut(&peer.id) else { return Ok(()) };
        let frame = parse(&bytes)?;
        if let Some(answer) = greeting(&frame, connection.session, self.now_us / 1_000)? {
            self.send(number, 1, answer);
            return Ok(());
        }
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(core) = server.cores.get_mut(usize::from(core_number)) else { return Ok(()) };
        let Some(connection) = core.connections.get_mut(&peer.id) else { return Ok(()) };
        if frame.kind() == Some(Kind::Open) {
            let open: Open = body(&frame)?;
            let document = self.documents.iter().find(|document| document.as_str() == open.document);
            let document = document.cloned().ok_or("a document that nobody knows")?;
            let home = shard_of(&document, shards);
            self.check.opening(number, open.request, open.cursor);
            let session = connection.session;
            let grant = self.grant_for(number);
            self.check.ends.asking(number, core_number, &document, &grant);
            let request = OpenRequest {
                peer,
                session,
                request: open.request,
                document,
                rights: Rights(open.rights),
                grant,
                cursor: open.cursor,
            };
            self.post(core_number, home, Message::Open(request));
            return Ok(());
        }
        if frame.kind() == Some(Kind::Renew) {
            let Renew { request, .. } = body(&frame)?;
            let handle = frame.stream();
            let grant = self.grant_for(number);
            let home = Shard::home_of(handle, shards);
            self.post(core_number, home, Message::Renew { peer, handle, request, grant });
            return Ok(());
        }
        // Whether the stream is open is for its home to know.
        connection.unsettled += usize::from(frame.kind() == Some(Kind::Push));
        let home = Shard::home_of(frame.stream(), shards);
        self.post(core_number, home, Message::Frame { peer, bytes });
        Ok(())
    }
}

/// How a member hears that the log cannot be read for it.
fn read_code(error: &LogError) -> ErrorCode {
    match error {
        LogError::Damaged { .. } => ErrorCode::DocumentDamaged,
        LogError::Deleted { .. } => ErrorCode::DocumentDeleted,
        LogError::Covered { .. } => ErrorCode::Internal,
        LogError::Unavailable { .. } => ErrorCode::StorageUnavailable,
    }
}

/// What the connection's own core answers, without any document.
fn greeting(frame: &Frame<'_>, session: [u8; 16], time_ms: u64) -> Result<Option<Vec<u8>>, String> {
    match frame.kind() {
        Some(Kind::Hello) => {
            let Hello { .. } = body(frame)?;
            let entries = limits::announced(u64::from(u32::MAX)).into_iter();
            let welcome = Welcome {
                protocol: PROTOCOL,
                capabilities: 0,
                session,
                server_time_ms: time_ms,
                agent: "simulated".to_owned(),
                limits: entries.map(|(limit, value)| LimitEntry { limit: limit as u16, value }).collect(),
            };
            Ok(Some(encode(0, &welcome, &[])))
        }
        Some(Kind::Ping) => {
            let Ping { nonce } = body(frame)?;
            Ok(Some(encode(0, &Pong { nonce }, &[])))
        }
        _ => Ok(None),
    }
}

/// Hands a client's frame to the home shard of its document.
fn step_frame(
    shard: &mut Shard,
    peer: Peer,
    bytes: &[u8],
    now: Now,
    out: &mut Vec<Effect>,
) -> Result<(), String> {
    let frame = parse(bytes)?;
    let handle = frame.stream();
    match frame.kind() {
        Some(Kind::Push) => {
            let Push { push, generation, lengths } = body(&frame)?;
            let changes = frame.tail();
            let push = PushRequest { peer, handle, push, generation, lengths: &lengths, changes };
            shard.step(Input::Push(push), now, out);
        }
        Some(Kind::Reconcile) => {
            let Reconcile { more, clock, .. } = body(&frame)?;
            shard.step(Input::Reconcile { peer, handle, more, clock }, now, out);
        }
        Some(Kind::PresenceSet) => {
            let PresenceSet { ttl_ms } = body(&frame)?;
            shard.step(Input::PresenceSet { peer, handle, ttl_ms, state: frame.tail() }, now, out);
        }
        Some(Kind::PresenceLeave) => shard.step(Input::PresenceLeave { peer, handle }, now, out),
        Some(Kind::BroadcastSend) => {
            let BroadcastSend { topic } = body(&frame)?;
            shard.step(Input::Broadcast { peer, handle, topic: &topic, payload: frame.tail() }, now, out);
        }
        Some(Kind::Close) => shard.step(Input::Close { peer, handle }, now, out),
        other => return Err(format!("a client sent {other:?}")),
    }
    Ok(())
}
