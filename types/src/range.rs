//! Half-open ranges of bytes within one content.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes `start..end` of a content; `end` is not included, so an empty range has `start == end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte; never below `start`.
    pub end: u64,
}

impl ByteRange {
    /// The bytes from `start` up to, not including, `end`. An `end` below `start` gives an empty range.
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// Number of bytes.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `offset` lies in it.
    pub fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// It as indices of a slice that holds the whole content.
    pub fn indices(self) -> std::ops::Range<usize> {
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        index(self.start)..index(self.end)
    }

    /// The bytes that are in both.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self::new(start, self.end.min(other.end))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersection_of_disjoint_ranges_is_empty() {
        let both = ByteRange::new(0, 4).intersect(ByteRange::new(9, 12));
        assert!(both.is_empty());
        assert_eq!(
            ByteRange::new(2, 8).intersect(ByteRange::new(4, 12)),
            ByteRange::new(4, 8)
        );
    }

    #[test]
    fn a_reversed_range_is_empty() {
        assert_eq!(ByteRange::new(7, 3).len(), 0);
        assert!(!ByteRange::new(7, 3).contains(7));
    }
}
