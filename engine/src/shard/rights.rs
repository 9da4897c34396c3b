//! What streams may do, and when that ends: expiry, renewal, revocation.
//!
//! A stream has the rights that were wanted when it was opened, as far as its grant has them: a few bits that
//! each request is held against. When the grant ends, the bits go, and with them everything that the stream
//! is sent; the stream and its socket stay, so that a renewal goes on where it was.

use std::collections::BTreeSet;
use std::mem::{replace, take};
use std::sync::Arc;

use etherply_wire::kinds::RightsChanged;
use etherply_wire::{ErrorCode, Kind, Rights};

use super::batch::Listener;
use super::effect::Effect;
use super::hosted::Reconciling;
use super::{Shard, refuse_request};
use crate::access::{FORBIDDEN, Grant, Identity, Revocation, knows_log};
use crate::peer::{Now, Peer};

/// What a stream may do.
#[derive(Debug)]
pub(super) struct Access {
    /// What it may do now.
    pub(super) rights: Rights,
    /// What it was opened for.
    wanted: Rights,
    /// Why it has no rights any more.
    ended: Option<ErrorCode>,
    /// When its rights end, 0 for never.
    expires_ms: u64,
    /// Whose they are.
    pub(super) identity: Arc<Identity>,
}

impl Access {
    pub(super) fn new(wanted: Rights, grant: &Grant) -> Self {
        Self {
            rights: wanted.and(grant.rights),
            wanted,
            ended: None,
            expires_ms: grant.expires_ms,
            identity: Arc::clone(&grant.identity),
        }
    }

    /// Why a request is refused for which it has not the right.
    pub(super) fn lack(&self, code: ErrorCode) -> (ErrorCode, &'static str) {
        match (self.ended, code) {
            (Some(ErrorCode::TokenExpired), _) => {
                (ErrorCode::TokenExpired, "the token's time is over: renew it with a new one")
            }
            (Some(code), _) => (code, "the token was revoked: what it granted has ended"),
            (None, ErrorCode::ReadOnly) => {
                (code, "this stream may not write: open it with a token that grants it")
            }
            (None, ErrorCode::PresenceForbidden) => (code, "this stream may not take part in presence"),
            (None, _) => (code, FORBIDDEN),
        }
    }
}

/// Streams by the time at which their rights end.
#[derive(Debug, Default)]
pub(super) struct Expiries(BTreeSet<(u64, u32, Peer)>);

impl Expiries {
    pub(super) fn add(&mut self, expires_ms: u64, handle: u32, peer: Peer) {
        if expires_ms != 0 {
            self.0.insert((expires_ms, handle, peer));
        }
    }

    fn remove(&mut self, expires_ms: u64, handle: u32, peer: Peer) {
        if expires_ms != 0 {
            self.0.remove(&(expires_ms, handle, peer));
        }
    }

    /// A stream has ended.
    pub(super) fn forget(&mut self, peer: Peer, handle: u32, access: &Access) {
        self.remove(access.expires_ms, handle, peer);
    }

    fn pop_due(&mut self, wall_ms: u64) -> Option<(u32, Peer)> {
        let &(expires_ms, ..) = self.0.first()?;
        if expires_ms > wall_ms {
            return None;
        }
        self.0.pop_first().map(|(_, handle, peer)| (handle, peer))
    }
}

impl Shard {
    /// Ends the rights whose time is over. Called before anything else is done at this time.
    pub(super) fn end_expired(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.now = now;
        planted!(ExpiryIgnored, { return });
        while let Some((handle, peer)) = self.expiries.pop_due(now.wall_ms) {
            self.contained(handle, effects, |shard, effects| {
                shard.end_rights(peer, handle, ErrorCode::TokenExpired, effects);
            });
        }
    }

    fn end_rights(&mut self, peer: Peer, handle: u32, code: ErrorCode, effects: &mut Vec<Effect>) {
        self.presence_leave(peer, handle, effects);
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some(stream) = hosted.streams.get_mut(&peer) else { return };
        let access = &mut stream.access;
        self.expiries.remove(access.expires_ms, handle, peer);
        (access.rights, access.expires_ms, access.ended) = (Rights::NONE, 0, Some(code));
        effects.push(Effect::Rights { peer, handle, rights: Rights::NONE, expires_ms: 0 });
        let changed =
            RightsChanged { request: 0, rights: Rights::NONE.0, code: code as u16, expires_at_ms: 0 };
        effects.push(Effect::reply(peer, handle, &changed));
    }

    /// A stream brings a new grant, which takes the place of the one that it has.
    pub(super) fn renew(
        &mut self,
        peer: Peer,
        handle: u32,
        request: u32,
        grant: &Grant,
        effects: &mut Vec<Effect>,
    ) {
        let wall_ms = self.now.wall_ms;
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some(stream) = hosted.streams.get_mut(&peer) else { return };
        let wanted = stream.access.wanted;
        let refusal = if grant.has_expired(wall_ms) {
            Some((ErrorCode::TokenExpired, "the new token's time is over already"))
        } else if wanted.and(grant.rights).is_empty() {
            Some((ErrorCode::Forbidden, FORBIDDEN))
        } else {
            None
        };
        if let Some((code, message)) = refusal {
            refuse_request(peer, handle, (Kind::Renew, request), code, 0, message, effects);
            return;
        }
        let before = replace(&mut stream.access, Access::new(wanted, grant));
        let (rights, expires_ms) = (stream.access.rights, grant.expires_ms);
        let is_untold = |reconciling: &mut Reconciling| knows_log(rights) && take(&mut reconciling.untold);
        let number = stream.number;
        let is_clock_due = stream.reconcile.as_mut().is_some_and(is_untold);
        if !planted!(RenewedEndsEarly) {
            self.expiries.remove(before.expires_ms, handle, peer);
        }
        self.expiries.add(expires_ms, handle, peer);
        if !rights.has(Rights::PRESENCE) {
            self.presence_leave(peer, handle, effects);
        }
        effects.push(Effect::Rights { peer, handle, rights, expires_ms });
        let changed = RightsChanged { request, rights: rights.0, code: 0, expires_at_ms: expires_ms };
        effects.push(Effect::reply(peer, handle, &changed));
        if is_clock_due {
            self.send_clock(Listener { peer, handle, stream: number });
        }
    }

    /// Ends the rights of every stream that a revocation hits, and refuses the opens that wait.
    pub(super) fn revoke(&mut self, revocation: &Revocation, effects: &mut Vec<Effect>) {
        let mut hit = Vec::new();
        for (&handle, hosted) in &self.hosted {
            let streams = hosted.streams.iter().filter(|(_, stream)| stream.access.ended.is_none());
            let streams = streams.map(|(peer, stream)| (*peer, &stream.access.identity));
            let waiting = hosted.waiting.iter().map(|(peer, request)| (*peer, &request.grant.identity));
            let is_hit = |(_, identity): &(Peer, &Arc<Identity>)| revocation.hits(identity, &hosted.id);
            hit.extend(streams.chain(waiting).filter(is_hit).map(|(peer, _)| (handle, peer)));
        }
        for (handle, peer) in hit {
            self.contained(handle, effects, |shard, effects| {
                if !planted!(RevokedOpenTaken) {
                    shard.refuse_revoked(handle, peer, effects);
                }
                if !planted!(RevocationIgnored) {
                    shard.end_rights(peer, handle, ErrorCode::TokenRevoked, effects);
                }
            });
        }
    }
}
