//! The control plane: one thread with a tokio runtime, off the latency path, on a port of its own.
//!
//! `GET /health`: the process runs. `GET /ready`: it takes connections and writes; 503 otherwise, with the
//! reason. `GET /metrics`: Prometheus' text format.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::storage::StorageStats;

/// What the control plane looks at.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the storage threads count.
    pub storage: Arc<StorageStats>,
    /// Whether the data plane takes connections.
    pub is_serving: Arc<AtomicBool>,
}

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    address: SocketAddr,
}

impl Control {
    /// Starts to answer on a bound port.
    pub fn start(listener: TcpListener, observed: Observed) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            crate::preflight::lower_priority();
            let served = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // Connections that are open when the server stops are cut: there is nothing to lose.
                tokio::select! {
                    served = axum::serve(listener, router(observed)) => served,
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!("the control plane has ended: {error}");
            }
        })?;
        Ok(Self { thread, stop, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(self) {
        // An error means that it has ended by itself.
        let _ = self.stop.send(());
        drop(self.thread.join());
    }
}

fn router(observed: Observed) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(observed)
}

async fn index() -> &'static str {
    "EtherPly control plane.\n/health   the process runs\n/ready    it takes connections and writes\n\
     /metrics  Prometheus metrics\n"
}

async fn ready(State(observed): State<Observed>) -> (StatusCode, &'static str) {
    if !observed.is_serving.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n");
    }
    if observed.storage.commits_failed.load(Ordering::Relaxed) > 0 {
        let reason = "storage takes no writes since a commit failed: see the log, make room, restart\n";
        return (StatusCode::SERVICE_UNAVAILABLE, reason);
    }
    (StatusCode::OK, "ready\n")
}

async fn metrics(State(observed): State<Observed>) -> impl IntoResponse {
    const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; version=0.0.4");
    match observed.metrics.render() {
        Ok(text) => (StatusCode::OK, [TEXT], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [TEXT], format!("{error}\n")),
    }
}
