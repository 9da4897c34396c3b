//! A real server process on a directory of its own, and real members over real sockets.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod certificates;
pub mod exchange;
pub mod place;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use automerge::ActorId;
use automerge::transaction::Transactable as _;
use etherply_client::{Client, ClientError, Document, Event, OpenOptions, StreamId, Tls, Transport};
use etherply_wire::Rights;
use etherply_wire::kinds::Cursor;

/// Ends a test that hangs; nothing depends on how long things take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a member that waits says that it is alive, if it has to.
const TICK: Duration = Duration::from_millis(250);

/// A running `etherply`. It is killed when it goes out of scope.
pub struct Server {
    child: Child,
    pub listen: SocketAddr,
    pub control: SocketAddr,
}

/// The command, with arguments that every test needs.
pub fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etherply"));
    // Addresses by environment, so that a test can say otherwise by flag.
    command.args(["serve", "--ready-json", "--data"]).arg(data).env("ETHERPLY_LOG", "warn");
    command.env("ETHERPLY_LISTEN", "127.0.0.1:0").env("ETHERPLY_CONTROL", "127.0.0.1:0");
    command
}

impl Server {
    pub fn start(data: &Path) -> Self {
        Self::spawn(&mut command(data))
    }

    /// Starts a server by a command of the test's own, which has to ask for `--ready-json`.
    pub fn spawn(command: &mut Command) -> Self {
        Self::at_addresses(
            command.env("ETHERPLY_LISTEN", "127.0.0.1:0").env("ETHERPLY_CONTROL", "127.0.0.1:0"),
        )
    }

    /// The same at addresses of the test's own.
    pub fn at_addresses(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self::at(child, &line)
    }

    /// A server that has said by this line of JSON where it is.
    pub fn at(child: Child, ready: &str) -> Self {
        let ready: serde_json::Value = serde_json::from_str(ready).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Self { listen: address("listen"), control: address("control"), child }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// As a power switch would end the process.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A page of the control plane: its status and its text.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.control).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Whether any of its code panicked.
    pub fn has_panicked(&self) -> bool {
        self.get("/metrics").1.lines().any(|line| line.starts_with("etherply_panics_total{"))
    }

    /// The value of a metric, by its name with its labels; 0 if it is not there yet.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a member was told, in a form that can be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Ready,
    Opened { resume: u8, cursor: Cursor },
    OpenFailed(u16, String),
    Changes { count: usize, duplicates: u64 },
    Snapshot { bytes: usize },
    Reconcile,
    Acked { tag: u64, added: u64 },
    Refused { code: u16, blocks: bool },
    Closed(u16),
    Reset { unacked: usize },
    Rewritten { changes: usize, lost: usize },
    Failed(u16, String),
    RightsChanged { rights: Rights, code: u16 },
    Presence { full: bool, members: usize },
    PresenceLeft(usize),
    Broadcast(String, Vec<u8>),
    Pong(u64),
    GoingAway,
    WebSocketClosed,
    Other,
}

/// A member: a client on a blocking socket, with documents that it applies changes to.
pub struct Member {
    pub client: Client,
    socket: TcpStream,
    pub documents: BTreeMap<StreamId, Document>,
    pub told: VecDeque<Told>,
    started: Instant,
    actor: u8,
}

impl Member {
    /// Connects, by TCP or WebSocket. `number` has to differ between members of a test.
    pub fn connect(server: &Server, websocket: bool, number: u8) -> Self {
        let transport = if websocket {
            Transport::WebSocket { host: server.listen.to_string(), path: "/".to_owned() }
        } else {
            Transport::Tcp
        };
        let mut member = Self {
            client: Client::new(transport, "test", u64::from(number) << 32),
            socket: connect(server.listen),
            documents: BTreeMap::new(),
            told: VecDeque::new(),
            started: Instant::now(),
            actor: number,
        };
        member.client.connect(0).unwrap();
        member.until(|told| *told == Told::Ready);
        member
    }

