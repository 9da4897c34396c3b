//! Interoperation with a well-kept WebSocket implementation, in both roles, over memory instead of sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{self, Read, Write};

use etherply_wire::websocket::handshake::{parse_response, parse_upgrade, request, response};
use etherply_wire::websocket::{Decoder, Event, Role, close_frame, control_into, message_into};
use etherply_wire::websocket::{OpCode, WsError};
use proptest::prelude::*;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

const MAX: usize = 1 << 20;
const MASK: [u8; 4] = [0x11, 0xE2, 0x73, 0x04];

/// What stands for text, of which the decoder keeps nothing.
const NOT_KEPT: &str = "";

/// The other implementation's connection: what it may read, what it wrote.
#[derive(Debug, Default)]
struct Pipe {
    to_read: Vec<u8>,
    written: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.to_read.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = buf.len().min(self.to_read.len());
        buf[..bytes].copy_from_slice(&self.to_read[..bytes]);
        self.to_read.drain(..bytes);
        Ok(bytes)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn peer(role: tungstenite::protocol::Role) -> WebSocket<Pipe> {
    WebSocket::from_raw_socket(Pipe::default(), role, Some(WebSocketConfig::default()))
}

/// Both pairs of roles: this side's, the mask it must use, the other side's.
fn pairs() -> [(Role, Option<[u8; 4]>, tungstenite::protocol::Role); 2] {
    [
        (Role::Server, None, tungstenite::protocol::Role::Client),
        (Role::Client, Some(MASK), tungstenite::protocol::Role::Server),
    ]
}

fn read_all(decoder: &mut Decoder, stream: &mut [u8]) -> Result<Vec<Message>, WsError> {
    let (mut events, mut start) = (Vec::new(), 0);
    loop {
        let decoded = decoder.next(&mut stream[start..])?;
        start += decoded.consumed;
        events.push(match decoded.event {
            None => return Ok(events),
            Some(Event::Message(bytes)) => Message::binary(bytes.into_owned()),
            Some(Event::Text) => Message::text(NOT_KEPT),
            Some(Event::Ping(bytes)) => Message::Ping(bytes.to_vec().into()),
            Some(Event::Pong(bytes)) => Message::Pong(bytes.to_vec().into()),
            Some(Event::Close { code, reason }) => Message::Close(
                code.map(|code| CloseFrame { code: CloseCode::from(code), reason: reason.into() }),
            ),
        });
    }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop_oneof![0..200_usize, 65_530..65_540_usize];
    let payload = (bytes, any::<u8>()).prop_map(|(bytes, byte)| vec![byte; bytes]);
    let small = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        payload.prop_map(Message::binary),
        ".{0,40}".prop_map(Message::text),
        small.clone().prop_map(|bytes| Message::Ping(bytes.into())),
        small.prop_map(|bytes| Message::Pong(bytes.into())),
    ]
}

proptest! {
    #[test]
    fn we_read_what_it_writes(messages in prop::collection::vec(message(), 0..8)) {
        for (role, _, its_role) in pairs() {
            let mut peer = peer(its_role);
            for message in &messages {
                peer.write(message.clone()).unwrap();
            }
            peer.close(Some(CloseFrame { code: CloseCode::Away, reason: "so long".into() })).unwrap();
            peer.flush().unwrap();
            let mut stream = std::mem::take(&mut peer.get_mut().written);
            let got = read_all(&mut Decoder::new(role, MAX), &mut stream).unwrap();
            let (close, got) = got.split_last().unwrap();
            let known = |message: &Message| if message.is_text() { Message::text(NOT_KEPT) } else { message.clone() };
            prop_assert_eq!(got, messages.iter().map(known).collect::<Vec<_>>());
            let Message::Close(Some(frame)) = close else { panic!("{close:?}") };
            prop_assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Away, "so long"));
        }
    }

    #[test]
    fn it_reads_what_we_write(messages in prop::collection::vec(message(), 0..8)) {
        for (_, mask, its_role) in pairs() {
            let mut peer = peer(its_role);
            let out = &mut peer.get_mut().to_read;
            for message in &messages {
                match message {
                    Message::Binary(bytes) => message_into(out, bytes, mask),
                    Message::Ping(bytes) => control_into(out, OpCode::Ping, bytes, mask),
                    Message::Pong(bytes) => control_into(out, OpCode::Pong, bytes, mask),
                    _ => {}
                }
            }
            out.extend(close_frame(4006, "no hello in time", mask));
            for message in messages.iter().filter(|message| !message.is_text()) {
                prop_assert_eq!(&peer.read().unwrap(), message);
            }
            let Message::Close(Some(frame)) = peer.read().unwrap() else { panic!("no close") };
            prop_assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4006, "no hello in time"));
        }
    }
}

#[test]
fn its_client_takes_our_upgrade() {
    let mut request =
        tungstenite::client::IntoClientRequest::into_client_request("ws://server.example.com/sync").unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "etherply.v1".parse().unwrap());
    let Err(HandshakeError::Interrupted(mut waiting)) = tungstenite::client(request, Pipe::default()) else {
        panic!("nothing was sent yet")
    };
    let pipe = waiting.get_mut().get_mut();
    let upgrade = parse_upgrade(&pipe.written).unwrap().unwrap();
    assert_eq!((upgrade.path, upgrade.host), ("/sync", "server.example.com"));
    pipe.to_read = response(&upgrade);
    message_into(&mut pipe.to_read, b"at once", None);
    let (mut peer, response) = waiting.handshake().map_err(|error| error.to_string()).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "etherply.v1");
    assert_eq!(peer.read().unwrap(), Message::binary(b"at once".to_vec()));
}

#[test]
fn its_server_takes_our_upgrade() {
    let key = [7; 16];
    let pipe = Pipe { to_read: request("server.example.com", "/sync", &key).unwrap(), ..Pipe::default() };
    let mut peer = tungstenite::accept(pipe).map_err(|error| error.to_string()).unwrap();
    let written = &peer.get_ref().written;
    assert_eq!(parse_response(written, &key), Ok(Some(written.len())));
    message_into(&mut peer.get_mut().to_read, b"first", Some(MASK));
    assert_eq!(peer.read().unwrap(), Message::binary(b"first".to_vec()));
}
