//! Whether something grows: a straight line through measurements, by least squares.

use serde::Serialize;

/// The line through points of seconds and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub mean: f64,
    pub slope_per_s: f64,
}

/// The line that lies closest to the points; `None` with fewer than two different times.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    let count = points.len() as f64;
    let mean_of = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (mean_s, mean) = (mean_of(|point| point.0), mean_of(|point| point.1));
    let spread: f64 = points.iter().map(|(s, _)| (s - mean_s).powi(2)).sum();
    let together: f64 = points.iter().map(|(s, value)| (s - mean_s) * (value - mean)).sum();
    (spread > 0.0).then(|| Line { mean, slope_per_s: together / spread })
}

/// How something moved in the last two thirds of a run, and how much that may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// Its mean.
    pub mean: f64,
    /// By how much the line rises over these two thirds; negative if it falls.
    pub growth: f64,
    /// The same for an hour.
    pub growth_per_hour: f64,
    /// The most that `growth` may be.
    pub growth_max: f64,
}

impl Trend {
    /// The trend of points in the order of their times. It may grow by a share of its mean, or by `least` if
    /// that is more.
    pub fn of(points: &[(f64, f64)], share: f64, least: f64) -> Option<Self> {
        let (_, late) = points.split_at(points.len() / 3);
        let window_s = late.last()?.0 - late.first()?.0;
        let Line { mean, slope_per_s } = line(late)?;
        Some(Self {
            mean,
            growth: slope_per_s * window_s,
            growth_per_hour: slope_per_s * 3_600.0,
            growth_max: (mean * share).max(least),
        })
    }

    /// Whether it stays within its bound. What falls is not leaked.
    pub fn is_flat(&self) -> bool {
        self.growth <= self.growth_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * (1.0 + b.abs())
    }

    #[test]
    fn a_line_is_found_again() {
        let points: Vec<_> = (0..50).map(|s| (f64::from(s), 7.0 + 0.25 * f64::from(s))).collect();
        let found = line(&points).unwrap();
        assert!(close(found.slope_per_s, 0.25) && close(found.mean, 7.0 + 0.25 * 24.5));
        // Noise that is the same on both sides of the middle moves the mean and not the slope.
        let noisy = points.iter().enumerate().map(|(i, (s, v))| (*s, v + [1.0, -1.0, -1.0, 1.0][i % 4]));
        let slope = line(&noisy.take(48).collect::<Vec<_>>()).unwrap().slope_per_s;
        assert!((slope - 0.25).abs() < 0.01, "{slope}");
        assert_eq!((line(&[]), line(&[(1.0, 2.0)]), line(&[(1.0, 2.0), (1.0, 3.0)])), (None, None, None));
    }

    #[test]
    fn only_the_last_two_thirds_count_and_the_bound_is_where_it_says() {
        // It grows in the first third and then stands.
        let settles: Vec<_> = (0..90).map(|s| (f64::from(s), 100.0 + f64::from(s.min(30)))).collect();
        let trend = Trend::of(&settles, 0.0, 0.5).unwrap();
        assert!(trend.is_flat() && trend.growth.abs() < 1e-9, "{trend:?}");
        let grows: Vec<_> = (0..90).map(|s| (f64::from(s), 100.0 + f64::from(s))).collect();
        let growth = Trend::of(&grows, 0.0, 0.0).unwrap().growth;
        assert!(close(growth, 59.0));
        for (least, is_flat) in [(58.9, false), (59.1, true)] {
            assert_eq!(Trend::of(&grows, 0.0, least).unwrap().is_flat(), is_flat);
        }
        let mean = Trend::of(&grows, 0.0, 0.0).unwrap().mean;
        for (share, is_flat) in [(58.9 / mean, false), (59.1 / mean, true)] {
            assert_eq!(Trend::of(&grows, share, 1.0).unwrap().is_flat(), is_flat);
        }
        let falls: Vec<_> = (0..90).map(|s| (f64::from(s), 100.0 - f64::from(s))).collect();
        assert!(Trend::of(&falls, 0.0, 0.0).unwrap().is_flat());
        assert!(Trend::of(&[], 1.0, 1.0).is_none() && Trend::of(&[(0.0, 1.0)], 1.0, 1.0).is_none());
    }
}
