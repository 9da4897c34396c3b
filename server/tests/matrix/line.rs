//! A client that says whatever it is told to say, and keeps every byte that it hears.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use etherply_wire::kinds::{Cursor, Hello, Open, Opened, Ping, Pong};
use etherply_wire::limits::FRAME_BYTES_MAX;
use etherply_wire::{ErrorCode, Frame, Kind, MAGIC, Rights, encode, frame_length, kinds};

use crate::common::PATIENCE;
use crate::common::exchange::STREAM_AT;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard(pub Vec<u8>);

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Opened { rights: Rights, resume: u8, cursor: Cursor },
    Error { code: u16, kind: u16 },
    Refused(u16),
    Closed(u16),
    RightsChanged { rights: Rights, code: u16 },
    Acked,
    Pong,
}

impl Heard {
    fn frame(&self) -> Frame<'_> {
        Frame::parse(&self.0).unwrap().expect("a kind that this client knows")
    }

    pub fn kind(&self) -> Kind {
        self.frame().kind().unwrap()
    }

    pub fn stream(&self) -> u32 {
        self.frame().stream()
    }

    /// The same for any stream.
    pub fn without_stream(mut self) -> Self {
        self.0[STREAM_AT].fill(0);
        self
    }

    /// What it answers, if it is an answer.
    pub fn answer(&self) -> Option<Answer> {
        let frame = self.frame();
        Some(match self.kind() {
            Kind::Opened => {
                let body = frame.body::<Opened>().unwrap();
                let cursor = Cursor {
                    epoch: body.cursor.epoch.to_native(),
                    seq: body.cursor.seq.to_native(),
                    chain: body.cursor.chain,
                };
                Answer::Opened { rights: Rights(body.rights.to_native()), resume: body.resume, cursor }
            }
            Kind::Error => {
                let body = frame.body::<kinds::Error>().unwrap();
                Answer::Error { code: body.code.to_native(), kind: body.kind.to_native() }
            }
            Kind::Refused => Answer::Refused(frame.body::<kinds::Refused>().unwrap().code.to_native()),
            Kind::Close => Answer::Closed(frame.body::<kinds::Close>().unwrap().code.to_native()),
            Kind::RightsChanged => {
                let body = frame.body::<kinds::RightsChanged>().unwrap();
                Answer::RightsChanged { rights: Rights(body.rights.to_native()), code: body.code.to_native() }
            }
            Kind::Ack => Answer::Acked,
            Kind::Pong => Answer::Pong,
            _ => return None,
        })
    }
}

/// A connection that has said hello.
pub struct Line {
    socket: TcpStream,
    /// Bytes that are no whole frame yet.
    partial: Vec<u8>,
    /// Every frame behind the welcome.
    pub heard: Vec<Heard>,
    pub session: [u8; 16],
    nonce: u64,
}

impl Line {
    pub fn new(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let hello = Hello { protocol_min: 1, protocol_max: 1, capabilities: 0, agent: "matrix".to_owned() };
        socket.write_all(&[&MAGIC[..], &encode(0, &hello, &[])].concat()).unwrap();
        let mut line = Self { socket, partial: Vec::new(), heard: Vec::new(), session: [0; 16], nonce: 0 };
        let welcome = line.next().expect("a welcome");
        line.session = welcome.frame().body::<kinds::Welcome>().unwrap().session;
        line.heard.clear();
        line
    }

    /// Says something. A server that has ended the connection hears it no more.
    pub fn say(&mut self, frame: &[u8]) {
        drop(self.socket.write_all(frame));
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(length) = frame_length(&self.partial, FRAME_BYTES_MAX).unwrap()
                && length <= self.partial.len()
            {
                let heard = Heard(self.partial.drain(..length).collect());
                self.heard.push(heard.clone());
                return Some(heard);
            }
            let mut bytes = [0; 16 * 1024];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.partial.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}; heard {:?}", self.heard),
            }
        }
    }

    /// The next frame that answers something.
    pub fn answer(&mut self) -> (Heard, Answer) {
        loop {
            let heard =
                self.next().unwrap_or_else(|| panic!("an end, and no answer; heard {:?}", self.heard));
            if let Some(answer) = heard.answer() {
                return (heard, answer);
            }
        }
    }

    /// Asks for a document; its stream, and what the server says to that.
    pub fn open(
        &mut self,
        document: &str,
        rights: u16,
        token: Option<&str>,
        cursor: Option<Cursor>,
    ) -> (u32, Answer) {
        let token = token.map(str::to_owned);
        self.say(&encode(0, &Open { request: 1, rights, document: document.to_owned(), token, cursor }, &[]));
        let (heard, answer) = self.answer();
        (heard.stream(), answer)
    }

    /// Waits until everything that was said before is done, as far as it needs no disk.
    pub fn until_pong(&mut self) {
        self.nonce += 1;
        self.say(&encode(0, &Ping { nonce: self.nonce }, &[]));
        let pong = encode(0, &Pong { nonce: self.nonce }, &[]);
        while self.next().expect("a pong").0 != pong {}
    }

    /// Waits for a frame that holds these bytes, unless it came already.
    pub fn until_heard(&mut self, what: &[u8]) {
        while !self.has_heard(what) {
            let end = self.next().is_none();
            assert!(!end, "{} was never heard", String::from_utf8_lossy(what));
        }
    }

    pub fn has_heard(&self, what: &[u8]) -> bool {
        self.heard.iter().any(|heard| heard.0.windows(what.len()).any(|window| window == what))
    }

    /// Says no more, and hears what there is to its end.
    pub fn finish(mut self) -> Vec<Heard> {
        drop(self.socket.shutdown(Shutdown::Write));
        while self.next().is_some() {}
        self.heard
    }
}

/// A frame of a kind that only servers send, or that does not belong where it is sent.
pub fn of_kind(kind: Kind, stream: u32) -> Vec<u8> {
    let mut frame = encode(stream, &Ping { nonce: 7 }, &[]);
    frame[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    frame
}

pub fn code(code: ErrorCode) -> u16 {
    code as u16
}
