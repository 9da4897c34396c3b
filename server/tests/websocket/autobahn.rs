//! The cases of the Autobahn test suite (version 25.10), by its numbers, against the real server.
//!
//! The suite itself needs Python 2, and talks to echo servers. This is none, so that each group has a meaning of
//! its own here:
//!
//! | group | Autobahn sends | here |
//! |---|---|---|
//! | 1.1 | text of 0 to 65,536 bytes | closed with 1003 and a reason: EtherPly takes no text |
//! | 1.2 | binary messages of those sizes | taken, as an EtherPly frame of that size shows, behind which a question is answered; the empty message is no EtherPly frame: 1002 |
//! | 2 | pings and pongs | as there: the same pong; 126 bytes are 1002 |
//! | 3, 4 | reserved bits, reserved opcodes, behind a message and before a ping | the message (a question) is answered, then 1002, and no pong |
//! | 5 | fragments | a question in those fragments is answered; what breaks the rules is 1002 |
//! | 6 | text | 1003 if it is UTF-8, 1007 if not, and at its first wrong byte (6.4): in `text` |
//! | 7 | close frames | as there: answered with the same code, 1002 or 1007 if they are wrong, silence behind them |
//! | 9.1, 9.3, 9.5, 9.7 | large or many text messages | 1003, or 1009 over the limit |
//! | 9.2, 9.4, 9.6, 9.8 | large or many binary messages | taken up to the limit, where Autobahn's are larger (4 MiB and more) 1009; 9.4 at and above the limit |
//! | 10 | a message in fragments of 1,300 bytes | taken |
//! | 12, 13 | compression | not offered: an offer is declined, a compressed frame is 1002 |
//!
//! A frame over the limit is refused when its header is there: no more than its beginning is sent.
//!
//! What Autobahn sends octet by octet or in chops is sent so here; small cases are all sent octet by octet once
//! more. Cases marked informational there (7.1.6, 7.13) have one answer here.

use std::collections::BTreeMap;

use etherply_wire::ErrorCode;
use etherply_wire::limits::FRAME_BYTES_MAX;

use crate::common::Server;
use crate::raw::{
    BINARY, CLOSE, CONTINUATION, Got, PING, PONG, Raw, TEXT, close_payload, frame, passed_over, question,
};

/// What a case does next.
pub enum Step {
    Send(Vec<u8>),
    Get(Got),
}

/// One case.
pub struct Case {
    pub number: String,
    /// Bytes in one piece; `None`: each `Send` at once.
    chop_bytes: Option<usize>,
    steps: Vec<Step>,
}

/// Cases of which everything that is sent is smaller are sent octet by octet once more.
const OCTETS_BYTES_MAX: usize = 1_024;
/// What is sent of a frame that is too large.
const BEGINNING_BYTES: usize = 64 * 1024;

pub fn case(number: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Case {
    Case { number: number.into(), chop_bytes: None, steps: steps.into_iter().collect() }
}

impl Case {
    pub fn in_chops(mut self, chop_bytes: usize) -> Self {
        self.chop_bytes = Some(chop_bytes);
        self
    }

    pub fn run(&self, server: &Server) {
        self.run_in_chops(server, self.chop_bytes);
        let sent_bytes: usize =
            self.steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).sum();
        if sent_bytes <= OCTETS_BYTES_MAX {
            self.run_in_chops(server, Some(1));
        }
    }

    fn run_in_chops(&self, server: &Server, chop_bytes: Option<usize>) {
        let mut raw = Raw::greeted(server);
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Send(bytes) => raw.send_in_chops(bytes, chop_bytes.unwrap_or(usize::MAX)),
                Step::Get(expected) => {
                    assert_eq!(raw.get(), *expected, "case {}, step {at}, chops {chop_bytes:?}", self.number);
                }
            }
        }
    }
}

fn send(fin: bool, opcode: u8, payload: &[u8]) -> Step {
    Step::Send(frame(fin, 0, opcode, payload))
}

/// Several frames in one piece.
fn together(frames: &[Vec<u8>]) -> Step {
    Step::Send(frames.concat())
}

/// The server ends the connection for what is wrong with it, and says nothing more.
pub fn ends_with(code: u16) -> [Step; 2] {
    [Step::Get(Got::Close { code, says_why: true }), Step::Get(Got::End)]
}

