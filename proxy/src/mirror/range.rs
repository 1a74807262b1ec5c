//! Which bytes a `Range` request selects (RFC 9110 sections 13.1.5 and 14): pure, and the same whatever is cached.
//!
//! Several ranges are answered as `multipart/byteranges` while they are few and do not overlap; more is what
//! section 17.15 warns of, and gets a 400, on which containers/image falls back to one range.

use darter_types::ByteRange;
use http::Method;

#[cfg(test)]
mod tests;

/// Most ranges that one request may select.
pub const RANGES_MAX: usize = 16;

/// The answer to a request, as far as ranges go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200 with everything.
    Whole,
    /// 206 with one range, never empty.
    One(ByteRange),
    /// 206 `multipart/byteranges` with these, in the order in which they were asked, none overlapping.
    Several(Vec<ByteRange>),
    /// 416.
    NotSatisfiable,
    /// 400: more than [`RANGES_MAX`] ranges, or overlapping ones.
    TooMany,
}

/// What a client sent about ranges. Texts are header values without surrounding white space.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Ranges are defined for GET alone (section 14.2).
    pub method: &'a Method,
    /// The value of `Range`.
    pub range: Option<&'a str>,
    /// The value of `If-Range`.
    pub if_range: Option<&'a str>,
}

/// Selects the bytes of a content of `length` bytes whose strong entity tag is `etag`, quotes included.
pub fn select(asked: Asked<'_>, length: u64, etag: &str) -> Selection {
    // There is no Last-Modified, so a date never matches (section 13.1.5).
    let usable = *asked.method == Method::GET && asked.if_range.is_none_or(|tag| tag == etag);
    let Some(set) = asked.range.filter(|_| usable).and_then(byte_set) else {
        return Selection::Whole;
    };
    // However many are asked for, no more are kept than could be answered.
    let (mut specs, mut count) = (Vec::new(), 0usize);
    for text in elements(set) {
        let Some(spec) = Spec::parse(text) else {
            return Selection::Whole;
        };
        count += 1;
        if count <= RANGES_MAX {
            specs.push(spec);
        }
    }
    match count {
        0 => Selection::Whole,
        // Section 14.2 lets a server ignore the header, and an empty part could not be written down.
        _ if length == 0 => Selection::Whole,
        1..=RANGES_MAX => choose(specs.iter().filter_map(|spec| spec.resolve(length)).collect()),
        _ => Selection::TooMany,
    }
}

fn choose(mut ranges: Vec<ByteRange>) -> Selection {
    match (ranges.pop(), ranges.is_empty()) {
        (None, _) => Selection::NotSatisfiable,
        (Some(one), true) => Selection::One(one),
        (Some(last), false) => {
            ranges.push(last);
            if overlap(&ranges) {
                Selection::TooMany
            } else {
                Selection::Several(ranges)
            }
        }
    }
}

fn overlap(ranges: &[ByteRange]) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    sorted
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if b.start < a.end))
}

fn byte_set(value: &str) -> Option<&str> {
    let (unit, set) = value.split_once('=')?;
    unit.eq_ignore_ascii_case("bytes").then_some(set)
}

/// List elements; empty ones and white space around them are allowed (section 5.6.1.2).
fn elements(set: &str) -> impl Iterator<Item = &str> {
    set.split(',')
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

/// One element of a range set.
#[derive(Clone, Copy, Debug)]
enum Spec {
    /// From an offset to an inclusive end, or to the end of the content.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('-')? {
            ("", suffix) => Some(Self::Last(number(suffix)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// The selected bytes, or `None` if there are none.
    fn resolve(self, length: u64) -> Option<ByteRange> {
        let range = match self {
            Self::From(first, last) => {
                let end = last.map_or(length, |last| last.saturating_add(1));
                ByteRange::new(first, end.min(length))
            }
            Self::Last(suffix) => ByteRange::new(length.saturating_sub(suffix), length),
        };
        (!range.is_empty()).then_some(range)
    }
}

/// The body of a fuzz target: a length in decimal, a space, and the value of a `Range` header.
///
/// # Panics
/// If bytes are selected that the content does not have, or more than there are.
pub fn fuzz_range(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (length, value) = text.split_once(' ').unwrap_or(("1000", &text));
    let length = length.parse().unwrap_or(u64::MAX);
    let asked = Asked {
        method: &Method::GET,
        range: Some(value),
        if_range: None,
    };
    let ranges = match select(asked, length, "\"etag\"") {
        Selection::Whole | Selection::NotSatisfiable | Selection::TooMany => return,
        Selection::One(range) => vec![range],
        Selection::Several(ranges) => ranges,
    };
    let (mut sum, mut parts) = (0u64, 0);
    for range in &ranges {
        assert!(
            !range.is_empty() && range.end <= length,
            "{text:?} selects {range}"
        );
        sum = sum.saturating_add(range.len());
        parts += 1;
    }
    assert!(
        parts <= RANGES_MAX && sum <= length,
        "{text:?} selects {sum} bytes in {parts} parts"
    );
}

/// A decimal number; beyond 64 bits it counts as the largest one, which is past every end alike.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}
