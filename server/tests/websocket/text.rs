//! Group 6 of the Autobahn test suite: text that is UTF-8, and text that is not.
//!
//! The sequences of 6.5 to 6.23 are those of Markus Kuhn's "UTF-8 decoder capability and stress test". What is
//! UTF-8 is closed with 1003, because EtherPly takes no text; everything else with 1007 (RFC 6455, 8.1).

use etherply_wire::ErrorCode;

use crate::autobahn::{Case, Step, case, ends_with, fragments, refused_with};
use crate::raw::{CONTINUATION, Got, PING, TEXT, frame};

/// How many cases there are.
pub const GROUPS: &[(&str, usize)] = &[
    ("6.1", 3),
    ("6.2", 4),
    ("6.3", 2),
    ("6.4", 4),
    ("6.5", 5),
    ("6.6", 11),
    ("6.7", 4),
    ("6.8", 2),
    ("6.9", 4),
    ("6.10", 3),
    ("6.11", 5),
    ("6.12", 8),
    ("6.13", 5),
    ("6.14", 10),
    ("6.15", 1),
    ("6.16", 3),
    ("6.17", 5),
    ("6.18", 5),
    ("6.19", 5),
    ("6.20", 7),
    ("6.21", 8),
    ("6.22", 34),
    ("6.23", 7),
];

const KOSME: &[u8] = "\u{3BA}\u{1F79}\u{3C3}\u{3BC}\u{3B5}".as_bytes();
/// Beyond U+10FFFF, which shows at its second byte.
const BEYOND: &[u8] = b"\xF4\x90\x80\x80";

/// The message's end, whatever came before.
fn outcome(text: &[u8]) -> Vec<Step> {
    if std::str::from_utf8(text).is_ok() {
        refused_with(ErrorCode::TextNotSupported).into()
    } else {
        ends_with(1007).into()
    }
}

fn whole(number: impl Into<String>, text: &[u8]) -> Case {
    case(number, [Step::Send(frame(true, 0, TEXT, text))].into_iter().chain(outcome(text)))
}

fn in_fragments(number: &str, parts: &[&[u8]]) -> Case {
    let frames = parts.iter().enumerate().map(|(at, part)| {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        Step::Send(frame(at + 1 == parts.len(), 0, opcode, part))
    });
    case(number, frames.chain(outcome(&parts.concat())))
}

fn octet_by_octet(number: &str, text: &[u8]) -> Case {
    case(number, [Step::Send(fragments(TEXT, text, 1))].into_iter().chain(outcome(text)))
}

/// 6.4: what cannot become UTF-8 any more is refused before the message ends. `parts` end where that shows.
fn fails_fast(number: &str, parts: [&[u8]; 2]) -> Case {
    let steps = [
        Step::Send(frame(false, 0, TEXT, parts[0])),
        // So far it may be UTF-8: the connection goes on.
        Step::Send(frame(true, 0, PING, b"still there")),
        Step::Get(Got::Pong(b"still there".to_vec())),
        Step::Send(frame(false, 0, CONTINUATION, parts[1])),
    ];
    case(number, steps.into_iter().chain(ends_with(1007)))
}

/// The same within one frame, of which the rest never comes.
fn fails_fast_in_a_frame(number: &str, parts: [&[u8]; 2]) -> Case {
    let bytes = frame(true, 0, TEXT, &[KOSME, BEYOND, b"edited"].concat());
    let header_bytes = bytes.len() - KOSME.len() - BEYOND.len() - b"edited".len();
    let (first, rest) = bytes.split_at(header_bytes + parts[0].len());
    let steps = [Step::Send(first.to_vec()), Step::Send(rest[..parts[1].len()].to_vec())];
    case(number, steps.into_iter().chain(ends_with(1007)))
}

/// All cases of the group.
pub fn cases() -> Vec<Case> {
    let hello = "Hello-\u{B5}@\u{DF}\u{F6}\u{E4}\u{FC}\u{E0}\u{E1}-UTF-8!!".as_bytes();
    let surrogate = [KOSME, b"\xED\xA0\x80edited"].concat();
    let beyond = [KOSME, BEYOND].concat();
    let mut cases = vec![
        whole("6.1.1", b""),
        in_fragments("6.1.2", &[b"", b"", b""]),
        in_fragments("6.1.3", &[b"", b"middle frame payload", b""]),
        whole("6.2.1", hello),
        in_fragments("6.2.2", &[&hello[..12], &hello[12..]]),
        octet_by_octet("6.2.3", hello),
        octet_by_octet("6.2.4", KOSME),
        whole("6.3.1", &surrogate),
        octet_by_octet("6.3.2", &surrogate),
        fails_fast("6.4.1", [KOSME, BEYOND]),
        fails_fast("6.4.2", [&beyond[..12], &beyond[12..13]]),
        fails_fast_in_a_frame("6.4.3", [KOSME, BEYOND]),
        fails_fast_in_a_frame("6.4.4", [&beyond[..12], &beyond[12..13]]),
    ];
    for (group, sequences) in (5..).zip(sequences()) {
        for (number, text) in (1..).zip(sequences) {
            cases.push(whole(format!("6.{group}.{number}"), &text));
        }
    }
    cases
}

