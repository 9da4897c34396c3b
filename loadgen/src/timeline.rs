//! The plot of a soak: memory, descriptors and threads over time, one panel each, every axis from 0.

use std::fmt::Write as _;

use crate::plot::escape;
use crate::report::Report;
use crate::sections::{Sample, Soak};

const WIDTH: f64 = 820.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const PANEL: f64 = 130.0;
const GAP: f64 = 34.0;
const BOTTOM: f64 = 40.0;
/// Grid lines of a panel.
const STEPS: u32 = 4;

/// One line of a panel.
struct Line {
    name: &'static str,
    colour: &'static str,
    value: fn(&Sample) -> f64,
}

const PANELS: [(&str, &[Line]); 3] = [
    (
        "MiB",
        &[
            Line { name: "resident", colour: "#1f6feb", value: |s| s.rss_bytes as f64 / 1_048_576.0 },
            Line { name: "anonymous", colour: "#2da44e", value: |s| s.anonymous_bytes as f64 / 1_048_576.0 },
        ],
    ),
    (
        "descriptors",
        &[
            Line { name: "open descriptors", colour: "#bf3989", value: |s| s.descriptors as f64 },
            Line { name: "connected members", colour: "#8b949e", value: |s| s.connected as f64 },
        ],
    ),
    ("threads", &[Line { name: "threads", colour: "#9a6700", value: |s| s.threads as f64 }]),
];

/// The picture of a soak, as SVG.
pub fn timeline_svg(report: &Report, soak: &Soak) -> String {
    let height = TOP + (PANEL + GAP) * PANELS.len() as f64 + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!(
        "{}: {} connections, {:.1} of them cut a second, {} edits/s",
        report.scenario, report.connections.established, soak.churn_per_s, report.settings.rate
    );
    let machine = format!(
        "{}, {} cores, generator and server together; revision {}",
        report.machine.cpu, report.machine.cores, report.revision
    );
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>", escape(&title));
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"38\" fill=\"#57606a\">{}</text>", escape(&machine));
    let end_s = soak.samples.last().map_or(1.0, |sample| sample.at_s.max(1.0));
    for (index, (unit, lines)) in PANELS.iter().enumerate() {
        let top = TOP + (PANEL + GAP) * index as f64;
        let _ = panel(&mut svg, top, unit, lines, &soak.samples, end_s);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">seconds</text>\n</svg>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        height - 14.0
    );
    svg
}

fn panel(
    svg: &mut String,
    top: f64,
    unit: &str,
    lines: &[Line],
    samples: &[Sample],
    end_s: f64,
) -> std::fmt::Result {
    let highest = lines.iter().flat_map(|line| samples.iter().map(line.value)).fold(0.0, f64::max);
    let most = round_up(highest);
    let x = |at_s: f64| LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s;
    let y = |value: f64| top + PANEL - PANEL * value / most;
    for step in 0..=STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        let (at, value) = (y(most * share), most * share);
        writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#d0d7de\"/>", WIDTH - RIGHT)?;
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", LEFT - 8.0, at + 4.0)?;
        let (at, below) = (x(end_s * share), top + PANEL + 16.0);
        writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{:.0}</text>",
            end_s * share
        )?;
    }
    let half = top + PANEL / 2.0;
    writeln!(
        svg,
        "<text transform=\"translate(16 {half}) rotate(-90)\" text-anchor=\"middle\">{unit}</text>"
    )?;
    for (index, Line { name, colour, value }) in lines.iter().enumerate() {
        if samples.is_empty() {
            continue;
        }
        write!(svg, "<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"{colour}\" points=\"")?;
        for sample in samples {
            write!(svg, "{:.1},{:.1} ", x(sample.at_s), y(value(sample)))?;
        }
        svg.push_str("\"/>\n");
        let (left, line) = (LEFT + 14.0 + 160.0 * index as f64, top + PANEL - 10.0);
        writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>",
            line - 5.0
        )?;
        writeln!(svg, "<text x=\"{}\" y=\"{line}\">{name}</text>", left + 20.0)?;
    }
    Ok(())
}

/// The next number above that has one digit of 1, 2, 4 or 8 before its zeros: it divides well by the steps.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    let digit = [1.0, 2.0, 4.0, 8.0].into_iter().find(|digit| digit * power >= value);
    digit.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in [(0.0, 1.0), (1.0, 1.0), (3.0, 4.0), (9.0, 10.0), (10.0, 10.0), (850.0, 1_000.0)]
        {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}: {}", round_up(value));
        }
    }

    #[test]
    fn every_point_lies_within_its_panel() {
        let sample = |at_s: f64| Sample {
            at_s,
            rss_bytes: 90 << 20,
            anonymous_bytes: 70 << 20,
            descriptors: 2_050,
            threads: 17,
            connected: 1_999,
        };
        let samples = (0..20).map(|second| sample(f64::from(second))).collect();
        let soak = Soak { samples, ..Soak::default() };
        let svg = timeline_svg(&report(), &soak);
        assert!(svg.ends_with("</svg>\n"));
        let lines: Vec<&str> =
            svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(lines.len(), 5);
        for (index, line) in lines.iter().enumerate() {
            let top = TOP + (PANEL + GAP) * [0.0, 0.0, 1.0, 1.0, 2.0][index];
            for point in line.split_ascii_whitespace() {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x) && (top..=top + PANEL + 0.1).contains(&y));
            }
        }
        assert!(!timeline_svg(&report(), &Soak::default()).contains("polyline"));
    }
}
