//! Any `Range` of any blob over HTTP, cold and warm, against the reference model: status, all headers, every byte.

use std::sync::LazyLock;

use bytes::Bytes;
use darter_testkit::cases;
use darter_testkit::client::{End, RawConnection, Response, parts};
use darter_testkit::content::{Content, bytes_at};
use darter_testkit::range_model::{
    Empty, Expected, Policy, RangeRequest, Representation, Several, content_range, expected,
};
use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lab::{Lab, headers_of};
use crate::mirror::range::RANGES_MAX;

const PIECE: u64 = 256 * 1024;
const LENGTHS: [u64; 9] = [
    0,
    1,
    1000,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    2 * PIECE,
    3 * PIECE,
    3 * PIECE + 1,
];
/// Requests to one mirror, whose first ones find nothing cached.
const REQUESTS: usize = 40;
const POLICY: Policy = Policy {
    several: Several::Parts { most: RANGES_MAX },
    empty: Empty::Whole,
};

/// A blob of each length: its digest and its bytes.
static BLOBS: LazyLock<Vec<(String, Bytes)>> = LazyLock::new(|| {
    let blob = |length| {
        let bytes = Bytes::from(bytes_at(11, 0, usize::try_from(length).unwrap()));
        (Content::from(bytes.clone()).digest(), bytes)
    };
    LENGTHS.into_iter().map(blob).collect()
});

/// One request. Numbers in `range` and `if_range` are made for the blob.
#[derive(Clone, Debug)]
struct Asked {
    blob: usize,
    /// The mirror has to get the blob anew.
    cold: bool,
    head: bool,
    range: Option<String>,
    if_range: Option<&'static str>,
}

/// Offsets at which something changes, offsets anywhere, and what is no offset.
fn offset(length: u64) -> impl Strategy<Value = String> {
    let border = prop::sample::select(vec![0, PIECE, 2 * PIECE, 3 * PIECE, length]);
    let near = (border, -2i64..3).prop_map(|(border, away)| border.saturating_add_signed(away).to_string());
    prop_oneof![
        8 => near,
        4 => (0..=length + 2).prop_map(|offset| offset.to_string()),
        3 => Just(String::new()),
        1 => any::<u64>().prop_map(|offset| offset.to_string()),
        1 => Just("99999999999999999999999".to_owned()),
        1 => "[0-9a-z+ -]{0,3}",
    ]
}

/// `first-last`, `first-` or `-suffix`, and what is none of them.
fn spec(length: u64) -> impl Strategy<Value = String> {
    (offset(length), offset(length)).prop_map(|(first, last)| format!("{first}-{last}"))
}

/// Ranges that do not meet, in any order, and now and then too many.
fn apart(length: u64) -> impl Strategy<Value = String> {
    let borders = prop::collection::btree_set(0..length.max(1) + 20, 4..44);
    let ranges = borders.prop_map(|borders| {
        let borders: Vec<u64> = borders.into_iter().collect();
        let range = |pair: &[u64]| format!("{}-{}", pair[0], pair[1] - 1);
        borders.chunks_exact(2).map(range).collect::<Vec<_>>()
    });
    ranges.prop_shuffle().prop_map(|ranges| ranges.join(", "))
}

fn range(length: u64) -> impl Strategy<Value = String> {
    let unit =
        prop_oneof![20 => Just("bytes="), 1 => Just("Bytes="), 1 => Just("bytes "), 1 => Just("items=")];
    let set = prop_oneof![
        6 => spec(length),
        2 => prop::collection::vec(spec(length), 0..5).prop_map(|specs| specs.join(",")),
        1 => prop::collection::vec(spec(length), 14..20).prop_map(|specs| specs.join(" ,")),
        3 => apart(length),
    ];
    (unit, set).prop_map(|(unit, set)| format!("{unit}{set}"))
}

fn asked() -> impl Strategy<Value = Asked> {
    (0..LENGTHS.len()).prop_flat_map(|blob| {
        let if_range = prop::sample::select(vec![
            "\"{D}\"",
            "\"{D}\"",
            "W/\"{D}\"",
            "\"other\"",
            "{D}",
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ]);
        (
            any::<bool>(),
            prop::bool::weighted(0.1),
            prop::option::weighted(0.9, range(LENGTHS[blob])),
            prop::option::weighted(0.3, if_range),
        )
            .prop_map(move |(cold, head, range, if_range)| Asked {
                blob,
                cold,
                head,
                range,
                if_range,
            })
    })
}

/// All headers of the one right answer with a body of so many bytes.
fn headers(answer: &Expected, lab: &Lab, digest: &str, kind: &str, length: u64) -> Vec<(String, String)> {
    let mut headers = vec![
        ("content-length", length.to_string()),
        ("content-type", kind.to_owned()),
        ("docker-distribution-api-version", "registry/2.0".to_owned()),
        ("oci-namespace", lab.running.host()),
    ];
    if answer.status < 300 {
        headers.extend([
            ("accept-ranges", "bytes".to_owned()),
            ("docker-content-digest", digest.to_owned()),
            ("etag", format!("\"{digest}\"")),
        ]);
    }
    headers.extend(answer.content_range.clone().map(|range| ("content-range", range)));
    let mut headers: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    headers.sort();
    headers
}

