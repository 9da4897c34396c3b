//! What must be true in the end.

use std::collections::BTreeMap;

use automerge::{AutoCommit, Change, ChangeHash};
use etherply_engine::document::recover;
use etherply_engine::snapshot::SNAPSHOT_READ_BYTES_MAX;
use etherply_wire::Rights;

use crate::check::chain;
use crate::edits::content;
use crate::world::World;

impl World {
    /// A core has room again towards a client.
    pub(crate) fn writable(&mut self, core: u16) {
        let Some(server) = &self.server else { return };
        let is_waiting = |core: &crate::server::Core| {
            core.connections.values().any(|connection| !connection.ready.is_empty())
        };
        if server.cores.get(usize::from(core)).is_some_and(is_waiting) {
            self.wake(core);
        }
    }

    /// Whether everybody has everything.
    pub(crate) fn has_drained(&self) -> bool {
        self.server.is_some()
            && !self.is_anything_ending()
            && self.disk.queue.is_empty()
            && self.members.iter().all(|member| {
                member.link.is_some()
                    && member.device.as_ref().is_none_or(|device| device.has_drained(&self.disk))
                    && member.client.replicas.iter().filter(|replica| !replica.is_deleted).all(|replica| {
                        let durable = self.disk.records(&replica.document).len() as u64;
                        let seen = replica.position.map_or(0, |cursor| cursor.seq);
                        let is_up_to_date = seen == durable || !replica.rights.has(Rights::READ);
                        let is_idle = replica.is_drained() || !replica.may_write();
                        replica.open_handle().is_some() && is_up_to_date && is_idle
                    })
            })
    }

