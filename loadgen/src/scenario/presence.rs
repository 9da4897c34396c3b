//! `presence`: members of rooms tell where they are. Every state may be passed over for a newer one of the
//! same member, but the latest has to arrive, leaves have to be seen, and who comes back has to see everybody.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::{PresenceArgs, check};
use crate::live::Live;
use crate::net::presence::{PresenceSession, STATE_BYTES_MAX, STATE_BYTES_MIN};
use crate::net::{Command, Cut, Fleet, MemberOutcome};
use crate::plan::Plan;
use crate::report::{Claim, Deliveries, Report, Settings};
use crate::scenario::claims;
use crate::scenario::conclude::judge;
use crate::scenario::edits::micros;
use crate::scenario::host::Host;
use crate::scenario::run::{Before, Crowd, Measured};
use crate::scenario::setup::{Times, raise_descriptors};
use crate::scenario::tally::Tally;
use crate::schedule::Shape;
use crate::sections;
use crate::stats::{Percentiles, read};

/// One in so many members of each room is cut off after the updates, and comes back.
const CUT_ONE_IN: u32 = 5;
/// Time for everybody to see what there is to see.
const SEEN_LIMIT: Duration = Duration::from_secs(15);
/// Time for those who were cut off to be back.
const BACK_LIMIT: Duration = Duration::from_secs(30);
/// How often everybody is asked what they see.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs `presence`.
pub fn presence(args: &PresenceArgs, live: &Live) -> Result<Report> {
    check(args.rooms, args.members, args.members, STATE_BYTES_MIN)?;
    if args.members < 2 || !(STATE_BYTES_MIN..=STATE_BYTES_MAX).contains(&args.state_bytes) {
        bail!("a room has at least two members, and a state {STATE_BYTES_MIN} to {STATE_BYTES_MAX} bytes");
    }
    if !(args.updates > 0.0 && args.updates <= 1_000.0) {
        bail!("a member sets more than 0 and at most 1,000 states a second");
    }
    let host = Host::start(&args.common, live)?;
    let plan = plan_of(args, &host)?;
    raise_descriptors(plan.connections())?;
    let crowd = Crowd::gather(Fleet::start::<PresenceSession>(plan.clone(), None)?, host.server(), live)?;
    let everybody = |_: u32| true;
    let first_view = settle(&crowd, "waiting until everybody sees everybody", live, everybody)?;

    let before = Before::read(host.server());
    crowd.fleet.begin()?;
    crowd.edit(live);
    let view = settle(&crowd, "waiting until everybody sees the latest states", live, everybody)?;
    let generator = before.generator()?;
    let figures = before.figures(host.server(), crowd.received());

    crowd.fleet.hold(true);
    crowd.fleet.mark();
    crowd.fleet.command(&Command::Cut { how: Cut::Close, one_in: CUT_ONE_IN })?;
    let cut = read(&crowd.fleet.gauges.cut);
    let stays = |member: u32| !member.is_multiple_of(CUT_ONE_IN);
    let left = settle(&crowd, "waiting until leaves are seen", live, stays)?;
    crowd.fleet.hold(false);
    crowd.all_back("waiting for those who come back", BACK_LIMIT, live);
    let returned = settle(&crowd, "waiting until everybody sees everybody again", live, everybody)?;

    let measured = crowd.finish(figures, generator)?;
    let section = sections::Presence {
        updates_per_member_s: args.updates,
        state_bytes: args.state_bytes,
        cut,
        pairs: view.pairs,
        pairs_without_latest: view.wrong,
        leaves: left.leaves,
        leaves_missing: left.leaves_unseen,
        leave_us: Percentiles::of(&measured.stats.since_moment),
        pairs_without_latest_after_return: returned.wrong,
        ..states(&measured.members, &plan)
    };
    let mut report = report_of(args, &host, &plan, measured, section);
    let claims = claims(&report, plan.scheduled(), &first_view);
    judge(&mut report, claims, &args.common, host, live);
    Ok(report)
}

fn plan_of(args: &PresenceArgs, host: &Host) -> Result<Plan> {
    let (warmup_us, duration_us) = (micros(args.warmup)?, micros(args.duration)?);
    let rate = f64::from(args.rooms) * f64::from(args.members) * args.updates;
    let shape = Shape {
        documents: args.rooms,
        writers: args.members,
        // Of at most 2^32 members with 1,000 states each.
        rate: micros(rate / 1e6)?.max(1),
        length_us: warmup_us.saturating_add(duration_us),
        seed: args.common.seed,
    };
    Ok(Plan { warmup_us, reconnects: true, ..host.plan(&args.common, args.state_bytes, shape) })
}

/// What members see of one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct View {
    /// Pairs of members, of which the first is here.
    pairs: u64,
    /// Pairs of which the first does not see the second as it is.
    wrong: u64,
    /// Pairs of which the second left.
    leaves: u64,
    /// Those of them of which the first still sees the second.
    leaves_unseen: u64,
}

