//! Materialisers that are behind hold commits back, and let them go on: nothing is lost, nobody is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Member, Server, Told, command};

#[test]
fn commits_wait_while_materialisers_are_behind_and_go_on_when_they_are_not() {
    const EDITS: usize = 400;
    let data = tempfile::tempdir().unwrap();
    let mut few = command(&data.path().join("data"));
    let server = Server::spawn(few.env("ETHERPLY_LAG_RECORDS_MAX", "40"));
    let mut ada = Member::connect(&server, false, 1);
    let mut bob = Member::connect(&server, true, 2);
    let (a, b) = (ada.open("notes"), bob.open("notes"));
    for edit in 0..EDITS {
        ada.put(a, &format!("k{edit:04}"), "x");
    }
    let mut acked = 0;
    while acked < EDITS {
        ada.until(|told| matches!(told, Told::Acked { .. }));
        acked += 1;
    }
    assert_eq!(bob.until_keys(b, EDITS).len(), EDITS);
    let refused = |told: &&Told| matches!(told, Told::Refused { .. } | Told::Closed(_));
    assert_eq!(ada.told.iter().find(refused), None);
    while server.metric("etherply_materialiser_holds_total") == 0.0 {
        ada.put_durably(a, "more", "x");
    }
    assert_eq!(server.metric("etherply_storage_failed"), 0.0);
}
