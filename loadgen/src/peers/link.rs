//! Bytes of a socket to a peer's messages and back: WebSocket messages, or packets of a byte stream.

use anyhow::{Context as _, Result, bail};
use etherply_wire::limits::HANDSHAKE_BYTES_MAX;
use etherply_wire::websocket::{Decoder, Event, OpCode, Role, control_into, handshake, message_into};

use crate::random::Random;

/// Longest message that is taken from a peer's server, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the first packet of these bytes is; `None` while that cannot be said, or it is not whole.
pub type Split = fn(&[u8]) -> Result<Option<usize>>;

/// How a peer's messages travel.
#[derive(Debug, Clone)]
pub enum Framing {
    /// Packets, one behind the other.
    Stream(Split),
    /// One a binary message.
    WebSocket { host: String, path: String },
}

/// What a link passes up.
#[derive(Debug)]
pub enum Incoming<'b> {
    /// Messages may be sent from now on.
    Open,
    Message(&'b [u8]),
    /// A text message, where the protocol has binary ones only.
    Text,
}

enum Codec {
    Stream(Split),
    Upgrading { key: [u8; 16] },
    WebSocket(Decoder),
}

/// One connection's codec.
pub struct Link {
    codec: Codec,
    partial: Vec<u8>,
    pub mouth: Mouth,
}

/// What is to be sent.
pub struct Mouth {
    pub out: Vec<u8>,
    random: Random,
    is_websocket: bool,
}

impl Mouth {
    /// Sends one message.
    pub fn say(&mut self, message: &[u8]) {
        if self.is_websocket {
            let mask = self.mask();
            message_into(&mut self.out, message, Some(mask));
        } else {
            self.out.extend_from_slice(message);
        }
    }

    fn mask(&mut self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.random.next().to_le_bytes();
        [a, b, c, d]
    }
}

impl Link {
    /// A connection on which nothing was said yet. Over a stream, messages may be sent at once.
    pub fn begin(framing: &Framing, seed: u64) -> Result<Self> {
        let mut mouth = Mouth { out: Vec::new(), random: Random::new(seed), is_websocket: false };
        let codec = match framing {
            Framing::Stream(split) => Codec::Stream(*split),
            Framing::WebSocket { host, path } => {
                let mut key = [0; 16];
                let halves = [mouth.random.next().to_le_bytes(), mouth.random.next().to_le_bytes()];
                key.copy_from_slice(halves.as_flattened());
                mouth.out = handshake::request(host, path, &key)?;
                mouth.is_websocket = true;
                Codec::Upgrading { key }
            }
        };
        Ok(Self { codec, partial: Vec::new(), mouth })
    }

    /// Takes received bytes and passes up each whole message.
    pub fn receive(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<()> {
        if self.partial.is_empty() {
            let used = self.consume(bytes, pass)?;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(bytes);
        let used = self.consume(&mut held, pass)?;
        if used < held.len() {
            held.drain(..used);
            self.partial = held;
        }
        Ok(())
    }

    fn consume(&mut self, bytes: &mut [u8], pass: &mut Pass<'_>) -> Result<usize> {
        let mut used = 0;
        while let Some(rest) = bytes.get_mut(used..).filter(|rest| !rest.is_empty()) {
            match &mut self.codec {
                Codec::Stream(split) => {
                    let Some(length) = split(rest)? else { break };
                    if length == 0 || length > MESSAGE_BYTES_MAX {
                        bail!("a packet of {length} bytes, 1 to {MESSAGE_BYTES_MAX} are expected");
                    }
                    let Some(packet) = rest.get(..length) else { break };
                    pass(Incoming::Message(packet), &mut self.mouth)?;
                    used += length;
                }
                Codec::Upgrading { key } => {
                    let Some(length) = handshake::parse_response(rest, key)? else {
                        if rest.len() >= HANDSHAKE_BYTES_MAX {
                            bail!("the upgrade's answer is too long");
                        }
                        break;
                    };
                    used += length;
                    self.codec = Codec::WebSocket(Decoder::new(Role::Client, MESSAGE_BYTES_MAX));
                    pass(Incoming::Open, &mut self.mouth)?;
                }
                Codec::WebSocket(decoder) => {
                    let decoded = decoder.next(rest)?;
                    used += decoded.consumed;
                    match decoded.event {
                        None => break,
                        Some(Event::Message(message)) => pass(Incoming::Message(&message), &mut self.mouth)?,
                        Some(Event::Text) => pass(Incoming::Text, &mut self.mouth)?,
                        Some(Event::Ping(payload)) => {
                            let mask = self.mouth.mask();
                            control_into(&mut self.mouth.out, OpCode::Pong, payload, Some(mask));
                        }
                        Some(Event::Pong(_)) => {}
                        Some(Event::Close { code, reason }) => {
                            let code = code.context("the server closed the WebSocket")?;
                            bail!("the server closed the WebSocket with {code} {reason}");
                        }
                    }
                }
            }
        }
        Ok(used)
    }
}

/// Who takes what a link passes up.
pub type Pass<'p> = dyn FnMut(Incoming<'_>, &mut Mouth) -> Result<()> + 'p;

#[cfg(test)]
mod tests {
    use super::*;

