//! What members may be sent: rights that change, and those that end by the clock.
//!
//! A document's home ends a stream's rights, and tells the stream. A core with members of documents at home
//! elsewhere would hear of it a moment later; so each core looks at its own members before it sends anything.

use std::collections::BTreeSet;

use etherply_wire::Rights;

use super::Feeds;
use super::presence::Seen;
use crate::ids::DocumentId;
use crate::peer::Peer;

/// Members by the time at which their rights end.
#[derive(Debug, Default)]
pub(super) struct Expiries(BTreeSet<(u64, u32, u32)>);

impl Expiries {
    pub(super) fn add(&mut self, expires_ms: u64, handle: u32, number: u32) {
        if expires_ms != 0 {
            self.0.insert((expires_ms, handle, number));
        }
    }

    pub(super) fn remove(&mut self, expires_ms: u64, handle: u32, number: u32) {
        if expires_ms != 0 {
            self.0.remove(&(expires_ms, handle, number));
        }
    }
}

impl Feeds {
    /// Sets what a member may be sent, until when. It goes on from where it was; whether it was idle and may
    /// have something to be sent now.
    pub fn set_rights(
        &mut self,
        handle: u32,
        number: u32,
        peer: Peer,
        rights: Rights,
        expires_ms: u64,
    ) -> bool {
        let Some(feed) = self.feeds.get_mut(&handle) else { return false };
        let Some(member) = feed.member(number, peer) else { return false };
        self.expiries.remove(member.expires_ms, handle, number);
        self.expiries.add(expires_ms, handle, number);
        if !member.rights.has(Rights::PRESENCE) {
            // Whose rights ended has forgotten who is present, and heard of no change since.
            member.presence_seen = Seen::Nothing;
        }
        (member.rights, member.expires_ms) = (rights, expires_ms);
        !rights.is_empty() && member.wake()
    }

    /// Ends the rights whose time is over: to be called before members are sent anything at this time, in
    /// milliseconds since 1970.
    pub fn expire(&mut self, wall_ms: u64) {
        planted!(FeedExpiryIgnored, { return });
        while let Some(&(expires_ms, handle, number)) = self.expiries.0.first() {
            if expires_ms > wall_ms {
                break;
            }
            self.expiries.0.pop_first();
            let feed = self.feeds.get_mut(&handle);
            let member = feed.and_then(|feed| feed.members.get_mut(number as usize)?.as_mut());
            if let Some(member) = member {
                (member.rights, member.expires_ms) = (Rights::NONE, 0);
            }
        }
    }

    /// The document that a feed is of.
    pub fn document(&self, handle: u32) -> Option<&DocumentId> {
        self.feeds.get(&handle).map(|feed| &feed.document)
    }
}
