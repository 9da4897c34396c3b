//! Members that are the production client: `etherply-client` with its outbox, its progress, its saved files and its
//! document, on the same links as the strict client. It is told bytes and the time, and nothing else.

use automerge::ActorId;
use etherply_client::{
    Answer, Client, Document, DocumentError, Event, ExchangeError, OpenOptions, Saved, StreamId, StreamState,
    Transport,
};
use etherply_engine::change::{ChangeLimits, parse_header};
use etherply_engine::ids::DocumentId;
use etherply_wire::{ErrorCode, Rights};

use crate::disk::Disk;
use crate::edits::{self, content};
use crate::rng::Rng;
use crate::world::World;

/// How often a device looks at once at what it received, in percent; it has to before it pushes.
const APPLIES_PERCENT: u64 = 20;
/// Whose files they are.
const OWNER: &str = "device";

/// A device: one client with some documents.
#[derive(Debug)]
pub struct Device {
    client: Client,
    documents: Vec<Copy>,
    seed: u64,
    /// What it saved last, as files.
    files: Vec<Vec<u8>>,
}

/// A document on a device.
#[derive(Debug)]
struct Copy {
    id: DocumentId,
    rights: Rights,
    document: Document,
    is_deleted: bool,
    /// The server said no, and the client does not ask again by itself.
    is_refused: bool,
}

/// What a stream was told that the program has to act upon.
enum Told {
    Acked(StreamId, Vec<[u8; 32]>),
    Answer(usize, Answer),
    Ended(StreamId, u16, String),
    Refused(StreamId, u16, String),
    Fault(String),
}

fn options(id: &DocumentId, rights: Rights) -> OpenOptions {
    OpenOptions { document: id.as_str().to_owned(), rights, token: None, cursor: None }
}

impl Device {
    /// A device without anything in its documents.
    pub fn new(documents: Vec<(DocumentId, Rights)>, rng: &mut Rng) -> Self {
        let seed = rng.next();
        let mut client = Client::new(Transport::Tcp, "simulated", seed);
        let mut copies = Vec::new();
        for (id, rights) in documents {
            let stream = client.open(options(&id, rights)).expect("a name that the server takes");
            copies.push(Copy::new(id, rights, Document::new(stream, ActorId::from(&rng.name()[..]))));
        }
        Self { client, documents: copies, seed, files: Vec::new() }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.client.disconnected();
    }

    /// Writes down what has to survive.
    fn save(&mut self, restored: bool) -> Result<(), String> {
        let mut files = Vec::new();
        for copy in self.documents.iter_mut().filter(|copy| !copy.is_deleted) {
            let saved = copy.document.save(&mut self.client, OWNER, 1);
            if let Some(saved) = copy.taken(&mut self.client, saved, restored)? {
                files.push(saved.encode().map_err(|error| error.to_string())?);
            }
        }
        self.files = files;
        Ok(())
    }

    /// Another process goes on with the files of before, as fresh actors.
    fn restart(&self, rng: &mut Rng) -> Result<Self, String> {
        let mut client = Client::new(Transport::Tcp, "simulated", rng.next());
        let mut documents = Vec::new();
        for file in &self.files {
            let saved = Saved::decode(file, OWNER).map_err(|error| error.to_string())?;
            let Some(copy) = self.documents.iter().find(|copy| copy.id.as_str() == saved.document) else {
                continue;
            };
            let actor = ActorId::from(&rng.name()[..]);
            let document = Document::restore(&mut client, &saved, actor, options(&copy.id, copy.rights));
            let document = document.map_err(|error| error.to_string())?;
            documents.push(Copy::new(copy.id.clone(), copy.rights, document));
        }
        Ok(Self { client, documents, seed: self.seed, files: self.files.clone() })
    }

    /// Whether the server has everything of it, and it everything of the server.
    pub fn has_drained(&self, disk: &Disk) -> bool {
        self.client.is_ready()
            && self
                .documents
                .iter()
                .filter(|copy| !copy.is_deleted)
                .all(|copy| copy.is_idle(&self.client, disk))
    }

