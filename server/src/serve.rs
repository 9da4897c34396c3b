//! Starts everything, and stops it in order.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use etherply_access::{Expected, KeySet, TOKEN_LIFETIME_S_MAX};
use etherply_engine::faults::Faults;
use etherply_engine::ids::DocumentId;
use etherply_engine::placement::shard_of;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::access::live::Keys;
use crate::access::revocations::Revocations;
use crate::access::{self, Access};
use crate::administration::Administration;
use crate::allowlist::Allowlist;
use crate::cli::ServeArgs;
use crate::control::{Control, Observed};
use crate::data_plane::limits::STOP_TIMEOUT;
use crate::data_plane::{self, Acceptor, CoreSetup, Listener, Mailbox, Mailboxes, Message, StopStage, run};
use crate::events::Events;
use crate::materialise::due::{LAG_RECORDS_MAX, Room};
use crate::materialise::inspector::Quarantining;
use crate::materialise::verify::{Admission, Verifier, VerifierThreads};
use crate::materialise::{Materialisers, Quarantine, Settings, Tables};
use crate::metrics::Metrics;
use crate::operator;
use crate::preflight::{self, Problem};
use crate::priority::{self, Realtime};
use crate::runtime::{self, CoreThread};
use crate::storage::retire::{RetireStop, spawn_retire};
use crate::storage::scrub::{ScrubStop, spawn_scrub};
use crate::storage::{self, Listeners, StorageThread};
use crate::throttle::{Allowed, Rate, Rates, Throttle};
use crate::tls::Tls;

/// What runs.
struct Running {
    acceptor: Acceptor,
    control: Control,
    cores: Vec<JoinHandle<()>>,
    mailboxes: Mailboxes,
    drained: flume::Receiver<u16>,
    committer: StorageThread,
    readers: Vec<StorageThread>,
    materialisers: Materialisers,
    verifiers: VerifierThreads,
    scrub: Option<ScrubStop>,
    retire: RetireStop,
    is_serving: Arc<AtomicBool>,
}

/// Where things are, for people and programs.
struct Facts {
    listen: SocketAddr,
    control: SocketAddr,
    data: PathBuf,
    cores: usize,
    connections_max: u64,
    /// Which threads have a real-time scheduling class.
    realtime: Realtime,
    asks_for_tokens: bool,
    speaks_tls: bool,
}

/// Serves until a signal asks to stop.
pub fn serve(args: &ServeArgs) -> Result<(), Problem> {
    // Before anything starts: a signal that comes early must not end the process half way.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Problem::system("wait for signals"))?;
    let credentials = check(args)?;
    let tls = credentials.tls.clone();
    if tls.is_some() {
        signals.add_signal(SIGHUP).map_err(Problem::system("wait for signals"))?;
    } else if (args.keys.is_some() || args.keys_url.is_some()) && !args.listen.ip().is_loopback() {
        tracing::warn!(
            "no TLS (--tls-cert): whoever is on the way reads documents and tokens, unless a proxy or a tunnel in \
             front of this server speaks TLS"
        );
    }
    let (running, facts) = start(args, credentials)?;
    announce(args, &facts);
    for signal in signals.forever() {
        if let Some(tls) = tls.as_ref().filter(|_| signal == SIGHUP) {
            tls.reload_and_tell(true);
            continue;
        }
        let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
        tracing::info!("{name}: telling clients, finishing what is under way");
        break;
    }
    stop(running);
    Ok(())
}

/// Reads the certificate, if there is to be one.
fn open_tls(args: &ServeArgs) -> Result<Option<Arc<Tls>>, Problem> {
    match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Ok(Some(Arc::new(Tls::open(certificate, key)?))),
        (None, None) => Ok(None),
        (certificate, _) => {
            let (given, missing) =
                if certificate.is_some() { ("tls-cert", "tls-key") } else { ("tls-key", "tls-cert") };
            Err(Problem::HalfTls { given, missing })
        }
    }
}

/// What the settings name that is read before anything starts.
#[derive(Debug)]
pub struct Credentials {
    keys: KeySet,
    tls: Option<Arc<Tls>>,
}

