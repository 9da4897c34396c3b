//! NATS core, its text protocol: a document is a subject. Values are opaque to the server, nothing is stored, and
//! nothing is answered.

use anyhow::{Context as _, Result, bail};
use memchr::memmem;

use crate::peers::link::{Framing, Mouth};
use crate::peers::session::{Hearing, Protocol};
use crate::plan::Plan;

/// Own messages are not sent back, as no CRDT client wants its own edits; nothing is confirmed.
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false,\"protocol\":1,\
                       \"lang\":\"rust\",\"version\":\"0\",\"name\":\"etherply-loadgen\"}\r\nPING\r\n";
/// Longest line before a payload; the server's INFO is the longest.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A member.
pub struct Nats {
    subject: String,
    asked: bool,
}

impl Protocol for Nats {
    const ACKS: bool = false;

    fn new(plan: &Plan, document: u32, _: u32) -> Result<Self> {
        Ok(Self { subject: plan.document_name(document).replace('/', "."), asked: false })
    }

    fn framing(&self, _: &Plan) -> Framing {
        Framing::Stream(message_bytes)
    }

    fn hello(&mut self, mouth: &mut Mouth, _: &mut Hearing<'_>) -> Result<()> {
        mouth.say(CONNECT.as_bytes());
        Ok(())
    }

    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        let (line, rest) = line(message)?.context("a message that is not whole")?;
        match line.split(' ').next().unwrap_or_default() {
            "MSG" => book.edit(rest.strip_suffix(b"\r\n").context("a payload without its end")?)?,
            // What was asked before has been done, once this comes.
            "PONG" if self.asked => book.opened(),
            "PONG" => book.ready(),
            "PING" => mouth.say(b"PONG\r\n"),
            "INFO" | "+OK" => {}
            "-ERR" => bail!("the server says {line}"),
            other => book.unexpected(&format!("a NATS message {other}")),
        }
        Ok(())
    }

    fn open(&mut self, mouth: &mut Mouth) -> Result<()> {
        self.asked = true;
        mouth.say(format!("SUB {} 1\r\nPING\r\n", self.subject).as_bytes());
        Ok(())
    }

    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()> {
        mouth.say(format!("PUB {} {}\r\n{value}\r\n", self.subject, value.len()).as_bytes());
        Ok(())
    }
}

/// The first line, without its end, and what follows; `None` while it is not whole.
fn line(bytes: &[u8]) -> Result<Option<(&str, &[u8])>> {
    let Some(end) = memmem::find(bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes), b"\r\n") else {
        if bytes.len() >= LINE_BYTES_MAX {
            bail!("a line of more than {LINE_BYTES_MAX} bytes");
        }
        return Ok(None);
    };
    let (line, rest) = bytes.split_at(end);
    Ok(Some((std::str::from_utf8(line)?, rest.get(2..).unwrap_or_default())))
}

fn message_bytes(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((line, _)) = line(bytes)? else { return Ok(None) };
    let mut words = line.split(' ');
    if words.next() != Some("MSG") {
        return Ok(Some(line.len() + 2));
    }
    let payload_bytes: usize =
        words.next_back().unwrap_or_default().parse().context("a message without its length")?;
    Ok(Some(payload_bytes.saturating_add(line.len() + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the protocol's own documentation.
    #[test]
    fn messages_are_split_where_they_end() {
        for whole in [
            "MSG FOO.BAR 9 11\r\nHello World\r\n",
            "MSG FOO.BAR 9 GREETING.34 11\r\nHello World\r\n",
            "PING\r\n",
        ] {
            let bytes = format!("{whole}+OK\r\n");
            assert_eq!(message_bytes(bytes.as_bytes()).unwrap(), Some(whole.len()));
        }
        assert_eq!(message_bytes(b"MSG FOO.BAR 9 11\r").unwrap(), None);
        assert_eq!(message_bytes(b"MSG FOO.BAR 9 11\r\nHello").unwrap(), Some(31));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for wrong in [&b"MSG a 1 x\r\n"[..], b"MSG a 1 -1\r\n", b"\xFF\r\n", &[b'x'; LINE_BYTES_MAX]] {
            assert!(message_bytes(wrong).is_err());
        }
    }
}