fn indices(slice: &std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(slice.start).unwrap()..usize::try_from(slice.end).unwrap()
}

/// A multipart body as RFC 9110 section 14.6 has it, with this mirror's boundary of 40 characters.
fn framed(parts: &[std::ops::Range<u64>], length: u64) -> u64 {
    let boundary = "x".repeat(40);
    let frame = |slice: &std::ops::Range<u64>| {
        let range = content_range(slice, length);
        let kind = "Content-Type: application/octet-stream";
        let head = format!("\r\n--{boundary}\r\n{kind}\r\nContent-Range: {range}\r\n\r\n");
        head.len() as u64 + slice.end - slice.start
    };
    parts.iter().map(frame).sum::<u64>() + format!("\r\n--{boundary}--\r\n").len() as u64
}

/// The only right answer: that of the model, and the whole where parts would be longer than that.
fn right(request: &RangeRequest<'_>, has: &Representation<'_>) -> Expected {
    let right = expected(request, has, POLICY);
    if framed(&right.parts, has.length) > has.length && !right.parts.is_empty() {
        return expected(
            &RangeRequest {
                range: None,
                ..request.clone()
            },
            has,
            POLICY,
        );
    }
    right
}

/// Compares an answer with the only right one.
fn compare(asked: &Asked, right: &Expected, lab: &Lab, found: &Response) {
    let (digest, bytes) = &BLOBS[asked.blob];
    assert_eq!(
        (found.status, found.end),
        (right.status, End::Complete),
        "{asked:?}"
    );
    let (kind, length) = match right.status {
        200 => ("application/octet-stream", right.length()),
        206 if right.parts.is_empty() => ("application/octet-stream", right.length()),
        206 => (found.header("content-type").unwrap(), found.body.len() as u64),
        _ => ("application/json", found.body.len() as u64),
    };
    let wanted = headers(right, lab, digest, kind, length);
    assert_eq!(headers_of(found), wanted, "{asked:?}");
    if asked.head {
        assert!(found.body.is_empty(), "{asked:?}");
    } else if right.status >= 300 {
        let text = String::from_utf8_lossy(&found.body);
        assert!(text.contains("\"code\":\"RANGE_INVALID\""), "{asked:?}: {text}");
    } else if right.parts.is_empty() {
        assert!(
            found.body == bytes[indices(&right.slice)],
            "{asked:?}: wrong bytes"
        );
    } else {
        let found = parts(kind, &found.body).expect("a body of parts");
        assert_eq!(found.len(), right.parts.len(), "{asked:?}");
        for (part, slice) in found.iter().zip(&right.parts) {
            let range = content_range(slice, bytes.len() as u64);
            let head = [
                ("content-type".to_owned(), "application/octet-stream".to_owned()),
                ("content-range".to_owned(), range),
            ];
            assert_eq!(part.headers, head, "{asked:?}");
            assert!(part.body == bytes[indices(slice)], "{asked:?}: wrong bytes");
        }
    }
}

/// Asks a new mirror one thing after the other, on one connection while that is kept.
async fn ask_all(requests: &[Asked]) {
    let lab = Lab::new().await;
    for (digest, bytes) in BLOBS.iter() {
        lab.origin.add_blob_as("a", digest, bytes.clone());
    }
    let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
    for asked in requests {
        let (digest, bytes) = &BLOBS[asked.blob];
        if asked.cold {
            lab.forget(digest);
        }
        let if_range = asked.if_range.map(|tag| tag.replace("{D}", digest));
        let range = asked.range.as_deref().map(str::trim);
        let mut lines: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        lines.extend(if_range.as_deref().map(|tag| ("if-range", tag)));
        let method = if asked.head { Method::HEAD } else { Method::GET };
        let target = lab.target(&format!("/v2/a/blobs/{digest}"));
        let asking = connection.request(method.as_str(), "mirror", &target, &lines);
        asking.await.unwrap();
        let found = connection.read_response(asked.head).await.unwrap();
        let etag = format!("\"{digest}\"");
        let request = RangeRequest {
            method,
            range,
            if_range: if_range.as_deref(),
        };
        let has = Representation {
            length: bytes.len() as u64,
            etag: Some(&etag),
            last_modified: None,
        };
        compare(asked, &right(&request, &has), &lab, &found);
        assert!(
            found.status >= 300 || found.body.len() <= bytes.len(),
            "{asked:?}: more than the blob"
        );
        // No range is a reason to end a connection.
        assert_eq!(found.header("connection"), None, "{asked:?}");
    }
}

#[test]
fn any_request_gets_the_one_right_answer_cold_and_warm() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        // 3,000 requests, or a hundred thousand.
        ..Config::with_cases(cases(75, 2500))
    });
    let run = runner.run(&prop::collection::vec(asked(), REQUESTS), |requests| {
        runtime.block_on(ask_all(&requests));
        Ok(())
    });
    run.unwrap();
}
