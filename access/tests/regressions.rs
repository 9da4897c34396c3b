//! Every input that ever broke the reading of tokens and patterns, replayed: see fuzz/README.md.
#![allow(clippy::expect_used, clippy::panic)]

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
fn patterns() {
    regressions::replay("pattern", |input, _| pattern::check(input));
}