/// Looks whether the settings fit together, and reads what they name of keys and certificates. Starts nothing.
///
/// # Errors
/// The server would not start.
pub fn check(args: &ServeArgs) -> Result<Credentials, Problem> {
    let tls = open_tls(args)?;
    let keys = match &args.keys {
        Some(path) => access::keys::read(path)?,
        None => KeySet::default(),
    };
    preflight::check_exposure(args.listen, args.insecure || args.keys_url.is_some() || !keys.is_empty())?;
    preflight::check_exposure(args.control, args.insecure)?;
    Ok(Credentials { keys, tls })
}

fn start(args: &ServeArgs, Credentials { keys, tls }: Credentials) -> Result<(Running, Facts), Problem> {
    let connections_max = preflight::raise_descriptors()?;
    let processors = preflight::processors()?;
    let cores = args.cores.map_or(processors.len(), usize::from);
    if cores > processors.len() {
        return Err(Problem::Cores { asked: cores, available: processors.len() });
    }
    runtime::check(cores)?;
    let listener = Listener::bind(args.listen).map_err(Problem::port(args.listen, "sync"))?;
    let control = TcpListener::bind(args.control).map_err(Problem::port(args.control, "control"))?;
    let listen = listener.address().map_err(Problem::system("read the listening address"))?;

    let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..cores).map(|_| Mailbox::new()).unzip();
    let mailboxes: Mailboxes = mailboxes.into();
    // Two replicas of a document where its changes are verified first.
    let replicas = if args.admission == Admission::Verified { 2 } else { 1 };
    let settings = Settings {
        threads: args.materialisers,
        bytes_max: args.materialised_bytes / replicas,
        lag_records_max: lag_records_max(),
    };
    let gate = Arc::new(storage::Gate::default());
    let tables = Tables::new(settings, &gate, &room_teller(&mailboxes));

    let log = open_storage(args)?;
    let stats = Arc::clone(log.stats());
    let (storage_reader, operators_reader) = (log.reader().clone(), log.reader().clone());
    let listeners = Listeners { gate, durable: tables.durable(), recovered: tell_cores(&mailboxes) };
    let realtime = priority::granted(args.realtime);
    let (committer, commit_thread) =
        storage::spawn_committer(log, Arc::clone(&stats), listeners, move || priority::commit(realtime))
            .map_err(Problem::system("start the commit thread"))?;
    let (questions, reader) =
        storage::spawn_reader("log-read", storage_reader.clone(), Arc::clone(&stats), priority::lower)
            .map_err(Problem::system("start the reader thread"))?;
    let (background, cutter) =
        storage::spawn_background("snapshot", storage_reader.clone(), Arc::clone(&stats), priority::lowest)
            .map_err(Problem::system("start the thread that cuts snapshots"))?;
    let mut readers = vec![reader, cutter];
    let mut scrub = None;
    if args.scrub_days > 0 {
        let (stop, thread) =
            spawn_scrub(operators_reader.clone(), Arc::clone(&stats), args.scrub_days, priority::lowest)
                .map_err(Problem::system("start the scrub"))?;
        readers.push(thread);
        scrub = Some(stop);
    }
    let (retire, retirer) = spawn_retire(
        storage_reader.clone(),
        committer.clone(),
        Arc::clone(&stats),
        args.retain_days,
        priority::lowest,
    )
    .map_err(Problem::system("start the thread that removes old epochs"))?;
    readers.push(retirer);
    let storage = storage::Handles { committer, questions, background };
    let metrics = Metrics::new(Some(Arc::clone(&stats)))
        .map_err(|error| Problem::System { what: "register the metrics", reason: io::Error::other(error) })?;
    let metrics = Arc::new(metrics);
    let events = Events::new(&metrics);
    let access = open_access(args, keys)?;
    let allowlist = Arc::new(Allowlist::new(args.allow_host.clone(), args.allow_origin.clone()));
    let is_serving = Arc::new(AtomicBool::new(false));
    let key = operator::write_key(&args.data).map_err(Problem::system("write the key for operators"))?;
    let observed = Observed {
        metrics: Arc::clone(&metrics),
        storage: stats,
        is_serving: Arc::clone(&is_serving),
        allowlist: Arc::clone(&allowlist),
        events: Arc::clone(&events),
        keys: Arc::clone(&access.keys),
        administration: Arc::new(Administration::new(
            operators_reader,
            Arc::clone(&mailboxes),
            key,
            access.clone(),
        )),
    };
    let data_tls = tls.as_ref().map(|tls| Arc::clone(&tls.data));
    let speaks_tls = tls.is_some();
    let tls = tls.map(|tls| (tls, Duration::from_secs(u64::from(args.hello_timeout))));
    let control =
        Control::start(control, observed, tls).map_err(Problem::system("start the control plane"))?;

    let materialisers = Materialisers::start(
        tables,
        settings,
        &storage_reader,
        storage.committer.clone(),
        Quarantine::new(&args.data).telling(&events),
        &metrics,
        home_teller(&mailboxes),
    )
    .map_err(Problem::system("start a materialiser"))?;
    let (verifier, verifiers) = start_verifiers(args, settings, &storage_reader, &metrics)
        .map_err(Problem::system("start a verifier"))?;
    drop(storage_reader);
    let (drained_sender, drained) = flume::unbounded();
    let mut threads = Vec::with_capacity(cores);
    let (started, open_connections) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let throttle = Throttle::new(allowed(args));
    let connections_per_core: Arc<[AtomicU64]> = (0..cores).map(|_| AtomicU64::new(0)).collect();
    let numbers = 0_u16..;
    for ((core, cpu), messages) in numbers.zip(processors).zip(receivers) {
        let setup = CoreSetup {
            core,
            cores: u16::try_from(cores).unwrap_or(u16::MAX),
            mailboxes: Arc::clone(&mailboxes),
            storage: Some(storage.clone()),
            rebuilds: materialisers.rebuilds(),
            cuts: Arc::clone(materialisers.cuts()),
            verifier: verifier.clone(),
            metrics: Arc::clone(&metrics),
            started,
            open_connections: Arc::clone(&open_connections),
            connections_per_core: Arc::clone(&connections_per_core),
            idle_timeout_s: args.idle_timeout,
            hello_timeout_s: args.hello_timeout,
            frame_timeout_s: args.frame_timeout,
            token_timeout_s: args.token_timeout,
            events: Arc::clone(&events),
            throttle: Arc::clone(&throttle),
            allowlist: Arc::clone(&allowlist),
            access: access.clone(),
            tls: data_tls.clone(),
            document_bytes_max: args.document_bytes_max,
            faults: faults(),
            drained: drained_sender.clone(),
        };
        let start = move || {
            priority::executor(realtime);
            run(setup, messages)
        };
        let thread = runtime::spawn_core(&format!("core-{core}"), cpu, start)
            .map_err(Problem::system("start an executor"))?;
        threads.push(watch(thread).map_err(Problem::system("start a thread"))?);
    }
    let room = data_plane::Room { open: open_connections, max: connections_max, throttle, started };
    let acceptor = Acceptor::start(listener, Arc::clone(&mailboxes), metrics, room)
        .map_err(Problem::system("start the thread that accepts connections"))?;
    is_serving.store(true, Ordering::Release);
    warn_of_stars(&allowlist);
    let facts = Facts {
        listen,
        control: control.address(),
        data: args.data.clone(),
        cores,
        connections_max,
        realtime,
        asks_for_tokens: access.keys.asks(),
        speaks_tls,
    };
    let running = Running {
        acceptor,
        control,
        cores: threads,
        mailboxes,
        drained,
        committer: commit_thread,
        readers,
        materialisers,
        verifiers,
        scrub,
        retire,
        is_serving,
    };
    Ok((running, facts))
}

