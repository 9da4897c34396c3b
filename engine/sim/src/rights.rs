//! Tokens in a world: grants that end by the clock or are taken back, and clients that renew them.
//!
//! The server's gate is not here: whatever token a strict client shows is a new one, and good. What a stream may do
//! from then on is the engine's, and [`Ends`] holds it against what was granted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use etherply_engine::access::{Grant, Identity, Revocation, Revoked};
use etherply_engine::ids::DocumentId;
use etherply_engine::peer::Peer;
use etherply_engine::shard::{Effect, Shard};
use etherply_wire::kinds::{Reconcile, RightsChanged};
use etherply_wire::{ErrorCode, Kind, Rights};

use crate::client::Output;
use crate::frames::{body, parse};
use crate::server::{Message, Server};
use crate::world::World;

/// Longest time for which a grant is good while things go wrong, in milliseconds of a clock that runs fast.
const GRANT_MS_MAX: u64 = 3_000;
/// Longest time of one that ends while what it was for still waits for the disk.
const SHORT_GRANT_MS_MAX: u64 = 150;

/// What a stream was granted, as its document's home knows it.
#[derive(Debug)]
struct Held {
    core: u16,
    token: Arc<str>,
    expires_ms: u64,
    /// Since when its rights have ended.
    ended_us: Option<u64>,
    /// Whether the stream was told so.
    is_told: bool,
    /// A grant before this one ended in the turn that renewed it: of that as well it has to be told.
    is_owed: bool,
    /// The end of the grant before this one, by which the member's core goes until it hears of this one, and since
    /// when it is on its way there.
    before: Option<(u64, u64)>,
    /// Pushes that came without the right to them.
    barred: BTreeSet<u64>,
}

/// Which rights have ended, and what that has to mean.
#[derive(Debug, Default)]
pub struct Ends {
    /// By link and handle.
    held: BTreeMap<(u64, u32), Held>,
    /// The grant by which a link asked for a document last, and from which core.
    asked: BTreeMap<(u64, DocumentId), (Grant, u16)>,
    /// Of these, those that were taken back while they waited.
    taken_back: BTreeSet<(u64, DocumentId)>,
    /// Tokens that were revoked.
    revoked: BTreeSet<Arc<str>>,
}

impl Ends {
    /// A link asks for a document.
    pub fn asking(&mut self, link: u64, core: u16, document: &DocumentId, grant: &Grant) {
        self.taken_back.remove(&(link, document.clone()));
        self.asked.insert((link, document.clone()), (grant.clone(), core));
    }

    /// A home is asked something at this time: what is over is over from now on, wherever its clock goes.
    pub fn at(&mut self, home: u16, cores: u16, wall_ms: u64, now_us: u64) {
        let here = self.held.iter_mut().filter(|((_, handle), _)| Shard::home_of(*handle, cores) == home);
        for (_, held) in here.filter(|(_, held)| held.expires_ms != 0 && wall_ms >= held.expires_ms) {
            held.ended_us.get_or_insert(now_us);
        }
    }

    /// A push comes to its document's home.
    pub fn pushed(&mut self, link: u64, handle: u32, push: u64) {
        if let Some(held) = self.held.get_mut(&(link, handle)).filter(|held| held.ended_us.is_some()) {
            held.barred.insert(push);
        }
    }

    /// A stream has a new grant.
    pub fn renewed(&mut self, link: u64, handle: u32, grant: &Grant, now_us: u64) {
        if let Some(held) = self.held.get_mut(&(link, handle)) {
            held.before = held.ended_us.is_none().then_some((held.expires_ms, now_us));
            held.token = Arc::clone(&grant.identity.token);
            held.is_owed = held.ended_us.is_some() && !held.is_told;
            (held.expires_ms, held.ended_us, held.is_told) = (grant.expires_ms, None, false);
            held.barred.clear();
        }
    }

