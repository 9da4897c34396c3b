//! What operators do to a running server by its control plane: for `etherply` commands on the same machine.
//!
//! There is no access control yet, so this is open to every program of the machine, as documents are; and to
//! nobody else: requests from other machines and from web pages are refused whatever the server listens on.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;

use crate::backup::{self, BackupError};
use crate::control::Observed;
use crate::priority;
use crate::storage::Reader;

/// Bytes of a backup that are sent at once.
const BACKUP_CHUNK_BYTES: usize = 128 * 1024;
/// Chunks of a backup that wait for whoever fetches it.
const BACKUP_CHUNKS_MAX: usize = 4;
/// How long a backup waits for whoever fetches it to take a chunk: it holds on to what was deleted meanwhile.
pub const BACKUP_STALLED_S: u64 = 60;

/// What operators may do.
#[derive(Debug)]
pub struct Administration {
    reader: Reader,
    is_backing_up: AtomicBool,
}

impl Administration {
    /// Of the server whose log this reads.
    pub fn new(reader: Reader) -> Self {
        Self { reader, is_backing_up: AtomicBool::new(false) }
    }
}

/// The requests.
pub(crate) fn router() -> Router<Observed> {
    Router::new().route(backup::file::CONTROL_PATH, post(take_backup))
}

/// Refuses whoever is not a program on this machine.
pub(crate) async fn check_operator(
    State(observed): State<Observed>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    const ELSEWHERE: &str = "EtherPly: this is only for programs on the server's own machine: run the etherply \
        command there.\n";
    const PAGE: &str = "EtherPly: this is not for web pages.\n";
    // Browsers send it with every POST, and pages cannot take it away.
    let is_page = request.headers().contains_key(header::ORIGIN);
    let refusal = match (from.ip().to_canonical().is_loopback(), is_page) {
        (true, false) => return next.run(request).await,
        (false, _) => ELSEWHERE,
        (true, true) => PAGE,
    };
    observed.metrics.rejected.with_label_values(&["control_operator"]).inc();
    (StatusCode::FORBIDDEN, refusal).into_response()
}

/// Ends when a backup does, however it does.
struct BackingUp(Arc<Administration>);

impl Drop for BackingUp {
    fn drop(&mut self) {
        self.0.is_backing_up.store(false, Ordering::Release);
    }
}

async fn take_backup(State(observed): State<Observed>) -> Response {
    const BUSY: &str = "EtherPly: a backup is being taken already: try again when it is done.\n";
    let administration = Arc::clone(&observed.administration);
    if administration.is_backing_up.swap(true, Ordering::AcqRel) {
        return (StatusCode::CONFLICT, BUSY).into_response();
    }
    let backing_up = BackingUp(administration);
    let (chunks, taken) = flume::bounded(BACKUP_CHUNKS_MAX);
    let started = std::thread::Builder::new().name("backup".to_owned()).spawn(move || {
        priority::lowest();
        let out = Chunks { chunks, chunk: Vec::with_capacity(BACKUP_CHUNK_BYTES) };
        let outcome = match backup::take::take(&backing_up.0.reader, out, Path::new("backup"), &mut |_, _| {})
        {
            Ok(summary) => {
                tracing::info!("backup taken: {summary}");
                "taken"
            }
            Err(BackupError::Io { source, .. }) => {
                tracing::warn!("a backup was not fetched to its end: {source}");
                "not_fetched"
            }
            Err(error) => {
                tracing::error!("no backup could be taken: {error}");
                "failed"
            }
        };
        observed.metrics.backups.with_label_values(&[outcome]).inc();
    });
    match started {
        Ok(_) => Body::from_stream(taken.into_stream()).into_response(),
        Err(error) => {
            let text = format!("EtherPly: cannot start a thread for the backup: {error}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Hands what is written over to the control plane's thread, a chunk at a time.
struct Chunks {
    chunks: flume::Sender<Result<Bytes, io::Error>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() + bytes.len() > BACKUP_CHUNK_BYTES {
            self.flush()?;
        }
        self.chunk.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::copy_from_slice(&self.chunk);
        self.chunk.clear();
        let stalled = Duration::from_secs(BACKUP_STALLED_S);
        self.chunks.send_timeout(Ok(chunk), stalled).map_err(|error| match error {
            flume::SendTimeoutError::Timeout(_) => io::Error::other("nobody takes its next part"),
            flume::SendTimeoutError::Disconnected(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }
}
