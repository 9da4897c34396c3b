//! TLS of one connection, without I/O: what came in is opened, what goes out is sealed.
//!
//! The engine of rustls that owns no buffers: records are opened where they were read, and an idle connection holds
//! its keys and nothing else. Reading, sending and their bounds are those of every connection: [`super::receive`],
//! [`super::flush`].

use std::fmt;
use std::sync::Arc;

use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::limits::TLS_HELD_BYTES_MAX;

/// The first byte of every TLS connection: a record of the handshake (RFC 8446, 5.1).
pub(super) const HANDSHAKE_RECORD: u8 = 22;
/// What a record has beside its content, at most (RFC 8446, 5.2; RFC 5246, 6.2.3).
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Longest content of a record (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Room for what TLS has to say by itself together with data: an answer to a change of keys.
const OWN_RECORDS_BYTES: usize = 512;
/// Most records of alerts that are sent when TLS fails.
const ALERTS_MAX: usize = 4;

/// What stands between a connection's bytes and its frames.
#[derive(Debug)]
pub(super) enum Security {
    /// Nothing.
    Plain,
    /// TLS has to begin.
    Expected,
    /// TLS.
    Tls(Box<Tls>),
}

/// Why TLS ends a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsFault {
    /// What came cannot be read, or the handshake failed.
    #[error(transparent)]
    Protocol(#[from] rustls::Error),
    /// There is something to be sent, and nothing agreed by which to seal it.
    #[error("the handshake is not done")]
    NotReady,
    /// No more may be sealed with these keys.
    #[error("the keys are used up")]
    Exhausted,
    /// More came in part than any message may have.
    #[error("a message of the handshake is longer than {TLS_HELD_BYTES_MAX} bytes")]
    TooLong,
}

/// A connection's TLS.
pub(super) struct Tls {
    session: UnbufferedServerConnection,
    /// The beginning of what has not arrived whole.
    held: Vec<u8>,
    /// The other side said that nothing more follows.
    pub(super) is_closed: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn new(config: &Arc<ServerConfig>) -> Result<Self, TlsFault> {
        let session = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self { session, held: Vec::new(), is_closed: false })
    }

    /// What has not arrived whole: its bytes, and those that it takes in memory.
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        (self.held.len(), self.held.capacity())
    }

    /// The protocol that was agreed upon, if one was asked for.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Takes what was read: appends what it carries to `plain`, and what has to be sent at once to `out`. After an
    /// error as well, `out` has what the other side is to be told.
    pub(super) fn receive(
        &mut self,
        read: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFault> {
        if self.held.is_empty() {
            let used = self.open(read, plain, out)?;
            self.held.extend_from_slice(read.get(used..).unwrap_or_default());
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(read);
            let used = self.open(&mut held, plain, out)?;
            if used < held.len() {
                held.drain(..used);
                held.shrink_to(2 * held.len());
                self.held = held;
            }
        }
        if self.held.len() > TLS_HELD_BYTES_MAX { Err(TlsFault::TooLong) } else { Ok(()) }
    }

    /// Opens all whole records; how many bytes they were.
    fn open(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsFault> {
        let mut used = 0;
        loop {
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state, .. } = self.session.process_tls_records(rest);
            let is_done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, |out| match data.encode(out) {
                        Err(EncodeError::InsufficientSize(needed)) => Err(needed.required_size),
                        Ok(bytes) => Ok(bytes),
                        Err(EncodeError::AlreadyEncoded) => Ok(0),
                    });
                    false
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_closed = true;
                    false
                }
                // Data before the handshake is done is not offered, so none comes; the rest waits for more.
                Ok(_) => true,
                Err(error) => {
                    let from = used + discard;
                    self.tell(incoming.get_mut(from..).unwrap_or_default(), out);
                    return Err(error.into());
                }
            };
            used += discard;
            if is_done {
                return Ok(used);
            }
        }
    }

    /// Appends the alerts that say why TLS failed.
    fn tell(&mut self, incoming: &mut [u8], out: &mut Vec<u8>) {
        for _ in 0..ALERTS_MAX {
            let status = self.session.process_tls_records(incoming);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { return };
            append(out, |out| match data.encode(out) {
                Err(EncodeError::InsufficientSize(needed)) => Err(needed.required_size),
                Ok(bytes) => Ok(bytes),
                Err(EncodeError::AlreadyEncoded) => Ok(0),
            });
        }
    }

    /// Appends these bytes, sealed, to `out`.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let records = plain.len().div_ceil(RECORD_BYTES_MAX);
        let room = plain.len() + records * RECORD_OVERHEAD_BYTES + OWN_RECORDS_BYTES;
        self.write(out, room, |traffic, out| traffic.encrypt(plain, out))
    }

    /// Appends the word that nothing more follows.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        self.write(out, OWN_RECORDS_BYTES, |traffic, out| traffic.queue_close_notify(out))
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        write: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsFault> {
        // With what is held of a record: the session knows how far it has come in it.
        let UnbufferedStatus { discard, state, .. } = self.session.process_tls_records(&mut self.held);
        let ConnectionState::WriteTraffic(mut traffic) = state? else { return Err(TlsFault::NotReady) };
        let start = out.len();
        out.resize(start + room, 0);
        loop {
            match write(&mut traffic, out.get_mut(start..).unwrap_or_default()) {
                Ok(bytes) => {
                    out.truncate(start + bytes);
                    break;
                }
                Err(EncryptError::InsufficientSize(needed)) if needed.required_size > out.len() - start => {
                    out.resize(start + needed.required_size, 0);
                }
                Err(_) => {
                    out.truncate(start);
                    return Err(TlsFault::Exhausted);
                }
            }
        }
        self.held.drain(..discard.min(self.held.len()));
        Ok(())
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Appends what `write` writes, which says how much room it needs if there is too little.
fn append(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let start = out.len();
    let Err(needed) = write(&mut []) else { return };
    out.resize(start + needed, 0);
    let written = write(out.get_mut(start..).unwrap_or_default()).unwrap_or(0);
    out.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A server's TLS, and a client that trusts it.
    fn pair(folder: &std::path::Path) -> (Tls, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (certificate, key) = (folder.join("a.pem"), folder.join("a.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = crate::tls::Tls::open(&certificate, &key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = ClientConnection::new(Arc::new(config), ServerName::try_from("a.test").unwrap());
        (Tls::new(&tls.data).unwrap(), client.unwrap())
    }

    /// What the client has to send, as bytes.
    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives bytes to the client; what they carry.
    fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            let count = client.process_new_packets().unwrap().plaintext_bytes_to_read();
            let start = plain.len();
            plain.resize(start + count, 0);
            client.reader().read_exact(&mut plain[start..]).unwrap();
        }
        plain
    }

    /// Gives bytes to the server in pieces; what they carry, and what it answers.
    fn take(tls: &mut Tls, bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            tls.receive(&mut piece.to_vec(), &mut plain, &mut out).unwrap();
        }
        (plain, out)
    }

    /// Shakes hands in pieces of this many bytes.
    fn shaken(folder: &std::path::Path, piece: usize) -> (Tls, ClientConnection) {
        let (mut tls, mut client) = pair(folder);
        while client.is_handshaking() {
            let (_, out) = take(&mut tls, &sent(&mut client), piece);
            give(&mut client, &out);
        }
        // The server's tickets follow the handshake.
        let (_, tickets) = take(&mut tls, &sent(&mut client), piece);
        give(&mut client, &tickets);
        (tls, client)
    }

    #[test]
    fn whatever_the_pieces_what_is_sent_arrives() {
        let folder = tempfile::tempdir().unwrap();
        for piece in [1, 7, 1_000, 100_000] {
            let (mut tls, mut client) = shaken(folder.path(), piece);
            for bytes in [1, 100, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 60_000] {
                let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
                client.writer().write_all(&data).unwrap();
                let (plain, out) = take(&mut tls, &sent(&mut client), piece);
                assert!(plain == data && out.is_empty(), "{bytes} in pieces of {piece}");
                let mut sealed = Vec::new();
                tls.seal(&data, &mut sealed).unwrap();
                assert!(give(&mut client, &sealed) == data, "{bytes} back");
            }
            assert!(tls.held.is_empty(), "nothing is held when everything has arrived");
        }
    }

    #[test]
    fn it_says_something_while_a_record_is_half_there_and_after_keys_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut tls, mut client) = shaken(folder.path(), 100_000);
        client.writer().write_all(b"first half, second half").unwrap();
        let bytes = sent(&mut client);
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        assert!(take(&mut tls, half, 100_000).0.is_empty() && tls.held_bytes().0 > 0);
        let mut sealed = Vec::new();
        tls.seal(b"meanwhile", &mut sealed).unwrap();
        assert_eq!(give(&mut client, &sealed), b"meanwhile");
        assert_eq!(take(&mut tls, rest, 100_000).0, b"first half, second half");
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(b"with new keys").unwrap();
        assert_eq!(take(&mut tls, &sent(&mut client), 3).0, b"with new keys");
        sealed.clear();
        tls.seal(b"with the server's new ones", &mut sealed).unwrap();
        assert_eq!(give(&mut client, &sealed), b"with the server's new ones");
    }

    #[test]
    fn each_side_says_that_nothing_more_follows() {
        let folder = tempfile::tempdir().unwrap();
        let (mut tls, mut client) = shaken(folder.path(), 100_000);
        client.writer().write_all(b"last words").unwrap();
        client.send_close_notify();
        assert_eq!(take(&mut tls, &sent(&mut client), 1).0, b"last words");
        assert!(tls.is_closed);
        let mut sealed = Vec::new();
        tls.seal(b"the answer", &mut sealed).unwrap();
        tls.close(&mut sealed).unwrap();
        let (mut rest, mut plain) = (&sealed[..], Vec::new());
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        client.reader().read_to_end(&mut plain).unwrap();
        assert_eq!(plain, b"the answer", "and a clean end, or reading would have failed");
    }

    #[test]
    fn what_is_no_tls_ends_with_an_alert_and_nothing_is_sealed_before_a_handshake() {
        let folder = tempfile::tempdir().unwrap();
        let (mut tls, mut client) = pair(folder.path());
        assert!(matches!(tls.seal(b"too early", &mut Vec::new()), Err(TlsFault::NotReady)));
        let mut hello = sent(&mut client);
        for byte in hello.iter_mut().skip(9) {
            *byte ^= 0xFF;
        }
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        assert!(tls.receive(&mut hello, &mut plain, &mut out).is_err());
        assert_eq!(out.first(), Some(&21), "an alert: {out:?}");
        assert!(tls.seal(b"too late", &mut out).is_err());
    }

    #[test]
    fn a_message_in_parts_has_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        // Records of a client's hello that claims to be longer than all of them: 4 bytes of its own, then zeros.
        let hello = |total: usize| -> Vec<u8> {
            // The longest that TLS itself takes.
            let claimed = u32::from(u16::MAX).to_be_bytes();
            let mut message = vec![1, claimed[1], claimed[2], claimed[3]];
            let records = total.div_ceil(16_000);
            message.resize(total - records * 5, 0);
            let mut bytes = Vec::new();
            let (each, more) = (message.len() / records, message.len() % records);
            let mut rest = &message[..];
            for record in 0..records {
                let length = each + usize::from(record < more);
                let (part, after) = rest.split_at(length);
                bytes.extend([22, 3, 1]);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
                bytes.extend(part);
                rest = after;
            }
            bytes
        };
        for (total, fits) in
            [(TLS_HELD_BYTES_MAX - 1, true), (TLS_HELD_BYTES_MAX, true), (TLS_HELD_BYTES_MAX + 1, false)]
        {
            let (mut tls, _) = pair(folder.path());
            let mut bytes = hello(total);
            assert_eq!(bytes.len(), total);
            let result = tls.receive(&mut bytes, &mut Vec::new(), &mut Vec::new());
            assert_eq!(result.is_ok(), fits, "{total}: {result:?}");
        }
    }
}
