//! How much of a blob is taken along with what somebody reads: by the pattern of the reads. Pure.
//!
//! A read that goes on where an earlier one ended is worth more each time; one that goes anywhere is worth less each time.
//! What was taken along and never used is bounded by the *amplification*: bytes that were fetched over bytes that were
//! wanted.

/// Readers that are followed at once: programs read a few files in turn.
const STREAMS_MAX: usize = 8;

/// The part of the first window that is worth a try again as soon as one read follows another.
const LEAST: u64 = 8;

/// Bounds of reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// What a read is worth of which nothing is known. 0 turns reading ahead off.
    pub(super) first: u64,
    /// What one is worth at most.
    pub(super) max: u64,
}

/// A place where a reader is expected.
#[derive(Clone, Copy, Debug)]
struct Stream {
    blob: u32,
    next: u64,
    window: u64,
    /// All its windows together: most files are short, and what is taken along is no more than what was read already.
    total: u64,
}

/// The pattern of the reads of one image.
#[derive(Debug)]
pub(super) struct Ahead {
    bounds: Window,
    /// What a read is worth that follows no other.
    base: u64,
    /// The one that moved last is at the end.
    streams: Vec<Stream>,
}

impl Ahead {
    /// Nothing was read yet.
    pub(super) fn new(bounds: Window) -> Self {
        Self {
            bounds,
            base: bounds.first,
            streams: Vec::new(),
        }
    }

    /// A read of `start..end` of a blob needs a request: how far behind its beginning others are taken along.
    pub(super) fn window(&mut self, blob: u32, start: u64, end: u64) -> u64 {
        let Window { first, max } = self.bounds;
        if first == 0 {
            return 0;
        }
        let follows = |stream: &Stream| {
            let near = stream.next.saturating_sub(first)..=stream.next.saturating_add(first);
            stream.blob == blob && near.contains(&start)
        };
        let (window, total) = match self.streams.iter().position(follows) {
            Some(place) => {
                let before = self.streams.remove(place);
                self.base = self.base.saturating_mul(2).max(first / LEAST).min(first);
                let twice = before.window.saturating_mul(2).min(before.total);
                (twice.clamp(self.base, max.max(first)), before.total)
            }
            None => {
                // The first ones are all strangers: it shrinks slowly.
                let window = self.base;
                if self.streams.len() >= STREAMS_MAX {
                    self.base -= self.base / 8;
                }
                (window, 0)
            }
        };
        if self.streams.len() >= STREAMS_MAX {
            self.streams.remove(0);
        }
        let next = start.saturating_add(window).max(end);
        self.streams.push(Stream {
            blob,
            next,
            window,
            total: total.saturating_add(window),
        });
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Window = Window {
        first: 1 << 20,
        max: 8 << 20,
    };

    #[test]
    fn what_is_read_in_order_is_worth_more_up_to_the_bound() {
        let mut ahead = Ahead::new(BOUNDS);
        let (mut at, mut windows) = (0, Vec::new());
        for _ in 0..6 {
            let window = ahead.window(0, at, at + 4096);
            windows.push(window >> 20);
            at += window;
            // Another reader elsewhere is no matter.
            ahead.window(1, 7 << 30, (7 << 30) + 1);
        }
        assert_eq!(windows, [1, 1, 2, 4, 8, 8]);
    }

    #[test]
    fn what_is_read_anywhere_is_worth_less_and_recovers() {
        let mut ahead = Ahead::new(BOUNDS);
        let mut last = 0;
        for number in 0..100_u64 {
            last = ahead.window(0, number * (1 << 30), number * (1 << 30) + 4096);
        }
        assert!(last < 4096, "{last}");
        let mut at = 500 << 30;
        for _ in 0..14 {
            last = ahead.window(0, at, at + 4096);
            at += last.max(4096);
        }
        assert_eq!(last, BOUNDS.max);
    }

    proptest! {
        #[test]
        fn the_bounds_hold(reads in prop::collection::vec((0_u32..3, any::<u64>(), 0_u64..1 << 20), 0..200)) {
            let mut ahead = Ahead::new(BOUNDS);
            let mut off = Ahead::new(Window { first: 0, ..BOUNDS });
            for (blob, start, length) in reads {
                prop_assert!(ahead.window(blob, start, start.saturating_add(length)) <= BOUNDS.max);
                prop_assert!(ahead.streams.len() <= STREAMS_MAX);
                prop_assert_eq!(off.window(blob, start, start), 0);
            }
        }
    }
}