/// 6.5 to 6.23, in order.
fn sequences() -> Vec<Vec<Vec<u8>>> {
    let owned = |texts: &[&[u8]]| texts.iter().map(|text| text.to_vec()).collect::<Vec<_>>();
    let lonely = |from: u8, to: u8| (from..to).flat_map(|byte| [byte, b' ']).collect::<Vec<u8>>();
    let cut: [&[u8]; 10] = [
        b"\xC0",
        b"\xE0\x80",
        b"\xF0\x80\x80",
        b"\xF8\x80\x80\x80",
        b"\xFC\x80\x80\x80\x80",
        b"\xDF",
        b"\xEF\xBF",
        b"\xF7\xBF\xBF",
        b"\xFB\xBF\xBF\xBF",
        b"\xFD\xBF\xBF\xBF\xBF",
    ];
    let mut continuations = owned(&[
        b"\x80",
        b"\xBF",
        b"\x80\xBF",
        b"\x80\xBF\x80",
        b"\x80\xBF\x80\xBF",
        b"\x80\xBF\x80\xBF\x80",
        b"\x80\xBF\x80\xBF\x80\xBF",
    ]);
    continuations.push((0x80..0xBF).collect());
    vec![
        owned(&[
            b"hello\x24world",
            b"hello\xC2\xA2world",
            b"hello\xE2\x82\xACworld",
            b"hello\xF0\xA4\xAD\xA2world",
            KOSME,
        ]),
        (1..=KOSME.len()).map(|bytes| KOSME[..bytes].to_vec()).collect(),
        owned(&[b"\x00", b"\xC2\x80", b"\xE0\xA0\x80", b"\xF0\x90\x80\x80"]),
        owned(&[b"\xF8\x88\x80\x80\x80", b"\xFC\x84\x80\x80\x80\x80"]),
        owned(&[b"\x7F", b"\xDF\xBF", b"\xEF\xBF\xBF", b"\xF4\x8F\xBF\xBF"]),
        owned(&[b"\xF7\xBF\xBF\xBF", b"\xFB\xBF\xBF\xBF\xBF", b"\xFD\xBF\xBF\xBF\xBF\xBF"]),
        owned(&[b"\xED\x9F\xBF", b"\xEE\x80\x80", b"\xEF\xBF\xBD", b"\xF4\x8F\xBF\xBF", BEYOND]),
        continuations,
        vec![
            lonely(0xC0, 0xDF),
            lonely(0xE0, 0xEF),
            lonely(0xF0, 0xF7),
            lonely(0xF8, 0xFB),
            lonely(0xFC, 0xFD),
        ],
        owned(&cut),
        vec![cut.concat()],
        owned(&[b"\xFE", b"\xFF", b"\xFE\xFE\xFF\xFF"]),
        owned(&[
            b"\xC0\xAF",
            b"\xE0\x80\xAF",
            b"\xF0\x80\x80\xAF",
            b"\xF8\x80\x80\x80\xAF",
            b"\xFC\x80\x80\x80\x80\xAF",
        ]),
        owned(&[
            b"\xC1\xBF",
            b"\xE0\x9F\xBF",
            b"\xF0\x8F\xBF\xBF",
            b"\xF8\x87\xBF\xBF\xBF",
            b"\xFC\x83\xBF\xBF\xBF\xBF",
        ]),
        owned(&[
            b"\xC0\x80",
            b"\xE0\x80\x80",
            b"\xF0\x80\x80\x80",
            b"\xF8\x80\x80\x80\x80",
            b"\xFC\x80\x80\x80\x80\x80",
        ]),
        owned(&[
            b"\xED\xA0\x80",
            b"\xED\xAD\xBF",
            b"\xED\xAE\x80",
            b"\xED\xAF\xBF",
            b"\xED\xB0\x80",
            b"\xED\xBE\x80",
            b"\xED\xBF\xBF",
        ]),
        owned(&[
            b"\xED\xA0\x80\xED\xB0\x80",
            b"\xED\xA0\x80\xED\xBF\xBF",
            b"\xED\xAD\xBF\xED\xB0\x80",
            b"\xED\xAD\xBF\xED\xBF\xBF",
            b"\xED\xAE\x80\xED\xB0\x80",
            b"\xED\xAE\x80\xED\xBF\xBF",
            b"\xED\xAF\xBF\xED\xB0\x80",
            b"\xED\xAF\xBF\xED\xBF\xBF",
        ]),
        // The two last code points of each plane are no characters, but valid.
        (0..=0x10).flat_map(|plane| [0xFFFE, 0xFFFF].map(|last| utf8(plane << 16 | last))).collect(),
        (0xFFF9..=0xFFFF).map(utf8).collect(),
    ]
}

fn utf8(code_point: u32) -> Vec<u8> {
    char::from_u32(code_point).unwrap().to_string().into_bytes()
}
