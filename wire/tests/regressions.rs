//! Every input that ever broke something here, replayed: see fuzz/README.md.

#![allow(clippy::expect_used)]

#[path = "../../fuzz/src/frame.rs"]
mod frame;
#[path = "../../fuzz/src/proxy.rs"]
mod proxy;
#[path = "../../fuzz/src/regressions.rs"]
mod regressions;
#[path = "../../fuzz/src/upgrade.rs"]
mod upgrade;
#[path = "../../fuzz/src/websocket.rs"]
mod websocket;

#[test]
fn frames() {
    regressions::replay("frame", |input, _| frame::check(input));
}

#[test]
fn proxy_headers() {
    regressions::replay("proxy", |input, _| proxy::check(input));
}

#[test]
fn upgrades() {
    regressions::replay("upgrade", |input, _| upgrade::check(input));
}

#[test]
fn websocket_streams() {
    regressions::replay("websocket", |input, _| websocket::check(input));
}
