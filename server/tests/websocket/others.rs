//! A client of another make, and a server: tungstenite. Those of other languages are in `tests/interop`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use etherply_client::{Client, ClientError, Transport};
use etherply_wire::Frame;
use etherply_wire::kinds::Kind;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, frame::Frame as WsFrame};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use crate::common::Server;
use crate::common::exchange::Exchange;

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

fn connect(server: &Server, exchange: &Exchange) -> (Socket, u32) {
    let mut request = format!("ws://{}/", server.listen).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "other, etherply.v1".parse().unwrap());
    request.headers_mut().insert("Sec-WebSocket-Extensions", "permessage-deflate".parse().unwrap());
    let (mut socket, response) = tungstenite::connect(request).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "etherply.v1");
    assert!(response.headers().get("sec-websocket-extensions").is_none(), "declined");
    socket.send(Message::binary(exchange.hello.clone())).unwrap();
    assert_eq!(read(&mut socket).0, Kind::Welcome);
    socket.send(Message::binary(exchange.open.clone())).unwrap();
    let (kind, opened) = read(&mut socket);
    assert_eq!(kind, Kind::Opened);
    (socket, Frame::parse(&opened).unwrap().unwrap().stream())
}

/// The next frame.
fn read(socket: &mut Socket) -> (Kind, Vec<u8>) {
    let message = socket.read().unwrap();
    let Message::Binary(bytes) = message else { panic!("{message:?}") };
    (Frame::parse(&bytes).unwrap().unwrap().kind().unwrap(), bytes.to_vec())
}

/// Reads from a client of ours until there is something to answer, or an error, and answers.
fn serve(client: &mut Client, socket: &mut TcpStream) -> Result<(), ClientError> {
    let (mut bytes, mut out) = (vec![0; 1024], Vec::new());
    client.output(&mut out, 0);
    socket.write_all(&out).unwrap();
    let read = socket.read(&mut bytes).unwrap();
    assert!(read > 0, "the server hung up without a close");
    let taken = client.input(&mut bytes[..read], 0, &mut |_| {});
    let mut out = Vec::new();
    client.output(&mut out, 0);
    socket.write_all(&out).unwrap();
    taken
}

#[test]
fn our_client_answers_another_servers_close() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (sent, answered) in [(Some(4321), Some(4321)), (Some(1001), Some(1001)), (None, None)] {
        let server = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let (stream, _) = listener.accept().unwrap();
                let mut socket = tungstenite::accept(stream).unwrap();
                assert!(matches!(socket.read().unwrap(), Message::Binary(_)), "a hello");
                let why = |code| CloseFrame { code: CloseCode::from(code), reason: "so long".into() };
                socket.close(sent.map(why)).unwrap();
                // It insists on a masked close frame, and on nothing behind it.
                let answer = socket.read().unwrap();
                let Message::Close(frame) = answer else { panic!("{answer:?}") };
                assert!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)));
                frame.map(|frame| u16::from(frame.code))
            }
        });
        let transport = Transport::WebSocket { host: address.to_string(), path: "/".to_owned() };
        let mut client = Client::new(transport, "test", 1);
        let mut socket = TcpStream::connect(address).unwrap();
        client.connect(0).unwrap();
        let ended = loop {
            if let Err(error) = serve(&mut client, &mut socket) {
                break error;
            }
        };
        assert!(matches!(ended, ClientError::Closed { code, .. } if code == sent), "{ended}");
        let mut more = Vec::new();
        client.tick(1_000_000);
        client.output(&mut more, 1_000_000);
        assert!(more.is_empty(), "nothing follows a close");
        drop(socket);
        assert_eq!(server.join().unwrap(), answered);
    }
}

/// Closes and reads the server's code.
fn close(mut socket: Socket, code: u16) -> u16 {
    socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: "so long".into() })).unwrap();
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn two_of_another_make_share_a_document() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let exchange = Exchange::new("others", 1);
    let (mut writer, stream) = connect(&server, &exchange);
    let (mut reader, _) = connect(&server, &exchange);
    // In fragments, with a ping between them.
    let push = exchange.push(stream);
    let parts: Vec<&[u8]> = push.chunks(50).collect();
    for (at, part) in parts.iter().enumerate() {
        let data = if at == 0 { Data::Binary } else { Data::Continue };
        let fragment = WsFrame::message(part.to_vec(), OpCode::Data(data), at + 1 == parts.len());
        writer.write(Message::Frame(fragment)).unwrap();
        if at == 0 {
            writer.write(Message::Ping(b"between".to_vec().into())).unwrap();
        }
    }
    writer.flush().unwrap();
    assert_eq!(writer.read().unwrap(), Message::Pong(b"between".to_vec().into()));
    assert_eq!(read(&mut writer).0, Kind::Ack);
    let (kind, changes) = read(&mut reader);
    assert_eq!(kind, Kind::Changes);
    assert!(changes.ends_with(&exchange.change), "the change is delivered as it was pushed");
    assert_eq!(close(writer, 4321), 4321);
    assert_eq!(close(reader, 1000), 1000);
    let (mut texter, _) = connect(&server, &exchange);
    assert_eq!(read(&mut texter).0, Kind::Changes);
    texter.send(Message::text("text")).unwrap();
    assert_eq!(read(&mut texter).0, Kind::Error);
    let Message::Close(Some(frame)) = texter.read().unwrap() else { panic!("no close") };
    assert_eq!(u16::from(frame.code), 1003);
    assert!(frame.reason.contains("binary"), "{}", frame.reason);
}
