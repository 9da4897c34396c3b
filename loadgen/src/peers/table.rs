//! What came out of a contest, for people.

use std::fmt::Write as _;

use crate::peers::Peer;
use crate::peers::contest::{Contest, Probe, Standing};
use crate::report::Report;

/// From here on, the generator's own lateness is a good part of what was measured.
const LATE_US: u64 = 10_000;

/// One probe in one line.
pub fn line(probe: &Probe) -> String {
    let Some(report) = &probe.report else {
        return format!("  could not be measured: {}", probe.failure.as_deref().unwrap_or("no reason"));
    };
    let ms = |us: u64| us as f64 / 1_000.0;
    let delivery_us = &report.delivery_us;
    format!(
        "  {}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; {} lost of {}; CPU {} µs a delivery; send lag p99 {:.2} ms",
        if probe.holds { "holds" } else { "does not hold" },
        ms(delivery_us.p50),
        ms(delivery_us.p99),
        ms(delivery_us.p999),
        report.deliveries.lost,
        report.deliveries.expected,
        report.server.cpu_us_per_delivery.map_or("?".to_owned(), |us| format!("{us:.1}")),
        ms(report.send_lag_us.p99),
    )
}

/// The table alone.
pub fn summary(contest: &Contest) -> String {
    let fixed = &contest.settings.fixed;
    let mut text = String::from("| server | highest rate, edits/s (rounds) |");
    let mut rule = String::from("|---|--:|");
    for rate in fixed {
        let _ = write!(text, " p50 / p99 / p99.9 ms at {rate} | CPU µs a delivery at {rate} |");
        rule.push_str("--:|--:|");
    }
    text.push_str(" CPU µs a delivery at the highest | idle connection, KiB | an edit is | durability |\n");
    rule.push_str("--:|--:|---|---|\n");
    text.push_str(&rule);
    for standing in &contest.standings {
        text.push_str(&row(contest, standing));
    }
    text
}

fn row(contest: &Contest, standing: &Standing) -> String {
    let peer = standing.peer;
    let rounds: Vec<String> = standing.highest.iter().map(u64::to_string).collect();
    let highest = median(standing.highest.clone()).unwrap_or(0);
    let found = if highest == 0 { "none".to_owned() } else { highest.to_string() };
    let mut text = format!("| {} | **{found}** ({}) |", peer.name(), rounds.join(", "));
    for &rate in &contest.settings.fixed {
        let figures = |figure: fn(&Report) -> u64| {
            median(reports(contest, peer, Some(rate)).map(figure).collect())
                .map_or("–".to_owned(), |us| format!("{:.2}", us as f64 / 1_000.0))
        };
        let mark = mark(contest, peer, rate);
        let _ = write!(
            text,
            " {} / {} / {}{mark} | {} |",
            figures(|report| report.delivery_us.p50),
            figures(|report| report.delivery_us.p99),
            figures(|report| report.delivery_us.p999),
            cpu(contest, peer, rate),
        );
    }
    let idle = reports(contest, peer, None).filter_map(|report| report.server.idle_bytes_per_connection);
    let idle =
        median(idle.collect()).map_or("–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1_024.0));
    let _ = writeln!(
        text,
        " {} | {idle} | {} | {} |",
        if highest == 0 { "–".to_owned() } else { cpu(contest, peer, highest) },
        peer.edit(),
        peer.durability()
    );
    text
}

/// What has to be said of a cell: a claim that failed, a generator that was late.
fn mark(contest: &Contest, peer: Peer, rate: u64) -> &'static str {
    let mut probes =
        contest.probes.iter().filter(|probe| probe.peer == peer && probe.rate == rate).peekable();
    if probes.peek().is_none() {
        return "";
    }
    let late = reports(contest, peer, Some(rate)).any(|report| report.send_lag_us.p99 > LATE_US);
    match (probes.all(|probe| probe.holds), late) {
        (true, false) => "",
        (true, true) => " ‡",
        (false, false) => " †",
        (false, true) => " † ‡",
    }
}

fn cpu(contest: &Contest, peer: Peer, rate: u64) -> String {
    let each = reports(contest, peer, Some(rate)).filter_map(|report| report.server.cpu_us_per_delivery);
    // In nanoseconds, so that there is an order.
    #[expect(clippy::cast_possible_truncation, reason = "microseconds of CPU time")]
    let each: Vec<u64> = each.map(|us| (us * 1_000.0) as u64).collect();
    median(each).map_or("–".to_owned(), |ns| format!("{:.1}", ns as f64 / 1_000.0))
}

fn reports(contest: &Contest, peer: Peer, rate: Option<u64>) -> impl Iterator<Item = &Report> {
    let probes = contest.probes.iter();
    let probes = probes.filter(move |probe| probe.peer == peer && rate.is_none_or(|rate| probe.rate == rate));
    probes.filter_map(|probe| probe.report.as_ref())
}

