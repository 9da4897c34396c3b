//! The picture of a contest: p99 of deliveries over the rate, both in logarithmic steps.

use std::fmt::Write as _;

use crate::peers::contest::{Contest, DELIVERY_P99_US_MAX};
use crate::peers::table::p99_by_rate;
use crate::plot::escape;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const COLOURS: [&str; 10] = [
    "#1f6feb", "#54aeff", "#bf3989", "#cf222e", "#9a6700", "#8250df", "#2da44e", "#116329", "#57606a",
    "#afb8c1",
];
/// What is drawn of a server that is far beyond its limit.
const CEILING_US: u64 = 10_000_000;

/// The picture, as SVG.
pub fn latency_svg(contest: &Contest) -> String {
    let lines: Vec<(&str, Vec<(u64, u64)>)> = contest
        .standings
        .iter()
        .map(|standing| (standing.peer.name(), p99_by_rate(contest, standing.peer)))
        .collect();
    let rates = lines.iter().flat_map(|(_, points)| points.iter().map(|&(rate, _)| rate));
    let (low, high) = rates.fold((1_000, 10_000), |(low, high), rate| (rate.min(low), rate.max(high)));
    let axes = Axes { low: log(low), high: log(high) };
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = axes.frame(&mut svg, contest);
    for (index, (name, points)) in lines.iter().enumerate() {
        let _ = axes.line(&mut svg, index, name, points);
    }
    svg.push_str("</svg>\n");
    svg
}

fn log(value: u64) -> f64 {
    (value.max(1) as f64).log10()
}

struct Axes {
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, rate: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (log(rate) - self.low) / (self.high - self.low)
    }

    /// From 0.1 ms to the ceiling.
    fn y(us: u64) -> f64 {
        let share = (log(us.clamp(100, CEILING_US)) - 2.0) / (log(CEILING_US) - 2.0);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }

    fn frame(&self, svg: &mut String, contest: &Contest) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        )?;
        let connections = contest.settings.documents.saturating_mul(contest.settings.members);
        let title = format!("p99 of deliveries, {connections} connections, one core for the server");
        writeln!(svg, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>", escape(&title))?;
        let about = format!("{}; revision {}, {}", contest.machine.cpu, contest.revision, contest.date);
        writeln!(svg, "<text x=\"{LEFT}\" y=\"40\" fill=\"#57606a\">{}</text>", escape(&about))?;
        for decade in 2..=7 {
            let us = 10u64.pow(decade);
            let y = Self::y(us);
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#d0d7de\"/>")?;
            let (x, ms) = (LEFT - 8.0, us as f64 / 1_000.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{ms}</text>", y + 4.0)?;
        }
        for rate in [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 32_000] {
            if (self.low - 1e-9..=self.high + 1e-9).contains(&log(rate)) {
                let x = self.x(rate);
                writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#eaeef2\"/>")?;
                let y = bottom + 18.0;
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{rate}</text>")?;
            }
        }
        let y = Self::y(DELIVERY_P99_US_MAX);
        writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#cf222e\" stroke-dasharray=\"4 4\"/>")?;
        let (middle, below) = (LEFT + (right - LEFT) / 2.0, HEIGHT - 20.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">edits a second</text>")?;
        let half = TOP + (bottom - TOP) / 2.0;
        writeln!(
            svg,
            "<text transform=\"translate(18 {half}) rotate(-90)\" text-anchor=\"middle\">milliseconds</text>"
        )
    }

    fn line(&self, svg: &mut String, index: usize, name: &str, points: &[(u64, u64)]) -> std::fmt::Result {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or("black");
        write!(svg, "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"{colour}\" points=\"")?;
        for &(rate, us) in points {
            write!(svg, "{:.1},{:.1} ", self.x(rate), Self::y(us))?;
        }
        svg.push_str("\"/>\n");
        for &(rate, us) in points {
            writeln!(
                svg,
                "<circle r=\"3\" fill=\"{colour}\" cx=\"{:.1}\" cy=\"{:.1}\"/>",
                self.x(rate),
                Self::y(us)
            )?;
        }
        let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 16.0 + 18.0 * index as f64);
        writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>", y - 5.0)?;
        writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 20.0, escape(name))
    }
}
