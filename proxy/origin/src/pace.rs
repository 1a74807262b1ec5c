//! How many connections one blob is read over: one, until several have been seen to bring more.
//!
//! Pure; time is an argument. A registry that gives one connection little gives several more; where the link or this
//! node is what binds, several bring nothing and cost requests. Which of both it is shows in the blob itself: its first
//! segment comes over one connection, the next ones over several, and that is compared once.

use tokio::time::Instant;

/// How much faster several connections must be, in hundredths of what one brought.
const GAIN_MIN_PERCENT: u128 = 125;

/// How a blob is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Over one connection to the end.
    One,
    /// Its first segment, which began to flow then, over one connection.
    First { since: Option<Instant> },
    /// Over several, to see what that brings.
    Trial {
        since: Instant,
        /// Bytes that came since.
        bytes: u64,
        /// Bytes after which it is over.
        enough: u64,
        /// What one connection brought: bytes in nanoseconds.
        alone: (u64, u128),
    },
    /// Over several.
    Several,
}

impl Pace {
    /// Whether requests may run ahead of the one that is read.
    pub(crate) fn runs_ahead(self) -> bool {
        matches!(self, Self::Trial { .. } | Self::Several)
    }

    /// The first segment begins to flow.
    pub(crate) fn flows(&mut self, now: Instant) {
        if let Self::First { since } = self {
            since.get_or_insert(now);
        }
    }

    /// A segment of so many bytes is complete; a trial takes `enough` bytes.
    pub(crate) fn segment_ended(&mut self, now: Instant, length: u64, enough: u64) {
        *self = match *self {
            Self::First { since } => {
                let elapsed = now.saturating_duration_since(since.unwrap_or(now));
                Self::Trial {
                    since: now,
                    bytes: 0,
                    enough,
                    alone: (length, elapsed.as_nanos()),
                }
            }
            Self::Trial {
                since,
                bytes,
                enough,
                alone,
            } if bytes + length < enough => Self::Trial {
                since,
                bytes: bytes + length,
                enough,
                alone,
            },
            Self::Trial {
                since, bytes, alone, ..
            } => {
                let elapsed = now.saturating_duration_since(since).as_nanos();
                Self::after_trial(alone, (bytes + length, elapsed))
            }
            other => other,
        };
    }

    /// Compares bytes per time without dividing.
    fn after_trial(alone: (u64, u128), together: (u64, u128)) -> Self {
        let faster = u128::from(together.0).saturating_mul(alone.1).saturating_mul(100);
        let slower = u128::from(alone.0)
            .saturating_mul(together.1)
            .saturating_mul(GAIN_MIN_PERCENT);
        if faster >= slower {
            Self::Several
        } else {
            Self::One
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Reads a first segment of 100 bytes in `first` ms, and then three more in `more` ms.
    fn judged(first: u64, more: u64) -> Pace {
        let start = Instant::now();
        let mut pace = Pace::First { since: None };
        assert!(!pace.runs_ahead());
        pace.flows(start);
        pace.flows(start + Duration::from_secs(99));
        let between = start + Duration::from_millis(first);
        pace.segment_ended(between, 100, 300);
        for part in 1..=3 {
            assert!(pace.runs_ahead());
            pace.segment_ended(between + Duration::from_millis(more * part / 3), 100, 300);
        }
        pace
    }

    #[test]
    fn several_connections_stay_only_where_they_bring_more() {
        assert_eq!(judged(100, 100), Pace::Several);
        assert_eq!(judged(100, 240), Pace::Several);
        assert_eq!(judged(100, 241), Pace::One);
        assert_eq!(judged(100, 300), Pace::One);
        assert_eq!(judged(0, 1), Pace::One, "nothing is faster than no time");
    }

    #[test]
    fn what_is_decided_stays() {
        for decided in [Pace::One, Pace::Several] {
            let mut pace = decided;
            pace.flows(Instant::now());
            pace.segment_ended(Instant::now(), 100, 300);
            assert_eq!(pace, decided);
        }
    }
}
