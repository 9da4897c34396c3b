//! Claims that several scenarios make alike.

use crate::report::{Claim, Report};

/// Every connection came about, and none ended that nobody wanted to end.
pub fn connections(report: &Report) -> Claim {
    let connections = &report.connections;
    Claim::new(
        format!("{0} of {0} connections established, none lost", connections.asked),
        format!("{} established, {} lost", connections.established, connections.lost),
        connections.established == connections.asked && connections.lost == 0,
    )
}

/// Every scheduled edit was made, and acked.
pub fn edits(report: &Report, scheduled: u64) -> Claim {
    let edits = &report.edits;
    Claim::new(
        "every scheduled edit was made and acked",
        format!("{} made, {} acked of {scheduled}", edits.sent, edits.acked),
        edits.sent == scheduled && edits.acked == scheduled,
    )
}

/// What was acked is stored.
pub fn stored(report: &Report, on_disk: bool) -> Claim {
    let place = if on_disk { "on disk" } else { "found by fresh clients" };
    Claim::new(
        format!("every acked change is {place}"),
        format!("{} missing of {}", report.edits.lost, report.edits.acked),
        report.edits.lost == 0,
    )
}

/// Every member received every edit of the others once.
pub fn deliveries(report: &Report) -> Claim {
    let deliveries = &report.deliveries;
    Claim::new(
        "no delivery lost, none doubled",
        format!("{} lost, {} doubled of {}", deliveries.lost, deliveries.duplicated, deliveries.expected),
        deliveries.lost == 0 && deliveries.duplicated == 0 && deliveries.received == deliveries.expected,
    )
}

/// Every document converged.
pub fn converged(report: &Report) -> Claim {
    let converged = report.documents.converged.unwrap_or(0);
    Claim::new(
        "every document converged: equal heads and content",
        format!("{converged} of {}", report.documents.total),
        converged == report.documents.total,
    )
}
