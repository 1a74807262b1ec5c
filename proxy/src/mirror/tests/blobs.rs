//! Blobs: ranges, framing, and how they end when they cannot be served.

use std::time::Duration;

use darter_testkit::client::{End, RawConnection};
use darter_testkit::content::Content;
use darter_testkit::origin::{CutBy, Fault, Match, When};

use super::lab::{Lab, Trouble, headers_of};
use crate::mirror::MirrorConfig;

const LENGTH: u64 = 1_000_003;

async fn lab_with_blob() -> (Lab, String, Content) {
    let lab = Lab::new().await;
    let content = Content::generated(5, LENGTH);
    let digest = lab.origin.add_blob("a", content.clone());
    (lab, digest, content)
}

fn path(digest: &str) -> String {
    format!("/v2/a/blobs/{digest}")
}

#[tokio::test]
async fn the_whole_blob_and_its_headers_are_the_same_cached_or_not() {
    let (lab, digest, content) = lab_with_blob().await;
    let cold_head = lab.head(&path(&digest), &[]).await;
    let cold = lab.get(&path(&digest), &[]).await;
    let warm = lab.get(&path(&digest), &[]).await;
    let warm_head = lab.head(&path(&digest), &[]).await;
    let expected = [
        ("accept-ranges", "bytes".to_owned()),
        ("content-length", LENGTH.to_string()),
        ("content-type", "application/octet-stream".to_owned()),
        ("docker-content-digest", digest.clone()),
        ("docker-distribution-api-version", "registry/2.0".to_owned()),
        ("etag", format!("\"{digest}\"")),
        ("oci-namespace", lab.running.host()),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for answer in [&cold_head, &cold, &warm, &warm_head] {
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert_eq!(headers_of(answer), expected);
    }
    for answer in [cold, warm] {
        assert_eq!(answer.body, content.read(0..LENGTH));
    }
    assert_eq!(lab.origin.requests_for(&http::Method::GET, &digest), 1);
}

#[tokio::test]
async fn heads_alone_download_nothing_however_many() {
    let (lab, digest, content) = lab_with_blob().await;
    for _ in 0..3 {
        let head = lab.head(&path(&digest), &[]).await;
        assert_eq!((head.status, head.content_length()), (200, Some(LENGTH)));
    }
    assert_eq!(lab.origin.requests_for(&http::Method::GET, &digest), 0);
    assert_eq!(lab.origin.requests_for(&http::Method::HEAD, &digest), 1);
    assert_eq!(lab.get(&path(&digest), &[]).await.body, content.read(0..LENGTH));
}

#[tokio::test]
async fn ranges_do_not_depend_on_the_cache() {
    let (lab, digest, content) = lab_with_blob().await;
    let table: &[(&str, u16, Option<&str>, std::ops::Range<u64>)] = &[
        ("bytes=0-", 206, Some("bytes 0-1000002/1000003"), 0..LENGTH),
        (
            "bytes=500000-",
            206,
            Some("bytes 500000-1000002/1000003"),
            500_000..LENGTH,
        ),
        ("bytes=0-1", 206, Some("bytes 0-1/1000003"), 0..2),
        (
            "bytes=-7",
            206,
            Some("bytes 999996-1000002/1000003"),
            999_996..LENGTH,
        ),
        (
            "bytes=262143-262144",
            206,
            Some("bytes 262143-262144/1000003"),
            262_143..262_145,
        ),
        ("bytes=9-5", 200, None, 0..LENGTH),
        ("bytes=1000003-", 416, Some("bytes */1000003"), 0..0),
    ];
    for _ in 0..2 {
        for (range, status, content_range, slice) in table {
            let answer = lab.get(&path(&digest), &[("range", range)]).await;
            assert_eq!(
                (answer.status, answer.header("content-range")),
                (*status, *content_range),
                "{range}"
            );
            assert_eq!(answer.end, End::Complete, "{range}");
            if *status != 416 {
                assert_eq!(answer.content_length(), Some(slice.end - slice.start), "{range}");
                assert_eq!(answer.body, content.read(slice.clone()), "{range}");
            }
        }
    }
    let etag = format!("\"{digest}\"");
    for (if_range, status) in [
        (etag.as_str(), 206),
        ("\"other\"", 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ] {
        let answer = lab
            .get(&path(&digest), &[("range", "bytes=3-5"), ("if-range", if_range)])
            .await;
        assert_eq!(answer.status, status, "{if_range}");
    }
}

/// How often a histogram was observed.
fn observed(lab: &Lab, name: &str) -> u64 {
    let text = darter_service::metrics::encode(&lab.metrics);
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}_count ")));
    count.unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_first_byte_is_measured_and_not_only_the_head() {
    let (lab, digest, _) = lab_with_blob().await;
    let target = path(&digest);
    let counts = |lab: &Lab| {
        (
            observed(lab, "answer_seconds"),
            observed(lab, "first_byte_seconds"),
        )
    };
    lab.get(&target, &[]).await;
    assert_eq!(counts(&lab), (1, 1));
    lab.head(&target, &[]).await;
    lab.get("/v2/", &[]).await;
    let nothing = format!("/v2/a/blobs/sha256:{}", "0".repeat(64));
    assert_eq!(lab.get(&nothing, &[]).await.status, 404);
    assert_eq!(counts(&lab), (4, 1), "no content, no first byte of it");

    lab.trouble(&digest, Some(Trouble::Stuck));
    let stuck = lab.get(&target, &[]);
    let answered = async {
        while counts(&lab).0 < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = stuck => panic!("there is no byte to end with"),
        () = answered => {}
    }
    assert_eq!(counts(&lab), (5, 1), "a head, and no byte behind it");
}

#[tokio::test]
async fn an_empty_blob_is_served() {
    let lab = Lab::new().await;
    let digest = lab.origin.add_blob("a", "");
    for range in [None, Some("bytes=0-")] {
        let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        let answer = lab.get(&path(&digest), &headers).await;
        assert_eq!(
            (answer.status, answer.content_length(), answer.end),
            (200, Some(0), End::Complete)
        );
    }
}

#[tokio::test]
async fn several_ranges_are_parts_with_an_exact_length() {
    let (lab, digest, content) = lab_with_blob().await;
    let answer = lab.get(&path(&digest), &[("range", "bytes=10-19, -5")]).await;
    assert_eq!((answer.status, answer.end), (206, End::Complete));
    let boundary = answer
        .header("content-type")
        .unwrap()
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut expected = Vec::new();
    for (range, slice) in [("10-19", 10..20), ("999998-1000002", 999_998..LENGTH)] {
        expected.extend_from_slice(
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/1000003\r\n\r\n"
            )
            .as_bytes(),
        );
        expected.extend_from_slice(&content.read(slice));
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(answer.body, expected);
    assert_eq!(answer.content_length(), Some(expected.len() as u64));
    let many: Vec<String> = (0..1000).map(|_| "0-".to_owned()).collect();
    let many = format!("bytes={}", many.join(","));
    assert_eq!(lab.get(&path(&digest), &[("range", &many)]).await.status, 400);
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_by_fin_and_the_rest_is_handed_over() {
    let content = Content::generated(5, LENGTH);
    let digest = content.digest();
    for at in [1, 100_000, 262_144, LENGTH - 1] {
        let lab = Lab::new().await;
        lab.origin.add_blob("a", content.clone());
        lab.trouble(&digest, Some(Trouble::FailsAt(at)));
        // Input that the mirror has not read makes a careless close a reset.
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        let target = lab.target(&path(&digest));
        connection.request("GET", "x", &target, &[]).await.unwrap();
        connection.request("GET", "x", &target, &[]).await.unwrap();
        connection.send(&[b'x'; 20_000]).await.unwrap();
        let answer = connection.read_response(false).await.unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Fin), "at {at}");
        assert_eq!(answer.content_length(), Some(LENGTH));
        assert_eq!(answer.body, content.read(0..answer.body.len() as u64));
        assert!(answer.body.len() as u64 <= at);
        let rest = format!("bytes={}-", answer.body.len());
        let next = lab.get(&path(&digest), &[("range", &rest)]).await;
        assert_eq!(next.status, 503, "at {at}");
        assert!(next.header("retry-after").is_some());
        // Once it is here again, it is served again.
        lab.trouble(&digest, None);
        let again = lab.get(&path(&digest), &[("range", &rest)]).await;
        assert_eq!((again.status, again.end), (206, End::Complete), "at {at}");
    }
}

#[tokio::test]
async fn what_fails_before_its_first_byte_is_a_503() {
    let (lab, digest, _) = lab_with_blob().await;
    lab.get(&path(&digest), &[]).await;
    lab.trouble(&digest, Some(Trouble::FailsAt(0)));
    let answer = lab.get(&path(&digest), &[("range", "bytes=0-")]).await;
    assert_eq!((answer.status, answer.end), (503, End::Complete));
}

#[tokio::test]
async fn parallel_ranges_of_a_content_given_up_are_cut_not_refused() {
    let (lab, digest, _) = lab_with_blob().await;
    lab.get(&path(&digest), &[]).await;
    lab.trouble(&digest, Some(Trouble::Stuck));
    // A range that goes on, while another one breaks off.
    let mut stuck = RawConnection::connect(lab.mirror).await.unwrap();
    stuck
        .request(
            "GET",
            "x",
            &lab.target(&path(&digest)),
            &[("range", "bytes=500000-")],
        )
        .await
        .unwrap();
    stuck.read_head().await.unwrap();
    lab.trouble(&digest, Some(Trouble::FailsAt(200_000)));
    let broken = lab.get(&path(&digest), &[("range", "bytes=100000-")]).await;
    assert_eq!((broken.status, broken.end), (206, End::Fin));
    let sibling = lab.get(&path(&digest), &[("range", "bytes=300000-")]).await;
    assert_eq!(
        (sibling.status, sibling.end, sibling.body.len()),
        (206, End::Fin, 0)
    );
    // But not for ever: three answers without a byte would fail the pull.
    let rest = lab.get(&path(&digest), &[("range", "bytes=150000-")]).await;
    assert_eq!(rest.status, 503);
}

#[tokio::test]
async fn clients_that_leave_early_disturb_nobody() {
    let (lab, digest, content) = lab_with_blob().await;
    for _ in 0..20 {
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        let target = lab.target(&path(&digest));
        connection
            .request("GET", "x", &target, &[("range", "bytes=0-")])
            .await
            .unwrap();
        assert_eq!(connection.read_head().await.unwrap().status, 206);
        connection.reset();
    }
    assert_eq!(lab.get(&path(&digest), &[]).await.body, content.read(0..LENGTH));
}

#[tokio::test]
async fn requests_on_one_connection_and_bodies_that_nobody_wants() {
    let (lab, digest, content) = lab_with_blob().await;
    let target = lab.target(&path(&digest));
    let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
    connection.request("HEAD", "x", &target, &[]).await.unwrap();
    assert_eq!(connection.read_response(true).await.unwrap().status, 200);
    connection
        .request("GET", "x", &target, &[("range", "bytes=0-9")])
        .await
        .unwrap();
    connection
        .request("GET", "x", &target, &[("range", "bytes=10-19")])
        .await
        .unwrap();
    for slice in [0..10, 10..20] {
        assert_eq!(
            connection.read_response(false).await.unwrap().body,
            content.read(slice)
        );
    }
    let body = [("content-length", "5")];
    connection.request("GET", "x", &target, &body).await.unwrap();
    connection.send(b"hello").await.unwrap();
    let answer = connection.read_response(false).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
}

#[tokio::test]
async fn pushes_and_unknown_paths() {
    let lab = Lab::new().await;
    lab.origin.add_blob("a", "x");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        connection
            .request(method, "x", &lab.target("/v2/a/blobs/uploads/"), &[])
            .await
            .unwrap();
        let answer = connection.read_response(false).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
        assert!(String::from_utf8_lossy(&answer.body).contains("UNSUPPORTED"));
    }
    assert_eq!(lab.get("/v2/_catalog", &[]).await.status, 404);
    assert_eq!(lab.get("/v2/a/blobs/md5:00", &[]).await.status, 400);
    let absent = lab.get(&path(&Content::from("other").digest()), &[]).await;
    assert_eq!(absent.status, 404);
    assert!(String::from_utf8_lossy(&absent.body).contains("BLOB_UNKNOWN"));
    let ping = darter_testkit::client::get(lab.mirror, "/v2/", &[])
        .await
        .unwrap();
    assert_eq!((ping.status, ping.body.as_ref()), (200, b"{}".as_slice()));
    assert_eq!(
        ping.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
}

#[tokio::test]
async fn what_is_too_much_is_a_503_at_once() {
    let lab = Lab::with(MirrorConfig {
        requests_max: 1,
        ..MirrorConfig::default()
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(5, LENGTH));
    lab.get(&path(&digest), &[]).await;
    lab.trouble(&digest, Some(Trouble::Stuck));
    let mut stuck = RawConnection::connect(lab.mirror).await.unwrap();
    stuck
        .request("GET", "x", &lab.target(&path(&digest)), &[])
        .await
        .unwrap();
    stuck.read_head().await.unwrap();
    let surplus = lab.get(&path(&digest), &[]).await;
    assert_eq!((surplus.status, surplus.header("retry-after")), (503, Some("1")));
    assert!(String::from_utf8_lossy(&surplus.body).contains("TOOMANYREQUESTS"));
    drop(stuck);
    // The slot comes back with the connection.
    while lab.head(&path(&digest), &[]).await.status != 200 {}
}

#[tokio::test]
async fn a_registry_that_limits_or_fails_makes_a_503() {
    for (code, expected) in [(429, 503), (500, 503), (403, 403), (400, 502)] {
        let (lab, digest, _) = lab_with_blob().await;
        let fault = lab
            .origin
            .inject(Match::digest(&digest), When::Always, Fault::status(code));
        assert_eq!(lab.get(&path(&digest), &[]).await.status, expected, "{code}");
        assert!(lab.origin.fired(fault) > 0);
    }
    let (lab, digest, _) = lab_with_blob().await;
    lab.origin
        .inject(Match::digest(&digest), When::Always, Fault::HangUp(CutBy::Fin));
    assert_eq!(lab.get(&path(&digest), &[]).await.status, 503);
}
