//! A client's process: some documents on one connection.

use etherply_wire::Kind;
use etherply_wire::kinds::{Error, Opened};

use crate::client::{Context, Output, Replica, State};
use crate::frames::{body, parse};
use crate::rng::Rng;

/// A process with some documents open on one connection.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its documents.
    pub replicas: Vec<Replica>,
    next_request: u32,
}

impl Client {
    /// A process.
    pub fn new(replicas: Vec<Replica>) -> Self {
        Self { replicas, next_request: 1 }
    }

    /// Asks for a stream that is closed.
    pub fn open(&mut self, index: usize, out: &mut Output) {
        let request = self.next_request;
        self.next_request += 1;
        if let Some(replica) = self.replicas.get_mut(index) {
            replica.open(request, out);
        }
    }

    /// Asks for new rights of a stream.
    pub fn renew(&mut self, index: usize, out: &mut Output) {
        let request = self.next_request;
        self.next_request += 1;
        if let Some(replica) = self.replicas.get_mut(index) {
            replica.renew(request, out);
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        for replica in &mut self.replicas {
            replica.disconnected();
        }
    }

    /// Takes a frame of the server.
    pub fn on_frame(
        &mut self,
        bytes: &[u8],
        context: Context,
        rng: &mut Rng,
        out: &mut Output,
    ) -> Result<(), String> {
        let frame = parse(bytes)?;
        let handle = frame.stream();
        if frame.kind() == Some(Kind::Opened) {
            let opened: Opened = body(&frame)?;
            let is_it = |replica: &&mut Replica| replica.state == State::Opening { request: opened.request };
            let replica = self.replicas.iter_mut().find(is_it).ok_or("`Opened` without `Open`")?;
            return replica.on_opened(&opened, handle, rng, out);
        }
        if frame.kind() == Some(Kind::Error) && handle == 0 {
            let error: Error = body(&frame)?;
            let is_it = |replica: &&mut Replica| replica.state == State::Opening { request: error.request };
            let replica = self.replicas.iter_mut().find(is_it);
            let replica = replica.ok_or_else(|| format!("error {}: {}", error.code, error.message))?;
            return replica.on_open_refused(&error, context);
        }
        let is_it = |replica: &&mut Replica| match &replica.state {
            State::Open { handle: own }
            | State::Reconciling { handle: own, .. }
            | State::Closing { handle: own } => *own == handle,
            _ => false,
        };
        match self.replicas.iter_mut().find(is_it) {
            Some(replica) => replica.on_frame(&frame, context, rng, out),
            None => Err(format!("{:?} for stream {handle}, which is not open", frame.kind())),
        }
    }
}