fn allowed(args: &ServeArgs) -> Allowed {
    let rates = |operations, bytes| Rates { operations: Rate(operations), bytes: Rate(bytes) };
    Allowed {
        trusted: args.trusted_networks.clone(),
        proxy_protocol: args.proxy_protocol,
        connections_per_address: args.connections_per_address,
        pending: args.pending_connections,
        accept: Rate(args.accept_rate),
        client: rates(args.client_rate, args.client_bandwidth),
        address: rates(args.address_rate, args.address_bandwidth),
        subject: rates(args.subject_rate, args.subject_bandwidth),
        document: rates(args.document_rate, args.document_bandwidth),
    }
}

fn start_verifiers(
    args: &ServeArgs,
    settings: Settings,
    reader: &storage::Reader,
    metrics: &Arc<Metrics>,
) -> io::Result<(Verifier, VerifierThreads)> {
    match args.admission {
        Admission::Checked => Ok(VerifierThreads::none()),
        Admission::Verified => VerifierThreads::start(settings.threads, settings.bytes_max, reader, metrics),
    }
}

/// Tells all cores that commits are held back no longer.
fn room_teller(mailboxes: &Mailboxes) -> Room {
    let mailboxes = Arc::clone(mailboxes);
    Arc::new(move || {
        for mailbox in mailboxes.iter() {
            mailbox.send(Message::Room);
        }
    })
}

