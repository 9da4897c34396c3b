//! Certificates for servers of tests, and clients that trust them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etherply_client::Tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::{Server, command};

/// Certificates of one root, in a folder.
pub struct Certificates {
    folder: tempfile::TempDir,
    root: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Certificates {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a root of this test");
        let root = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), root }
    }

    /// The same, with a certificate for this name.
    pub fn of(name: &str) -> Self {
        let certificates = Self::new();
        certificates.issue(name, false);
        certificates
    }

    pub fn files(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("server.pem"), self.folder.path().join("server.key"))
    }

    /// Writes a certificate for a name, in the place of the one before.
    pub fn issue(&self, name: &str, is_expired: bool) {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.root).unwrap();
        let (certificate_file, key_file) = self.files();
        std::fs::write(certificate_file, certificate.pem()).unwrap();
        std::fs::write(key_file, key.serialize_pem()).unwrap();
    }

    /// Trusts this root, and a server of this name.
    pub fn trusted(&self, name: &str) -> Tls {
        Tls::trusting(self.root.pem().as_bytes(), name).unwrap()
    }

    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// What a server that is not EtherPly speaks TLS with.
    pub fn server_config(&self) -> ServerConfig {
        let (certificate, key) = self.files();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap()
    }

    pub fn start(&self, data: &Path) -> Server {
        self.start_with(data, &[])
    }

    /// A server with the certificate and these flags.
    pub fn start_with(&self, data: &Path, flags: &[&str]) -> Server {
        let (certificate, key) = self.files();
        let mut asked = command(data);
        Server::spawn(asked.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key).args(flags))
    }

    /// A bare TLS client that asks for these protocols.
    pub fn bare(&self, protocols: &[&str]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }
}

/// A server for `localhost`, and its certificates.
pub fn server(data: &Path) -> (Server, Certificates) {
    let certificates = Certificates::of("localhost");
    (certificates.start(data), certificates)
}
