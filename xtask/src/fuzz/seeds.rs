//! Inputs that a fuzz target begins with: the golden vectors, in the form that the target takes.
//!
//! They are made at run time, so that the repository has each frame once. What stays in
//! `fuzz/regressions` is passed to the target beside them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etherply_wire::vectors::samples;
use etherply_wire::websocket::handshake::{parse_upgrade, request, response};
use etherply_wire::websocket::{OpCode, close_frame, control_into, message_into};

const MASK: [u8; 4] = [0x5A, 0x00, 0xFF, 0x13];
/// Longest history that the `change` target begins with: as long as libFuzzer makes inputs by itself.
const HISTORY_BYTES_MAX: usize = 4_096;
/// First byte of the `websocket` target's input: the role of the side that reads.
const AS_SERVER: u8 = 0;
const AS_CLIENT: u8 = 1;
/// The four bytes behind it: how many bytes arrive at a time.
const PIECES: [u8; 4] = [255, 3, 40, 7];

/// The target's corpus, in fuzz/corpus, with its seeds in it; what earlier runs found is kept.
pub fn corpus(root: &Path, target: &str) -> anyhow::Result<PathBuf> {
    let folder = root.join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).context("cannot create the fuzz corpus")?;
    let seeds = match target {
        "frame" => frames()?,
        "upgrade" => upgrades()?,
        "websocket" => streams()?,
        "reconcile" => clocks()?,
        "change" => histories(root)?,
        _ => Vec::new(),
    };
    for (name, bytes) in seeds {
        fs::write(folder.join(name), bytes).context("cannot write a fuzz seed")?;
    }
    Ok(folder)
}

type Seeds = Vec<(String, Vec<u8>)>;

fn frames() -> anyhow::Result<Seeds> {
    let vectors = samples()?;
    Ok(vectors.into_iter().map(|vector| (format!("vector-{}", vector.name), vector.bytes)).collect())
}

/// The first byte of the `reconcile` target's input says that frames follow.
fn clocks() -> anyhow::Result<Seeds> {
    let vectors = samples()?.into_iter().filter(|vector| vector.name.starts_with("reconcile"));
    Ok(vectors
        .map(|vector| (format!("vector-{}", vector.name), [&[0], &vector.bytes[..]].concat()))
        .collect())
}

/// Whole changes one behind the other: beginnings of histories that the JavaScript library wrote.
fn histories(root: &Path) -> anyhow::Result<Seeds> {
    let mut seeds = Seeds::new();
    for version in ["3.0.0", "3.5.0"] {
        let file = root.join(format!("engine/tests/change/javascript/{version}.bin"));
        let recorded = fs::read(file).context("cannot read the recorded changes")?;
        let (mut rest, mut history) = (&recorded[..], Vec::new());
        while let Some((length, behind)) = rest.split_first_chunk() {
            let length = usize::try_from(u32::from_le_bytes(*length))?;
            let (change, behind) = behind.split_at_checked(length).context("the recorded changes are cut")?;
            history.extend_from_slice(change);
            if history.len() > HISTORY_BYTES_MAX {
                break;
            }
            seeds.push((format!("javascript-{version}-{}", seeds.len()), history.clone()));
            rest = behind;
        }
    }
    Ok(seeds)
}

/// The first byte of the `upgrade` target's input is how many bytes arrive at a time.
fn upgrades() -> anyhow::Result<Seeds> {
    let sent = request("localhost:7400", "/", &[7; 16])?;
    let text = String::from_utf8(sent.clone())?;
    let with = |line: &str| text.replacen("\r\n", &format!("\r\n{line}\r\n"), 1);
    let mut requests = vec![
        ("program", text.clone()),
        ("page", with("Origin: http://localhost:5173")),
        ("compression", with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")),
        ("body", with("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        ("target", text.replacen("GET /", "GET ws://localhost:7400/?q=1", 1)),
        ("plain", "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n".to_owned()),
    ];
    if let Some(upgrade) = parse_upgrade(&sent)? {
        requests.push(("response", String::from_utf8(response(&upgrade))?));
    }
    let seed = |(name, head): (&str, String)| (name.to_owned(), [&[64], head.as_bytes()].concat());
    Ok(requests.into_iter().map(seed).collect())
}

fn streams() -> anyhow::Result<Seeds> {
    let input = |role: u8, stream: &[u8]| [&[role], &PIECES[..], stream].concat();
    let mut seeds = vec![("close".to_owned(), input(AS_CLIENT, &close_frame(1001, "restart", None)))];
    for vector in samples()? {
        for (role, mask) in [(AS_SERVER, Some(MASK)), (AS_CLIENT, None)] {
            let mut stream = Vec::new();
            control_into(&mut stream, OpCode::Ping, b"?", mask);
            message_into(&mut stream, &vector.bytes, mask);
            seeds.push((format!("role-{role}-{}", vector.name), input(role, &stream)));
        }
    }
    Ok(seeds)
}