/// Tells a document's home core that it has to begin anew.
fn home_teller(mailboxes: &Mailboxes) -> Quarantining {
    let mailboxes = Arc::clone(mailboxes);
    Arc::new(move |document| {
        let home = shard_of(&document, u16::try_from(mailboxes.len()).unwrap_or(u16::MAX));
        if let Some(mailbox) = mailboxes.get(usize::from(home)) {
            mailbox.send(Message::Quarantine(document));
        }
    })
}

/// Lets every core hear that the log was opened again. Weakly: the commit thread, which holds this, ends when the
/// cores are gone.
fn tell_cores(mailboxes: &Mailboxes) -> storage::Recovered {
    let mailboxes = Arc::downgrade(mailboxes);
    Arc::new(move |era, documents| {
        let documents: Arc<[DocumentId]> = documents.into();
        for mailbox in mailboxes.upgrade().iter().flat_map(|mailboxes| mailboxes.iter()) {
            mailbox.send(Message::StorageRecovered { era, documents: Arc::clone(&documents) });
        }
    })
}

/// Builds for tests may say otherwise: `ETHERPLY_LAG_RECORDS_MAX`.
fn lag_records_max() -> u64 {
    let asked = std::env::var("ETHERPLY_LAG_RECORDS_MAX").ok().filter(|_| cfg!(debug_assertions));
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(LAG_RECORDS_MAX)
}

/// Panics on purpose, which only builds for tests have: `ETHERPLY_FAULTS=PREFIX:EVERY`.
fn faults() -> Faults {
    let asked = std::env::var("ETHERPLY_FAULTS").ok().filter(|_| cfg!(debug_assertions));
    let parsed = asked.as_deref().and_then(|asked| asked.rsplit_once(':'));
    match parsed.map(|(documents, every)| (documents, every.parse())) {
        Some((documents, Ok(every))) => Faults::new(documents.to_owned(), every),
        _ => Faults::none(),
    }
}

/// Says what a `*` in an allowlist gives up.
fn warn_of_stars(allowlist: &Allowlist) {
    if allowlist.allows_every_origin() {
        tracing::warn!("--allow-origin '*': every web page that somebody here looks at may connect");
    }
    if allowlist.allows_every_host() {
        tracing::warn!(
            "--allow-host '*': a web page may pass this server off as its own site (DNS rebinding)"
        );
    }
}

/// Ends the process if an executor ends by a panic: its documents would never answer again. What was acked is
/// on disk, and a restart begins from there.
fn watch(core: CoreThread) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        if let Err(error) = core.join() {
            tracing::error!("an executor has ended, so the server does: {error}");
            std::process::abort();
        }
    })
}

/// Reads what was revoked, and says which keys there are.
fn open_access(args: &ServeArgs, keys: KeySet) -> Result<Access, Problem> {
    let expected = Expected {
        issuer: args.token_issuer.clone(),
        audience: args.token_audience.clone(),
        lifetime_s: args.token_lifetime,
    };
    let revocations = Revocations::open(&args.data, TOKEN_LIFETIME_S_MAX, access::now_s())?;
    for (id, algorithm) in keys.iter() {
        tracing::info!(id, %algorithm, "tokens are taken that were made with this key");
    }
    let refresh = Duration::from_secs(u64::from(args.keys_refresh));
    let keys = Keys::new(keys, args.keys_url.clone(), refresh);
    if !keys.asks() {
        tracing::warn!("no tokens are asked for (--keys): whoever reaches this server may do everything");
    }
    Ok(Access { keys: Arc::new(keys), expected, revocations: Arc::new(revocations) })
}