    fn by_first_byte(bytes: &[u8]) -> Result<Option<usize>> {
        Ok(bytes.first().map(|&length| usize::from(length)))
    }

    fn messages(link: &mut Link, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut got = Vec::new();
        link.receive(&mut bytes.to_vec(), &mut |incoming, _| {
            if let Incoming::Message(message) = incoming {
                got.push(message.to_vec());
            }
            Ok(())
        })?;
        Ok(got)
    }

    #[test]
    fn packets_are_whole_however_the_bytes_are_cut() {
        let bytes = [2, 9, 3, 8, 7, 1, 4, 1, 2, 3];
        for at in 0..=bytes.len() {
            let mut link = Link::begin(&Framing::Stream(by_first_byte), 1).unwrap();
            let (head, tail) = bytes.split_at(at);
            let mut got = messages(&mut link, head).unwrap();
            got.extend(messages(&mut link, tail).unwrap());
            assert_eq!(got, [vec![2, 9], vec![3, 8, 7], vec![1], vec![4, 1, 2, 3]], "cut at {at}");
        }
    }

    #[test]
    fn a_packet_without_a_length_is_an_error_and_no_endless_loop() {
        let mut link = Link::begin(&Framing::Stream(by_first_byte), 1).unwrap();
        assert!(messages(&mut link, &[0, 1]).is_err());
    }

    #[test]
    fn a_packet_over_the_limit_is_refused_before_it_is_there() {
        let of = |bytes: usize| -> Split {
            match bytes {
                MESSAGE_BYTES_MAX => |_| Ok(Some(MESSAGE_BYTES_MAX)),
                _ => |_| Ok(Some(MESSAGE_BYTES_MAX + 1)),
            }
        };
        let mut link = Link::begin(&Framing::Stream(of(MESSAGE_BYTES_MAX)), 1).unwrap();
        assert!(messages(&mut link, b"part").unwrap().is_empty());
        let mut link = Link::begin(&Framing::Stream(of(MESSAGE_BYTES_MAX + 1)), 1).unwrap();
        assert!(messages(&mut link, b"part").is_err());
    }

    #[test]
    fn what_is_said_over_a_websocket_is_masked_and_whole() {
        let framing = Framing::WebSocket { host: "h".into(), path: "/p".into() };
        let mut link = Link::begin(&framing, 1).unwrap();
        assert!(link.mouth.out.starts_with(b"GET /p HTTP/1.1\r\nHost: h\r\n"));
        link.mouth.out.clear();
        link.mouth.say(b"abc");
        let mut decoder = Decoder::new(Role::Server, 10);
        let decoded = decoder.next(&mut link.mouth.out).unwrap();
        assert!(matches!(decoded.event, Some(Event::Message(message)) if *message == *b"abc"));
    }
}
