//! Time as pure code sees it.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A point in time: how long the process (or the simulation) has run. Monotonic, and the same in every
/// run of one simulation seed; it says nothing about the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The start of the process.
    pub const START: Self = Self(Duration::ZERO);

    /// The moment `elapsed` after the start of the process.
    pub fn after_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// Time since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:.3}s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_below_zero_or_overflows() {
        let later = Moment::START + Duration::from_secs(2);
        assert_eq!(later.since(Moment::START), Duration::from_secs(2));
        assert_eq!(Moment::START.since(later), Duration::ZERO);
        assert!(Moment::START + Duration::MAX + Duration::MAX > later);
    }
}