    /// What keeps [`Device::has_drained`] from being true.
    pub fn backlog(&self, disk: &Disk) -> Vec<String> {
        let line = |copy: &Copy| {
            let stream = copy.document.stream();
            format!(
                "(a device) {}: {:?} at {:?} of {}, {} unacked{}{}",
                copy.id,
                self.client.state(stream),
                self.client.cursor(stream).map(|cursor| cursor.seq),
                disk.records(&copy.id).len(),
                self.client.unacked(stream).count(),
                if copy.is_deleted { ", deleted" } else { "" },
                if copy.document.is_resetting() { ", beginning anew" } else { "" },
            )
        };
        self.documents.iter().map(line).collect()
    }

    /// Compares a document with what is stored.
    pub fn converged(
        &mut self,
        id: &DocumentId,
        heads: &[[u8; 32]],
        expected: &automerge::hydrate::Value,
    ) -> Result<(), String> {
        for copy in self.documents.iter_mut().filter(|copy| copy.id == *id) {
            copy.document.apply().map_err(|error| format!("(a device) {error}"))?;
            let mut own: Vec<[u8; 32]> = copy.document.doc().get_heads().iter().map(|head| head.0).collect();
            own.sort_unstable();
            if own != heads {
                return Err("(a device) has other heads".to_owned());
            }
            if content(copy.document.doc()) != *expected {
                return Err("(a device) has other content".to_owned());
            }
        }
        Ok(())
    }
}

impl Copy {
    fn new(id: DocumentId, rights: Rights, document: Document) -> Self {
        Self { id, rights, document, is_deleted: false, is_refused: false }
    }

    fn may_write(&self) -> bool {
        self.rights.has(Rights::WRITE)
    }

    fn is_idle(&self, client: &Client, disk: &Disk) -> bool {
        let stream = self.document.stream();
        let durable = disk.records(&self.id).len() as u64;
        let seen = client.cursor(stream).map_or(0, |cursor| cursor.seq);
        client.state(stream) == Some(StreamState::Open)
            && seen == durable
            && client.unacked(stream).next().is_none()
            && !self.document.is_resetting()
    }

    fn edit(&mut self, client: &mut Client, rng: &mut Rng, now_us: u64) -> Result<(), String> {
        if !self.may_write() || self.document.is_resetting() {
            return Ok(());
        }
        let time = i64::try_from(now_us / 1_000).unwrap_or(0);
        edits::edit(self.document.doc(), None, rng, time);
        self.document.push(client, now_us).map(drop).map_err(|error| error.to_string())
    }

    /// Gives the copy up; its edits are made anew by a fresh actor.
    fn start_over(&mut self, client: &mut Client) -> Result<(), String> {
        self.is_refused = false;

        let options = options(&self.id, self.rights);
        self.document.start_over(client, options).map_err(|error| format!("{}: {error}", self.id))
    }

    /// What came of taking something in. Once an older log was put back, it may contradict the copy, which goes.
    fn taken<T>(
        &mut self,
        client: &mut Client,
        result: Result<T, ExchangeError>,
        restored: bool,
    ) -> Result<Option<T>, String> {
        match result {
            Ok(taken) => Ok(Some(taken)),
            Err(ExchangeError::Document(DocumentError::Contradicts(_))) if restored => {
                self.start_over(client)?;
                Ok(None)
            }
            Err(error) => Err(format!("{}: {error}", self.id)),
        }
    }
}

impl World {
    /// A device with empty copies of some documents.
    pub(crate) fn new_device(&mut self) -> Device {
        let mut chosen = Vec::new();
        for id in self.documents.clone() {
            if self.rng.chance(70) || chosen.is_empty() {
                let writes = self.rng.chance(85);
                let rights = if writes { Rights::READ.with(Rights::WRITE) } else { Rights::READ };
                chosen.push((id, rights));
            }
        }
        Device::new(chosen, &mut self.rng)
    }