/// The same, behind an error frame: for what is wrong with a message as EtherPly sees it.
pub fn refused_with(code: ErrorCode) -> [Step; 3] {
    let [close, end] = ends_with(code.close_code());
    [Step::Get(Got::Refusal(code)), close, end]
}

/// The connection is closed in good order.
fn closes() -> [Step; 3] {
    let echoed = Got::Close { code: 1000, says_why: false };
    [send(true, CLOSE, &close_payload(1000, b"")), Step::Get(echoed), Step::Get(Got::End)]
}

/// Steps, and a close in good order.
fn well(number: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Case {
    case(number, steps.into_iter().chain(closes()))
}

/// Steps, and an end with 1002.
fn badly(number: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Case {
    case(number, steps.into_iter().chain(ends_with(1002)))
}

const NONCE: u64 = 0x0123_4567_89AB_CDEF;

fn ask() -> Vec<u8> {
    frame(true, 0, BINARY, &question(NONCE))
}

fn answer() -> Step {
    Step::Get(Got::Answer(NONCE))
}

fn pong(payload: &[u8]) -> Step {
    Step::Get(Got::Pong(payload.to_vec()))
}

/// A question in two fragments.
fn halves() -> (Vec<u8>, Vec<u8>) {
    let question = question(NONCE);
    let (first, second) = question.split_at(9);
    (frame(false, 0, BINARY, first), frame(true, 0, CONTINUATION, second))
}

/// A message in fragments of this many bytes.
pub fn fragments(opcode: u8, payload: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let count = payload.len().div_ceil(fragment_bytes).max(1);
    for (at, piece) in payload.chunks(fragment_bytes).enumerate() {
        out.extend(frame(at + 1 == count, 0, if at == 0 { opcode } else { CONTINUATION }, piece));
    }
    out
}

fn framing() -> Vec<Case> {
    let text = |number: &str, bytes: usize| {
        let refused = refused_with(ErrorCode::TextNotSupported);
        case(number, [send(true, TEXT, &vec![b'*'; bytes])].into_iter().chain(refused))
    };
    let binary = |number: &str, bytes: usize| {
        well(number, [send(true, BINARY, &passed_over(bytes)), Step::Send(ask()), answer()])
    };
    let empty = [send(true, BINARY, b"")].into_iter().chain(refused_with(ErrorCode::FrameMalformed));
    vec![
        text("1.1.1", 0),
        text("1.1.2", 125),
        text("1.1.3", 126),
        text("1.1.4", 127),
        text("1.1.5", 128),
        text("1.1.6", 65_535),
        text("1.1.7", 65_536),
        text("1.1.8", 65_536).in_chops(997),
        case("1.2.1", empty),
        binary("1.2.2", 125),
        binary("1.2.3", 126),
        binary("1.2.4", 127),
        binary("1.2.5", 128),
        binary("1.2.6", 65_535),
        binary("1.2.7", 65_536),
        binary("1.2.8", 65_536).in_chops(997),
    ]
}

fn pings() -> Vec<Case> {
    let ten = || {
        let payload = |n: u8| format!("payload-{n}").into_bytes();
        let pings = (0..10).map(move |n| send(true, PING, &payload(n)));
        pings.chain((0..10).map(move |n| pong(&payload(n))))
    };
    let binary = [0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF];
    vec![
        well("2.1", [send(true, PING, b""), pong(b"")]),
        well("2.2", [send(true, PING, b"Hello, world!"), pong(b"Hello, world!")]),
        well("2.3", [send(true, PING, &binary), pong(&binary)]),
        well("2.4", [send(true, PING, &[0xFE; 125]), pong(&[0xFE; 125])]),
        badly("2.5", [send(true, PING, &[0xFE; 126])]),
        well("2.6", [send(true, PING, &[0xFE; 125]), pong(&[0xFE; 125])]).in_chops(1),
        well("2.7", [send(true, PONG, b"")]),
        well("2.8", [send(true, PONG, b"unsolicited pong payload")]),
        well(
            "2.9",
            [send(true, PONG, b"unsolicited"), send(true, PING, b"ping payload"), pong(b"ping payload")],
        ),
        well("2.10", ten()),
        well("2.11", ten()).in_chops(1),
    ]
}

fn reserved() -> Vec<Case> {
    // A question, the frame that is wrong, and a ping that is not answered any more.
    let between = |number: &str, wrong: Vec<u8>| {
        badly(number, [Step::Send(ask()), Step::Send(wrong), send(true, PING, b""), answer()])
    };
    let hello = b"Hello, world!";
    let mut cases = vec![
        badly("3.1", [Step::Send(frame(true, 1, TEXT, hello))]),
        badly("3.2", [together(&[ask(), frame(true, 2, TEXT, hello), frame(true, 0, PING, b"")]), answer()]),
        between("3.3", frame(true, 3, TEXT, hello)),
        between("3.4", frame(true, 4, TEXT, hello)).in_chops(1),
        badly("3.5", [Step::Send(frame(true, 5, BINARY, &[0x00, 0xFF]))]),
        badly("3.6", [Step::Send(frame(true, 6, PING, hello))]),
        badly("3.7", [Step::Send(frame(true, 7, CLOSE, b""))]),
    ];
    for (group, first) in [("4.1", 3), ("4.2", 11)] {
        cases.extend([
            badly(format!("{group}.1"), [send(true, first, b"")]),
            badly(format!("{group}.2"), [send(true, first + 1, b"reserved opcode payload")]),
            between(&format!("{group}.3"), frame(true, 0, first + 2, b"")),
            between(&format!("{group}.4"), frame(true, 0, first + 3, hello)),
            between(&format!("{group}.5"), frame(true, 0, first + 4, hello)).in_chops(1),
        ]);
    }
    cases
}

fn fragmentation() -> Vec<Case> {
    let (first, last) = halves();
    let ping = || frame(true, 0, PING, b"ping payload");
    let nothing_to_continue = |fin| frame(fin, 0, CONTINUATION, b"non-continuation payload");
    let apart =
        |frames: &[&Vec<u8>]| frames.iter().map(|frame| Step::Send((*frame).clone())).collect::<Vec<_>>();
    let with_ping = |number: &str, steps: Vec<Step>| {
        well(number, steps.into_iter().chain([pong(b"ping payload"), answer()]))
    };
    let orphan = |number: &str, fin: bool, in_one: bool| {
        let steps = if in_one {
            vec![together(&[nothing_to_continue(fin), ask()])]
        } else {
            apart(&[&nothing_to_continue(fin), &ask()])
        };
        badly(number, steps)
    };
    let whole = question(NONCE);
    let five: Vec<Vec<u8>> = (0..5)
        .map(|at| {
            let end = if at == 4 { whole.len() } else { (at + 1) * 4 };
            frame(at == 4, 0, if at == 0 { BINARY } else { CONTINUATION }, &whole[at * 4..end])
        })
        .collect();
    let pings_within = |number: &str, in_one: bool| {
        let parts = [
            vec![five[0].clone(), five[1].clone(), frame(true, 0, PING, b"pongme 1!")],
            vec![five[2].clone(), five[3].clone(), frame(true, 0, PING, b"pongme 2!")],
            vec![five[4].clone()],
        ];
        let [one, two, three] = parts.map(|frames| {
            if in_one { vec![together(&frames)] } else { frames.into_iter().map(Step::Send).collect() }
        });
        // The first pong comes before the message has ended.
        let steps = one.into_iter().chain([pong(b"pongme 1!")]).chain(two).chain([pong(b"pongme 2!")]);
        well(number, steps.chain(three).chain([answer()]))
    };
    vec![
        badly("5.1", [send(false, PING, b"fragment1"), send(true, CONTINUATION, b"fragment2")]),
        badly("5.2", [send(false, PONG, b"fragment1"), send(true, CONTINUATION, b"fragment2")]),
        well("5.3", [together(&[first.clone(), last.clone()]), answer()]),
        well("5.4", apart(&[&first, &last]).into_iter().chain([answer()])),
        well("5.5", [together(&[first.clone(), last.clone()]), answer()]).in_chops(1),
        with_ping("5.6", vec![together(&[first.clone(), ping(), last.clone()])]),
        with_ping("5.7", apart(&[&first, &ping(), &last])),
        with_ping("5.8", apart(&[&first, &ping(), &last])).in_chops(1),
        orphan("5.9", true, true),
        orphan("5.10", true, false),
        orphan("5.11", true, true).in_chops(1),
        orphan("5.12", false, true),
        orphan("5.13", false, false),
        orphan("5.14", false, true).in_chops(1),
        badly(
            "5.15",
            [together(&[first.clone(), last.clone(), nothing_to_continue(false), ask()]), answer()],
        ),
        badly(
            "5.16",
            [Step::Send([nothing_to_continue(false), first.clone(), last.clone()].concat().repeat(2))],
        ),
        badly("5.17", [Step::Send([nothing_to_continue(true), first, last].concat().repeat(2))]),
        badly("5.18", [together(&[frame(false, 0, TEXT, b"fragment1"), frame(true, 0, TEXT, b"fragment2")])]),
        pings_within("5.19", true),
        pings_within("5.20", false),
    ]
}

fn closing() -> Vec<Case> {
    let closed = |code: u16| [Step::Get(Got::Close { code, says_why: false }), Step::Get(Got::End)];
    let close = |payload: &[u8]| frame(true, 0, CLOSE, payload);
    let normal = || close(&close_payload(1000, b""));
    let good = |number: &str, sent: &[Vec<u8>], code: u16| {
        case(number, [together(sent)].into_iter().chain(closed(code)))
    };
    let (first, last) = halves();
    let large = frame(true, 0, BINARY, &passed_over(256 * 1024));
    let reason = |bytes: usize| close_payload(1000, &vec![b'*'; bytes]);
    let invalid = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited";
    let mut cases = vec![
        well("7.1.1", [Step::Send(ask()), answer()]),
        good("7.1.2", &[normal(), close(b"")], 1000),
        good("7.1.3", &[normal(), frame(true, 0, PING, b"")], 1000),
        good("7.1.4", &[normal(), ask()], 1000),
        good("7.1.5", &[first, normal(), last], 1000),
        case(
            "7.1.6",
            [together(&[large, ask(), normal(), frame(true, 0, PING, b"")]), answer()]
                .into_iter()
                .chain(closed(1000)),
        ),
        good("7.3.1", &[close(b"")], 1000),
        badly("7.3.2", [send(true, CLOSE, b"a")]),
        good("7.3.3", &[normal()], 1000),
        good("7.3.4", &[close(&close_payload(1000, b"Hello World!"))], 1000),
        good("7.3.5", &[close(&reason(123))], 1000),
        badly("7.3.6", [send(true, CLOSE, &reason(124))]),
        case("7.5.1", [send(true, CLOSE, &close_payload(1000, invalid))].into_iter().chain(ends_with(1007))),
        badly("7.13.1", [send(true, CLOSE, &close_payload(5000, b""))]),
        badly("7.13.2", [send(true, CLOSE, &close_payload(65_535, b""))]),
    ];
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (code, number) in valid.into_iter().zip(1..) {
        cases.push(good(&format!("7.7.{number}"), &[close(&close_payload(code, b""))], code));
    }
    for (code, number) in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999].into_iter().zip(1..) {
        cases.push(badly(format!("7.9.{number}"), [send(true, CLOSE, &close_payload(code, b""))]));
    }
    cases
}

/// A message's size in bytes, as far as it may be one.
fn large(number: String, opcode: u8, bytes: usize) -> Case {
    let payload = if opcode == TEXT { vec![b'*'; bytes] } else { passed_over(bytes) };
    if bytes > FRAME_BYTES_MAX {
        let mut beginning = frame(true, 0, opcode, &payload);
        beginning.truncate(BEGINNING_BYTES);
        return case(number, [Step::Send(beginning)].into_iter().chain(ends_with(1009)));
    }
    let sent = send(true, opcode, &payload);
    if opcode == TEXT {
        return case(number, [sent].into_iter().chain(refused_with(ErrorCode::TextNotSupported)));
    }
    well(number, [sent, Step::Send(ask()), answer()])
}

fn sizes() -> Vec<Case> {
    const KIB: usize = 1024;
    let mut cases = Vec::new();
    for (kib, number) in [64, 256, 1024, 4096, 8192, 16_384].into_iter().zip(1..) {
        cases.push(large(format!("9.1.{number}"), TEXT, kib * KIB));
        cases.push(large(format!("9.2.{number}"), BINARY, kib * KIB));
    }
    let fragment_bytes = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB];
    for (fragment_bytes, number) in fragment_bytes.into_iter().zip(1..) {
        let text = fragments(TEXT, &vec![b'*'; FRAME_BYTES_MAX], fragment_bytes);
        let refused = refused_with(ErrorCode::TextNotSupported);
        cases.push(case(format!("9.3.{number}"), [Step::Send(text)].into_iter().chain(refused)));
        let binary = fragments(BINARY, &passed_over(FRAME_BYTES_MAX), fragment_bytes);
        cases.push(well(format!("9.4.{number}"), [Step::Send(binary), Step::Send(ask()), answer()]));
        let binary = fragments(BINARY, &passed_over(FRAME_BYTES_MAX + 1), fragment_bytes);
        cases.push(case(format!("9.4.{number}"), [Step::Send(binary)].into_iter().chain(ends_with(1009))));
    }
    for (chop_bytes, number) in [64, 128, 256, 512, 1024, 2048].into_iter().zip(1..) {
        cases.push(large(format!("9.5.{number}"), TEXT, 1024 * KIB).in_chops(chop_bytes));
        cases.push(large(format!("9.6.{number}"), BINARY, 1024 * KIB).in_chops(chop_bytes));
    }
    for (bytes, number) in [0, 16, 64, 256, 1024, 4096].into_iter().zip(1..) {
        cases.push(large(format!("9.7.{number}"), TEXT, bytes));
        // One after the other, a thousand times; the shortest EtherPly frame is its header.
        let once = |_| [send(true, BINARY, &passed_over(bytes.max(16))), Step::Send(ask()), answer()];
        cases.push(well(format!("9.8.{number}"), (0..1000).flat_map(once)));
    }
    let auto_fragmented = fragments(BINARY, &passed_over(65_536), 1300);
    cases.push(well("10.1.1", [Step::Send(auto_fragmented), Step::Send(ask()), answer()]));
    cases
}

