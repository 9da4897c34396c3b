//! The control plane: one thread with a tokio runtime, off the latency path, on a port of its own.
//!
//! `GET /health`: the process runs. `GET /ready`: it takes connections and writes; 503 otherwise, with the
//! reason. `GET /metrics`: Prometheus' text format. What changes or gives away documents is in
//! [`crate::administration`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use tokio::sync::oneshot;

use crate::access::live::Keys;
use crate::access::remote;
use crate::administration::{self, Administration};
use crate::allowlist::Allowlist;
use crate::control_listener::ControlListener;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::storage::StorageStats;
use crate::tls::{RELOAD_EVERY_S, Tls};

/// What the control plane looks at.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the storage threads count.
    pub storage: Arc<StorageStats>,
    /// Whether the data plane takes connections.
    pub is_serving: Arc<AtomicBool>,
    /// By which names this server may be called.
    pub allowlist: Arc<Allowlist>,
    /// What happens.
    pub events: Arc<Events>,
    /// Keys of tokens.
    pub keys: Arc<Keys>,
    /// What operators may do.
    pub administration: Arc<Administration>,
}

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    address: SocketAddr,
}

impl Control {
    /// Starts to answer on a bound port, by TLS as well if there is a certificate, and to look for a new one.
    pub fn start(
        listener: TcpListener,
        observed: Observed,
        tls: Option<(Arc<Tls>, Duration)>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            crate::priority::lower();
            let served = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(remote::keep_fetching(
                    Arc::clone(&observed.keys),
                    Arc::clone(&observed.metrics),
                ));
                tokio::spawn(Arc::clone(&observed.events).keep_telling());
                if let Some((tls, _)) = tls.clone() {
                    tokio::spawn(look_for_certificates(tls));
                }
                // What is tapped says where a connection is from, for `ConnectInfo`.
                let listener = ControlListener::new(listener, tls).tap_io(|_| {});
                // Connections that are open when the server stops are cut: there is nothing to lose.
                tokio::select! {
                    served = axum::serve(listener, service(observed)) => served,
                    _ = stopped => Ok(()),
                }
            });
            // A name that is still being looked up must not hold the stop up.
            runtime.shutdown_background();
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

async fn look_for_certificates(tls: Arc<Tls>) {
    let mut times = tokio::time::interval(Duration::from_secs(RELOAD_EVERY_S));
    loop {
        times.tick().await;
        tls.reload_and_tell(false);
    }
}

fn service(observed: Observed) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    router(observed).into_make_service_with_connect_info()
}

fn router(observed: Observed) -> Router {
    let operators = administration::router()
        .layer(middleware::from_fn_with_state(observed.clone(), administration::check_operator));
    Router::new()
        .route("/", get(index))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .merge(operators)
        .layer(middleware::from_fn_with_state(observed.clone(), check_host))
        .with_state(observed)
}

/// Refuses requests by a name that this server does not have: see [`crate::allowlist`].
async fn check_host(State(observed): State<Observed>, request: Request, next: Next) -> Response {
    const UNKNOWN: &str = "EtherPly: this server is not known by the name that the header Host gives it.\n\
        Addresses and localhost always are: any page could give a name of its own this server's address. For a \
        name, start the server with --allow-host NAME (or ETHERPLY_ALLOW_HOST).\n";
    const ONE: &str = "EtherPly: the header Host must be there once.\n";
    let is_allowed = |host: &str| observed.allowlist.check_host(host).is_ok();
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let status = match (hosts.next(), hosts.next()) {
        // Every browser names the host; checks of health that speak HTTP/1.0 do not.
        (None, _) if request.version() < Version::HTTP_11 => None,
        (None, _) | (_, Some(_)) => Some((StatusCode::BAD_REQUEST, ONE)),
        (Some(host), None) => {
            let target = request.uri().authority();
            let is_fine = host.to_str().is_ok_and(is_allowed)
                && target.is_none_or(|target| is_allowed(target.as_str()));
            (!is_fine).then_some((StatusCode::FORBIDDEN, UNKNOWN))
        }
    };
    match status {
        None => next.run(request).await,
        Some(refusal) => {
            observed.metrics.rejected.with_label_values(&["control_host"]).inc();
            refusal.into_response()
        }
    }
}

async fn index() -> &'static str {
    "EtherPly control plane.\n/health   the process runs\n/ready    it takes connections and writes\n\
     /metrics  Prometheus metrics\n\
     For `etherply` commands on this machine: POST /backup  /delete  GET /v1/events\n"
}

async fn ready(State(observed): State<Observed>) -> (StatusCode, &'static str) {
    if !observed.is_serving.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n");
    }
    if observed.keys.are_awaited() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no keys could be fetched yet (--keys-url): see the log\n");
    }
    if observed.storage.failed.load(Ordering::Acquire) > 0 {
        let reason =
            "storage takes no writes since a commit failed, and is tried again: see the log, make room\n";
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
