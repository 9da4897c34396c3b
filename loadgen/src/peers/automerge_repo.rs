//! automerge-repo: Automerge's sync messages in CBOR over WebSocket. The protocol answers to what a whole document
//! has, so each member keeps one, as automerge-repo's own clients do.

use anyhow::{Context as _, Result, bail};
use automerge::sync::{Message, State, SyncDoc as _};
use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, AutoCommit, ROOT, ReadDoc as _};
use ciborium::Value;
use sha2::{Digest as _, Sha256};

use crate::peers::link::{Framing, Mouth};
use crate::peers::session::{Hearing, Protocol, parse_value};
use crate::plan::Plan;

/// The version of the protocol over WebSocket.
const VERSION: &str = "1";

/// A member, with its copy of the document.
pub struct AutomergeRepo {
    document: String,
    me: String,
    /// The server's name, once it told it.
    server: Option<String>,
    copy: AutoCommit,
    state: State,
    keys: Vec<String>,
    member: u32,
}

impl Protocol for AutomergeRepo {
    const ACKS: bool = false;

    fn new(plan: &Plan, document: u32, member: u32) -> Result<Self> {
        let mut copy = AutoCommit::new();
        // Everybody begins with the same change, so that everybody may offer the document and nobody waits for
        // another to have made it.
        copy.set_actor(ActorId::from([0; 16]));
        copy.put(ROOT, "made-by", "etherply-loadgen")?;
        copy.commit_with(CommitOptions::default().with_time(0));
        copy.set_actor(ActorId::from(plan.actor(document, member)));
        Ok(Self {
            document: document_id(plan.run, document),
            me: format!("{:016x}-{document}-{member}", plan.run),
            server: None,
            copy,
            state: State::new(),
            keys: (0..plan.writers).map(|writer| format!("writer-{writer}")).collect(),
            member,
        })
    }

    fn framing(&self, plan: &Plan) -> Framing {
        Framing::WebSocket { host: plan.target.host.clone(), path: "/".into() }
    }

    fn hello(&mut self, mouth: &mut Mouth, _: &mut Hearing<'_>) -> Result<()> {
        mouth.say(&join(&self.me)?);
        Ok(())
    }

    fn message(&mut self, message: &[u8], mouth: &mut Mouth, book: &mut Hearing<'_>) -> Result<()> {
        let message: Value = ciborium::from_reader(message)?;
        match text(&message, "type")? {
            "peer" => {
                self.server = Some(text(&message, "senderId")?.to_owned());
                book.ready();
            }
            "sync" | "request" if text(&message, "documentId")? == self.document => {
                let data = field(&message, "data")
                    .and_then(Value::as_bytes)
                    .context("a sync message without data")?;
                self.copy.sync().receive_sync_message(&mut self.state, Message::decode(data)?)?;
                self.tell_new(book)?;
                book.opened();
                self.sync(mouth)?;
            }
            "error" => bail!("the server says {}", text(&message, "message").unwrap_or_default()),
            // Who else has which heads, and ephemeral messages: not asked for.
            "remote-heads-changed" | "remote-subscription-change" | "ephemeral" => {}
            other => book.unexpected(&format!("a message of type {other}")),
        }
        Ok(())
    }

    fn open(&mut self, mouth: &mut Mouth) -> Result<()> {
        self.sync(mouth)
    }

    fn edit(&mut self, value: &str, mouth: &mut Mouth) -> Result<()> {
        let key = self.keys.get(self.member as usize).context("a member that does not write")?;
        self.copy.put(ROOT, key.as_str(), value)?;
        self.copy.commit();
        self.sync(mouth)
    }
}

impl AutomergeRepo {
    /// Sends what the sync protocol has to say, if anything: it waits for the server's answer before it goes on.
    fn sync(&mut self, mouth: &mut Mouth) -> Result<()> {
        let server = self.server.as_ref().context("the server has not said who it is")?;
        if let Some(message) = self.copy.sync().generate_sync_message(&mut self.state) {
            mouth.say(&sync_message(&self.me, server, &self.document, message.encode())?);
        }
        Ok(())
    }

