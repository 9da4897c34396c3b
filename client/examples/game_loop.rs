//! A game's loop at 30 Hz, without a runtime: presence for where players are, a document for the world that
//! they build, one non-blocking socket, and the loop goes on whether there is a connection or not.
//!
//! ```console
//! $ cargo run -p etherply-client --example game_loop -- --url tcp://127.0.0.1:7400 --seconds 10 --player ada
//! ```
//!
//! Each player walks in a circle and places a block once a second. A line a second says what the player sees;
//! the last line counts blocks, and says that all of one's own are stored.

use std::collections::BTreeMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use automerge::transaction::Transactable;
use automerge::{ActorId, ROOT, ReadDoc};
use etherply_client::{Backoff, Client, Document, Event, Next, OpenOptions, Transport};
use etherply_wire::Rights;

/// Time of one turn of the loop.
const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const FRAMES_PER_SECOND: u64 = 30;
/// A position that was not renewed for so long is forgotten by the others.
const POSITION_TTL_MS: u32 = 3_000;
/// How long the loop goes on after its time until everything is stored.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut game = Game::new(options)?;
    let started = Instant::now();
    let mut frame = 0u64;
    while !game.is_over(started.elapsed()) {
        game.play(frame)?;
        game.network(started.elapsed())?;
        if frame.is_multiple_of(FRAMES_PER_SECOND) {
            game.say()?;
        }
        frame += 1;
        // A game would draw here.
        let next = FRAME * u32::try_from(frame)?;
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
    let blocks = game.blocks()?;
    println!("done: {} blocks in the world, {} placed by {}, all stored", blocks, game.placed, game.player);
    Ok(())
}

struct Options {
    address: String,
    seconds: u64,
    player: String,
    world: String,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            address: "127.0.0.1:7400".into(),
            seconds: 10,
            player: "ada".into(),
            world: "game/world".into(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--url" => {
                    let address = value.strip_prefix("tcp://").ok_or("--url is tcp://HOST:PORT")?;
                    options.address = address.to_owned();
                }
                "--seconds" => options.seconds = value.parse()?,
                "--player" => options.player = value,
                "--world" => options.world = value,
                _ => {
                    return Err(format!("{name} is not known: --url, --seconds, --player, --world").into());
                }
            }
        }
        Ok(options)
    }
}

/// Where the game's connection stands. The loop never waits for it.
enum Link {
    /// Until then, in milliseconds of the game's time.
    Waiting(u64),
    /// A thread connects: names may have to be looked up.
    Connecting(Receiver<std::io::Result<TcpStream>>),
    Connected(TcpStream),
}

struct Game {
    client: Client,
    backoff: Backoff,
    random: RandomState,
    world: Document,
    link: Link,
    /// What the socket did not take.
    unsent: Vec<u8>,
    address: String,
    player: String,
    /// Where the others are, by session.
    others: BTreeMap<[u8; 16], String>,
    placed: u64,
    ends: Duration,
}

impl Game {
    fn new(options: Options) -> Result<Self, Box<dyn Error>> {
        let random = RandomState::new();
        let mut client = Client::new(Transport::Tcp, "game-loop/0.1", random.hash_one("client"));
        let rights = Rights::READ.with(Rights::WRITE).with(Rights::PRESENCE);
        let stream =
            client.open(OpenOptions { document: options.world, rights, token: None, cursor: None })?;
        Ok(Self {
            client,
            backoff: Backoff::default(),
            random,
            world: Document::new(stream, ActorId::random()),
            link: Link::Waiting(0),
            unsent: Vec::new(),
            address: options.address,
            player: options.player,
            others: BTreeMap::new(),
            placed: 0,
            ends: Duration::from_secs(options.seconds),
        })
    }

