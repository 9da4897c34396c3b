//! What clients do of themselves, and what they do with what they receive.

use etherply_wire::kinds::{Ack, BroadcastSend, Changes, PresenceLeave, PresenceSet, Refused};
use etherply_wire::{ErrorCode, Kind, Rights, encode};

use crate::client::{Event as Told, Output, Purpose, Replica, State};
use crate::frames::{body, parse};
use crate::mischief;
use crate::process::Client;
use crate::scenario::Trouble;
use crate::world::{Event, World};

/// A frame, for people.
fn describe(bytes: &[u8]) -> Result<String, String> {
    let frame = parse(bytes)?;
    Ok(match frame.kind() {
        Some(Kind::Changes) => {
            let changes: Changes = body(&frame)?;
            let (after, through) = (changes.after_seq, changes.cursor.seq);
            format!("{} changes in ({after}, {through}]", changes.lengths.len())
        }
        Some(Kind::Ack) => {
            let ack: Ack = body(&frame)?;
            format!("an ack of {} in ({}, {}]: {:?}", ack.push, ack.after_seq, ack.cursor.seq, ack.positions)
        }
        Some(Kind::Refused) => {
            let refused: Refused = body(&frame)?;
            format!("a refusal of {} in {}: {}", refused.push, refused.generation, refused.message)
        }
        other => format!("{other:?}"),
    })
}

impl World {
    /// A client's next deed.
    pub(crate) fn act(&mut self, number: usize) -> Result<(), String> {
        let pause_us = self.rng.range(100, self.config.pause_us);
        self.after(pause_us, Event::Act { member: number });
        let Some(member) = self.members.get(number) else { return Ok(()) };
        if self.now_us < member.asleep_until_us && !self.healing {
            return Ok(());
        }
        if member.device.is_some() {
            return self.act_device(number);
        }
        let mut out = Output::default();
        match member.link {
            None => self.act_offline(number)?,
            Some(_) if self.healing => self.act_healing(number, &mut out)?,
            Some(link) => self.act_online(number, link, &mut out)?,
        }
        self.renew(number, &mut out);
        self.emit(number, out)
    }

    fn act_offline(&mut self, number: usize) -> Result<(), String> {
        if self.healing || self.rng.chance(40) {
            self.connect(number);
        } else if self.rng.chance(40) {
            self.edit(number)?;
        } else if self.rng.chance(10) {
            self.restart_client(number);
        }
        Ok(())
    }

    /// A random document of a client.
    fn some_replica(&mut self, number: usize) -> usize {
        let replicas = self.members.get(number).map_or(0, |member| member.client.replicas.len());
        self.rng.index(replicas)
    }

    fn edit(&mut self, number: usize) -> Result<(), String> {
        let index = self.some_replica(number);
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let Some(replica) = member.client.replicas.get_mut(index) else { return Ok(()) };
        replica.edit(&mut self.rng, self.now_us)?;
        self.count("edit");
        Ok(())
    }

    fn act_online(&mut self, number: usize, link: u64, out: &mut Output) -> Result<(), String> {
        let index = self.some_replica(number);
        if self.rng.below(100) < self.config.client_faults {
            return self.misbehave(number, index, link, out);
        }
        match self.rng.below(20) {
            0..=7 => self.edit(number)?,
            8..=10 => self.open_closed(number, out),
            11 if self.scenario.has(Trouble::Social) => self.presence(number, index, out),
            12 if self.scenario.has(Trouble::Social) => self.broadcast(number, index, out),
            13 => self.push_again(number, index, out),
            14 if self.rng.chance(20) => {
                let Some(member) = self.members.get_mut(number) else { return Ok(()) };
                if let Some(replica) = member.client.replicas.get_mut(index) {
                    replica.close(out);
                }
            }
            15 => self.keep_image(number),
            _ => {}
        }
        self.redo_and_pump(number, out)
    }

    fn act_healing(&mut self, number: usize, out: &mut Output) -> Result<(), String> {
        self.open_closed(number, out);
        self.redo_and_pump(number, out)?;
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let Some(link) = member.link else { return Ok(()) };
        for replica in &mut member.client.replicas {
            let Some(handle) = replica.open_handle().filter(|_| !replica.has_ended) else { continue };
            let is_set = self.last_presence.contains_key(&(link, handle, replica.openings));
            if replica.rights.has(Rights::PRESENCE) && !is_set {
                let state = self.rng.next().to_le_bytes().to_vec();
                out.frames.push(encode(handle, &PresenceSet { ttl_ms: u32::MAX }, &[&state]));
                self.last_presence.insert((link, handle, replica.openings), state);
            }
        }
        Ok(())
    }