    /// What is not done yet, for people.
    pub(crate) fn backlog(&self) -> String {
        let mut lines = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            for replica in &member.client.replicas {
                let durable = self.disk.records(&replica.document).len();
                let seen = replica.position.map_or(0, |cursor| cursor.seq);
                let (outbox, in_flight, redo) = replica.backlog();
                lines.push(format!(
                    "member {number} {}: {:?}, rights {}, {seen} of {durable}, {outbox} in the outbox, \
                     {in_flight} in flight, {redo} to redo, rights ended: {}, end {}",
                    replica.document, replica.state, replica.rights.0, replica.has_ended, replica.expires_ms
                ));
            }
            if let Some(device) = &member.device {
                lines.extend(
                    device.backlog(&self.disk).into_iter().map(|line| format!("member {number} {line}")),
                );
            }
        }
        lines.join("\n  ")
    }

    /// Compares everything with everything.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.check.ledger(&self.disk)?;
        for document in self.documents.clone() {
            if self.disk.is_deleted(&document) {
                continue;
            }
            let recovered = recover(&self.disk.log, &document).map_err(|error| error.to_string())?;
            let chain = chain(&document, self.disk.epoch_of(&document), &self.disk)?;
            let records = self.disk.records(&document);
            let mut reference = AutoCommit::new();
            let changes: Result<Vec<Change>, _> =
                records.iter().map(|record| Change::from_bytes(record.change.to_vec())).collect();
            let changes = changes.map_err(|error| format!("{document}: {error}"))?;
            reference.apply_changes(changes).map_err(|error| format!("{document}: {error}"))?;
            let mut heads: Vec<[u8; 32]> = reference.get_heads().iter().map(|head| head.0).collect();
            heads.sort_unstable();
            let engine: Vec<[u8; 32]> = recovered.heads().iter().map(|head| head.hash.0).collect();
            if heads != engine || recovered.committed().chain != chain.0 {
                return Err(format!("{document}: the engine's heads are not the document's"));
            }
            let expected = content(&reference);
            for (number, member) in self.members.iter_mut().enumerate() {
                if let Some(device) = &mut member.device {
                    device
                        .converged(&document, &heads, &expected)
                        .map_err(|what| format!("{document}: member {number} {what}"))?;
                }
                let own = member.client.replicas.iter_mut().filter(|replica| replica.document == document);
                for replica in own {
                    if !replica.rights.has(Rights::READ) {
                        continue;
                    }
                    let position = replica.position;
                    let doc = replica.doc().map_err(|what| format!("{document}: member {number}: {what}"))?;
                    let mut own: Vec<[u8; 32]> = doc.get_heads().iter().map(|head| head.0).collect();
                    own.sort_unstable();
                    if own != heads {
                        let mut has = |hash: &[u8; 32]| doc.get_change_by_hash(&ChangeHash(*hash)).is_some();
                        let lacks = records.iter().filter(|record| !has(&record.hash.0)).count();
                        let more = doc.get_changes_meta(&[]).len() + lacks - records.len();
                        return Err(format!(
                            "{document}: member {number} has other heads: it lacks {lacks} changes, and has {more} more"
                        ));
                    }
                    if content(doc) != expected {
                        return Err(format!("{document}: member {number} has other content"));
                    }
                    let at = position.map(|cursor| (cursor.seq, cursor.chain));
                    if at.is_some_and(|(seq, own)| seq > 0 && own != chain.0) {
                        return Err(format!("{document}: member {number} has another cursor"));
                    }
                }
            }
            AutoCommit::load(&reference.save()).map_err(|error| format!("{document}: {error}"))?;
        }
        self.settled()?;
        self.presence_converged()
    }

    fn settled(&self) -> Result<(), String> {
        let Some(server) = &self.server else { return Err("no server".to_owned()) };
        let mut members = BTreeMap::new();
        for core in &server.cores {
            if !core.shard.is_settled() {
                return Err("a batch is neither committed nor failed".to_owned());
            }
            if core.shard.documents() > self.documents.len() {
                return Err(format!("{} documents in the memory of one shard", core.shard.documents()));
            }
            let open = core.connections.values().flat_map(|connection| connection.members.keys());
            let open: std::collections::BTreeSet<u32> = open.copied().collect();
            if core.feeds.len() != open.len() {
                return Err(format!("{} feeds where {} have members", core.feeds.len(), open.len()));
            }
            members.extend(open.into_iter().map(|handle| (handle, core.feeds.members(handle))));
            for (number, connection) in &core.connections {
                if connection.unsettled != 0 {
                    return Err(format!("connection {number} has {} pushes unsettled", connection.unsettled));
                }
                if !connection.ready.is_empty() {
                    return Err(format!("connection {number} has something to be sent"));
                }
            }
        }
        match members.iter().find(|(_, count)| **count > self.members.len()) {
            Some((handle, count)) => Err(format!("document {handle} has {count} members on one core")),
            None => Ok(()),
        }
    }

    /// What a core holds in memory is within its bounds, at every moment.
    pub(crate) fn bounds(&self, number: u16) -> Result<(), String> {
        let Some(core) = self.server.as_ref().and_then(|server| server.cores.get(usize::from(number))) else {
            return Ok(());
        };
        let (tails, snapshots) = (core.feeds.tail_bytes(), core.feeds.snapshot_bytes());
        let (tails_max, snapshots_max) = self.config.feeds;
        // Each feed may be reading one piece more, if it has none.
        let reading = core.feeds.len() * (SNAPSHOT_READ_BYTES_MAX + self.config.chunk_bytes);
        let cache = core.shard.cache_bytes();
        // What was used last stays, however large it is.
        if tails > tails_max && core.feeds.tail_documents() > 1 {
            return Err(format!("{tails} bytes of tails in a core's feeds, where {tails_max} are the limit"));
        }
        if snapshots > snapshots_max.saturating_add(reading) {
            return Err(format!("{snapshots} bytes of snapshots in a core's feeds, beyond {snapshots_max}"));
        }
        if cache > self.config.budget.cache_bytes_max && core.shard.cache_documents() > 1 {
            return Err(format!("{cache} bytes of tails and windows in a shard, beyond its budget"));
        }
        Ok(())
    }

    fn presence_converged(&self) -> Result<(), String> {
        let Some(server) = &self.server else { return Err("no server".to_owned()) };
        let sessions: BTreeMap<u64, [u8; 16]> = server
            .cores
            .iter()
            .flat_map(|core| {
                core.connections.values().map(|connection| (connection.link, connection.session))
            })
            .collect();
        let mut expected: BTreeMap<u32, BTreeMap<[u8; 16], Vec<u8>>> = BTreeMap::new();
        for member in &self.members {
            let Some(link) = member.link else { continue };
            for replica in &member.client.replicas {
                let Some(handle) = replica.open_handle() else { continue };
                let state = self.last_presence.get(&(link, handle, replica.openings));
                if let (Some(state), Some(session)) = (state, sessions.get(&link)) {
                    expected.entry(handle).or_default().insert(*session, state.clone());
                }
            }
        }
        for (number, member) in self.members.iter().enumerate() {
            for replica in &member.client.replicas {
                let Some(handle) = replica.open_handle() else { continue };
                let mut table = expected.get(&handle).cloned().unwrap_or_default();
                let mut seen = replica.presence.clone();
                // Its own state is told to a member only in a frame that it shares with others.
                if let Some(own) = member.link.and_then(|link| sessions.get(&link)) {
                    table.remove(own);
                    seen.remove(own);
                }
                if replica.rights.has(Rights::PRESENCE) && seen != table {
                    return Err(format!(
                        "{}: member {number} sees {} members present, not {}",
                        replica.document,
                        seen.len(),
                        table.len()
                    ));
                }
            }
        }
        Ok(())
    }
}
