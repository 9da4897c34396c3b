//! The server's certificate: read from files, checked, served to both planes, and read anew when it changes.
//!
//! One resolver stands behind the settings of both planes: a new certificate is for handshakes from then on, and
//! connections that are open stay as they are. What a connection does with TLS is the planes' own:
//! [`crate::data_plane`], [`crate::control`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;

/// How often the files are looked at. SIGHUP looks at once.
pub const RELOAD_EVERY_S: u64 = 10;
/// Longest certificate or key file that is read.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What raw frames are called in the negotiation of protocols (ALPN).
pub const ALPN_FRAMES: &[u8] = b"etherply/1";
/// What HTTP, and so WebSocket, is called there.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {reason}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// No certificate, or no key.
    #[error("{path} holds no {what} as PEM (`-----BEGIN {label}-----`): {reason}", path = path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// What stands in front of it.
        label: &'static str,
        /// What was found instead.
        reason: String,
    },
    /// The key is not the certificate's, or of a kind that is not known.
    #[error(
        "{key} cannot be used with {certificate}: {reason}.\n--tls-cert is the server's own certificate followed by \
         those between it and the root, --tls-key the key of the first one",
        key = key.display(), certificate = certificate.display()
    )]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("cannot set TLS up: {0}")]
    Setup(rustls::Error),
}

/// When a file changed last, and how long it is: what tells that it has to be read anew.
type Stamp = (Option<SystemTime>, u64);

/// Serves the certificate that was read last.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A server's TLS.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    stamps: Mutex<[Stamp; 2]>,
    current: Arc<Current>,
    /// For sync connections: raw frames or WebSocket.
    pub data: Arc<ServerConfig>,
    /// For the control plane: HTTP.
    pub control: Arc<ServerConfig>,
}

impl Tls {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let stamps = [stamp(certificate), stamp(key)];
        let current = Arc::new(Current(RwLock::new(read(certificate, key)?)));
        let config = |protocols: &[&[u8]]| settings(&current, protocols).map_err(TlsError::Setup);
        Ok(Self {
            data: config(&[ALPN_HTTP, ALPN_FRAMES])?,
            control: config(&[ALPN_HTTP])?,
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            stamps: Mutex::new(stamps),
            current,
        })
    }

    /// Reads the files again if they have changed since they were read last, or in any case. Whether a certificate was
    /// read that is served from now on.
    ///
    /// # Errors
    /// [`TlsError`]; the one before is served on. The files are not looked at again before they change: a
    /// certificate and its key are seldom written at once, and the second of them comes as a change.
    pub fn reload(&self, in_any_case: bool) -> Result<bool, TlsError> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = [stamp(&self.certificate), stamp(&self.key)];
        if !in_any_case && *stamps == now {
            return Ok(false);
        }
        *stamps = now;
        let new = read(&self.certificate, &self.key)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// Does [`Tls::reload`], and tells the log what came of it.
    pub fn reload_and_tell(&self, in_any_case: bool) {
        match self.reload(in_any_case) {
            Ok(false) => {}
            Ok(true) => tracing::info!("new connections get the certificate that was just read"),
            Err(error) => tracing::error!("the certificate of before is served on: {error}"),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).map_or((None, 0), |data| (data.modified().ok(), data.len()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn settings(current: &Arc<Current>, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(current) as _;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Who comes back resumes with a ticket, which costs the server neither a signature nor memory.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |reason| TlsError::Read { path: path.to_owned(), reason };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > TLS_FILE_BYTES_MAX {
        let reason = format!("it has {length} bytes, and {TLS_FILE_BYTES_MAX} are the most that is read");
        return Err(failed(io::Error::other(reason)));
    }
    fs::read(path).map_err(failed)
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let lacks = |path: &Path, what, label, reason| {
        let path = path.to_owned();
        TlsError::Lacks { path, what, label, reason }
    };
    let bytes = read_file(certificate)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| error.to_string()).and_then(|chain| match chain.is_empty() {
        true => Err("there is none".to_owned()),
        false => Ok(chain),
    });
    let chain = chain.map_err(|reason| lacks(certificate, "certificate", "CERTIFICATE", reason))?;
    let private = PrivateKeyDer::from_pem_slice(&read_file(key)?)
        .map_err(|error| lacks(key, "private key", "PRIVATE KEY", error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|reason| {
        TlsError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), reason }
    })?;
    Ok(Arc::new(certified))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a certificate of its own making for a name; where it and its key are.
    fn write(folder: &Path, file: &str, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (certificate, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    }

    fn served(tls: &Tls) -> Vec<u8> {
        tls.current.0.read().unwrap().cert[0].to_vec()
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_file_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path(), "a", "a.test");
        let (other, _) = write(folder.path(), "b", "b.test");
        let fails = |certificate: &Path, key: &Path| Tls::open(certificate, key).unwrap_err().to_string();
        let text = fails(&folder.path().join("nothing"), &key);
        assert!(text.contains("cannot read") && text.contains("nothing"), "{text}");
        let text = fails(&key, &key);
        assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
        let text = fails(&certificate, &certificate);
        assert!(text.contains("BEGIN PRIVATE KEY"), "{text}");
        let text = fails(&other, &key);
        assert!(text.contains("--tls-key the key of the first one"), "{text}");
        let long = folder.path().join("long");
        fs::File::create(&long).unwrap().set_len(TLS_FILE_BYTES_MAX + 1).unwrap();
        assert!(fails(&long, &key).contains(&TLS_FILE_BYTES_MAX.to_string()));
        fs::File::create(&long).unwrap().set_len(TLS_FILE_BYTES_MAX).unwrap();
        assert!(fails(&long, &key).contains("BEGIN CERTIFICATE"));
        assert!(Tls::open(&certificate, &key).is_ok());
    }

    #[test]
    fn a_changed_certificate_is_served_once_it_fits_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path(), "a", "a.test");
        let tls = Tls::open(&certificate, &key).unwrap();
        let first = served(&tls);
        assert!(!tls.reload(false).unwrap(), "nothing has changed");
        let (other, other_key) = write(folder.path(), "b", "a-longer-name.test");
        // Half of it is there: the old one is served on, and the files are not read again and again.
        fs::copy(&other, &certificate).unwrap();
        assert!(tls.reload(false).is_err());
        assert!(!tls.reload(false).unwrap());
        assert_eq!(served(&tls), first);
        fs::copy(&other_key, &key).unwrap();
        assert!(tls.reload(true).unwrap());
        assert_ne!(served(&tls), first);
    }
}