    /// Connects by TLS, or says why not.
    pub fn connect_tls(server: &Server, websocket: bool, number: u8, tls: Tls) -> Result<Self, ClientError> {
        let transport = if websocket {
            Transport::WebSocket { host: server.listen.to_string(), path: "/".to_owned() }
        } else {
            Transport::Tcp
        };
        let mut member = Self {
            client: Client::new(transport, "test", u64::from(number) << 32).with_tls(tls),
            socket: connect(server.listen),
            documents: BTreeMap::new(),
            told: VecDeque::new(),
            started: Instant::now(),
            actor: number,
        };
        member.client.connect(0)?;
        let mut bytes = vec![0; 64 * 1024];
        while !member.client.is_ready() {
            let read = member.read(&mut bytes);
            assert!(read > 0, "the server closed the connection without a word");
            let heard = member.client.input(&mut bytes[..read], member.now_ms(), &mut |_| {});
            if heard.is_err() {
                // Why, for the server.
                member.answer_close();
            }
            heard?;
        }
        Ok(member)
    }

    /// Connects again, to the same or another server, as the same client.
    pub fn reconnect(&mut self, server: &Server) {
        self.client.disconnected();
        self.socket = connect(server.listen);
        self.client.connect(self.now_ms()).unwrap();
        self.until(|told| *told == Told::Ready);
    }

    /// Opens a document and waits until it is open.
    pub fn open(&mut self, name: &str) -> StreamId {
        self.open_at(name, None, automerge::AutoCommit::new()).0
    }

    /// Opens a document, if the server can.
    pub fn try_open(&mut self, name: &str) -> Option<StreamId> {
        let rights = Rights::READ.with(Rights::WRITE);
        let options = OpenOptions { document: name.to_owned(), rights, token: None, cursor: None };
        let stream = self.client.open(options).unwrap();
        let copy = automerge::AutoCommit::new().with_actor(ActorId::from(&[self.actor, 99][..]));
        self.documents.insert(stream, Document::with(stream, copy));
        let told = self.until(|told| {
            matches!(told, Told::Opened { .. } | Told::OpenFailed(..) | Told::Closed(_) | Told::Failed(..))
        });
        matches!(told, Told::Opened { .. }).then_some(stream)
    }

    /// Asks for a document, with an empty copy, and does not wait.
    pub fn begin_open(&mut self, options: OpenOptions) -> StreamId {
        let stream = self.client.open(options).unwrap();
        let actor = [self.actor, u8::try_from(self.documents.len()).unwrap(), 77];
        let copy = automerge::AutoCommit::new().with_actor(ActorId::from(&actor[..]));
        self.documents.insert(stream, Document::with(stream, copy));
        stream
    }

