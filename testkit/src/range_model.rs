//! What a server must answer to a `Range` request, as one pure function to compare a real server with.
//!
//! It is written for clarity from RFC 9110 sections 13.1.5 and 14, not for speed, and shares no code
//! with the mirror. Where the RFC leaves a choice (several ranges, empty representations), the choice
//! is an argument.

use std::ops::Range;

use http::Method;

/// What the client sent. Texts are header values without surrounding white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest<'a> {
    /// Ranges are defined for GET alone (RFC 9110 section 14.2); for others the header is ignored.
    pub method: Method,
    /// The value of `Range`.
    pub range: Option<&'a str>,
    /// The value of `If-Range`: an entity tag or a date.
    pub if_range: Option<&'a str>,
}

/// What the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Representation<'a> {
    /// Length in bytes.
    pub length: u64,
    /// The entity tag with its quotes, as sent.
    pub etag: Option<&'a str>,
    /// The value of `Last-Modified`, if the server sends one that is strong (section 8.8.2.2).
    pub last_modified: Option<&'a str>,
}

/// What to do where the RFC leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The answer to more than one range.
    pub several: Several,
    /// The answer to a range of a representation without any byte.
    pub empty: Empty,
}

impl Default for Policy {
    /// 400 for several ranges (containers/image falls back to one range then), 200 for empty contents.
    fn default() -> Self {
        Self {
            several: Several::BadRequest,
            empty: Empty::Whole,
        }
    }
}

/// The answer to more than one range in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    /// 206 `multipart/byteranges` with one part for each that can be satisfied, in the order in which they were asked; one
    /// that is left alone is answered as a single range. 400 for more than `most`, or for those that overlap (section
    /// 17.15).
    Parts {
        /// Most ranges in a request.
        most: usize,
    },
    /// 400.
    BadRequest,
    /// 200 with everything: the header is ignored.
    Whole,
    /// 416.
    NotSatisfiable,
}

/// The answer to a range of an empty representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// 200 without a byte (section 14.2 allows to ignore the header then).
    Whole,
    /// 416.
    NotSatisfiable,
}

/// The one right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The status code.
    pub status: u16,
    /// The value of `Content-Range`; `None` means that the header must be absent.
    pub content_range: Option<String>,
    /// Which bytes of the representation make the body of a GET. Empty for errors, whose body is free, and for `parts`.
    pub slice: Range<u64>,
    /// The parts of a `multipart/byteranges` body; empty for every other answer.
    pub parts: Vec<Range<u64>>,
}

impl Expected {
    /// Length of `slice`: `Content-Length` of a 200 and a 206.
    pub fn length(&self) -> u64 {
        self.slice.end - self.slice.start
    }
}

/// The answer to `request` for `representation`.
pub fn expected(request: &RangeRequest<'_>, representation: &Representation<'_>, policy: Policy) -> Expected {
    let length = representation.length;
    let usable = request.method == Method::GET && if_range_holds(request.if_range, representation);
    let Some(specs) = request.range.filter(|_| usable).and_then(parse) else {
        return whole(length);
    };
    if let [spec] = specs.as_slice() {
        return match resolve(*spec, length) {
            _ if length == 0 && policy.empty == Empty::Whole => whole(0),
            Some(slice) => partial(slice, length),
            None => not_satisfiable(length),
        };
    }
    match policy.several {
        Several::Parts { .. } if length == 0 && policy.empty == Empty::Whole => whole(0),
        Several::Parts { most } if specs.len() > most => bad_request(),
        Several::Parts { .. } => several(&specs, length),
        Several::BadRequest => bad_request(),
        Several::Whole => whole(length),
        Several::NotSatisfiable => not_satisfiable(length),
    }
}

/// Section 14.2: those that cannot be satisfied are left out, and if none is left the whole set cannot.
fn several(specs: &[Spec], length: u64) -> Expected {
    let parts: Vec<Range<u64>> = specs.iter().filter_map(|spec| resolve(*spec, length)).collect();
    let meet = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let overlapping = (0..parts.len()).any(|a| (0..a).any(|b| meet(&parts[a], &parts[b])));
    match parts.as_slice() {
        [] => not_satisfiable(length),
        [one] => partial(one.clone(), length),
        _ if overlapping => bad_request(),
        _ => Expected {
            status: 206,
            content_range: None,
            slice: 0..0,
            parts,
        },
    }
}

fn bad_request() -> Expected {
    Expected {
        status: 400,
        content_range: None,
        slice: 0..0,
        parts: Vec::new(),
    }
}

fn whole(length: u64) -> Expected {
    Expected {
        status: 200,
        content_range: None,
        slice: 0..length,
        parts: Vec::new(),
    }
}

