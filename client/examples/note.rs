//! Reads a document, or writes one key of it, and ends: with a token where the server asks for one, by TLS where it has
//! a certificate.
//!
//! ```console
//! $ cargo run -p etherply-client --features tls --example note -- \
//!     --url wss://localhost:4180 --ca server.pem --token "$TOKEN" --document rooms/1 --key motto --value hello
//! ```
//!
//! Without `--value` it prints the document's keys with their values. `--url` is `tcp://`, `ws://`, `tls://` or `wss://`;
//! without `--ca` it trusts whom this machine trusts.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use automerge::transaction::Transactable;
use automerge::{ActorId, ROOT, ReadDoc};
use etherply_client::{Client, Document, Event, OpenOptions, Rights, Tls, Transport};

/// Time without a word of the server's after which it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let option = |name: &str| options.get(name).map(String::as_str);
    let url = option("url").unwrap_or("tcp://127.0.0.1:4180");
    let (mut client, address) = client(url, option("ca"))?;
    let value = option("value");
    let rights = if value.is_some() { Rights::READ.with(Rights::WRITE) } else { Rights::READ };
    let stream = client.open(OpenOptions {
        document: option("document").unwrap_or("rooms/1").to_owned(),
        rights,
        token: option("token").map(str::to_owned),
        cursor: None,
    })?;
    let mut document = Document::new(stream, ActorId::random());
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    client.connect(0)?;
    let (mut bytes, mut out) = (vec![0; 64 * 1024], Vec::new());
    // Up to where the document went when it was opened, and how far of that is here.
    let (mut until, mut is_written, mut fault) = (None, false, None);
    loop {
        client.output(&mut out, 0);
        socket.write_all(&out)?;
        out.clear();
        let is_whole = until.is_some_and(|seq| client.cursor(stream).is_some_and(|at| at.seq >= seq));
        if is_whole && value.is_none() {
            break;
        }
        if is_whole && !is_written {
            document.apply()?;
            document.doc().put(ROOT, option("key").unwrap_or("motto"), value.unwrap_or_default())?;
            document.push(&mut client, 1)?;
            is_written = true;
            continue;
        }
        let read = socket.read(&mut bytes)?;
        if read == 0 {
            return Err("the server hung up".into());
        }
        let mut is_stored = false;
        let received = bytes.get_mut(..read).unwrap_or_default();
        let heard = document.input(&mut client, received, 0, 0, &mut |event| match event {
            Event::Opened { cursor, .. } => until = Some(cursor.seq),
            Event::OpenFailed { fault: why, .. } | Event::Refused { fault: why, .. } => {
                fault = Some(format!("the server refuses this ({}): {}", why.code, why.message));
            }
            Event::Acked { .. } => is_stored = true,
            _ => {}
        });
        if let Err(error) = heard {
            // Why, for the server.
            client.output(&mut out, 0);
            drop(socket.write_all(&out));
            return Err(error.into());
        }
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        if is_stored {
            println!("stored");
            return Ok(());
        }
    }
    document.apply()?;
    let doc = document.doc();
    for key in doc.keys(ROOT).collect::<Vec<_>>() {
        if let Some((value, _)) = doc.get(ROOT, key.as_str())? {
            println!("{key} = {value}");
        }
    }
    Ok(())
}

/// `--name value`, as often as one likes.
fn options() -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let (mut options, mut arguments) = (BTreeMap::new(), std::env::args().skip(1));
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").ok_or_else(|| format!("`{argument}` is no option"))?;
        let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
        options.insert(name.to_owned(), value);
    }
    Ok(options)
}

/// A client of a server, and where that is.
fn client(url: &str, ca: Option<&str>) -> Result<(Client, String), Box<dyn Error>> {
    let (scheme, host) = url.split_once("://").ok_or("a URL begins with tcp://, ws://, tls:// or wss://")?;
    let transport = match scheme {
        "tcp" | "tls" => Transport::Tcp,
        _ => Transport::WebSocket { host: host.to_owned(), path: "/".to_owned() },
    };
    let client = Client::new(transport, "note/1.0", u64::from(std::process::id()));
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let client = match scheme {
        "tls" | "wss" => client.with_tls(match ca {
            Some(file) => Tls::trusting(&std::fs::read(file)?, name)?,
            None => Tls::of_this_machine(name)?,
        }),
        _ => client,
    };
    Ok((client, host.to_owned()))
}
