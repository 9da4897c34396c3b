//! TLS of a client's connections, without I/O: [`crate::Client`] opens what comes in and seals what goes out, so that
//! its caller moves bytes as it does without TLS.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, InvalidMessage, RootCertStore};

use crate::error::ClientError;
use crate::transport::Transport;

/// What raw frames are called in the negotiation of protocols (ALPN).
const ALPN_FRAMES: &[u8] = b"etherply/1";
/// What HTTP, and so WebSocket, is called there.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Whom a client trusts, and what the server has to be called. Made once and cheap to clone: clients that share it
/// come back with each other's tickets, which costs the server no signature.
#[derive(Clone)]
pub struct Tls {
    frames: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no TLS to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsSetupError {
    /// The name is neither a DNS name nor an address.
    #[error("`{0}` is neither a name nor an address that a certificate could have")]
    Name(String),
    /// Nobody is trusted.
    #[error("no certificate to trust: {0}")]
    Roots(String),
    /// TLS itself cannot be set up.
    #[error("cannot set TLS up: {0}")]
    Setup(String),
}

impl Tls {
    /// Trusts servers of this name (a DNS name or an address, without a port) whose certificates lead to one of the
    /// roots in `pem`, and nobody else.
    ///
    /// # Errors
    /// [`TlsSetupError`]
    pub fn trusting(pem: &[u8], name: &str) -> Result<Self, TlsSetupError> {
        let unreadable = |error: &dyn fmt::Display| TlsSetupError::Roots(error.to_string());
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.map_err(|error| unreadable(&error))?;
            roots.add(root).map_err(|error| unreadable(&error))?;
        }
        Self::new(roots, name)
    }

    /// The same with the roots that this machine trusts.
    ///
    /// # Errors
    /// [`TlsSetupError`]
    pub fn of_this_machine(name: &str) -> Result<Self, TlsSetupError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some that many machines have cannot be read; others are enough.
        roots.add_parsable_certificates(found.certs);
        Self::new(roots, name)
    }

    fn new(roots: RootCertStore, name: &str) -> Result<Self, TlsSetupError> {
        if roots.is_empty() {
            return Err(TlsSetupError::Roots("none was found".to_owned()));
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsSetupError::Name(name.to_owned()))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsSetupError::Setup(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        let http = Arc::new(config.clone());
        config.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        Ok(Self { frames: Arc::new(config), http, name })
    }

    pub(crate) fn start(&self, transport: &Transport) -> Result<Session, ClientError> {
        let config = match transport {
            Transport::Tcp => &self.frames,
            Transport::WebSocket { .. } => &self.http,
        };
        let mut connection = ClientConnection::new(Arc::clone(config), self.name.clone())
            .map_err(|error| fault(&error, &self.name))?;
        // What a client says before the handshake is done is bounded by what it is given to say.
        connection.set_buffer_limit(None);
        Ok(Session { connection, name: self.name.clone(), plain: Vec::new() })
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub(crate) struct Session {
    connection: ClientConnection,
    name: ServerName<'static>,
    /// What is to be sealed: kept, so that no output makes a buffer.
    pub(crate) plain: Vec<u8>,
}

impl Session {
    /// Takes received bytes and appends what they carry to `plain`. After an error as well, [`Session::seal`] gives
    /// what the server is to be told.
    pub(crate) fn open(&mut self, mut received: &[u8], plain: &mut Vec<u8>) -> Result<(), ClientError> {
        while !received.is_empty() {
            let failed = |_| ClientError::Tls("the server's records cannot be read".to_owned());
            if self.connection.read_tls(&mut received).map_err(failed)? == 0 {
                // It said that nothing more follows.
                return Ok(());
            }
            let state = self.connection.process_new_packets().map_err(|error| fault(&error, &self.name))?;
            let (start, bytes) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + bytes, 0);
            let fresh = plain.get_mut(start..).unwrap_or_default();
            self.connection.reader().read_exact(fresh).map_err(failed)?;
        }
        Ok(())
    }

    /// Appends to `out` what is to be sent: `plain`, sealed, and what TLS has to say by itself.
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>) {
        // Neither fails: there is no limit to what is sealed, and bytes are appended to memory.
        drop(self.connection.writer().write_all(&self.plain));
        self.plain.clear();
        while self.connection.wants_write() {
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }
}

/// Why TLS failed, and what to do about it.
fn fault(error: &rustls::Error, name: &ServerName<'static>) -> ClientError {
    let name = name.to_str();
    ClientError::Tls(match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired: its operator has to renew it".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet: look at the clocks of both machines".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the server's certificate is not for `{name}`: connect to it by the name that it has"),
        // Signed by another root of the same name is signed by another root.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate leads to no root that this client trusts: give it the root's certificate"
                .to_owned()
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS here: connect without it, or to the right port".to_owned()
        }
        other => other.to_string(),
    })
}