fn partial(slice: Range<u64>, length: u64) -> Expected {
    Expected {
        status: 206,
        content_range: Some(content_range(&slice, length)),
        slice,
        parts: Vec::new(),
    }
}

/// The value of `Content-Range` for these bytes, which are not none, of `length`.
pub fn content_range(slice: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", slice.start, slice.end - 1)
}

fn not_satisfiable(length: u64) -> Expected {
    Expected {
        status: 416,
        content_range: Some(format!("bytes */{length}")),
        slice: 0..0,
        parts: Vec::new(),
    }
}

/// Section 13.1.5: an entity tag must match by strong comparison, a date exactly; else ignore the range.
fn if_range_holds(if_range: Option<&str>, representation: &Representation<'_>) -> bool {
    match if_range {
        None => true,
        Some(tag) if tag.starts_with('"') => representation.etag == Some(tag),
        Some(tag) if tag.starts_with("W/") => false,
        Some(date) => representation.last_modified == Some(date),
    }
}

/// One element of a range set. Numbers beyond 64 bits count as the largest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    From(u64, Option<u64>),
    Suffix(u64),
}

/// The ranges of a header value, or `None` if it is to be ignored: another unit or a wrong syntax.
fn parse(value: &str) -> Option<Vec<Spec>> {
    let (unit, set) = value.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Section 5.6.1.2: a recipient accepts empty list elements and white space around elements.
    let elements = set.split(',').map(|element| element.trim_matches([' ', '\t']));
    let specs: Option<Vec<_>> = elements
        .filter(|element| !element.is_empty())
        .map(parse_spec)
        .collect();
    specs.filter(|specs| !specs.is_empty())
}

fn parse_spec(text: &str) -> Option<Spec> {
    let (first, last) = text.split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Spec::Suffix(number(last)?)),
        (false, true) => Some(Spec::From(number(first)?, None)),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| {
        let step = |sum: u64, byte: u8| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
        text.bytes().fold(0, step)
    })
}

