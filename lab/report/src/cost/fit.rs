//! How a cost grows: the exponent of a power law through the points, by least squares on logarithms.

use std::fmt;

/// An exponent with its standard error: 0 for a cost that stays as it is, 1 for one that doubles where
/// twice as many vCPUs do the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The exponent.
    pub exponent: f64,
    /// Its standard error.
    pub error: f64,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What rounds to nothing has no sign.
        let exponent = (self.exponent * 100.0).round() / 100.0 + 0.0;
        write!(f, "{exponent:+.2} ±{:.2}", self.error)
    }
}

/// The exponent of a power law through points (x, y). `None` where a value has no logarithm, or there
/// are fewer than three points, or fewer than three different x: two points lie on a line whatever they
/// are.
pub fn fit(points: &[(f64, f64)]) -> Option<Fit> {
    if points.iter().any(|&(x, y)| x <= 0.0 || y <= 0.0) {
        return None;
    }
    let mut different: Vec<f64> = points.iter().map(|point| point.0).collect();
    different.sort_by(f64::total_cmp);
    different.dedup();
    if different.len() < 3 {
        return None;
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let exponent = together / spread;
    let residue: f64 = logs
        .iter()
        .map(|(x, y)| (y - mean_y - exponent * (x - mean_x)).powi(2))
        .sum();
    Some(Fit {
        exponent,
        error: (residue / (count - 2.0) / spread).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_is_found_exactly() {
        let points: Vec<_> = [1.0, 2.0, 4.0, 8.0]
            .map(|x: f64| (x, 3.0 * x.powf(1.5)))
            .into();
        let found = fit(&points).unwrap();
        assert!(
            (found.exponent - 1.5).abs() < 1e-9 && found.error < 1e-9,
            "{found:?}"
        );
        assert_eq!(
            fit(&[(1.0, 256.0), (2.0, 256.0), (4.0, 256.0)])
                .unwrap()
                .to_string(),
            "+0.00 ±0.00"
        );
    }

    #[test]
    fn points_off_the_line_make_it_unsure() {
        let found = fit(&[(1.0, 10.0), (2.0, 30.0), (4.0, 30.0), (8.0, 90.0)]).unwrap();
        assert!(found.error > 0.1 && found.error < 0.4, "{found:?}");
    }

    #[test]
    fn too_little_says_nothing() {
        assert_eq!(fit(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(fit(&[(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (2.0, 3.0)]), None);
        assert_eq!(fit(&[(1.0, 0.0), (2.0, 1.0), (4.0, 1.0)]), None);
        assert_eq!(fit(&[]), None);
    }
}
