//! What a node's pieces cost others, and when a cost is out of the ordinary.

use std::collections::VecDeque;

/// The recent costs of one node's pieces, in nanoseconds a byte.
#[derive(Clone, Debug, Default)]
pub struct CostHistory {
    samples: VecDeque<f64>,
}

impl CostHistory {
    /// Samples that are kept.
    pub const SAMPLES_MAX: usize = 64;
    /// Fewest samples on which anybody is judged.
    pub const SAMPLES_MIN: usize = 10;
    /// Standard deviations above the mean that are still ordinary.
    pub const SIGMAS: f64 = 6.0;
    /// A cost below this many times the mean is ordinary however even the history was.
    pub const TIMES_MEAN: f64 = 2.0;

    /// Whether `cost` is out of the ordinary. The history is that before the sample: a sample that took part
    /// in the mean would excuse itself.
    pub fn is_outlier(&self, cost: f64) -> bool {
        let Some((mean, deviation)) = self.mean_and_deviation() else {
            return false;
        };
        cost > mean + Self::SIGMAS * deviation && cost > mean * Self::TIMES_MEAN
    }

    /// Takes a sample in.
    pub fn record(&mut self, cost: f64) {
        if self.samples.len() == Self::SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(cost);
    }

    /// Mean and standard deviation; `None` below [`Self::SAMPLES_MIN`] samples.
    fn mean_and_deviation(&self) -> Option<(f64, f64)> {
        if self.samples.len() < Self::SAMPLES_MIN {
            return None;
        }
        let count = f64::from(u32::try_from(self.samples.len()).unwrap_or(u32::MAX));
        let mean = self.samples.iter().sum::<f64>() / count;
        let variance = self
            .samples
            .iter()
            .map(|sample| (sample - mean).powi(2))
            .sum::<f64>()
            / count;
        Some((mean, variance.sqrt()))
    }
}

/// A measure that follows its samples slowly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moving(Option<f64>);

impl Moving {
    /// Weight of a new sample.
    const SHARE: f64 = 0.2;

    /// Takes a sample in.
    pub fn record(&mut self, sample: f64) {
        self.0 = Some(match self.0 {
            None => sample,
            Some(value) => value + Self::SHARE * (sample - value),
        });
    }

    /// The measure, once there is a sample.
    pub fn value(self) -> Option<f64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(samples: impl IntoIterator<Item = f64>) -> CostHistory {
        let mut history = CostHistory::default();
        samples.into_iter().for_each(|sample| history.record(sample));
        history
    }

    #[test]
    fn judges_nobody_on_few_samples() {
        assert!(!history([1.0; 9]).is_outlier(1e9));
        assert!(history([1.0; 10]).is_outlier(1e9));
    }

    #[test]
    fn six_sigma_above_the_mean_is_out_of_the_ordinary() {
        // Mean 10, deviation 2: the limit is 22.
        let even = history((0..20).map(|n| if n % 2 == 0 { 8.0 } else { 12.0 }));
        assert!(!even.is_outlier(21.9));
        assert!(even.is_outlier(22.1));
    }

    #[test]
    fn an_even_history_does_not_make_noise_an_outlier() {
        assert!(!history([10.0; 30]).is_outlier(19.0));
    }

    #[test]
    fn forgets_what_is_old() {
        let mut changed = history([1.0; 64]);
        assert!(changed.is_outlier(50.0));
        (0..64).for_each(|_| changed.record(50.0));
        assert!(!changed.is_outlier(50.0));
    }

    #[test]
    fn a_moving_measure_follows() {
        let mut moving = Moving::default();
        assert_eq!(moving.value(), None);
        (0..100).for_each(|_| moving.record(4.0));
        assert!((moving.value().unwrap() - 4.0).abs() < 1e-9);
    }
}
