//! TLS of a run: a certificate for a server that the generator starts, and whom its connections trust.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etherply_client::Tls;

/// The certificate of a server on this machine, made for one run: it is its own root.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate as PEM.
    pub certificate: PathBuf,
    /// Its key as PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a folder.
    pub fn make(folder: &Path) -> Result<Self> {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)?;
        let files = Self { certificate: folder.join("tls.pem"), key: folder.join("tls.key") };
        std::fs::write(&files.certificate, made.cert.pem())?;
        std::fs::write(&files.key, made.signing_key.serialize_pem())?;
        Ok(files)
    }

    /// Trusts it, and nobody else.
    pub fn trusted(&self) -> Result<Tls> {
        trusting(Some(&self.certificate), "127.0.0.1")
    }
}

/// Trusts servers of this name by the roots in a file, or by those of this machine.
pub fn trusting(roots: Option<&Path>, name: &str) -> Result<Tls> {
    let Some(roots) = roots else { return Ok(Tls::of_this_machine(name)?) };
    let named = || format!("{} cannot be used as --ca", roots.display());
    Tls::trusting(&std::fs::read(roots).with_context(named)?, name).with_context(named)
}