    /// Looks at what every writer last put. What came together with a later value of the same writer is covered.
    fn tell_new(&self, book: &mut Hearing<'_>) -> Result<()> {
        for (writer, key) in (0..).zip(&self.keys) {
            let Some((value, _)) = self.copy.get(ROOT, key.as_str())? else { continue };
            let value = value.as_str().context("a value that is no text")?.as_bytes();
            if let Some((_, number)) = parse_value(value)
                && book.seen(writer) < number
            {
                book.covered(writer, number - 1);
                book.edit(value)?;
            }
        }
        Ok(())
    }
}

fn field<'m>(message: &'m Value, name: &str) -> Option<&'m Value> {
    let fields = message.as_map()?;
    fields.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

fn text<'m>(message: &'m Value, name: &str) -> Result<&'m str> {
    field(message, name).and_then(Value::as_text).with_context(|| format!("a message without {name}"))
}

fn encode(fields: Vec<(&str, Value)>) -> Result<Vec<u8>> {
    let fields = fields.into_iter().map(|(name, value)| (Value::from(name), value)).collect();
    let mut out = Vec::new();
    ciborium::into_writer(&Value::Map(fields), &mut out)?;
    Ok(out)
}

fn join(me: &str) -> Result<Vec<u8>> {
    let metadata = Value::Map(vec![(Value::from("isEphemeral"), Value::from(true))]);
    encode(vec![
        ("type", "join".into()),
        ("senderId", me.into()),
        ("peerMetadata", metadata),
        ("supportedProtocolVersions", Value::Array(vec![VERSION.into()])),
    ])
}

fn sync_message(me: &str, server: &str, document: &str, data: Vec<u8>) -> Result<Vec<u8>> {
    encode(vec![
        ("type", "sync".into()),
        ("senderId", me.into()),
        ("targetId", server.into()),
        ("documentId", document.into()),
        ("data", Value::Bytes(data)),
    ])
}

/// A document's name has to be a UUID (RFC 9562, in the form of version 4) in base58check.
fn document_id(run: u64, document: u32) -> String {
    let [a, b, c, d, e, f, g, h] = run.to_be_bytes();
    let [i, j, k, l] = document.to_be_bytes();
    base58check(&[c, d, e, f, g, h, 0x40, a, 0x80, b, 0, 0, i, j, k, l])
}

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Base58 with a checksum behind the bytes: four bytes of their double SHA-256.
fn base58check(bytes: &[u8]) -> String {
    let checksum = Sha256::digest(Sha256::digest(bytes));
    let bytes: Vec<u8> = bytes.iter().chain(checksum.iter().take(4)).copied().collect();
    // Digits, the lowest first.
    let mut digits: Vec<u32> = Vec::new();
    for &byte in &bytes {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).map(|_| 0);
    let digits = zeros.chain(digits.into_iter().rev());
    digits.filter_map(|digit| BASE58.get(digit as usize).copied().map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::vectors::vector;

    /// Fields may come in any order, and lengths in longer forms than needed: what counts is that it says the same.
    fn same(ours: &[u8], theirs: &[u8]) {
        let read = |bytes: &[u8]| -> Value { ciborium::from_reader(bytes).unwrap() };
        assert_eq!(read(ours), read(theirs));
    }

    #[test]
    fn messages_say_what_those_of_automerge_repo_say() {
        same(&join("me").unwrap(), &vector("automerge_repo", "join"));
        let document = String::from_utf8(vector("automerge_repo", "document_id")).unwrap();
        let ours = sync_message("me", "server", &document, vec![1, 2, 3]).unwrap();
        same(&ours, &vector("automerge_repo", "sync"));
        let peer: Value = ciborium::from_reader(vector("automerge_repo", "peer").as_slice()).unwrap();
        assert_eq!((text(&peer, "type").unwrap(), text(&peer, "senderId").unwrap()), ("peer", "server"));
        assert!(text(&peer, "documentId").is_err());
    }

    #[test]
    fn documents_are_named_as_automerge_repo_names_them() {
        let bytes: Vec<u8> = (1..=16).collect();
        assert_eq!(base58check(&bytes).as_bytes(), vector("automerge_repo", "document_id"));
        assert!(base58check(&[0; 16]).starts_with("1111111111111111"));
        assert_ne!(document_id(1, 2), document_id(1, 3));
    }
}