    /// One turn of the game itself. It knows nothing of connections: presence and edits go to the client, which
    /// keeps the latest position and every edit until it can send them.
    fn play(&mut self, frame: u64) -> Result<(), Box<dyn Error>> {
        let degrees = frame * 3 % 360;
        let position = format!("{} at {degrees}°", self.player);
        self.client.set_presence(self.world.stream(), position.as_bytes(), POSITION_TTL_MS)?;
        // Once a turn, not once a frame from the network: applying costs the same for one change and for many.
        self.world.apply()?;
        let is_time = frame % FRAMES_PER_SECOND == FRAMES_PER_SECOND / 2;
        if is_time && frame < self.ends.as_secs() * FRAMES_PER_SECOND {
            self.placed += 1;
            let block = format!("{}/{}", self.player, self.placed);
            self.world.doc().put(ROOT, block, i64::try_from(degrees)?)?;
            self.world.push(&mut self.client, self.placed)?;
        }
        Ok(())
    }

    /// Sends and receives what can be without waiting.
    fn network(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let now_ms = u64::try_from(time.as_millis())?;
        match &mut self.link {
            Link::Waiting(until_ms) if now_ms >= *until_ms => {
                let (tell, told) = channel();
                let address = self.address.clone();
                std::thread::spawn(move || tell.send(TcpStream::connect(address)));
                self.link = Link::Connecting(told);
            }
            Link::Waiting(_) => {}
            Link::Connecting(told) => match told.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(socket)) => {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    self.client.connect(now_ms)?;
                    self.link = Link::Connected(socket);
                }
                Ok(Err(error)) => self.lost(&error, now_ms)?,
                Err(error) => return Err(error.into()),
            },
            Link::Connected(_) => {
                self.client.tick(now_ms);
                if let Err(error) = self.exchange(now_ms) {
                    self.lost(error.as_ref(), now_ms)?;
                }
            }
        }
        Ok(())
    }

    fn exchange(&mut self, now_ms: u64) -> Result<(), Box<dyn Error>> {
        let Link::Connected(socket) = &mut self.link else { return Ok(()) };
        let mut bytes = [0; 16 * 1024];
        loop {
            let read = match socket.read(&mut bytes) {
                Ok(0) => return Err("the server hung up".into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            let (world, others, backoff) = (&mut self.world, &mut self.others, &mut self.backoff);
            let received = bytes.get_mut(..read).unwrap_or_default();
            world.input(&mut self.client, received, now_ms, 0, &mut |event| match event {
                Event::Ready { .. } => {
                    println!("connected");
                    backoff.ready(now_ms);
                }
                Event::Presence { full, entries, .. } => {
                    if *full {
                        others.clear();
                    }
                    for (session, state) in entries.iter() {
                        others.insert(session, String::from_utf8_lossy(state).into_owned());
                    }
                }
                Event::PresenceLeft { members, .. } => members.iter().for_each(|member| {
                    others.remove(member);
                }),
                Event::Refused { fault, blocks: true, .. } => println!("refused: {fault}"),
                _ => {}
            })?;
        }
        self.client.output(&mut self.unsent, now_ms);
        while !self.unsent.is_empty() {
            match socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The connection is gone, or did not come about: when to try again.
    fn lost(&mut self, error: &dyn Error, now_ms: u64) -> Result<(), Box<dyn Error>> {
        self.unsent.clear();
        self.others.clear();
        let next: Next = self.client.disconnected();
        let random = self.random.hash_one(now_ms);
        let Some(wait_ms) = self.backoff.wait_ms(next, now_ms, random) else {
            return Err(format!("the server does not want this client: {error}").into());
        };
        println!("no connection ({error}): again in {wait_ms} ms");
        self.link = Link::Waiting(now_ms + wait_ms);
        Ok(())
    }

    fn blocks(&mut self) -> Result<usize, Box<dyn Error>> {
        self.world.apply()?;
        Ok(self.world.doc().length(ROOT))
    }

    fn say(&mut self) -> Result<(), Box<dyn Error>> {
        let waiting = self.client.unacked(self.world.stream()).count();
        println!(
            "{} blocks, {waiting} of them not stored yet; players: {:?}",
            self.blocks()?,
            self.others.values()
        );
        Ok(())
    }

    /// Whether the time is over and everything is stored.
    fn is_over(&self, time: Duration) -> bool {
        let is_stored = self.client.unacked(self.world.stream()).next().is_none();
        time >= self.ends && (is_stored || time >= self.ends + PATIENCE)
    }
}