    /// Receives until the server ends the connection with an error; its code.
    pub fn until_error(&mut self) -> u16 {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = self.read(&mut bytes);
            assert!(read > 0, "the server closed the connection without a word");
            let now_ms = self.now_ms();
            match self.client.input(&mut bytes[..read], now_ms, &mut |_| {}) {
                Ok(()) => {}
                Err(ClientError::Server { code, .. }) => return code,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Opens a document with a copy from earlier, and says how it is brought up to date.
    pub fn open_at(
        &mut self,
        name: &str,
        cursor: Option<Cursor>,
        copy: automerge::AutoCommit,
    ) -> (StreamId, u8) {
        let rights = Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE);
        let options = OpenOptions { document: name.to_owned(), rights, token: None, cursor };
        let stream = self.client.open(options).unwrap();
        let mut actor = [0; 16];
        actor[0] = self.actor;
        actor[1] = u8::try_from(self.documents.len()).unwrap();
        self.documents.insert(stream, Document::with(stream, copy.with_actor(ActorId::from(&actor[..]))));
        let Told::Opened { resume, .. } = self.until(|told| matches!(told, Told::Opened { .. })) else {
            unreachable!()
        };
        (stream, resume)
    }

    /// Opens a document that cannot be opened: the code, and what was said.
    pub fn open_failed(&mut self, name: &str) -> (u16, String) {
        let options =
            OpenOptions { document: name.to_owned(), rights: Rights::READ, token: None, cursor: None };
        self.client.open(options).unwrap();
        match self.until(|told| matches!(told, Told::OpenFailed(..))) {
            Told::OpenFailed(code, message) => (code, message),
            other => panic!("{other:?}"),
        }
    }

    /// Connects again and says how its only document is brought up to date.
    pub fn resume(&mut self, server: &Server) -> u8 {
        self.reconnect(server);
        match self.until(|told| matches!(told, Told::Opened { .. })) {
            Told::Opened { resume, .. } => resume,
            other => panic!("{other:?}"),
        }
    }

    /// Sets a key, pushes the change, and does not wait.
    pub fn put(&mut self, stream: StreamId, key: &str, value: &str) {
        let document = self.documents.get_mut(&stream).unwrap();
        document.doc().put(automerge::ROOT, key, value).unwrap();
        document.push(&mut self.client, 7).unwrap();
        self.send();
    }

    /// Sets a key and waits for the ack.
    pub fn put_durably(&mut self, stream: StreamId, key: &str, value: &str) {
        self.put(stream, key, value);
        self.until(|told| matches!(told, Told::Acked { .. }));
    }

    /// All keys with their values, but for those with objects.
    pub fn contents(&mut self, stream: StreamId) -> BTreeMap<String, String> {
        use automerge::ReadDoc as _;
        let document = self.documents.get_mut(&stream).unwrap();
        document.apply().unwrap();
        let doc = document.doc();
        let keys: Vec<String> = doc.keys(automerge::ROOT).collect();
        let value =
            |key: &String| doc.get(automerge::ROOT, key.as_str()).unwrap().unwrap().0.into_string().ok();
        keys.iter().filter_map(|key| Some((key.clone(), value(key)?))).collect()
    }

    /// Receives until the document has this many keys.
    pub fn until_keys(&mut self, stream: StreamId, keys: usize) -> BTreeMap<String, String> {
        loop {
            let contents = self.contents(stream);
            if contents.len() >= keys {
                return contents;
            }
            self.receive();
        }
    }

    /// Receives until something is told; what was told before stays in the list.
    pub fn until(&mut self, mut is_it: impl FnMut(&Told) -> bool) -> Told {
        let mut seen = 0;
        loop {
            if let Some(at) = self.told.iter().skip(seen).position(&mut is_it) {
                return self.told.remove(seen + at).unwrap();
            }
            seen = self.told.len();
            self.receive();
        }
    }

    /// As [`Member::until`], for what the client does by itself after a while: its time passes.
    pub fn until_in_time(&mut self, mut is_it: impl FnMut(&Told) -> bool) -> Told {
        let (mut seen, begun) = (0, Instant::now());
        loop {
            if let Some(at) = self.told.iter().skip(seen).position(&mut is_it) {
                return self.told.remove(seen + at).unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "this was not told: {:?}", self.told);
            seen = self.told.len();
            self.client.tick(self.now_ms());
            self.send();
            self.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let is_readable = self.socket.peek(&mut [0]).is_ok();
            self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
            if is_readable {
                self.receive();
            }
        }
    }

    /// Sends what the client has to say.
    pub fn send(&mut self) {
        let mut out = Vec::new();
        self.client.output(&mut out, self.now_ms());
        self.socket.write_all(&out).unwrap();
    }

    /// Waits for bytes, and says meanwhile that this member is alive.
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let begun = Instant::now();
        loop {
            self.client.tick(self.now_ms());
            self.send();
            match self.socket.read(bytes) {
                // A read with a time limit also ends when this process is stopped and goes on.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                        && begun.elapsed() < PATIENCE => {}
                read => return read.unwrap(),
            }
        }
    }