/// The middle one; of an even number the lower, so that a median is always something that was measured.
pub fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// p99 of a server's deliveries in microseconds, the median over the rounds, at each rate that was tried.
pub fn p99_by_rate(contest: &Contest, peer: Peer) -> Vec<(u64, u64)> {
    let mut rates: Vec<u64> =
        contest.probes.iter().filter(|probe| probe.peer == peer).map(|probe| probe.rate).collect();
    rates.sort_unstable();
    rates.dedup();
    let p99 =
        |rate| median(reports(contest, peer, Some(rate)).map(|report| report.delivery_us.p99).collect());
    rates.into_iter().filter_map(|rate| Some((rate, p99(rate).filter(|&us| us > 0)?))).collect()
}

/// The whole page.
pub fn readme(contest: &Contest) -> String {
    let Contest { date, revision, command, machine, settings, standings, probes } = contest;
    let mut text = format!(
        "# EtherPly and its peers, {date}\n\nWritten by `{command}`, revision {revision}; {}, {} cores in all, Linux \
         {}. {} connections to {} documents of {} members, edits of {} bytes, server on processor {}, load on {}. \
         {} of {} rounds done, {} probes of {} s after {} s of warm-up, every server by turns.\n\n\
         ![p99 of deliveries at each rate](latency.svg)\n\n{}\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        settings.documents.saturating_mul(settings.members),
        settings.documents,
        settings.members,
        settings.value_bytes,
        settings.server_cpus,
        settings.load_cpus,
        standings.iter().map(|standing| standing.highest.len()).max().unwrap_or(0),
        settings.rounds,
        probes.len(),
        settings.duration,
        settings.warmup,
        summary(contest),
    );
    text.push_str(LEGEND);
    if settings.sample {
        text.push_str(SAMPLE);
    }
    text.push_str("\n## Versions and settings\n\n| server | version | settings |\n|---|---|---|\n");
    for standing in standings {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            standing.peer.name(),
            standing.version,
            standing.peer.settings()
        );
    }
    text.push_str("\n## Every probe\n\n| round | server | edits/s | what came out |\n|--:|---|--:|---|\n");
    for probe in probes {
        let mut said = line(probe).trim().to_owned();
        if probe.covered + probe.unexpected > 0 {
            let _ = write!(
                said,
                "; {} values covered by later ones, {} unexpected messages",
                probe.covered, probe.unexpected
            );
        }
        let said = said.replace(['|', '\n'], " ");
        let _ = writeln!(text, "| {} | {} | {} | {said} |", probe.round, probe.peer.name(), probe.rate);
    }
    text.push_str(WEAKNESSES);
    text
}

const LEGEND: &str = "\
*Highest rate*: the highest of the rates tried at which p99 of deliveries stays under 50 ms, every connection stays, \
every edit is delivered to every other member of its document once, and, where the server acks, acked; the median of the rounds, whose own \
results are in parentheses. *Milliseconds* are from when an edit was due to when another member had it, medians of the \
rounds. *CPU* is all that the server's process used, from the first edit until it was quiet again, its background work \
included, and of processes that it started. *Idle connection*: growth of resident memory over all connections, document open. † did not hold in every \
round. ‡ the generator itself was late by more than 10 ms at p99.\n";

const SAMPLE: &str = "\n**A sample**: it shows that each server's protocol is spoken and each edit arrives, whatever else \
the machine was doing. Times decide nothing in it, and its figures compare nothing.\n";

const WEAKNESSES: &str = "\n## Weaknesses of the method\n\n\
- Everything runs on one machine over loopback: no network delays, losses or TLS.\n\
- The load has one processor. Where it comes near its limit, deliveries wait for the generator to read them, and the \
server looks slower than it is (‡, and `generator.cpu_s` in `raw/`).\n\
- Yjs edits are made by `yrs` in a document that holds its author's edits alone (the bytes are the same), and updates \
are read without a document, as EtherPly's are; of at most 20 members a probe, documents are built afterwards by `yrs` or \
Automerge from all that they received, and have to hold what was counted. automerge-repo's clients keep whole documents, because its protocol \
needs them: they cost the generator far more.\n\
- MQTT and NATS speak TCP, which is cheaper for them than WebSocket; compare them with `etherply-tcp`.\n\
- Rates are rungs of a ladder: the truth lies between one that held and the next.\n\
- A server that is too slow at first and fast later fails: rates are judged by p99 over the whole of a probe.\n\
- Memory is resident memory, garbage that its runtime has not collected included.\n\
- One shape of load: small documents, small edits, everybody online, and nobody joins.\n\
- Durability differs; see the table. What is lost when a server is killed is not part of this.\n\
- Made by EtherPly's authors. Settings are said above: a better one for a peer is a bug of this page.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_something_that_was_measured() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3]), Some(3));
        assert_eq!(median(vec![9, 1, 5]), Some(5));
        assert_eq!(median(vec![9, 1, 5, 7]), Some(5));
    }
}
