//! A client of another make: tungstenite. Those of other languages are in `tests/interop`.

use std::net::TcpStream;

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