    /// Sends, then waits for bytes and acts on them.
    pub fn receive(&mut self) {
        let mut bytes = vec![0; 64 * 1024];
        let read = self.read(&mut bytes);
        assert!(read > 0, "the server closed the connection; told: {:?}", self.told);
        let (now_ms, documents, told) = (self.now_ms(), &mut self.documents, &mut self.told);
        let mut reconcile = Vec::new();
        let taken = self.client.input(&mut bytes[..read], now_ms, &mut |event| {
            match &event {
                Event::Changes { stream, changes, .. } => {
                    documents.get_mut(stream).unwrap().receive(changes).unwrap();
                }
                Event::Snapshot { stream, bytes, .. } => {
                    documents.get_mut(stream).unwrap().snapshot(bytes).unwrap();
                }
                Event::Reconcile { stream, clock } => reconcile.push((*stream, clock.clone())),
                Event::Reset { stream, .. } => {
                    documents.get_mut(stream).unwrap().take(&event).unwrap();
                }
                _ => {}
            }
            told.push_back(tell(&event));
        });
        match taken {
            // A server that stops closes WebSockets; what it said before counts.
            Err(ClientError::Closed { code: Some(1001), .. }) => {
                told.push_back(Told::WebSocketClosed);
                self.answer_close();
                return;
            }
            taken => taken.unwrap(),
        };
        for (stream, clock) in reconcile {
            let document = self.documents.get_mut(&stream).unwrap();
            document.reconcile(&mut self.client, &clock, 8).unwrap();
        }
        for document in self.documents.values_mut().filter(|document| document.is_resetting()) {
            if let Some(done) = document.rewrite(&self.client).unwrap() {
                let (changes, lost) = (done.rewritten, done.lost.len());
                self.told.push_back(Told::Rewritten { changes, lost });
                document.push(&mut self.client, 9).unwrap();
            }
        }
        self.send();
    }

    /// Sends the last answer, to a server that may be gone.
    fn answer_close(&mut self) {
        let mut out = Vec::new();
        self.client.output(&mut out, self.now_ms());
        drop(self.socket.write_all(&out));
    }

    /// The bare socket, for what the client would never do.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        &mut self.socket
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

fn tell(event: &Event<'_>) -> Told {
    match event {
        Event::Ready { .. } => Told::Ready,
        Event::Opened { resume, cursor, .. } => Told::Opened { resume: *resume, cursor: *cursor },
        Event::OpenFailed { fault, .. } => Told::OpenFailed(fault.code, fault.message.to_owned()),
        Event::Changes { changes, duplicates, .. } => {
            Told::Changes { count: changes.len(), duplicates: *duplicates }
        }
        Event::Snapshot { bytes, .. } => Told::Snapshot { bytes: bytes.len() },
        Event::Reconcile { .. } => Told::Reconcile,
        Event::Acked { push, added, .. } => Told::Acked { tag: push.tag, added: *added },
        Event::Refused { fault, blocks, .. } => Told::Refused { code: fault.code, blocks: *blocks },
        Event::Closed { fault, .. } => Told::Closed(fault.code),
        Event::Reset { unacked, .. } => Told::Reset { unacked: unacked.len() },
        Event::RightsChanged { rights, code, .. } => Told::RightsChanged { rights: *rights, code: *code },
        Event::Failed { fault, .. } => Told::Failed(fault.code, fault.message.to_owned()),
        Event::Presence { full, entries, .. } => {
            Told::Presence { full: *full, members: entries.iter().count() }
        }
        Event::PresenceLeft { members, .. } => Told::PresenceLeft(members.len()),
        Event::Broadcast { topic, payload, .. } => Told::Broadcast((*topic).to_owned(), payload.to_vec()),
        Event::Pong { nonce } => Told::Pong(*nonce),
        Event::GoingAway { .. } => Told::GoingAway,
        _ => Told::Other,
    }
}