/// Section 14.1.2: which bytes a range selects, or `None` if it cannot be satisfied.
fn resolve(spec: Spec, length: u64) -> Option<Range<u64>> {
    let slice = match spec {
        Spec::From(first, None) => first..length,
        Spec::From(first, Some(last)) => first..last.saturating_add(1).min(length),
        Spec::Suffix(suffix) => length.saturating_sub(suffix)..length,
    };
    (slice.start < slice.end).then_some(slice)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(range: &str, length: u64) -> Expected {
        let request = RangeRequest {
            method: Method::GET,
            range: Some(range),
            if_range: None,
        };
        expected(
            &request,
            &Representation {
                length,
                etag: None,
                last_modified: None,
            },
            Policy::default(),
        )
    }

    #[test]
    fn table_of_single_ranges() {
        let table: &[(&str, u64, u16, Range<u64>)] = &[
            ("bytes=0-", 10, 206, 0..10),
            ("bytes=0-0", 10, 206, 0..1),
            ("BYTES=3-5", 10, 206, 3..6),
            ("bytes=9-", 10, 206, 9..10),
            ("bytes=3-99", 10, 206, 3..10),
            ("bytes=3-99999999999999999999999999", 10, 206, 3..10),
            ("bytes=-3", 10, 206, 7..10),
            ("bytes=-99", 10, 206, 0..10),
            ("bytes= , 1-2 ,", 10, 206, 1..3),
            ("bytes=10-", 10, 416, 0..0),
            ("bytes=99999999999999999999999999-", 10, 416, 0..0),
            ("bytes=-0", 10, 416, 0..0),
            ("bytes=0-", 0, 200, 0..0),
            ("bytes=-1", 0, 200, 0..0),
            ("bytes=5-3", 10, 200, 0..10),
            ("bytes=-", 10, 200, 0..10),
            ("bytes=", 10, 200, 0..10),
            ("bytes=a-b", 10, 200, 0..10),
            ("bytes=+1-2", 10, 200, 0..10),
            ("bytes=0x1-2", 10, 200, 0..10),
            ("bytes 0-1", 10, 200, 0..10),
            ("items=0-1", 10, 200, 0..10),
            ("bytes=0-1,5-6", 10, 400, 0..0),
            ("bytes=0-1,x", 10, 200, 0..10),
        ];
        for (range, length, status, slice) in table {
            let answer = ask(range, *length);
            assert_eq!(
                (answer.status, answer.slice),
                (*status, slice.clone()),
                "{range} of {length}"
            );
        }
    }

    #[test]
    fn several_ranges_are_parts_if_they_are_few_and_apart() {
        let ask = |range: &str, length| {
            let request = RangeRequest {
                method: Method::GET,
                range: Some(range),
                if_range: None,
            };
            let has = Representation {
                length,
                etag: None,
                last_modified: None,
            };
            let policy = Policy {
                several: Several::Parts { most: 3 },
                empty: Empty::Whole,
            };
            let answer = expected(&request, &has, policy);
            (answer.status, answer.slice, answer.parts)
        };
        assert_eq!(ask("bytes=5-6, 0-1", 10), (206, 0..0, vec![5..7, 0..2]));
        assert_eq!(ask("bytes=0-1,2-,30-", 10), (206, 0..0, vec![0..2, 2..10]));
        assert_eq!(ask("bytes=-1,0-1,10-", 10), (206, 0..0, vec![9..10, 0..2]));
        assert_eq!(ask("bytes=0-1,10-", 10), (206, 0..2, vec![]));
        assert_eq!(ask("bytes=10-,11-", 10), (416, 0..0, vec![]));
        assert_eq!(ask("bytes=0-5,5-", 10), (400, 0..0, vec![]));
        assert_eq!(ask("bytes=0-0,2-2,4-4,6-6", 10), (400, 0..0, vec![]));
        assert_eq!(ask("bytes=0-0,2-2,4-4,6-6", 0), (200, 0..0, vec![]));
        assert_eq!(ask("bytes=0-0,x", 10), (200, 0..10, vec![]));
    }

    #[test]
    fn content_range_has_the_total() {
        assert_eq!(ask("bytes=-3", 10).content_range.as_deref(), Some("bytes 7-9/10"));
        assert_eq!(ask("bytes=10-", 10).content_range.as_deref(), Some("bytes */10"));
        assert_eq!(ask("bytes=5-3", 10).content_range, None);
        assert_eq!(ask("bytes=2-4", 10).length(), 3);
    }

    #[test]
    fn if_range_wants_a_strong_match() {
        let has = Representation {
            length: 4,
            etag: Some("\"a\""),
            last_modified: Some("then"),
        };
        let status = |if_range| {
            let request = RangeRequest {
                method: Method::GET,
                range: Some("bytes=1-"),
                if_range,
            };
            expected(&request, &has, Policy::default()).status
        };
        assert_eq!(status(None), 206);
        assert_eq!(status(Some("\"a\"")), 206);
        assert_eq!(status(Some("\"b\"")), 200);
        assert_eq!(status(Some("W/\"a\"")), 200);
        assert_eq!(status(Some("then")), 206);
        assert_eq!(status(Some("now")), 200);
    }

    #[test]
    fn only_get_has_ranges_and_policies_bind() {
        let has = Representation {
            length: 4,
            etag: None,
            last_modified: None,
        };
        let head = RangeRequest {
            method: Method::HEAD,
            range: Some("bytes=1-"),
            if_range: None,
        };
        assert_eq!(expected(&head, &has, Policy::default()).status, 200);
        let two = RangeRequest {
            method: Method::GET,
            range: Some("bytes=1-1,3-3"),
            if_range: None,
        };
        let several = |several| {
            expected(
                &two,
                &has,
                Policy {
                    several,
                    empty: Empty::Whole,
                },
            )
            .status
        };
        assert_eq!(several(Several::Whole), 200);
        assert_eq!(several(Several::NotSatisfiable), 416);
        let none = Representation {
            length: 0,
            etag: None,
            last_modified: None,
        };
        let strict = Policy {
            several: Several::Whole,
            empty: Empty::NotSatisfiable,
        };
        let open = RangeRequest {
            method: Method::GET,
            range: Some("bytes=0-"),
            if_range: None,
        };
        assert_eq!(expected(&open, &none, strict).status, 416);
    }

    proptest! {
        #[test]
        fn any_text_has_one_consistent_answer(range in "(bytes=)?[0-9, -]{0,24}", length in 0u64..50) {
            let answer = ask(&range, length);
            prop_assert!(answer.slice.start <= answer.slice.end && answer.slice.end <= length);
            prop_assert_eq!(answer.content_range.is_some(), matches!(answer.status, 206 | 416));
            prop_assert_eq!(answer.status == 206, answer.status != 200 && answer.length() > 0);
        }

        #[test]
        fn well_formed_ranges_select_what_they_say(first in 0u64..60, count in 1u64..60, length in 1u64..50) {
            let answer = ask(&format!("bytes={first}-{}", first + count - 1), length);
            let wanted: Vec<u64> = (first..first + count).filter(|offset| *offset < length).collect();
            prop_assert_eq!(answer.slice.collect::<Vec<_>>(), wanted.clone());
            prop_assert_eq!(answer.status, if wanted.is_empty() { 416 } else { 206 });
            let suffix = ask(&format!("bytes=-{count}"), length);
            prop_assert_eq!(suffix.slice, length - count.min(length)..length);
        }
    }
}
