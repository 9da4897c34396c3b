//! What this server takes: the wire's limits, lowered to what its `Welcome` says.

use etherply_wire::limits as wire;
use etherply_wire::limits::Limit;

/// Longest snapshot that is put together, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Shortest time until a client opens a document again that the server refused for a while; as much again is
/// added at random.
pub const OPEN_RETRY_MS: u64 = 1_000;

/// The server's limits that a client has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Longest change.
    pub change_bytes_max: usize,
    /// Most changes of a push.
    pub push_changes_max: usize,
    /// Most bytes of a push's changes.
    pub push_bytes_max: usize,
    /// Most documents open on one connection.
    pub streams_max: usize,
    /// Most pushes that are not answered.
    pub pushes_in_flight_max: usize,
    /// Most bytes of pushes that are not answered; one push may always be in flight.
    pub push_bytes_in_flight_max: usize,
    /// Longest presence state.
    pub presence_bytes_max: usize,
    /// Longest broadcast payload.
    pub broadcast_bytes_max: usize,
    /// Time without a frame after which the server ends the connection; 0 if it does not say.
    pub idle_ms: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            change_bytes_max: wire::CHANGE_BYTES_MAX,
            push_changes_max: wire::PUSH_CHANGES_MAX,
            push_bytes_max: wire::PUSH_BYTES_MAX,
            streams_max: wire::STREAMS_MAX,
            pushes_in_flight_max: wire::PUSHES_IN_FLIGHT_MAX,
            push_bytes_in_flight_max: wire::PUSH_BYTES_IN_FLIGHT_MAX,
            presence_bytes_max: wire::PRESENCE_BYTES_MAX,
            broadcast_bytes_max: wire::BROADCAST_BYTES_MAX,
            idle_ms: 0,
        }
    }
}

impl ServerLimits {
    /// Takes in one entry of a `Welcome`; numbers that are not known say nothing. A value above the wire's
    /// own limit cannot be used, since this side's frames end there.
    pub(crate) fn announce(&mut self, limit: u16, value: u64) {
        let lower = |field: &mut usize| *field = (*field).min(usize::try_from(value).unwrap_or(usize::MAX));
        match limit {
            limit if limit == Limit::ChangeBytes as u16 => lower(&mut self.change_bytes_max),
            limit if limit == Limit::PushChanges as u16 => lower(&mut self.push_changes_max),
            limit if limit == Limit::PushBytes as u16 => lower(&mut self.push_bytes_max),
            limit if limit == Limit::Streams as u16 => lower(&mut self.streams_max),
            limit if limit == Limit::PushesInFlight as u16 => lower(&mut self.pushes_in_flight_max),
            limit if limit == Limit::PushBytesInFlight as u16 => lower(&mut self.push_bytes_in_flight_max),
            limit if limit == Limit::PresenceBytes as u16 => lower(&mut self.presence_bytes_max),
            limit if limit == Limit::BroadcastBytes as u16 => lower(&mut self.broadcast_bytes_max),
            limit if limit == Limit::IdleMs as u16 => self.idle_ms = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_only_ever_lowered() {
        let mut limits = ServerLimits::default();
        limits.announce(Limit::ChangeBytes as u16, 1_000);
        limits.announce(Limit::PushBytes as u16, u64::MAX);
        limits.announce(9_999, 1);
        limits.announce(Limit::IdleMs as u16, 60_000);
        let expected = ServerLimits { change_bytes_max: 1_000, idle_ms: 60_000, ..ServerLimits::default() };
        assert_eq!(limits, expected);
    }
}
