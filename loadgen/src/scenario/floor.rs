//! `floor`: the same schedule through the bare relay. What a delivery costs here, the kernel's sockets cost.

use anyhow::{Context, Result, bail};

use crate::args::EditsArgs;
use crate::live::Live;
use crate::net::floor::FloorSession;
use crate::peers::servers::relay;
use crate::plan::TransportChoice;
use crate::report::{Claim, Report, Verdict};
use crate::scenario::edits::{plan_of, settings_of};
use crate::scenario::run::run;
use crate::scenario::setup::{Workspace, loopback, raise_descriptors};
use crate::scenario::tally::Tally;
use crate::schedule::Schedule;
use crate::server::Server;

/// Runs `floor`.
pub fn floor(args: EditsArgs, live: &Live) -> Result<Report> {
    if args.common.url.is_some() {
        bail!("the floor is a relay of its own: it cannot be measured against a server");
    }
    let workspace = Workspace::new(&args.common)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.common.server_cores.unwrap_or(cores);
    let relay = Server::start(&relay(threads, &workspace)?)?;
    let plan = plan_of(&args, loopback(relay.listen), TransportChoice::Tcp)?;
    raise_descriptors(plan.connections())?;
    let mut measured = run::<FloorSession>(plan.clone(), Some(&relay), live)?;
    let last_words = relay.stop()?;
    let tally = Tally::of(&measured.members, &plan).settle();
    let sends = last_words.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let sends = sends.filter_map(|line| line.get("sends")?.as_u64()).next_back();
    let sends = sends.context("the relay did not tell how often it sent")?;
    // Joining a room is answered as well; that is no part of the deliveries.
    let sends = sends.saturating_sub(measured.connections.established);
    measured.server.sends = Some(sends);
    measured.server.sends_per_delivery = Some(sends as f64 / tally.deliveries.received.max(1) as f64);

    let settings = settings_of(&args, &plan, None);
    let mut report = measured.report("floor", TransportChoice::Tcp, settings, tally);
    let Report { connections, edits, deliveries, .. } = &report;
    let scheduled = Schedule::len(&plan.shape);
    let claims = vec![
        Claim::new(
            format!("{0} of {0} connections established, none lost", connections.asked),
            format!("{} established, {} lost", connections.established, connections.lost),
            connections.established == connections.asked && connections.lost == 0,
        ),
        Claim::new(
            "every message arrived once",
            format!("{} lost, {} doubled of {}", deliveries.lost, deliveries.duplicated, deliveries.expected),
            edits.acked == scheduled && deliveries.lost == 0 && deliveries.duplicated == 0,
        ),
    ];
    report.verdict = Verdict::of(claims, false);
    Ok(report)
}
