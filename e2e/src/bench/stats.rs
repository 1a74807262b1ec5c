//! Few numbers from many.

use std::time::Duration;

/// The middle one; of an even count the mean of the two in the middle. NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => at(half),
        _ => f64::midpoint(at(half - 1), at(half)),
    }
}

/// The value below which `percent` of all lie.
pub(super) fn quantile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Medians of two series, as a ratio.
pub(super) fn ratio(above: &[f64], below: &[f64]) -> f64 {
    median(above) / median(below)
}

/// Milliseconds.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A count of bytes as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "sizes here are far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// GiB.
pub(super) fn gib(bytes: u64) -> f64 {
    float(bytes) / float(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(ratio(&[4.0], &[2.0]), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0, 4.0], 50), 3.0);
        assert_eq!(quantile(&[3.0], 99), 3.0);
    }
}
