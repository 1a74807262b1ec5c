//! How long to wait before the next try: longer each time, and never in step with others.
//!
//! Pure: randomness is an argument, and the caller sleeps. How often to try is the caller's decision as well.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Exponential back-off with full jitter: the n-th pause is anything from nothing to `first * 2^n`, `max` at most.
///
/// Full jitter, because many nodes lose one scheduler at the same moment and must not come back at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause is `first` at most, all others `max` at most.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            failures: 0,
        }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self, rng: &mut impl Rng) -> Duration {
        let longest = self.longest();
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// It worked: the next pause is a first one again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many pauses there were since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// What the next pause is at most.
    pub fn longest(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn doubles_up_to_its_limit_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut rng = StdRng::seed_from_u64(1);
        let longest: Vec<u64> = (0..7)
            .map(|_| {
                let longest = backoff.longest();
                assert!(backoff.pause(&mut rng) <= longest);
                longest.as_secs()
            })
            .collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.failures(), 7);
        backoff.reset();
        assert_eq!(backoff.longest(), Duration::from_secs(1));
    }

    #[test]
    fn pauses_are_spread_over_the_whole_range() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut pause = || Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).pause(&mut rng);
        let pauses: Vec<Duration> = (0..1000).map(|_| pause()).collect();
        for tenth in 0..10_u32 {
            let range = Duration::from_millis(100) * tenth..Duration::from_millis(100) * (tenth + 1);
            let count = pauses.iter().filter(|pause| range.contains(*pause)).count();
            assert!((50..=150).contains(&count), "{count} of 1000 pauses in {range:?}");
        }
    }

    proptest! {
        #[test]
        fn no_number_of_failures_makes_it_panic_or_exceed(first: u32, max: u32, failures: u32, seed: u64) {
            let (first, max) = (Duration::from_millis(first.into()), Duration::from_millis(max.into()));
            let mut backoff = Backoff { first, max, failures };
            prop_assert!(backoff.pause(&mut StdRng::seed_from_u64(seed)) <= max);
        }
    }
}