    fn open_closed(&mut self, number: usize, out: &mut Output) {
        let now_us = self.now_us;
        let Some(member) = self.members.get_mut(number) else { return };
        for index in 0..member.client.replicas.len() {
            let may_open = |replica: &Replica| {
                replica.state == State::Closed && !replica.is_deleted && replica.opens_at_us <= now_us
            };
            if member.client.replicas.get(index).is_some_and(may_open) {
                member.client.open(index, out);
            }
        }
    }

    fn redo_and_pump(&mut self, number: usize, out: &mut Output) -> Result<(), String> {
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        for replica in &mut member.client.replicas {
            if replica.edits_to_redo > 0 && replica.open_handle().is_some() {
                replica.edit(&mut self.rng, self.now_us)?;
                replica.edits_to_redo -= 1;
            }
            let changes_max = self.rng.index(5) + 1;
            replica.pump(self.config.in_flight_max, changes_max, self.now_us, out);
        }
        Ok(())
    }

    fn presence(&mut self, number: usize, index: usize, out: &mut Output) {
        let Some(member) = self.members.get_mut(number) else { return };
        let Some(replica) = member.client.replicas.get_mut(index) else { return };
        let Some(handle) = replica.open_handle() else { return };
        if !replica.rights.has(Rights::PRESENCE) {
            return;
        }
        if self.rng.chance(20) {
            out.frames.push(encode(handle, &PresenceLeave { version: 0, members: Vec::new() }, &[]));
        } else {
            // Some last as long as may be: who leaves is gone all the same.
            let ttl_ms = if self.rng.chance(40) { u32::MAX } else { self.rng.range(0, 2_000) as u32 };
            let state = self.rng.next().to_le_bytes();
            out.frames.push(encode(handle, &PresenceSet { ttl_ms }, &[&state]));
        }
        self.count("presence");
    }

    fn broadcast(&mut self, number: usize, index: usize, out: &mut Output) {
        let Some(member) = self.members.get_mut(number) else { return };
        let Some(replica) = member.client.replicas.get_mut(index) else { return };
        let Some(handle) = replica.open_handle() else { return };
        if !replica.rights.has(Rights::PRESENCE) {
            return;
        }
        let payload = vec![7; [1, 100, 16_000].get(self.rng.index(3)).copied().unwrap_or(1)];
        for _ in 0..self.rng.range(1, 6) {
            let message = BroadcastSend { topic: "t".to_owned() };
            out.frames.push(encode(handle, &message, &[&payload]));
        }
        self.count("broadcast");
    }

    /// Pushes once more what the server has.
    fn push_again(&mut self, number: usize, index: usize, out: &mut Output) {
        let Some(member) = self.members.get_mut(number) else { return };
        let Some(replica) = member.client.replicas.get_mut(index) else { return };
        if !replica.may_write() || replica.open_handle().is_none() || self.now_us < replica.not_before_us {
            return;
        }
        let stored = replica.stored();
        if stored.is_empty() {
            return;
        }
        let from = self.rng.index(stored.len());
        let some: Vec<_> = stored.into_iter().skip(from).take(self.rng.index(20) + 1).collect();
        replica.push(&some, Purpose::Duplicate, out);
        self.count("pushed again");
    }

    fn misbehave(&mut self, number: usize, index: usize, link: u64, out: &mut Output) -> Result<(), String> {
        match self.rng.below(6) {
            0 => self.cut(link),
            1 => {
                self.cut(link);
                self.client_sees(link);
                self.restart_client(number);
            }
            2 | 3 => {
                let Some(member) = self.members.get_mut(number) else { return Ok(()) };
                let Some(replica) = member.client.replicas.get_mut(index) else { return Ok(()) };
                if replica.open_handle().is_none() {
                    return Ok(());
                }
                let mut culprits = self.culprits.iter().filter(|(document, _)| *document == replica.document);
                let (edits, code) = match culprits.next().filter(|_| self.rng.chance(50)) {
                    Some((_, culprit)) => (vec![culprit.clone()], ErrorCode::ActorExcluded),
                    None => mischief::push(replica.doc()?, &mut self.rng),
                };
                let code = if replica.may_write() { code } else { ErrorCode::ReadOnly };
                replica.push(&edits, Purpose::Mischief(code), out);
                self.count("mischief");
            }
            4 => {
                let Some(member) = self.members.get_mut(number) else { return Ok(()) };
                let Some(replica) = member.client.replicas.get_mut(index) else { return Ok(()) };
                if let Some(handle) = replica.open_handle() {
                    replica.send_clock_out_of_turn(handle, &mut self.rng, out);
                    self.count("unasked clock");
                }
            }
            _ if self.config.clones => self.become_clone(number, link),
            _ => {}
        }
        Ok(())
    }