    /// A core has said to a home that a token is revoked, behind all opens that it let through.
    pub fn revoked(&mut self, token: &Arc<str>, from: u16, is_home: impl Fn(u32) -> bool, now_us: u64) {
        let hit = self.held.iter_mut().filter(|((_, handle), _)| is_home(*handle));
        for (_, held) in hit.filter(|(_, held)| held.token == *token && held.core == from) {
            held.ended_us.get_or_insert(now_us);
        }
    }

    /// The same for opens that wait.
    pub fn revoked_asked(&mut self, token: &Arc<str>, from: u16, is_home: impl Fn(&DocumentId) -> bool) {
        let hit = self.asked.iter().filter(|((_, document), (grant, core))| {
            grant.identity.token == *token && *core == from && is_home(document)
        });
        self.taken_back.extend(hit.map(|(key, _)| key.clone()));
    }

    /// What a stream begins with.
    fn granted(&self, peer: Peer, document: &DocumentId) -> Option<Held> {
        let (grant, _) = self.asked.get(&(peer.id, document.clone()))?;
        Some(Held {
            core: peer.core,
            token: Arc::clone(&grant.identity.token),
            expires_ms: grant.expires_ms,
            ended_us: None,
            is_told: false,
            is_owed: false,
            before: None,
            barred: BTreeSet::new(),
        })
    }

