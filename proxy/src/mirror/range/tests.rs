//! Ranges against the reference model of RFC 9110.

use super::*;
use darter_testkit::range_model::{Empty, Policy, RangeRequest, Representation, Several, expected};
use proptest::prelude::*;

const ETAG: &str = "\"sha256:00\"";

fn ask(range: &str, length: u64) -> Selection {
    let asked = Asked {
        method: &Method::GET,
        range: Some(range),
        if_range: None,
    };
    select(asked, length, ETAG)
}

fn ranges(pairs: &[(u64, u64)]) -> Vec<ByteRange> {
    pairs
        .iter()
        .map(|(start, end)| ByteRange::new(*start, *end))
        .collect()
}

#[test]
fn several_ranges() {
    let table = [
        ("bytes=0-1,5-6", Selection::Several(ranges(&[(0, 2), (5, 7)]))),
        ("bytes=8-,0-1", Selection::Several(ranges(&[(8, 10), (0, 2)]))),
        ("bytes=0-1,2-3", Selection::Several(ranges(&[(0, 2), (2, 4)]))),
        ("bytes=-2,0-0", Selection::Several(ranges(&[(8, 10), (0, 1)]))),
        ("bytes=0-1,20-30", Selection::One(ByteRange::new(0, 2))),
        ("bytes=20-,30-", Selection::NotSatisfiable),
        ("bytes=0-5,5-6", Selection::TooMany),
        ("bytes=0-,0-", Selection::TooMany),
        ("bytes=0-1,x", Selection::Whole),
        ("bytes=,", Selection::Whole),
    ];
    for (range, selection) in table {
        assert_eq!(ask(range, 10), selection, "{range}");
    }
}

#[test]
fn many_ranges_are_refused_before_they_cost_anything() {
    let many = |count: u64| {
        let set: Vec<String> = (0..count).map(|n| format!("{0}-{0}", n * 2)).collect();
        ask(&format!("bytes={}", set.join(",")), 100_000)
    };
    assert!(matches!(many(16), Selection::Several(ranges) if ranges.len() == 16));
    assert_eq!(many(17), Selection::TooMany);
    assert_eq!(many(1000), Selection::TooMany);
    let overlapping = vec!["0-"; 1000].join(",");
    assert_eq!(ask(&format!("bytes={overlapping}"), 10), Selection::TooMany);
    // What makes no sense is ignored, however late it comes.
    assert_eq!(ask(&format!("bytes={overlapping},x"), 10), Selection::Whole);
}

/// A status, the bytes of a single body, and the parts of a body with several.
type Outcome = (u16, std::ops::Range<u64>, Vec<std::ops::Range<u64>>);

/// What the model's answer means here.
fn by_model(method: &Method, range: Option<&str>, if_range: Option<&str>, length: u64) -> Outcome {
    let request = RangeRequest {
        method: method.clone(),
        range,
        if_range,
    };
    let representation = Representation {
        length,
        etag: Some(ETAG),
        last_modified: None,
    };
    let policy = Policy {
        several: Several::Parts { most: RANGES_MAX },
        empty: Empty::Whole,
    };
    let answer = expected(&request, &representation, policy);
    (answer.status, answer.slice, answer.parts)
}

fn by_selection(selection: &Selection, length: u64) -> Outcome {
    match selection {
        Selection::Whole => (200, 0..length, Vec::new()),
        Selection::One(range) => (206, range.start..range.end, Vec::new()),
        Selection::Several(ranges) => {
            let parts = ranges.iter().map(|range| range.start..range.end);
            (206, 0..0, parts.collect())
        }
        Selection::NotSatisfiable => (416, 0..0, Vec::new()),
        Selection::TooMany => (400, 0..0, Vec::new()),
    }
}

fn offset() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u64..40).prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        Just(String::new()),
        Just("99999999999999999999999".to_owned()),
        "[0-9a-z+ -]{0,3}",
    ]
}

fn header() -> impl Strategy<Value = String> {
    let unit =
        prop_oneof![8 => Just("bytes="), 1 => Just("Bytes="), 1 => Just("bytes "), 1 => Just("items=")];
    let space = prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just(",")];
    let spec = (offset(), offset()).prop_map(|(first, last)| format!("{first}-{last}"));
    let small = (0u64..40, 0u64..4).prop_map(|(first, more)| format!("{first}-{}", first + more));
    let specs = prop_oneof![
        6 => prop::collection::vec(spec, 1..2),
        3 => prop::collection::vec(small, 1..20),
    ];
    (unit, space, specs).prop_map(|(unit, space, specs)| format!("{unit}{space}{}{space}", specs.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(20_000, 100_000)))]
    #[test]
    fn agrees_with_the_model(
        range in prop::option::weighted(0.9, header()),
        if_range in prop::option::weighted(0.2, prop_oneof![
            Just(ETAG.to_owned()), Just("\"other\"".to_owned()), Just(format!("W/{ETAG}")),
            Just("Wed, 21 Oct 2015 07:28:00 GMT".to_owned()),
        ]),
        head in prop::bool::weighted(0.1),
        length in prop_oneof![Just(0), 1u64..40, Just(3 * 262_144 + 1)],
    ) {
        let method = if head { Method::HEAD } else { Method::GET };
        let asked = Asked { method: &method, range: range.as_deref(), if_range: if_range.as_deref() };
        let selection = select(asked, length, ETAG);
        prop_assert_eq!(
            by_selection(&selection, length),
            by_model(&method, range.as_deref(), if_range.as_deref(), length)
        );
    }

    #[test]
    fn several_select_what_each_alone_selects(starts in prop::collection::vec((0u64..200, 1u64..9), 2..20)) {
        let set: Vec<String> = starts.iter().map(|(start, len)| format!("{start}-{}", start + len - 1)).collect();
        if let Selection::Several(found) = ask(&format!("bytes={}", set.join(", ")), 150) {
            let alone: Vec<ByteRange> = set
                .iter()
                .filter_map(|one| match ask(&format!("bytes={one}"), 150) {
                    Selection::One(range) => Some(range),
                    _ => None,
                })
                .collect();
            prop_assert_eq!(&found, &alone);
            prop_assert!(found.iter().map(|range| range.len()).sum::<u64>() <= 150);
        }
    }

    #[test]
    fn arbitrary_values_never_panic(value in ".{0,60}", length: u64) {
        ask(&value, length);
        ask(&format!("bytes={value}"), length);
    }
}

#[test]
fn no_header_selects_what_is_not_there() {
    darter_testkit::fuzz::check("range", fuzz_range);
}
