//! Where the control plane takes connections: plain HTTP, or TLS if the server has a certificate.
//!
//! With a certificate, programs on the server's own machine may speak either: what they say leaves no machine, and
//! checks of health need no certificate then. Everybody else has to speak TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::tls::Tls;

/// Most handshakes that are under way at a time; further connections wait in the kernel.
pub const CONTROL_HANDSHAKES_MAX: usize = 64;
/// The first byte of every TLS connection.
const HANDSHAKE_RECORD: u8 = 22;
/// What somebody on another machine is told who speaks plain HTTP.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 63\r\n\r\nEtherPly: this port speaks TLS to other machines: use https://\n";

/// A connection, in the clear or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Accepted = (Box<dyn Io>, SocketAddr);

/// Takes connections.
pub struct ControlListener {
    listener: TcpListener,
    tls: Option<(Arc<Tls>, Duration)>,
    handshakes: Arc<Semaphore>,
    ready: mpsc::Receiver<Accepted>,
    sender: mpsc::Sender<Accepted>,
}

impl ControlListener {
    /// On a bound port; with TLS if there is a certificate, and so much time for its handshake.
    pub fn new(listener: TcpListener, tls: Option<(Arc<Tls>, Duration)>) -> Self {
        let (sender, ready) = mpsc::channel(CONTROL_HANDSHAKES_MAX);
        Self { listener, tls, handshakes: Arc::new(Semaphore::new(CONTROL_HANDSHAKES_MAX)), ready, sender }
    }
}

impl Listener for ControlListener {
    type Io = Box<dyn Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        let Self { listener, tls, handshakes, ready, sender } = self;
        loop {
            let room = Arc::clone(handshakes);
            let accepted = tokio::select! {
                Some(ready) = ready.recv() => return ready,
                // Cancelling either of them loses nothing: a place goes back, a connection stays in the kernel.
                accepted = async {
                    // Nothing closes the places. What keeps the kernel from accepting is logged and waited out.
                    let place = room.acquire_owned().await;
                    (place, listener.accept().await)
                } => accepted,
            };
            let (place, (stream, from)) = accepted;
            let Some(tls) = tls else { return (Box::new(stream), from) };
            let ((tls, limit), sender) = (tls.clone(), sender.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(limit, shake_hands(&tls, stream, from)).await {
                    // An error means that the control plane ends.
                    Ok(Ok(Some(io))) => drop(sender.send((io, from)).await),
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::debug!("no TLS with {from}: {error}"),
                    Err(_) => tracing::debug!("no TLS with {from}: it took too long"),
                }
                drop(place);
            });
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Begins TLS with whoever speaks it. `None` for somebody who has to and does not.
async fn shake_hands(tls: &Tls, mut stream: TcpStream, from: SocketAddr) -> io::Result<Option<Box<dyn Io>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first == [HANDSHAKE_RECORD] {
        let stream = TlsAcceptor::from(Arc::clone(&tls.control)).accept(stream).await?;
        return Ok(Some(Box::new(stream)));
    }
    if from.ip().to_canonical().is_loopback() {
        return Ok(Some(Box::new(stream)));
    }
    stream.write_all(SPEAK_TLS).await?;
    stream.shutdown().await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_how_long_it_is() {
        let text = std::str::from_utf8(SPEAK_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