/// Opens the data directory.
fn open_storage(args: &ServeArgs) -> Result<storage::FjallLog, Problem> {
    let started = Instant::now();
    let log = storage::open(&args.data)?;
    tracing::info!(data = %args.data.display(), took_ms = started.elapsed().as_millis(), "data directory open");
    Ok(log)
}

/// Says where everything is.
fn announce(args: &ServeArgs, facts: &Facts) {
    let Facts { listen, control, data, cores, connections_max, realtime, asks_for_tokens, speaks_tls } =
        facts;
    let realtime = match realtime {
        Realtime::Off => "off",
        Realtime::Auto => "commit",
        Realtime::All => "all",
    };
    tracing::info!(%listen, %control, cores, realtime, "ready");
    let mut out = io::stdout().lock();
    let said = if args.ready_json {
        let ready = serde_json::json!({
            "listen": listen.to_string(),
            "control": control.to_string(),
            "data": data,
            "cores": cores,
            "realtime": realtime,
            "tls": speaks_tls,
            "pid": std::process::id(),
        });
        writeln!(out, "{ready}")
    } else {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.clone());
        writeln!(
            out,
            "EtherPly {version} is ready.\n\n\
             \x20 clients    {frames}://{listen}  and  {websocket}://{listen}\n\
             \x20 control    http://{control}/health  /ready  /metrics\n\
             \x20 data       {data}\n\
             \x20 cores      {cores}, one executor pinned to each\n\
             \x20 room for   {connections_max} connections (the limit on open files)\n\
             \x20 access     {access}\n\n\
             Try it, in another terminal:\n\
             \x20 curl http://{control}/ready\n\
             \x20 cargo run --release -p etherply-loadgen -- edits --url {frames}://{listen} --duration 5\n\n\
             Ctrl-C stops it; what was acknowledged is on disk.",
            version = env!("CARGO_PKG_VERSION"),
            frames = if *speaks_tls { "tls" } else { "tcp" },
            websocket = if *speaks_tls { "wss" } else { "ws" },
            data = data.display(),
            access = if *asks_for_tokens {
                "by tokens"
            } else if listen.ip().is_loopback() {
                "open to every program on this machine, to nobody else: no tokens are asked for"
            } else {
                "OPEN TO EVERYBODY who can reach this address (--insecure)"
            },
        )
    };
    // Nobody may be listening to standard output any more; the server does not depend on it.
    drop(said.and_then(|()| out.flush()));
}

/// Tells clients, lets what is under way become durable and be sent, closes everything.
fn stop(running: Running) {
    let Running {
        acceptor,
        control,
        cores,
        mailboxes,
        drained,
        committer,
        readers,
        materialisers,
        verifiers,
        scrub,
        retire,
        is_serving,
    } = running;
    // Before anything waits for a commit that it may hold back.
    materialisers.begin_stop();
    drop(scrub);
    drop(retire);
    is_serving.store(false, Ordering::Release);
    acceptor.stop();
    for mailbox in mailboxes.iter() {
        mailbox.send(Message::Stop(StopStage::Drain));
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut waiting: Vec<u16> = (0_u16..).take(cores.len()).collect();
    while !waiting.is_empty() {
        match drained.recv_deadline(deadline) {
            Ok(core) => waiting.retain(|other| *other != core),
            Err(_) => {
                tracing::warn!("some clients do not take their last answers: closing anyway");
                break;
            }
        }
    }
    for mailbox in mailboxes.iter() {
        mailbox.send(Message::Stop(StopStage::End));
    }
    for core in cores {
        // It aborts the process instead of failing.
        drop(core.join());
    }
    drop(mailboxes);
    verifiers.join();
    materialisers.join();
    committer.join();
    readers.into_iter().for_each(StorageThread::join);
    control.stop();
    tracing::info!("stopped; everything that was acknowledged is on disk");
}
