//! A client on a blocking socket, for what is done before and after a measurement.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherply_client::{Client, Event};

use crate::plan::Target;

/// Time without any progress after which the server is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// A client and its socket.
pub struct Blocking {
    pub client: Client,
    socket: TcpStream,
    base: Instant,
    scratch: Vec<u8>,
    out: Vec<u8>,
}

impl Blocking {
    /// A connection on which nothing was said yet. `agent` is its name for the server's logs.
    pub fn connect(target: &Target, agent: &str) -> Result<Self> {
        let socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut client = target.client(false, agent, 1);
        client.connect(0)?;
        let scratch = vec![0; SCRATCH_BYTES];
        Ok(Self { client, socket, base: Instant::now(), scratch, out: Vec::new() })
    }

    /// Sends what the client has to send.
    pub fn send(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        self.client.output(&mut self.out, now_ms);
        self.socket.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Waits for something from the server and passes it on. The first error of `take` ends it.
    pub fn receive(&mut self, take: &mut dyn FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let bytes = self.socket.read(&mut self.scratch).context("the server sends nothing more")?;
        if bytes == 0 {
            bail!("the server hung up");
        }
        let now_ms = self.now_ms();
        let mut fault = None;
        let received = self.scratch.get_mut(..bytes).unwrap_or_default();
        self.client.input(received, now_ms, &mut |event| {
            if let Err(error) = take(event) {
                fault.get_or_insert(error);
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
