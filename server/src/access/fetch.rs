//! One request for a JWK Set: bounded in time, in bytes and in where it may lead. Runs on the control plane.
//!
//! Redirects are not followed: whoever the operator named answers, or nobody does. Proxies of the environment are not
//! asked. What stands in the answer is judged by `etherply_access::Jwks`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use etherply_access::JWKS_BYTES_MAX;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::url::KeysUrl;

/// Longest time that one fetch may take, from the name's look-up to the last byte.
pub const KEYS_FETCH_TIMEOUT_S: u64 = 10;
/// Longest head of an answer.
pub const KEYS_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why nothing could be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it did not answer within {KEYS_FETCH_TIMEOUT_S} s")]
    Timeout,
    #[error("it cannot be reached: {0}")]
    Connect(io::Error),
    #[error("its name leads to another machine, which is asked by https:// only")]
    Elsewhere,
    #[error(
        "this machine trusts no certificates: install its roots (the package ca-certificates, or SSL_CERT_FILE)"
    )]
    Roots,
    #[error("its host is no name or address that a certificate can have")]
    Name,
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
    #[error("it does not speak HTTP as it should: {0}")]
    Http(hyper::Error),
    #[error("its request cannot be made: {0}")]
    Request(axum::http::Error),
    #[error("it redirects ({status}), which is not followed: give the URL that has the keys")]
    Redirect { status: StatusCode },
    #[error("it answers {status}")]
    Status { status: StatusCode },
    #[error("its answer has more than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    #[error("its answer broke off")]
    BrokenOff,
}

/// Fetches what stands at a URL.
pub(super) async fn get(url: &KeysUrl) -> Result<Bytes, FetchError> {
    timeout(Duration::from_secs(KEYS_FETCH_TIMEOUT_S), attempt(url)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn attempt(url: &KeysUrl) -> Result<Bytes, FetchError> {
    let stream = TcpStream::connect((url.host(), url.port())).await.map_err(FetchError::Connect)?;
    if !url.is_secure {
        // `localhost` is a name as well, which somebody may have pointed elsewhere.
        let peer = stream.peer_addr().map_err(FetchError::Connect)?;
        return if peer.ip().is_loopback() { ask(url, stream).await } else { Err(FetchError::Elsewhere) };
    }
    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| FetchError::Name)?;
    let stream = connector().await?.connect(name, stream).await.map_err(FetchError::Tls)?;
    ask(url, stream).await
}

/// Trusts what this machine trusts now: a root that was added since the start counts.
async fn connector() -> Result<TlsConnector, FetchError> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    // Some that many machines have cannot be read; others are enough.
    roots.add_parsable_certificates(found.map_err(|_| FetchError::Roots)?.certs);
    if roots.is_empty() {
        return Err(FetchError::Roots);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(FetchError::Setup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![crate::tls::ALPN_HTTP.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ask(
    url: &KeysUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(KEYS_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    // Ends with this function, however it ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(url.target())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("etherply/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(FetchError::Request)?;
    let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(FetchError::Redirect { status }),
        status => return Err(FetchError::Status { status }),
    }
    let body = Limited::new(answer.into_body(), JWKS_BYTES_MAX).collect().await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() { FetchError::TooLong } else { FetchError::BrokenOff }
    })?;
    Ok(body.to_bytes())
}