fn compression() -> Vec<Case> {
    // "Hello", deflated, as RFC 7692, 7.2.3.1 has it.
    let deflated = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    vec![
        badly("12.1.1", [Step::Send(frame(true, 4, TEXT, &deflated))]),
        badly("12.2.1", [Step::Send(frame(true, 4, BINARY, &deflated))]),
        badly(
            "13.1.1",
            [Step::Send(
                [frame(false, 4, BINARY, &deflated[..3]), frame(true, 0, CONTINUATION, &deflated[3..])]
                    .concat(),
            )],
        ),
    ]
}

/// How many different cases each group has.
fn count(cases: &[Case]) -> BTreeMap<String, usize> {
    let mut numbers: Vec<&str> = cases.iter().map(|case| case.number.as_str()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut groups = BTreeMap::new();
    for number in numbers {
        let (group, _) = number.rsplit_once('.').unwrap();
        *groups.entry(group.to_owned()).or_default() += 1;
    }
    groups
}

fn run(cases: &[Case], groups: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> =
        groups.iter().map(|(group, count)| ((*group).to_owned(), *count)).collect();
    assert_eq!(count(cases), expected, "all cases of each group are there");
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for case in cases {
        case.run(&server);
    }
    assert!(!server.has_panicked());
}

#[test]
fn group_1_framing() {
    run(&framing(), &[("1.1", 8), ("1.2", 8)]);
}

#[test]
fn group_2_pings_and_pongs() {
    run(&pings(), &[("2", 11)]);
}

#[test]
fn groups_3_and_4_reserved_bits_and_opcodes() {
    run(&reserved(), &[("3", 7), ("4.1", 5), ("4.2", 5)]);
}

#[test]
fn group_5_fragmentation() {
    run(&fragmentation(), &[("5", 20)]);
}

#[test]
fn group_6_utf8() {
    run(&crate::text::cases(), crate::text::GROUPS);
}

#[test]
fn group_7_closing() {
    run(&closing(), &[("7.1", 6), ("7.13", 2), ("7.3", 6), ("7.5", 1), ("7.7", 13), ("7.9", 9)]);
}

#[test]
fn groups_9_and_10_sizes() {
    let groups = [
        ("9.1", 6),
        ("9.2", 6),
        ("9.3", 9),
        ("9.4", 9),
        ("9.5", 6),
        ("9.6", 6),
        ("9.7", 6),
        ("9.8", 6),
        ("10.1", 1),
    ];
    run(&sizes(), &groups);
}

#[test]
fn groups_12_and_13_compression_is_not_spoken() {
    run(&compression(), &[("12.1", 1), ("12.2", 1), ("13.1", 1)]);
}
