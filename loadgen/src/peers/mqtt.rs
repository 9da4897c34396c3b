//! MQTT 5.0 (OASIS standard of 2019), the part of it that a publisher and subscriber of one topic needs. Values
//! are opaque to the broker: it neither merges nor stores them.

use anyhow::{Context as _, Result, bail};

use crate::peers::link::{Framing, Mouth};
use crate::peers::session::{Hearing, Protocol};
use crate::plan::Plan;

// Packet types with the flags that they have to have (2.1.2, 2.1.3).
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xE0;
/// Own publications are not sent back (3.8.3.1), as no CRDT client wants its own edits.
const NO_LOCAL: u8 = 0x04;
/// Reason codes from here on are failures (2.4).
const FAILURE: u8 = 0x80;
/// The one subscription's packet identifier.
const SUBSCRIPTION: u16 = 1;

/// A member whose document is a topic, at this quality of service: 0 (at most once, never answered) or 1.
pub struct Mqtt<const QOS: u8> {
    client: String,
    topic: String,
    next: u16,
}

impl<const QOS: u8> Protocol for Mqtt<QOS> {
    const ACKS: bool = QOS > 0;

    fn new(plan: &Plan, document: u32, member: u32) -> Result<Self> {
        let topic = plan.document_name(document);
        Ok(Self { client: format!("{topic}/{member}"), topic, next: SUBSCRIPTION })
    }

    fn framing(&self, _: &Plan) -> Framing {
        Framing::Stream(packet_bytes)
    }

    fn hello(&mut self, mouth: &mut Mouth, _: &mut Hearing<'_>) -> Result<()> {
        // Version 5, a clean start, no keep-alive, no properties.
        let body = [&text("MQTT")?[..], &[5, 0x02, 0, 0, 0], &text(&self.client)?].concat();
        mouth.say(&packet(CONNECT, &body));
        Ok(())
    }

    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        let (&first, rest) = message.split_first().context("an empty packet")?;
        let (_, length_bytes) = length(rest)?.context("a packet without its length")?;
        let body = rest.get(length_bytes..).unwrap_or_default();
        match first & 0xF0 {
            CONNACK => {
                let reason = *body.get(1).context("a CONNACK without a reason")?;
                if reason >= FAILURE {
                    bail!("the broker refused the connection with reason {reason:#04x}");
                }
                book.ready();
            }
            SUBACK => {
                let reason = *body.last().context("a SUBACK without a reason")?;
                if reason >= FAILURE || reason != QOS {
                    bail!("the broker answered the subscription with {reason:#04x}");
                }
                book.opened();
            }
            PUBLISH => {
                let publish = Publish::parse(first, body)?;
                if let Some(packet) = publish.packet {
                    mouth.say(&[PUBACK, 2, packet.to_be_bytes()[0], packet.to_be_bytes()[1]]);
                }
                book.edit(publish.payload)?;
            }
            PUBACK => match body.get(2) {
                Some(&reason) if reason >= FAILURE => {
                    bail!("the broker refused a publication with {reason:#04x}");
                }
                _ => book.acked()?,
            },
            DISCONNECT => {
                bail!("the broker disconnects with reason {:#04x}", body.first().copied().unwrap_or(0))
            }
            other => book.unexpected(&format!("an MQTT packet of type {other:#04x}")),
        }
        Ok(())
    }

    fn open(&mut self, mouth: &mut Mouth) -> Result<()> {
        let body = [&SUBSCRIPTION.to_be_bytes()[..], &[0], &text(&self.topic)?, &[QOS | NO_LOCAL]].concat();
        mouth.say(&packet(SUBSCRIBE, &body));
        Ok(())
    }

    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()> {
        mouth.say(&publish::<QOS>(&self.topic, &mut self.next, value.as_bytes())?);
        Ok(())
    }
}

fn publish<const QOS: u8>(topic: &str, next: &mut u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut body = text(topic)?;
    if QOS > 0 {
        // Identifiers are not 0, and not in use: far fewer than all of them wait for an answer.
        *next = next.checked_add(1).unwrap_or(SUBSCRIPTION);
        body.extend_from_slice(&next.to_be_bytes());
    }
    body.push(0);
    body.extend_from_slice(payload);
    Ok(packet(PUBLISH | QOS << 1, &body))
}

struct Publish<'b> {
    /// Its identifier, where it has to be answered.
    packet: Option<u16>,
    payload: &'b [u8],
}

impl<'b> Publish<'b> {
    fn parse(first: u8, body: &'b [u8]) -> Result<Self> {
        let cut = "a publication that is cut off";
        let (topic_bytes, rest) = body.split_first_chunk::<2>().context(cut)?;
        let mut rest = rest.get(usize::from(u16::from_be_bytes(*topic_bytes))..).context(cut)?;
        let packet = match first >> 1 & 3 {
            0 => None,
            1 => {
                let (packet, after) = rest.split_first_chunk::<2>().context(cut)?;
                rest = after;
                Some(u16::from_be_bytes(*packet))
            }
            other => bail!("a publication with quality of service {other}"),
        };
        let (properties_bytes, length_bytes) = length(rest)?.context(cut)?;
        let payload = rest.get(length_bytes + properties_bytes..).context(cut)?;
        Ok(Self { packet, payload })
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
        let digit = (rest % 128) as u8;
        rest /= 128;
        if rest == 0 {
            out.push(digit);
            break;
        }
        out.push(digit | 0x80);
    }
    out.extend_from_slice(body);
    out
}

/// A string with its length before it (1.5.4).
fn text(text: &str) -> Result<Vec<u8>> {
    let length = u16::try_from(text.len()).context("a string longer than MQTT has")?;
    Ok([&length.to_be_bytes(), text.as_bytes()].concat())
}

/// A variable byte integer (1.5.5) and how many bytes it has; `None` while it is not whole.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        bail!("a length of more than four bytes");
    }
    Ok(None)
}

fn packet_bytes(bytes: &[u8]) -> Result<Option<usize>> {
    let header = length(bytes.get(1..).unwrap_or_default())?;
    Ok(header.map(|(body_bytes, length_bytes)| 1 + length_bytes + body_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vectors::vector;

    #[test]
    fn packets_are_those_of_mqtt_packet() {
        let mut next = SUBSCRIPTION;
        let one = publish::<1>("a/b", &mut next, b"value").unwrap();
        assert_eq!(one, vector("mqtt", "publish_qos1"));
        assert_eq!(publish::<0>("a/b", &mut next, b"value").unwrap(), vector("mqtt", "publish_qos0"));
        let long = publish::<0>("a/b", &mut next, &[b'x'; 300]).unwrap();
        assert_eq!(long, vector("mqtt", "publish_long"));
        for bytes in [&one, &long] {
            assert_eq!(packet_bytes(bytes).unwrap(), Some(bytes.len()));
        }
        let parsed = Publish::parse(one[0], &one[2..]).unwrap();
        assert_eq!((parsed.packet, parsed.payload), (Some(2), &b"value"[..]));
    }

    #[test]
    fn what_is_cut_or_odd_is_an_error() {
        let bytes = vector("mqtt", "publish_qos1");
        for end in 2..9 {
            assert!(Publish::parse(bytes[0], &bytes[2..end]).is_err(), "{end}");
        }
        assert!(Publish::parse(0x36, &bytes[2..]).is_err(), "quality of service 3");
        assert!(packet_bytes(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]).is_err());
        assert_eq!(packet_bytes(&[0x30, 0xFF]).unwrap(), None);
    }
}