/// Compares what every member that is here sees with what the others last set, or that they are gone.
fn view(members: &[MemberOutcome], is_here: impl Fn(u32) -> bool) -> View {
    let mut rooms: HashMap<u32, Vec<&MemberOutcome>> = HashMap::new();
    for member in members {
        rooms.entry(member.document).or_default().push(member);
    }
    let mut view = View::default();
    for room in rooms.values() {
        for viewer in room.iter().filter(|viewer| is_here(viewer.member)) {
            for other in room.iter().filter(|other| other.member != viewer.member) {
                let seen = viewer.seen.get(other.member as usize).copied().unwrap_or(0);
                let (left, latest) = (!is_here(other.member), other.made);
                let is_wrong = seen != if left { 0 } else { latest };
                view.pairs += 1;
                view.wrong += u64::from(is_wrong);
                view.leaves += u64::from(left);
                view.leaves_unseen += u64::from(left && is_wrong);
            }
        }
    }
    view
}

/// Waits until everybody who is here sees everything as it is. How it stands by then, or when time is up.
fn settle(crowd: &Crowd, what: &str, live: &Live, is_here: impl Fn(u32) -> bool) -> Result<View> {
    let mut last = view(&crowd.fleet.look()?, &is_here);
    let mut looked = Instant::now();
    let mut failed = Ok(());
    live.wait(what, &crowd.fleet.gauges, SEEN_LIMIT, || {
        if last.wrong > 0 && looked.elapsed() >= LOOK_EVERY {
            match crowd.fleet.look() {
                Ok(members) => last = view(&members, &is_here),
                Err(error) => failed = Err(error),
            }
            looked = Instant::now();
        }
        last.wrong == 0 || failed.is_err()
    });
    failed?;
    Ok(last)
}

/// The sums of all members' states.
fn states(members: &[MemberOutcome], plan: &Plan) -> sections::Presence {
    let sum = |value: fn(&MemberOutcome) -> u64| members.iter().map(value).sum::<u64>();
    let states_set = sum(|member| u64::from(member.made));
    let states_seen = sum(|member| member.received);
    let states_expected = states_set * u64::from(plan.members.saturating_sub(1));
    let stale = sum(|member| member.duplicated);
    let conflated = states_expected.saturating_sub(states_seen);
    sections::Presence { states_set, states_seen, states_expected, conflated, stale, ..Default::default() }
}

fn report_of(
    args: &PresenceArgs,
    host: &Host,
    plan: &Plan,
    measured: Measured,
    section: sections::Presence,
) -> Report {
    // Nothing of it comes to a disk.
    let times = Times { warmup_s: args.warmup, duration_s: args.duration };
    let settings = Settings { data_filesystem: None, ..host.settings(&args.common, plan, times) };
    let deliveries = Deliveries {
        expected: section.states_expected,
        received: section.states_seen,
        lost: section.pairs_without_latest,
        duplicated: 0,
    };
    let tally = Tally { deliveries, ..Tally::default() };
    let mut report = measured.report("presence", host.transport, settings, tally);
    let share = 100.0 * section.conflated as f64 / section.states_expected.max(1) as f64;
    report.sections.highlight =
        Some(format!("{} rooms of {} members, {share:.1} % conflated", plan.documents, plan.members));
    report.sections.presence = Some(section);
    report
}

fn claims(report: &Report, scheduled: u64, first: &View) -> Vec<Claim> {
    let section = report.sections.presence.clone().unwrap_or_default();
    let first_states = report.connections.asked;
    let pairs = section.pairs;
    vec![
        claims::connections(report),
        Claim::new(
            "whoever joins sees everybody who is there",
            format!("{} of {} pairs", first.pairs - first.wrong, first.pairs),
            first.wrong == 0 && first.pairs > 0,
        ),
        Claim::new(
            "every scheduled state was set",
            format!("{} of {scheduled}", section.states_set.saturating_sub(first_states)),
            section.states_set == scheduled + first_states,
        ),
        Claim::new(
            "after the last update everybody has everybody's latest state",
            format!("{} of {pairs} pairs", pairs - section.pairs_without_latest),
            section.pairs_without_latest == 0,
        ),
        Claim::new(
            "no state came after a newer one of the same member",
            section.stale.to_string(),
            section.stale == 0,
        ),
        Claim::new(
            "everybody saw those leave who were cut off",
            format!("{} of {}", section.leaves - section.leaves_missing, section.leaves),
            section.leaves_missing == 0 && section.leaves > 0,
        ),
        Claim::new(
            "who came back sees everybody, and is seen",
            format!("{} of {pairs} pairs", pairs - section.pairs_without_latest_after_return),
            section.pairs_without_latest_after_return == 0,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(member: u32, made: u32, seen: [u32; 3]) -> MemberOutcome {
        MemberOutcome { member, made, seen: seen.to_vec(), ..MemberOutcome::default() }
    }

    #[test]
    fn every_pair_is_looked_at_in_both_directions() {
        let all = [member(0, 7, [7, 3, 1]), member(1, 3, [7, 0, 1]), member(2, 1, [6, 3, 0])];
        let found = view(&all, |_| true);
        assert_eq!(found, View { pairs: 6, wrong: 1, leaves: 0, leaves_unseen: 0 });
    }

    #[test]
    fn who_left_has_to_be_gone_and_what_it_sees_does_not_count() {
        let all = [member(0, 7, [0, 0, 0]), member(1, 3, [0, 3, 1]), member(2, 1, [7, 3, 1])];
        let found = view(&all, |member| member != 0);
        assert_eq!(found, View { pairs: 4, wrong: 1, leaves: 2, leaves_unseen: 1 });
    }
}
