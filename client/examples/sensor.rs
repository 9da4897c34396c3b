//! A sensor that loses no reading: each is in a file before it is sent, and in the file until the server has it
//! on disk. It goes on measuring while the server is away, and after its own restart it goes on where it was.
//!
//! ```console
//! $ cargo run -p etherply-client --example sensor -- --url tcp://127.0.0.1:7400 --file outbox --seconds 10
//! ```
//!
//! It prints `measured KEY` for each reading and `acked KEY` once it is stored for good.

use std::error::Error;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use automerge::transaction::Transactable;
use automerge::{ActorId, ROOT};
use etherply_client::{Backoff, Client, Document, Event, OpenOptions, RequestError, Saved, Transport};
use etherply_wire::Rights;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant as Deadline, interval, sleep_until};

/// Whose readings the file holds: the subject of the token, where the server asks for one.
const OWNER: &str = "sensor";
/// How long it goes on after its time until everything is stored.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut sensor = Sensor::start(options)?;
    let mut backoff = Backoff::default();
    while !sensor.is_done() {
        let ended = sensor.connection(&mut backoff).await;
        if sensor.is_done() {
            break;
        }
        let now_ms = sensor.now_ms();
        // What the server said last decides whether and when to come back.
        let next = sensor.client.disconnected();
        let reason = ended.err().map_or_else(|| "the server hung up".to_owned(), |error| error.to_string());
        let Some(wait_ms) = backoff.wait_ms(next, now_ms, sensor.random.hash_one(now_ms)) else {
            return Err(format!("the server does not want this client: {reason}").into());
        };
        println!("no connection ({reason}): again in {wait_ms} ms");
        sensor.measure_for(Duration::from_millis(wait_ms)).await?;
        if sensor.started.elapsed() > sensor.options.length + PATIENCE {
            return Err("the server did not take all readings in time; they stay in the file".into());
        }
    }
    sensor.save()?;
    println!("done: {} readings, all stored", sensor.measured);
    Ok(())
}

struct Options {
    address: String,
    document: String,
    name: String,
    file: PathBuf,
    length: Duration,
    every: Duration,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            address: "127.0.0.1:7400".into(),
            document: "sensors/readings".into(),
            name: "cellar".into(),
            file: "sensor-outbox".into(),
            length: Duration::from_secs(10),
            every: Duration::from_millis(100),
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--url" => {
                    let address = value.strip_prefix("tcp://").ok_or("--url is tcp://HOST:PORT")?;
                    options.address = address.to_owned();
                }
                "--document" => options.document = value,
                "--name" => options.name = value,
                "--file" => options.file = value.into(),
                "--seconds" => options.length = Duration::from_secs(value.parse()?),
                "--every-ms" => options.every = Duration::from_millis(value.parse::<u64>()?.max(1)),
                _ => {
                    let known = "--url, --document, --name, --file, --seconds, --every-ms";
                    return Err(format!("{name} is not known: {known}").into());
                }
            }
        }
        Ok(options)
    }
}

struct Sensor {
    client: Client,
    readings: Document,
    random: RandomState,
    started: Instant,
    options: Options,
    measured: u64,
    last_unix_ms: u64,
}

impl Sensor {
    /// Begins, or goes on with what the file holds.
    fn start(options: Options) -> Result<Self, Box<dyn Error>> {
        let random = RandomState::new();
        let mut client = Client::new(Transport::Tcp, "sensor/0.1", random.hash_one("client"));
        let rights = Rights::READ.with(Rights::WRITE);
        let open = OpenOptions { document: options.document.clone(), rights, token: None, cursor: None };
        // Fresh at each start: the last process may have sent changes that its file does not tell of.
        let actor = ActorId::random();
        let readings = match std::fs::read(&options.file) {
            Ok(bytes) => {
                let saved = Saved::decode(&bytes, OWNER)?;
                println!("restored {} readings that were not acked", saved.pushes.len());
                Document::restore(&mut client, &saved, actor, open)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Document::new(client.open(open)?, actor)
            }
            Err(error) => return Err(error.into()),
        };
        let (started, measured, last_unix_ms) = (Instant::now(), 0, 0);
        Ok(Self { client, readings, random, started, options, measured, last_unix_ms })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_measuring(&self) -> bool {
        self.started.elapsed() < self.options.length
    }

    fn is_done(&self) -> bool {
        !self.is_measuring() && self.client.unacked(self.readings.stream()).next().is_none()
    }

    /// Takes a reading: into the document, into the outbox, into the file. Only then may it be sent.
    fn measure(&mut self) -> Result<(), Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let unix_ms = u64::try_from(now.as_millis())?.max(self.last_unix_ms + 1);
        self.last_unix_ms = unix_ms;
        // What a real sensor would read.
        let celsius = 18.0 + f64::from(u8::try_from(self.random.hash_one(unix_ms) % 50)?) / 10.0;
        self.readings.apply()?;
        self.readings.doc().put(ROOT, key(&self.options.name, unix_ms), celsius)?;
        match self.readings.push(&mut self.client, unix_ms) {
            // Away for longer than the outbox lasts: what has no room stays in the document, and goes into the
            // outbox with a later reading.
            Err(RequestError::OutboxFull) => println!("the outbox is full: this reading is in memory only"),
            other => drop(other?),
        }
        self.save()?;
        self.measured += 1;
        println!("measured {}", key(&self.options.name, unix_ms));
        Ok(())
    }

    /// Puts what is not acked into the file. A sensor keeps no copy of the document, so this is all.
    fn save(&self) -> Result<(), Box<dyn Error>> {
        let saved = self.client.save(self.readings.stream(), OWNER)?.encode()?;
        Ok(replace(&self.options.file, &saved)?)
    }

    /// Measures without a connection.
    async fn measure_for(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let until = Deadline::now() + time;
        let mut every = interval(self.options.every);
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                _ = every.tick() => if self.is_measuring() { self.measure()? },
            }
        }
    }

    /// One connection, until it ends or everything is done.
    async fn connection(&mut self, backoff: &mut Backoff) -> Result<(), Box<dyn Error>> {
        let mut socket = TcpStream::connect(&self.options.address).await?;
        socket.set_nodelay(true)?;
        self.client.connect(self.now_ms())?;
        let (mut bytes, mut out) = (vec![0; 16 * 1024], Vec::new());
        let mut every = interval(self.options.every);
        while !self.is_done() {
            self.client.output(&mut out, self.now_ms());
            socket.write_all(&out).await?;
            out.clear();
            tokio::select! {
                read = socket.read(&mut bytes) => match read? {
                    0 => return Ok(()),
                    read => self.receive(bytes.get_mut(..read).unwrap_or_default(), backoff)?,
                },
                _ = every.tick() => {
                    self.client.tick(self.now_ms());
                    if self.is_measuring() {
                        self.measure()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8], backoff: &mut Backoff) -> Result<(), Box<dyn Error>> {
        let (now_ms, name) = (self.now_ms(), &self.options.name);
        self.readings.input(&mut self.client, bytes, now_ms, 0, &mut |event| match event {
            Event::Ready { .. } => {
                println!("connected");
                backoff.ready(now_ms);
            }
            Event::Acked { push, .. } if push.tag > 0 => println!("acked {}", key(name, push.tag)),
            Event::Refused { fault, .. } => println!("refused: {fault}"),
            _ => {}
        })?;
        Ok(())
    }
}

fn key(name: &str, unix_ms: u64) -> String {
    format!("{name}/{unix_ms}")
}

/// Writes a file so that a crash at any moment leaves the old or the new one whole.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
