//! Every input that ever broke the reading of tokens, keys and patterns, replayed: see fuzz/README.md.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "../../fuzz/src/jwks.rs"]
mod jwks;
#[path = "../../fuzz/src/pattern.rs"]
mod pattern;
#[path = "../../fuzz/src/regressions.rs"]
mod regressions;
#[path = "../../fuzz/src/token.rs"]
mod token;

#[test]
fn tokens() {
    regressions::replay("token", |input, _| token::check(input));
}

#[test]
fn sets_of_keys() {
    regressions::replay("jwks", |input, _| {
        jwks::check(input);
        // Cut off, and with one byte another, at every place.
        for at in 0..input.len() {
            let (before, behind) = input.split_at(at);
            jwks::check(before);
            for byte in [0, b'"', b'}', b'A', 0xff] {
                jwks::check(&[before, &[byte], behind.get(1..).unwrap_or_default()].concat());
            }
        }
    });
}

#[test]
fn patterns() {
    regressions::replay("pattern", |input, _| pattern::check(input));
}
