//! What operators do to a running server by its control plane: for `etherply` commands on the same machine.
//!
//! It is for programs on the server's own machine: requests from other machines and from web pages are refused
//! whatever the server listens on. What cannot be undone, and, where tokens are asked for, what gives documents
//! away, asks for the key in the data directory as well.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use etherply_engine::ids::DocumentId;
use etherply_engine::log::Deleted;
use etherply_engine::placement::shard_of;
use etherply_wire::limits::DOCUMENT_ID_BYTES_MAX;

use crate::access::revocations::{Line, RevocationsError};
use crate::access::{Access, now_s};
use crate::backup::{self, BackupError};
use crate::control::Observed;
use crate::data_plane::{Mailboxes, Message};
use crate::operator::is_key;
use crate::priority;
use crate::storage::Reader;

/// Where the control plane deletes documents.
pub const DELETE_PATH: &str = "/delete";
/// Where the control plane tells what happens.
pub const EVENTS_PATH: &str = "/v1/events";
/// Where the control plane revokes grants.
pub const REVOKE_PATH: &str = "/revoke";
/// Longest request to revoke.
const REVOKE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a backup that are sent at once.
const BACKUP_CHUNK_BYTES: usize = 128 * 1024;
/// Chunks of a backup that wait for whoever fetches it.
const BACKUP_CHUNKS_MAX: usize = 4;
/// How long a backup waits for whoever fetches it to take a chunk: it holds on to what was deleted meanwhile.
pub const BACKUP_STALLED_S: u64 = 60;

/// What operators may do.
pub struct Administration {
    reader: Reader,
    mailboxes: Mailboxes,
    key: String,
    access: Access,
    is_backing_up: AtomicBool,
}

impl std::fmt::Debug for Administration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Administration").finish_non_exhaustive()
    }
}

impl Administration {
    /// Of the server whose log this reads and whose cores have these mailboxes; `key` is asked for what cannot be
    /// undone.
    pub fn new(reader: Reader, mailboxes: Mailboxes, key: String, access: Access) -> Self {
        Self { reader, mailboxes, key, access, is_backing_up: AtomicBool::new(false) }
    }

    /// Whether a request has the key.
    fn is_operator(&self, headers: &HeaderMap) -> bool {
        let given =
            headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok()?.strip_prefix("Bearer "));
        given.is_some_and(|given| is_key(&self.key, given))
    }
}

/// The requests.
pub(crate) fn router() -> Router<Observed> {
    Router::new()
        .route(EVENTS_PATH, get(read_events))
        .route(backup::file::CONTROL_PATH, post(take_backup))
        .route(REVOKE_PATH, post(revoke).layer(DefaultBodyLimit::max(REVOKE_BYTES_MAX)))
        .route(DELETE_PATH, post(delete).layer(DefaultBodyLimit::max(DOCUMENT_ID_BYTES_MAX)))
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

/// Tells what happens from now on, an object of JSON a line, until the reader goes.
async fn read_events(State(observed): State<Observed>, headers: HeaderMap) -> Response {
    const KEY: &str = "EtherPly: events say who works on which document, so this asks for the key in the server's \
        data directory, as `Authorization: Bearer KEY`.\n";
    if !observed.administration.is_operator(&headers) {
        observed.metrics.rejected.with_label_values(&["control_operator"]).inc();
        return (StatusCode::UNAUTHORIZED, KEY).into_response();
    }
    match observed.events.read() {
        Ok(lines) => {
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines.into_stream()))
                .into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("EtherPly: {error}\n")).into_response(),
    }
}

/// Deletes the document whose name is the body.
async fn delete(State(observed): State<Observed>, headers: HeaderMap, document: String) -> Response {
    const KEY: &str = "EtherPly: a document cannot be brought back, so this asks for the key in the server's data \
        directory: `etherply delete --control URL --data DIR DOCUMENT`.\n";
    let Administration { mailboxes, .. } = &*observed.administration;
    if !observed.administration.is_operator(&headers) {
        observed.metrics.rejected.with_label_values(&["control_operator"]).inc();
        return (StatusCode::UNAUTHORIZED, KEY).into_response();
    }
    let refuse = |status: StatusCode, text: &str| (status, format!("EtherPly: {text}\n")).into_response();
    let document = match DocumentId::new(&document) {
        Ok(document) => document,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let cores = u16::try_from(mailboxes.len()).unwrap_or(u16::MAX);
    let home = mailboxes.get(usize::from(shard_of(&document, cores)));
    let (answer, answered) = flume::bounded(1);
    let Some(home) = home else { return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server stops") };
    home.send(Message::Delete { document: document.clone(), answer });
    match answered.recv_async().await {
        Ok(Ok(Deleted::Now)) => {
            tracing::info!("document {document} deleted");
            "deleted\n".into_response()
        }
        Ok(Ok(Deleted::Before)) => "was deleted before\n".into_response(),
        Ok(Ok(Deleted::Absent)) => refuse(StatusCode::NOT_FOUND, "there is no document of this name"),
        Ok(Err(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the server stops: look whether it was deleted"),
    }
}

/// Takes grants back, as the body says: durably first, then on every core.
async fn revoke(State(observed): State<Observed>, headers: HeaderMap, body: Bytes) -> Response {
    const KEY: &str = "EtherPly: this asks for the key in the server's data directory: `etherply revoke --control \
        URL --data DIR`.\n";
    let Administration { mailboxes, access, .. } = &*observed.administration;
    if !observed.administration.is_operator(&headers) {
        observed.metrics.rejected.with_label_values(&["control_operator"]).inc();
        return (StatusCode::UNAUTHORIZED, KEY).into_response();
    }
    let refuse = |status: StatusCode, text: &str| (status, format!("EtherPly: {text}\n")).into_response();
    let Ok(line) = serde_json::from_slice::<Line>(&body) else {
        let text = "the body is JSON as {\"token\": \"ID\"}, {\"subject\": \"NAME\"} or {\"documents\": \"PATTERN\"}";
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    let revocation = match line.at(now_s()) {
        Ok(revocation) => Arc::new(revocation),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if let Err(error) = access.revocations.add(&revocation) {
        let status = match error {
            RevocationsError::Full => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        return refuse(status, &error.to_string());
    }
    tracing::info!("revoked: {:?}", revocation.what);
    for mailbox in mailboxes.iter() {
        mailbox.send(Message::Revoke(Arc::clone(&revocation)));
    }
    "revoked\n".into_response()
}

/// Ends when a backup does, however it does.
struct BackingUp(Arc<Administration>);

impl Drop for BackingUp {
    fn drop(&mut self) {
        self.0.is_backing_up.store(false, Ordering::Release);
    }
}

async fn take_backup(State(observed): State<Observed>, headers: HeaderMap) -> Response {
    const KEY: &str = "EtherPly: this server asks for tokens, and a backup holds every document, so it asks for the key \
        in its data directory: `etherply backup --control URL --operator-key DIR/operator.key`.\n";
    const BUSY: &str = "EtherPly: a backup is being taken already: try again when it is done.\n";
    let administration = Arc::clone(&observed.administration);
    if administration.access.keys.asks() && !administration.is_operator(&headers) {
        observed.metrics.rejected.with_label_values(&["control_operator"]).inc();
        return (StatusCode::UNAUTHORIZED, KEY).into_response();
    }
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