    /// A device's next deed.
    pub(crate) fn act_device(&mut self, number: usize) -> Result<(), String> {
        let (now_us, healing, restored) = (self.now_us, self.healing, self.restored);
        let is_linked = self.members.get(number).is_some_and(|member| member.link.is_some());
        if !is_linked && (healing || self.rng.chance(40)) {
            self.connect(number);
            let Some(member) = self.members.get_mut(number).filter(|member| member.link.is_some()) else {
                return Ok(());
            };
            let Some(device) = &mut member.device else { return Ok(()) };
            device.client.connect(now_us / 1_000).map_err(|error| error.to_string())?;
            return self.device_sends(number);
        }
        let deed = self.rng.below(20);
        let rng = &mut self.rng;
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let Some(device) = &mut member.device else { return Ok(()) };
        let has_files = !device.files.is_empty();
        let Device { client, documents, .. } = &mut **device;
        client.tick(now_us / 1_000);
        for copy in documents.iter_mut().filter(|copy| !copy.is_deleted) {
            if copy.is_refused && client.state(copy.document.stream()) == Some(StreamState::Closed) {
                copy.is_refused = client.reopen(copy.document.stream(), None).is_err();
            }
        }
        if !healing {
            let index = rng.index(documents.len());
            match deed {
                0..=8 => {
                    if let Some(copy) = documents.get_mut(index).filter(|copy| !copy.is_deleted) {
                        copy.edit(client, rng, now_us)?;
                        self.count("device edits");
                    }
                }
                9 | 10 => device.save(restored)?,
                11 if has_files && !documents.iter().any(|copy| copy.document.is_resetting()) => {
                    if rng.chance(60) {
                        // It ends in order.
                        device.save(restored)?;
                    } else if !self.config.clones {
                        return Ok(());
                    }
                    **device = device.restart(rng)?;
                    self.count("device restarted");
                    if let Some(link) = self.members.get(number).and_then(|member| member.link) {
                        self.cut(link);
                        self.client_sees(link);
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
        self.device_sends(number)
    }

    /// Sends what a device has to send.
    fn device_sends(&mut self, number: usize) -> Result<(), String> {
        let now_ms = self.now_us / 1_000;
        let Some(member) = self.members.get_mut(number) else { return Ok(()) };
        let (Some(device), Some(link)) = (&mut member.device, member.link) else { return Ok(()) };
        let mut out = Vec::new();
        device.client.output(&mut out, now_ms);
        if !out.is_empty() {
            self.send(link, 0, out);
        }
        Ok(())
    }

    /// Bytes reach a device.
    pub(crate) fn device_receives(
        &mut self,
        link: u64,
        number: usize,
        mut bytes: Vec<u8>,
    ) -> Result<(), String> {
        let (now_ms, healing, restored) = (self.now_us / 1_000, self.healing, self.restored);
        self.trace.note(self.now_us, "to device", &bytes);
        let Some(member) = self.members.get_mut(number).filter(|member| member.link == Some(link)) else {
            return Ok(());
        };
        let Some(device) = &mut member.device else { return Ok(()) };
        let Device { client, documents, .. } = &mut **device;
        let mut told = Vec::new();
        let read = client.input(&mut bytes, now_ms, &mut |event| hear(&event, documents, &mut told));
        read.map_err(|error| format!("member {number} (a device) ends the connection: {error}"))?;
        for told in told {
            self.device_told(number, told).map_err(|what| format!("member {number} (a device): {what}"))?;
        }
        let rng = &mut self.rng;
        let Some(device) = self.members.get_mut(number).and_then(|member| member.device.as_mut()) else {
            return Ok(());
        };
        let Device { client, documents, .. } = &mut **device;
        for copy in documents.iter_mut() {
            if copy.document.is_resetting() {
                let rewritten = copy.document.rewrite(client).map_err(ExchangeError::from);

                let is_here = copy.taken(client, rewritten, restored)?.flatten().is_some();
                if is_here && copy.may_write() {
                    copy.document.push(client, now_ms).map_err(|error| error.to_string())?;
                }
            } else if healing || rng.chance(APPLIES_PERCENT) {
                let applied = copy.document.apply().map_err(ExchangeError::from);
                copy.taken(client, applied, restored)?;
            }
        }
        self.device_sends(number)
    }

    fn device_told(&mut self, number: usize, told: Told) -> Result<(), String> {
        let (restored, quarantined) = (self.restored, self.quarantined);
        let Some(device) = self.members.get_mut(number).and_then(|member| member.device.as_mut()) else {
            return Ok(());
        };
        let Device { client, documents, .. } = &mut **device;
        let of = |documents: &mut Vec<Copy>, stream: StreamId| {
            documents.iter().position(|copy| copy.document.stream() == stream)
        };
        match told {
            Told::Acked(stream, hashes) => {
                let Some(at) = of(documents, stream) else { return Ok(()) };
                let id = documents[at].id.clone();
                for hash in hashes {
                    self.check.acked_somewhere(&id, hash, &self.disk)?;
                }
                self.count("device acked");
            }
            Told::Answer(at, answer) => {
                if matches!(answer, Answer::Supply(_)) && quarantined && !restored {
                    documents[at].start_over(client)?;
                    return Ok(());
                }
                let answered = documents[at].document.answer(client, answer, 2);
                documents[at].taken(client, answered, restored)?;
            }
            Told::Refused(stream, code, message) => {
                let Some(at) = of(documents, stream) else { return Ok(()) };
                if !restored && !quarantined {
                    return Err(format!("{}: a push was refused: {code}: {message}", documents[at].id));
                }
                documents[at].start_over(client)?;
                self.count("device began again");
            }
            Told::Ended(stream, code, message) => {
                let Some(at) = of(documents, stream) else { return Ok(()) };
                match ErrorCode::from_number(code) {
                    Some(ErrorCode::DocumentDeleted) => documents[at].is_deleted = true,
                    Some(ErrorCode::DocumentDamaged) => documents[at].is_refused = true,
                    Some(ErrorCode::ActorForked) if restored => documents[at].start_over(client)?,
                    _ => return Err(format!("{}: ended with {code}: {message}", documents[at].id)),
                }
            }
            Told::Fault(what) => return Err(what),
        }
        Ok(())
    }
}

/// What an event means for the device's documents.
fn hear(event: &Event<'_>, documents: &mut [Copy], told: &mut Vec<Told>) {
    for (at, copy) in documents.iter_mut().enumerate() {
        match copy.document.take(event) {
            Ok(Some(answer)) => told.push(Told::Answer(at, answer)),
            Ok(None) => {}
            Err(error) => told.push(Told::Fault(format!("{}: {error}", copy.id))),
        }
    }
    match event {
        Event::Acked { stream, push, .. } => {
            let header = |bytes| parse_header(bytes, &ChangeLimits::DEFAULT);
            let hashes: Result<Vec<[u8; 32]>, _> =
                push.changes().map(|bytes| header(bytes).map(|change| change.hash.0)).collect();
            told.push(match hashes {
                Ok(hashes) => Told::Acked(*stream, hashes),
                Err(error) => Told::Fault(error.to_string()),
            });
        }
        Event::Refused { stream, fault, blocks: true, .. } => {
            let known = ErrorCode::from_number(fault.code);
            if !matches!(known, Some(ErrorCode::MissingDependencies | ErrorCode::SequenceGap)) {
                told.push(Told::Refused(*stream, fault.code, fault.message.to_owned()));
            }
        }
        Event::OpenFailed { stream, fault, retries: false } => {
            told.push(Told::Ended(*stream, fault.code, fault.message.to_owned()));
        }
        Event::Closed { stream, fault, retries: false } if fault.code != 0 => {
            told.push(Told::Ended(*stream, fault.code, fault.message.to_owned()));
        }
        Event::Failed { fault, .. } => {
            told.push(Told::Fault(format!("a request failed: {}: {}", fault.code, fault.message)));
        }
        _ => {}
    }
}
