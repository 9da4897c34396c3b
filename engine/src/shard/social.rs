//! Presence and broadcasts: what members tell one another and nobody stores.

use std::sync::Arc;

use bytes::Bytes;
use etherply_wire::kinds::Broadcast;
use etherply_wire::limits::{
    BROADCAST_BYTES_MAX, BROADCAST_TOPIC_BYTES_MAX, PRESENCE_BYTES_MAX, PRESENCE_MEMBERS_MAX,
    PRESENCE_TTL_MS_MAX, PRESENCE_TTL_MS_MIN,
};
use etherply_wire::{ErrorCode, Kind, Rights};

use super::effect::Effect;
use super::{Shard, refuse_request};
use crate::feed::{FeedEvent, Sent};
use crate::outgoing::Outgoing;
use crate::peer::{Now, Peer, SessionId};
use crate::presence::PRESENCE_TABLE_BYTES_MAX;

impl Shard {
    /// A stream's session, and why it may not take part in presence if so; `None` if there is no such stream.
    fn social_session(
        &self,
        peer: Peer,
        handle: u32,
    ) -> Option<(SessionId, Option<(ErrorCode, &'static str)>)> {
        let stream = self.hosted.get(&handle)?.streams.get(&peer)?;
        let may = stream.access.rights.has(Rights::PRESENCE);
        Some((stream.session, (!may).then(|| stream.access.lack(ErrorCode::PresenceForbidden))))
    }

    pub(super) fn presence_set(
        &mut self,
        peer: Peer,
        handle: u32,
        ttl_ms: u32,
        state: &[u8],
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some((session, lack)) = self.social_session(peer, handle) else { return };
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let before = hosted.presence.get(&session);
        let is_full = (before.is_none() && hosted.presence.len() >= PRESENCE_MEMBERS_MAX)
            || hosted.presence.bytes_with(&session, state.len()) > PRESENCE_TABLE_BYTES_MAX;
        let is_same = before.is_some_and(|before| before == state);
        let wrong = if let Some((code, message)) = lack {
            Some((code, 0, message.to_owned()))
        } else if state.len() > PRESENCE_BYTES_MAX {
            let message =
                format!("a state may have {PRESENCE_BYTES_MAX} bytes, this one has {}", state.len());
            Some((ErrorCode::PresenceTooLarge, 0, message))
        } else if is_full {
            let message = format!(
                "a document may have {PRESENCE_MEMBERS_MAX} members with presence, and \
                 {PRESENCE_TABLE_BYTES_MAX} bytes of their states together"
            );
            Some((ErrorCode::PresenceFull, 1_000, message))
        } else {
            None
        };
        if let Some((code, retry_after_ms, message)) = wrong {
            refuse_request(peer, handle, (Kind::PresenceSet, 0), code, retry_after_ms, &message, effects);
            return;
        }
        let ttl_ms = ttl_ms.clamp(PRESENCE_TTL_MS_MIN, PRESENCE_TTL_MS_MAX);
        let ends_us = now.mono_us + u64::from(ttl_ms) * 1_000;
        if let Some((before_us, _)) = hosted.presence_owners.insert(session, (ends_us, peer))
            && !planted!(PresenceEndsEarly)
        {
            self.presence_ends.remove(&(before_us, handle, session));
        }
        self.presence_ends.insert((ends_us, handle, session));
        // A state that only goes on tells nobody anything.
        if !is_same {
            self.publish_presence(handle, session, Some(Bytes::copy_from_slice(state)), effects);
        }
    }

    pub(super) fn presence_leave(&mut self, peer: Peer, handle: u32, effects: &mut Vec<Effect>) {
        let Some((session, _)) = self.social_session(peer, handle) else { return };
        self.end_presence(handle, session, effects);
    }

    /// Ends presence whose time is over.
    pub(super) fn expire_presence(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(ends_us, handle, session)) = self.presence_ends.first() {
            if ends_us > now.mono_us {
                break;
            }
            self.presence_ends.pop_first();
            self.contained(handle, effects, |shard, effects| shard.end_presence(handle, session, effects));
        }
    }

    fn end_presence(&mut self, handle: u32, session: SessionId, effects: &mut Vec<Effect>) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let Some((ends_us, _)) = hosted.presence_owners.remove(&session) else { return };
        self.presence_ends.remove(&(ends_us, handle, session));
        self.publish_presence(handle, session, None, effects);
    }

    fn publish_presence(
        &mut self,
        handle: u32,
        session: SessionId,
        state: Option<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        let change = hosted.presence.next(session, state);
        hosted.presence.apply(&change);
        self.faults.pass(&hosted.id, "presence");
        for &core in hosted.cores.keys() {
            effects.push(Effect::Publish { core, handle, event: FeedEvent::Presence(change.clone()) });
        }
    }

    pub(super) fn broadcast(
        &mut self,
        peer: Peer,
        handle: u32,
        topic: &str,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Some((member, lack)) = self.social_session(peer, handle) else { return };
        if let Some((code, message)) = lack {
            refuse_request(peer, handle, (Kind::BroadcastSend, 0), code, 0, message, effects);
            return;
        }
        if payload.len() > BROADCAST_BYTES_MAX || topic.len() > BROADCAST_TOPIC_BYTES_MAX {
            let message = format!(
                "a broadcast may have {BROADCAST_BYTES_MAX} bytes and a topic of {BROADCAST_TOPIC_BYTES_MAX}"
            );
            refuse_request(
                peer,
                handle,
                (Kind::BroadcastSend, 0),
                ErrorCode::BroadcastTooLarge,
                0,
                &message,
                effects,
            );
            return;
        }
        let Some(hosted) = self.hosted.get_mut(&handle) else { return };
        hosted.broadcast_index += 1;
        let index = hosted.broadcast_index;
        let message = Broadcast { index, member, topic: topic.to_owned() };
        let frame = Outgoing::new(handle, &message, &[payload]);
        let sent = Arc::new(Sent { index, from: peer, frame });
        for &core in hosted.cores.keys() {
            effects.push(Effect::Publish { core, handle, event: FeedEvent::Broadcast(Arc::clone(&sent)) });
        }
    }
}
