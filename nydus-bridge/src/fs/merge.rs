//! Which parts of a blob are asked for by one request: neighbours together, within bounds. Pure.
//!
//! With a slow link the number of requests in series decides how long a start takes, so that a small gap is rather read
//! over than made the border of two requests.

use darter_types::ByteRange;

/// Bounds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Longest gap between parts that is read over.
    pub(super) gap_max: u64,
    /// Longest request of several parts. A part that is longer is a request of its own.
    pub(super) request_max: u64,
}

/// One request of a blob, and the parts that it serves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<T> {
    pub(super) range: ByteRange,
    pub(super) parts: Vec<(ByteRange, T)>,
}

/// Puts parts together to requests, in the order of their ranges. Parts may overlap.
pub(super) fn merge<T>(mut parts: Vec<(ByteRange, T)>, bounds: Bounds) -> Vec<Request<T>> {
    parts.sort_by_key(|(range, _)| (range.start, range.end));
    let mut requests: Vec<Request<T>> = Vec::new();
    for (range, part) in parts {
        match requests.last_mut() {
            Some(last) if joins(last.range, range, bounds) => {
                last.range.end = last.range.end.max(range.end);
                last.parts.push((range, part));
            }
            _ => requests.push(Request {
                range,
                parts: vec![(range, part)],
            }),
        }
    }
    requests
}

/// Whether a part that does not begin before a request can be served by it.
fn joins(request: ByteRange, part: ByteRange, bounds: Bounds) -> bool {
    let inside = part.end <= request.end;
    let near = part.start.saturating_sub(request.end) <= bounds.gap_max;
    let short = part.end.saturating_sub(request.start) <= bounds.request_max;
    inside || (near && short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        gap_max: 10,
        request_max: 100,
    };

    fn ranges(parts: &[(u64, u64)]) -> Vec<ByteRange> {
        let parts = parts.iter().enumerate();
        let parts = parts.map(|(number, (start, end))| (ByteRange::new(*start, *end), number));
        let merged = merge(parts.collect(), BOUNDS);
        merged.into_iter().map(|request| request.range).collect()
    }

    #[test]
    fn neighbours_go_together() {
        let one = |start, end| vec![ByteRange::new(start, end)];
        assert_eq!(ranges(&[(20, 30), (0, 10)]), one(0, 30));
        assert_eq!(ranges(&[(0, 10), (0, 10), (3, 4)]), one(0, 10));
        assert_eq!(ranges(&[(0, 10), (21, 30)]).len(), 2, "the gap is too long");
        assert_eq!(
            ranges(&[(0, 60), (60, 120)]).len(),
            2,
            "together they are too long"
        );
        assert_eq!(ranges(&[(0, 500), (20, 40)]), one(0, 500));
        assert!(ranges(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn each_part_is_served_once_within_the_bounds(
            parts in prop::collection::vec((0_u64..500, 0_u64..150), 0..40),
        ) {
            let count = parts.len();
            let parts = parts.into_iter().enumerate();
            let parts: Vec<_> = parts
                .map(|(number, (start, length))| (ByteRange::new(start, start + length), number))
                .collect();
            let requests = merge(parts.clone(), BOUNDS);
            let mut seen: Vec<_> = requests.iter().flat_map(|request| request.parts.clone()).collect();
            seen.sort_by_key(|(_, number)| *number);
            prop_assert_eq!(seen, parts);
            for request in &requests {
                let range = request.range;
                prop_assert!(request.parts.iter().all(|(part, _)| part.intersect(range) == *part));
                let longest = request.parts.iter().map(|(part, _)| part.len()).max().unwrap_or(0);
                prop_assert!(range.len() <= BOUNDS.request_max.max(longest));
                // Read over is at most one gap between two parts.
                let mut end = range.start;
                for (part, _) in &request.parts {
                    prop_assert!(part.start.saturating_sub(end) <= BOUNDS.gap_max);
                    end = end.max(part.end);
                }
                prop_assert_eq!(end, range.end);
            }
            prop_assert!(requests.len() <= count);
            prop_assert!(requests.windows(2).all(|pair| pair[0].range.start <= pair[1].range.start));
        }
    }
}
