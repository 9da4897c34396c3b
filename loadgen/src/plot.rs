//! The latency plot: percentiles by their nines from left to right, milliseconds upwards, both in logarithmic
//! steps. Written by hand, because a picture of three lines needs no library.

use std::fmt::Write as _;

use crate::report::{Point, Report};

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// The picture of a report's curves, as SVG.
pub fn latency_svg(report: &Report) -> String {
    let curves = &report.curves;
    let mut lines = vec![
        ("delivery", "#1f6feb", &curves.delivery_us),
        ("ack", "#2da44e", &curves.ack_us),
        ("send lag", "#8b949e", &curves.send_lag_us),
    ];
    let more = curves.more.iter().zip(["#bf3989", "#9a6700", "#8250df"]);
    lines.extend(more.map(|(curve, colour)| (curve.name.as_str(), colour, &curve.points)));
    lines.retain(|(_, _, points)| !points.is_empty());
    let all = lines.iter().flat_map(|(_, _, points)| points.iter());
    let (mut low_us, mut high_us, mut nines_max) = (100.0f64, 1_000.0f64, 2.0f64);
    for &(percentile, us) in all {
        low_us = low_us.min((us as f64).max(1.0));
        high_us = high_us.max(us as f64);
        nines_max = nines_max.max(nines(percentile));
    }
    let axes = Axes { low: low_us.log10().floor(), high: high_us.log10().ceil(), nines_max };
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = axes.frame(&mut svg, report);
    for (index, (name, colour, points)) in lines.into_iter().enumerate() {
        let _ = axes.line(&mut svg, name, colour, points, index);
    }
    svg.push_str("</svg>\n");
    svg
}

fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-9).log10()
}

struct Axes {
    low: f64,
    high: f64,
    nines_max: f64,
}

impl Axes {
    fn x(&self, percentile: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * nines(percentile) / self.nines_max
    }

    fn y(&self, us: f64) -> f64 {
        let share = (us.max(1.0).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }

    fn frame(&self, svg: &mut String, report: &Report) -> std::fmt::Result {
        write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        )?;
        let connections = report.connections.established;
        let title = format!(
            "{}: {connections} connections, {} edits/s, {} members a document",
            report.scenario, report.settings.rate, report.settings.members_per_document
        );
        writeln!(svg, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>", escape(&title))?;
        let machine = format!(
            "{}, {} cores, generator and server together; revision {}",
            report.machine.cpu, report.machine.cores, report.revision
        );
        writeln!(svg, "<text x=\"{LEFT}\" y=\"40\" fill=\"#57606a\">{}</text>", escape(&machine))?;
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (percentile, label) in [
            (0.0, "0"),
            (50.0, "50"),
            (90.0, "90"),
            (99.0, "99"),
            (99.9, "99.9"),
            (99.99, "99.99"),
            (99.999, "99.999"),
        ] {
            if nines(percentile) <= self.nines_max + 1e-9 {
                let x = self.x(percentile);
                writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#d0d7de\"/>")?;
                let y = bottom + 18.0;
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>")?;
            }
        }
        let mut decade = self.low;
        while decade <= self.high + 1e-9 {
            let us = 10f64.powf(decade);
            let y = self.y(us);
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#d0d7de\"/>")?;
            let (x, ms) = (LEFT - 8.0, us / 1_000.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{ms}</text>", y + 4.0)?;
            decade += 1.0;
        }
        let (middle, below) = (LEFT + (right - LEFT) / 2.0, HEIGHT - 20.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">percentile</text>")?;
        let half = TOP + (bottom - TOP) / 2.0;
        writeln!(
            svg,
            "<text transform=\"translate(18 {half}) rotate(-90)\" text-anchor=\"middle\">milliseconds</text>"
        )
    }

    fn line(
        &self,
        svg: &mut String,
        name: &str,
        colour: &str,
        points: &[Point],
        index: usize,
    ) -> std::fmt::Result {
        svg.push_str("<polyline fill=\"none\" stroke-width=\"2\" ");
        write!(svg, "stroke=\"{colour}\" points=\"")?;
        for &(percentile, us) in points {
            write!(svg, "{:.1},{:.1} ", self.x(percentile), self.y(us as f64))?;
        }
        svg.push_str("\"/>\n");
        let x = LEFT + 14.0 + 125.0 * index as f64;
        let y = TOP + 16.0;
        writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>", y - 5.0)?;
        writeln!(svg, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 20.0)
    }
}

/// Text as SVG may have it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn every_point_lies_within_the_frame_and_text_is_escaped() {
        let mut report = report();
        report.machine.cpu = "A & B <1>".into();
        report.curves.delivery_us = vec![(0.0, 0), (50.0, 900), (99.0, 20_000), (99.999, 1_234_567)];
        let svg = latency_svg(&report);
        assert!(svg.contains("A &amp; B &lt;1&gt;") && svg.ends_with("</svg>\n"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<(f64, f64)> = points
            .split_ascii_whitespace()
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 4);
        for (x, y) in points {
            assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x) && (TOP..=HEIGHT - BOTTOM + 0.1).contains(&y));
        }
    }

    #[test]
    fn a_run_without_deliveries_has_an_empty_plot() {
        assert!(!latency_svg(&report()).contains("polyline"));
    }
}