    fn keep_image(&mut self, number: usize) {
        if let Some(member) = self.members.get_mut(number) {
            let mut image = member.client.clone();
            image.disconnected();
            member.image = Some(image);
        }
    }

    /// A process ends and starts anew, with what it kept or without.
    fn restart_client(&mut self, number: usize) {
        let keeps = self.rng.chance(60);
        let client = if keeps {
            let Some(member) = self.members.get_mut(number) else { return };
            // As it is, or from a backup of the device.
            let from = member.image.take().filter(|_| self.rng.chance(30));
            let mut client = from.unwrap_or_else(|| member.client.clone());
            client.disconnected();
            for replica in &mut client.replicas {
                replica.take_actor(self.rng.name());
            }
            client
        } else {
            self.new_client()
        };
        if let Some(member) = self.members.get_mut(number) {
            member.client = client;
        }
        self.count("restart");
    }

    /// A process goes on from another's image, and as the same actors.
    fn become_clone(&mut self, number: usize, link: u64) {
        let other = self.rng.index(self.members.len());
        let Some(image) = self.members.get(other).and_then(|member| member.image.clone()) else { return };
        self.cut(link);
        self.client_sees(link);
        self.cloned = true;
        if let Some(member) = self.members.get_mut(number) {
            member.client = image;
        }
        self.count("clone");
    }

    /// A frame reaches a client.
    pub(crate) fn client_receives(&mut self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let context = self.context();
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.is_cut) else { return Ok(()) };
        let (owner, core) = (link.member, link.core);
        if self.trace.verbose {
            eprintln!("{:>12} link {number}, member {owner} receives {}", self.now_us, describe(bytes)?);
        }
        self.trace.note(self.now_us, "to client", bytes);
        let Some(member) = self.members.get_mut(owner) else { return Ok(()) };
        if member.link != Some(number) {
            return Ok(());
        }
        let mut out = Output::default();
        let client: &mut Client = &mut member.client;
        client
            .on_frame(bytes, context, &mut self.rng, &mut out)
            .map_err(|what| format!("member {owner} on link {number}: {what}"))?;
        if self.rng.chance(70) {
            self.redo_and_pump(owner, &mut out)?;
        }
        self.emit(owner, out)?;
        self.writable(core);
        Ok(())
    }

    /// Sends what a client wants to send, and checks what it was told.
    fn emit(&mut self, number: usize, out: Output) -> Result<(), String> {
        let Some(link) = self.members.get(number).and_then(|member| member.link) else { return Ok(()) };
        let peer = self.links.get(&link).map_or((0, 0), |link| (link.core, link.id));
        for event in out.events {
            match event {
                Told::Acked { document, epoch, changes } => {
                    self.check.acked(&document, epoch, &changes, &self.disk)?;
                }
                Told::RightsEnded { handle, openings } => {
                    self.last_presence.remove(&(link, handle, openings));
                    self.count("rights ended");
                }
                Told::Refused { code } => self.count(&format!("refused: {code}")),
                Told::Rebuilt => {
                    self.trace.note(self.now_us, &format!("member {number} gave a copy up"), &[]);
                    self.count("rebuilt");
                }
                Told::Broadcasts { handle, first, last } => {
                    self.check.broadcasts(self.lives, link, peer, handle, first, last)?;
                    self.count(if first == last { "broadcast received" } else { "broadcast gap" });
                }
            }
        }
        for frame in out.frames {
            self.send(link, 0, frame);
        }
        Ok(())
    }

    /// A client learns that its connection is gone.
    pub(crate) fn client_sees(&mut self, number: u64) {
        let Some(owner) = self.links.get(&number).map(|link| link.member) else { return };
        if let Some(member) = self.members.get_mut(owner).filter(|member| member.link == Some(number)) {
            member.link = None;
            member.client.disconnected();
            if let Some(device) = &mut member.device {
                device.disconnected();
            }
        }
    }
}
