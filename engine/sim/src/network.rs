//! The network: two byte streams a link, made of packets that are late, lost, doubled and out of order, as TCP makes
//! its streams of IP. A link that is cut stops at whatever byte had arrived.

use std::collections::BTreeMap;

use etherply_wire::MAGIC;
use etherply_wire::frame::frame_length;
use etherply_wire::limits::FRAME_BYTES_MAX;

use crate::rng::Rng;
use crate::world::{Event, World};

/// Most packets that one write is cut into: a long frame has longer packets.
const PACKETS_PER_WRITE_MAX: usize = 4;
/// Most times in a row that one packet is lost.
const LOSSES_MAX: u64 = 4;

/// How packets fare on a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Percent of packets that are lost, and sent again.
    pub lost: u64,
    /// Percent of packets that arrive twice.
    pub doubled: u64,
    /// Bytes of a packet, about.
    pub packet_bytes: usize,
}

/// One direction of a link: what the sender has sent, and what the receiver has put together.
#[derive(Debug, Default)]
pub struct Way {
    sent: u64,
    received: u64,
    /// Packets that came before an earlier one.
    early: BTreeMap<u64, Vec<u8>>,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// The preamble of a raw connection has passed.
    is_begun: bool,
}

impl Way {
    /// A stream that begins with frames at once.
    pub fn framed() -> Self {
        Self { is_begun: true, ..Self::default() }
    }

    /// A packet arrives: the bytes that now follow what was there.
    fn arrive(&mut self, number: u64, bytes: Vec<u8>) -> Vec<u8> {
        if number < self.received {
            return Vec::new();
        }
        self.early.insert(number, bytes);
        let mut whole = Vec::new();
        while let Some(bytes) = self.early.remove(&self.received) {
            self.received += 1;
            whole.extend_from_slice(&bytes);
        }
        whole
    }

    /// The frames that are whole with these bytes.
    fn frames(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.partial.extend_from_slice(bytes);
        let mut frames = Vec::new();
        loop {
            if !self.is_begun && self.partial.len() >= MAGIC.len() {
                if !self.partial.starts_with(&MAGIC) {
                    return Err("a raw connection without its preamble".to_owned());
                }
                self.partial.drain(..MAGIC.len());
                self.is_begun = true;
            }
            let length = match self.is_begun {
                true => frame_length(&self.partial, FRAME_BYTES_MAX).map_err(|error| error.to_string())?,
                false => None,
            };
            let Some(length) = length.filter(|length| *length <= self.partial.len()) else {
                return Ok(frames);
            };
            frames.push(self.partial.drain(..length).collect());
        }
    }
}

/// Bytes cut at random places.
fn packets(bytes: &[u8], weather: Weather, rng: &mut Rng) -> Vec<Vec<u8>> {
    let most = weather.packet_bytes.max(bytes.len().div_ceil(PACKETS_PER_WRITE_MAX)).max(1);
    let mut cut = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = if rest.len() <= most { rest.len() } else { rng.range(1, most as u64) as usize };
        let is_last = cut.len() + 1 == 2 * PACKETS_PER_WRITE_MAX;
        let (packet, behind) = rest.split_at(if is_last { rest.len() } else { at });
        cut.push(packet.to_vec());
        rest = behind;
    }
    cut
}

impl World {
    /// Sends bytes over a link; `way` is 0 to the server, 1 to the client.
    pub(crate) fn send(&mut self, number: u64, way: usize, bytes: Vec<u8>) {
        let weather = self.config.weather;
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.is_cut) else { return };
        if way == 1 {
            link.unread_bytes += bytes.len();
        }
        for bytes in packets(&bytes, weather, &mut self.rng) {
            let Some(link) = self.links.get_mut(&number) else { return };
            let packet = link.ways[way].sent;
            link.ways[way].sent += 1;
            let delay_us_max = link.delay_us_max;
            let mut delay_us = self.rng.below(delay_us_max);
            let mut losses = 0;
            while losses < LOSSES_MAX && self.rng.below(100) < weather.lost {
                // Sent again when no acknowledgement came.
                delay_us += 2 * delay_us_max;
                losses += 1;
            }
            if losses > 0 {
                self.count("packet lost");
            }
            if self.rng.below(100) < weather.doubled {
                self.count("packet doubled");
                let late_us = delay_us + self.rng.below(4 * delay_us_max);
                self.after(late_us, Event::Packet { link: number, way, packet, bytes: bytes.clone() });
            }
            self.after(delay_us, Event::Packet { link: number, way, packet, bytes });
        }
    }

    /// A packet is at its end of a link.
    pub(crate) fn packet(
        &mut self,
        number: u64,
        way: usize,
        packet: u64,
        bytes: Vec<u8>,
    ) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&number).filter(|link| !link.is_cut) else { return Ok(()) };
        let bytes = link.ways[way].arrive(packet, bytes);
        if bytes.is_empty() {
            return Ok(());
        }
        if way == 1 {
            link.unread_bytes = link.unread_bytes.saturating_sub(bytes.len());
            let (owner, core) = (link.member, link.core);
            if self.members.get(owner).is_some_and(|member| member.device.is_some()) {
                self.device_receives(number, owner, bytes)?;
                self.writable(core);
                return Ok(());
            }
        }
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        for frame in link.ways[way].frames(&bytes)? {
            if way == 0 {
                self.server_receives(number, frame)?;
            } else {
                self.client_receives(number, &frame)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherply_wire::encode;
    use etherply_wire::kinds::Ping;

    #[test]
    fn packets_in_any_order_and_twice_make_the_stream() {
        let mut rng = Rng::new(1);
        for round in 0..200 {
            let weather = Weather { packet_bytes: 1 + rng.index(40), ..Weather::default() };
            let frames: Vec<Vec<u8>> = (0..5).map(|nonce| encode(0, &Ping { nonce }, &[])).collect();
            let stream = [&MAGIC[..], &frames.concat()].concat();
            let mut sent: Vec<(u64, Vec<u8>)> = (0..).zip(packets(&stream, weather, &mut rng)).collect();
            sent.extend(sent.clone());
            for at in (1..sent.len()).rev() {
                sent.swap(at, rng.index(at + 1));
            }
            let (mut way, mut got) = (Way::default(), Vec::new());
            for (number, bytes) in sent {
                let bytes = way.arrive(number, bytes);
                got.extend(way.frames(&bytes).unwrap());
            }
            assert_eq!(got, frames, "round {round}");
        }
    }
}
