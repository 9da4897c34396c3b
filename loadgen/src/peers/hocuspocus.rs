//! Hocuspocus: the sync protocol of `y-protocols` in an envelope that names the document, an authentication before
//! it, and a word on each update that the server took in.

use anyhow::{Result, bail};

use crate::peers::lib0::{Reader, push_bytes, push_uint};
use crate::peers::link::{Framing, Mouth};
use crate::peers::session::{Hearing, Protocol};
use crate::peers::yjs::{self, Writer};
use crate::plan::Plan;

// Kinds of messages beyond those of y-protocols (@hocuspocus/provider, MessageType).
const AUTH: u64 = 2;
const CLOSE: u64 = 7;
const SYNC_STATUS: u64 = 8;
// Kinds of authentication messages (@hocuspocus/common, AuthMessageType).
const TOKEN: u64 = 0;
const PERMISSION_DENIED: u64 = 1;
const AUTHENTICATED: u64 = 2;
/// The provider's, whose protocol this is; the server is told it.
const PROVIDER_VERSION: &str = "4.7.0";

/// A member.
pub struct Hocuspocus {
    document: String,
    writer: Writer,
    /// Answers to come that are about what a new member had, which is nothing, and not about an edit.
    joins: u32,
}

impl Protocol for Hocuspocus {
    const ACKS: bool = true;

    fn new(plan: &Plan, document: u32, member: u32) -> Result<Self> {
        let document = plan.document_name(document).replace('/', "-");
        Ok(Self { document, writer: Writer::new(member), joins: 0 })
    }

    fn framing(&self, plan: &Plan) -> Framing {
        Framing::WebSocket { host: plan.target.host.clone(), path: "/".into() }
    }

    fn hello(&mut self, _: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        book.ready();
        Ok(())
    }

    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        let mut reader = Reader::new(message);
        if reader.bytes()? != self.document.as_bytes() {
            book.unexpected("a message of another document");
            return Ok(());
        }
        match reader.uint()? {
            yjs::SYNC | SYNC_REPLY => {
                if let Some(answer) = yjs::hear_sync(&mut reader, book)? {
                    self.joins += 1;
                    mouth.say(&envelope(&self.document, &answer));
                }
            }
            yjs::AWARENESS => {}
            AUTH => match reader.uint()? {
                AUTHENTICATED => mouth.say(&envelope(&self.document, &yjs::step_1())),
                PERMISSION_DENIED => bail!("the server denies the document"),
                other => book.unexpected(&format!("an authentication message of kind {other}")),
            },
            SYNC_STATUS => match reader.uint()? {
                1 if self.joins > 0 => self.joins -= 1,
                1 => book.acked()?,
                _ => bail!("the server did not take an edit"),
            },
            CLOSE => bail!("the server closes the document"),
            other => book.unexpected(&format!("a message of kind {other}")),
        }
        Ok(())
    }

    fn open(&mut self, mouth: &mut Mouth) -> Result<()> {
        mouth.say(&auth(&self.document));
        Ok(())
    }

    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()> {
        let update = self.writer.edit(value);
        mouth.say(&envelope(&self.document, &yjs::update_message(&update)));
        Ok(())
    }
}

/// The server's answer to a step that asked for no answer back.
const SYNC_REPLY: u64 = 4;

fn envelope(document: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len() + message.len() + 2);
    push_bytes(&mut out, document.as_bytes());
    out.extend_from_slice(message);
    out
}

/// The first message: a token, which is empty because the server asks for none.
fn auth(document: &str) -> Vec<u8> {
    let mut message = Vec::new();
    push_uint(&mut message, AUTH);
    push_uint(&mut message, TOKEN);
    push_bytes(&mut message, b"");
    push_bytes(&mut message, PROVIDER_VERSION.as_bytes());
    envelope(document, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vectors::vector;

    #[test]
    fn messages_are_those_of_the_provider() {
        assert_eq!(auth("doc"), vector("hocuspocus", "auth"));
        assert_eq!(envelope("doc", &yjs::step_1()), vector("hocuspocus", "step_1"));
        let update = vector("yjs", "update_1");
        assert_eq!(envelope("doc", &yjs::update_message(&update)), vector("hocuspocus", "update"));
    }
}