    /// What a home decides.
    pub fn effect(
        &mut self,
        effect: &Effect,
        document: Option<&DocumentId>,
        wall_ms: u64,
    ) -> Result<(), String> {
        match effect {
            Effect::Attach(attach) => {
                let Some(document) = document else { return Ok(()) };
                let Peer { id, .. } = attach.peer;
                if self.taken_back.contains(&(id, document.clone())) {
                    return Err(format!("{document} is opened by a token that was revoked"));
                }
                if let Some(held) = self.granted(attach.peer, document) {
                    self.held.entry((id, attach.handle)).or_insert(held);
                }
                Ok(())
            }
            Effect::Detach { peer, handle } => {
                self.held.remove(&(peer.id, *handle));
                Ok(())
            }
            Effect::Reply { peer, handle, frame } => {
                let frame = parse(frame.frame())?;
                // A stream begins here: what it has to be asked first comes before anything is attached.
                if frame.kind() == Some(Kind::Opened)
                    && let Some(held) = document.and_then(|document| self.granted(*peer, document))
                {
                    self.held.insert((peer.id, *handle), held);
                }
                let Some(held) = self.held.get_mut(&(peer.id, *handle)) else { return Ok(()) };
                match frame.kind() {
                    Some(Kind::RightsChanged) => ended_rightly(held, &self.revoked, &body(&frame)?, wall_ms),
                    Some(Kind::Reconcile) if held.ended_us.is_some() => {
                        let Reconcile { .. } = body(&frame)?;
                        Err("a stream without rights is told what the document has".to_owned())
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// A frame leaves the server; a core hears of an end within `late_us`.
    pub fn outgoing(
        &self,
        link: u64,
        handle: u32,
        kind: Option<Kind>,
        acked: Option<u64>,
        (wall_ms, now_us, late_us): (u64, u64, u64),
    ) -> Result<(), String> {
        let Some(held) = self.held.get(&(link, handle)) else { return Ok(()) };
        let is_content = matches!(
            kind,
            Some(
                Kind::Changes
                    | Kind::Snapshot
                    | Kind::PresenceUpdate
                    | Kind::PresenceLeave
                    | Kind::Broadcast
                    | Kind::BroadcastGap
            )
        );
        let is_over = |expires_ms: u64| expires_ms != 0 && wall_ms >= expires_ms;
        // A new grant may end sooner than the one before it, and before its member's core hears of it.
        let goes_by_before = held
            .before
            .is_some_and(|(expires_ms, renewed_us)| now_us <= renewed_us + late_us && !is_over(expires_ms));
        if is_content && is_over(held.expires_ms) && !goes_by_before {
            return Err(format!("{kind:?} for a member whose time is over"));
        }
        if is_content && held.ended_us.is_some_and(|ended_us| now_us > ended_us + late_us) {
            return Err(format!("{kind:?} for a member whose rights have ended"));
        }
        match acked.filter(|push| held.barred.contains(push)) {
            Some(push) => Err(format!("push {push} came when its stream had no rights, and is acked")),
            None => Ok(()),
        }
    }
}

/// Rights end when their time is over, or their token was revoked.
fn ended_rightly(
    held: &mut Held,
    revoked: &BTreeSet<Arc<str>>,
    changed: &RightsChanged,
    wall_ms: u64,
) -> Result<(), String> {
    if changed.rights == 0 && std::mem::take(&mut held.is_owed) {
        return Ok(());
    }
    held.is_told = changed.rights == 0;
    let is_right = match ErrorCode::from_number(changed.code) {
        Some(ErrorCode::TokenExpired) => held.expires_ms != 0 && wall_ms >= held.expires_ms,
        Some(ErrorCode::TokenRevoked) => revoked.contains(&held.token),
        _ => true,
    };
    let why = changed.code;
    if is_right { Ok(()) } else { Err(format!("rights end with {why} before their time")) }
}

impl World {
    /// What a member is granted for the token that it shows.
    pub(crate) fn grant(&mut self, is_device: bool, wall_ms: u64) -> Grant {
        let mut grant = Grant::anonymous();
        if !self.config.tokens {
            return grant;
        }
        self.tokens_given += 1;
        // One subject: members push what others wrote, after a restore.
        let (subject, token) = (Arc::from("everybody"), Arc::from(format!("token-{}", self.tokens_given)));
        let identity = Identity { subject, token, issued_s: 0 };
        if !is_device && !self.healing && self.rng.chance(70) {
            let most_ms = if self.rng.chance(30) { SHORT_GRANT_MS_MAX } else { GRANT_MS_MAX };
            grant.expires_ms = wall_ms + self.rng.range(1, most_ms);
        }
        if !is_device {
            self.given.push(Arc::clone(&identity.token));
        }
        grant.identity = Arc::new(identity);
        grant
    }

    /// An operator takes a token back. Every core hears of it, and tells every home behind what it sent before.
    pub(crate) fn revoke(&mut self) {
        // Most are of streams that have ended long since.
        let recent = self.given.len().saturating_sub(12);
        let token = self.given.get(recent..).and_then(|recent| self.rng.pick(recent)).cloned();
        let Some(token) = token else { return };
        self.check.ends.revoked.insert(Arc::clone(&token));
        self.count("revoke");
        let revocation = Arc::new(Revocation { what: Revoked::Token(token), at_s: 0 });
        for core in 0..self.server.as_ref().map_or(0, Server::shards) {
            self.post(u16::MAX, core, Message::Revoke { revocation: Arc::clone(&revocation), from: None });
        }
    }

    /// Clients whose rights have ended ask for new ones; once all faults have stopped, so do those whose rights will.
    pub(crate) fn renew(&mut self, number: usize, out: &mut Output) {
        let healing = self.healing;
        let Some(member) = self.members.get_mut(number).filter(|_| self.config.tokens) else { return };
        for index in 0..member.client.replicas.len() {
            let percent = match member.client.replicas.get(index) {
                Some(replica) if replica.has_ended || (healing && replica.expires_ms != 0) => 50,
                Some(replica) if replica.expires_ms != 0 => 5,
                _ => continue,
            };
            if healing || self.rng.chance(percent) {
                member.client.renew(index, out);
            }
        }
    }

    /// Whether somebody's rights have ended, or will.
    pub(crate) fn is_anything_ending(&self) -> bool {
        let mut replicas = self.members.iter().flat_map(|member| &member.client.replicas);
        replicas.any(|replica| !replica.is_deleted && (replica.has_ended || replica.expires_ms != 0))
    }
}

/// Whether a grant that came with a renewal is in force now.
pub(crate) fn is_taken(effects: &[Effect], peer: Peer, handle: u32) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Rights { peer: of, handle: at, rights, .. } => {
            *of == peer && *at == handle && *rights != Rights::NONE
        }
        _ => false,
    })
}
