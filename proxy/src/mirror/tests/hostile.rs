//! Clients that mean no good: each limit of the mirror binds, is counted, and leaves the others alone.

use std::cell::Cell;
use std::time::Duration;

use darter_service::config::{ByteSize, Period};
use darter_testkit::client::{self, End, RawConnection};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, When};

use super::lab::Lab;
use crate::mirror::MirrorConfig;

fn path(digest: &str) -> String {
    format!("/v2/a/blobs/{digest}")
}

fn cut(lab: &Lab, limit: &str) -> u64 {
    let text = darter_service::metrics::encode(&lab.metrics);
    let start = format!("connections_cut_total{{limit=\"{limit}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
    line.parse().unwrap()
}

/// Waits for something that happens by itself soon.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn headers_choose_no_registry_for_callers_from_elsewhere() {
    for (listen, expected) in [("127.0.0.1:4001", 200), ("0.0.0.0:4001", 404)] {
        let lab = Lab::with(MirrorConfig {
            listen: listen.parse().unwrap(),
            default_registry: None,
            ..MirrorConfig::default()
        })
        .await;
        let digest = lab.origin.add_blob("a", Content::generated(1, 1000));
        let host = lab.running.host();
        for header in ["X-Darter-Registry", "x-dragonfly-registry"] {
            let answer = client::get(lab.mirror, &path(&digest), &[(header, &host)]).await;
            assert_eq!(answer.unwrap().status, expected, "{header} at {listen}");
        }
        let asked = lab.origin.requests_total();
        assert_eq!(asked > 0, expected == 200, "{asked} requests");
        // What the path and the query say stands, whatever a header says.
        let elsewhere = [
            ("X-Darter-Registry", "169.254.169.254"),
            ("X-Forwarded-Host", "evil.test"),
        ];
        assert_eq!(lab.get(&path(&digest), &elsewhere).await.status, 200);
    }
}

/// `bytes=first-last,…`
fn list(ranges: &[(u64, u64)]) -> String {
    let parts: Vec<String> = ranges
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    format!("bytes={}", parts.join(","))
}

#[tokio::test]
async fn many_ranges_cost_no_more_than_the_content() {
    let lab = Lab::new().await;
    let tiny = |count: u64| -> Vec<(u64, u64)> { (0..count).map(|n| (n * 10, n * 10)).collect() };
    let reverse = |count: u64| -> Vec<(u64, u64)> { tiny(count).into_iter().rev().collect() };
    for length in [300, 4000, 1_000_003] {
        let digest = lab.origin.add_blob("a", Content::generated(5, length));
        let overlapping: Vec<(u64, u64)> = (0..1000).map(|n| (n.min(length - 1), length - 1)).collect();
        for (what, ranges, answered) in [
            ("1000 overlapping", overlapping, false),
            ("200 tiny", tiny(200), false),
            ("200 in reverse", reverse(200), false),
            (
                "3 overlapping",
                vec![(0, length - 1), (0, length - 1), (5, 9)],
                false,
            ),
            ("17 in reverse", reverse(17), false),
            ("16 in reverse", reverse(16), true),
            ("16 tiny", tiny(16), true),
        ] {
            let answer = lab.get(&path(&digest), &[("range", &list(&ranges))]).await;
            let what = format!("{what} of {length} bytes");
            assert_eq!(answer.end, End::Complete, "{what}");
            let statuses: &[u16] = if answered { &[200, 206] } else { &[400, 416] };
            assert!(statuses.contains(&answer.status), "{what}: {}", answer.status);
            let sent = answer.body.len() as u64;
            assert!(sent <= length, "{what}: {sent} bytes");
            if answer.status == 206 {
                let kind = answer.header("content-type").unwrap();
                let parts = client::parts(kind, &answer.body).unwrap();
                assert_eq!(parts.len(), 16, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn digests_that_prove_nothing_are_asked_of_nobody() {
    let lab = Lab::new().await;
    let weak = [
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "crc32:00000000",
        "sha512-224:6ed0dd02806fa89e25de060c19d3ac86cabb87d6a0ddd05c333b84f4",
        "sha512/224:6ed0dd02806fa89e25de060c19d3ac86cabb87d6a0ddd05c333b84f4",
        "sha512%2f224:6ed0dd02806fa89e25de060c19d3ac86cabb87d6a0ddd05c333b84f4",
        "sha224:d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f",
        "sha256:d41d8cd98f00b204e9800998ecf8427e",
        "sha256+md5:d41d8cd98f00b204e9800998ecf8427e",
    ];
    for name in weak {
        for kind in ["blobs", "manifests"] {
            let target = format!("/v2/a/{kind}/{name}");
            for answer in [lab.get(&target, &[]).await, lab.head(&target, &[]).await] {
                assert!(matches!(answer.status, 400 | 404), "{target}: {}", answer.status);
            }
        }
    }
    assert_eq!(lab.origin.requests_total(), 0);
    // Nor is one taken from a registry: not for a tag, where the manifest itself is asked for and hashed, and not from a
    // list.
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":3,"digest":"{}"}}"#,
        weak[0]
    );
    let list = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let digest = lab.origin.add_manifest("a", Some("v1"), kind, list);
    let told = Fault::SetHeader("docker-content-digest", weak[0].to_owned());
    let told = lab.origin.inject(Match::digest(&digest), When::Always, told);
    for answer in [
        lab.get("/v2/a/manifests/v1", &[]).await,
        lab.head("/v2/a/manifests/v1", &[]).await,
    ] {
        let said = answer.header("docker-content-digest");
        assert_eq!((answer.status, said), (200, Some(digest.as_str())));
    }
    assert!(lab.origin.fired(told) > 0);
    lab.origin.reset_counters();
    let layer = format!("/v2/a/blobs/{}", weak[0]);
    assert_eq!(lab.get(&layer, &[]).await.status, 400);
    assert_eq!(lab.origin.requests_total(), 0);
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_in_number() {
    let lab = Lab::with(MirrorConfig {
        header_bytes_max: ByteSize::kib(8),
        headers_max: 20,
        ..MirrorConfig::default()
    })
    .await;
    let long = "x".repeat(1024 * 1024);
    let many: String = (0..21).map(|number| format!("a{number}: b\r\n")).collect();
    for (head, statuses) in [
        (
            format!("GET /v2/ HTTP/1.1\r\nhost: a\r\na: {long}\r\n\r\n"),
            [431, 431],
        ),
        (format!("GET /v2/{long} HTTP/1.1\r\nhost: a\r\n\r\n"), [414, 431]),
        (format!("GET /v2/ HTTP/1.1\r\nhost: a\r\n{many}\r\n"), [431, 431]),
    ] {
        let before = cut(&lab, "headerBytesMax");
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        // The server may have closed before it was sent whole.
        let _ = connection.send(head.as_bytes()).await;
        let answer = connection.read_response(false).await.unwrap();
        assert!(statuses.contains(&answer.status), "{}", answer.status);
        until(|| cut(&lab, "headerBytesMax") == before + 1).await;
    }
    assert_eq!(lab.get("/v2/", &[]).await.status, 200);
    assert_eq!(lab.origin.requests_total(), 0);
}

#[tokio::test]
async fn announced_bodies_are_neither_waited_for_nor_held() {
    let lab = Lab::new().await;
    for announced in [u64::MAX / 2 + 1, u64::MAX - 1, 1 << 40] {
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        let head = format!("GET /v2/ HTTP/1.1\r\nhost: a\r\ncontent-length: {announced}\r\n\r\nsome");
        connection.send(head.as_bytes()).await.unwrap();
        let answer = connection.read_response(false).await.unwrap();
        // The HTTP library reads the largest numbers as no length at all.
        assert!(
            matches!(answer.status, 200 | 431),
            "{announced}: {}",
            answer.status
        );
        assert_eq!(answer.header("connection"), Some("close"), "{announced}");
        assert_eq!(connection.read_to_end().await.unwrap().1, End::Fin);
    }
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_others_are_served_meanwhile() {
    let lab = Lab::with(MirrorConfig {
        connections_max: 40,
        header_timeout: Period::millis(500),
        ..MirrorConfig::default()
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(1, 100_000));
    let mut silent = Vec::new();
    for number in 0..40 {
        let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
        // Some say nothing at all, some never finish.
        if number % 2 == 0 {
            connection.send(b"GET /v2/ HTTP/1.1\r\nho").await.unwrap();
        }
        silent.push(connection);
    }
    // Whoever comes now is told to go elsewhere, at once; when the silent ones are gone, it is served.
    loop {
        let answer = lab.get(&path(&digest), &[]).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    }
    until(|| cut(&lab, "headerTimeout") >= 40).await;
    assert!(cut(&lab, "connectionsMax") > 0);
    for mut connection in silent {
        assert_eq!(connection.read_to_end().await.unwrap().1, End::Fin);
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_a_slow_one_is_not() {
    let lab = Lab::with(MirrorConfig {
        stall_timeout: Period::secs(1),
        ..MirrorConfig::default()
    })
    .await;
    // More than the buffers of both ends hold.
    let length = 64 * 1024 * 1024;
    let digest = lab.origin.add_blob("a", Content::generated(1, length));
    let target = lab.target(&path(&digest));
    let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut stalled = RawConnection::connect(lab.mirror).await.unwrap();
    stalled.send(request.as_bytes()).await.unwrap();
    let mut slow = RawConnection::connect(lab.mirror).await.unwrap();
    slow.send(request.as_bytes()).await.unwrap();
    // It takes far longer than the other is given, a little at a time.
    let mut taken = 0;
    while cut(&lab, "stallTimeout") == 0 || taken < 4 * 1024 * 1024 {
        taken += slow.read_raw(64 * 1024).await.unwrap().0.len();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let (rest, _) = slow.read_to_end().await.unwrap();
    assert!((taken + rest.len()) as u64 > length, "{taken} and {}", rest.len());
    assert_eq!(cut(&lab, "stallTimeout"), 1);
    let (part, _) = stalled.read_raw(usize::MAX).await.unwrap_or_default();
    assert!((part.len() as u64) < length);
}

/// A metric without labels, by its name behind `darter_proxy_`.
fn metric(lab: &Lab, name: &str) -> u64 {
    let text = darter_service::metrics::encode(&lab.metrics);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().parse().unwrap()
}

/// A client whose system takes next to nothing for it.
async fn narrow(lab: &Lab) -> RawConnection {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    RawConnection::new(socket.connect(lab.mirror).await.unwrap())
}

#[tokio::test]
async fn manifests_and_lists_that_nobody_takes_are_bounded_in_memory() {
    let bytes_max = 8 * 1024 * 1024;
    let lab = Lab::with(MirrorConfig {
        buffer_bytes_max: ByteSize::mib(8),
        ..MirrorConfig::default()
    })
    .await;
    let media_type = "application/vnd.oci.image.index.v1+json";
    let text = "x".repeat(4_100_000);
    let large = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[],"annotations":{{"a":"{text}"}}}}"#
    );
    let digest = lab.origin.add_manifest("a", Some("v1"), media_type, large);
    let tags = 35_000;
    for tag in 0..tags {
        lab.origin
            .move_tag("a", &format!("{}-{tag}", "t".repeat(100)), &digest);
    }
    let manifest = format!("/v2/a/manifests/{digest}");
    // Once, so that the mirror has it.
    assert_eq!(lab.get(&manifest, &[]).await.status, 200);
    let mut clients = Vec::new();
    for number in 0..40 {
        let path = if number % 2 == 0 {
            manifest.as_str()
        } else {
            "/v2/a/tags/list"
        };
        let request = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", lab.target(path));
        let mut client = narrow(&lab).await;
        client.send(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let most = Cell::new(0);
    until(|| {
        most.set(most.get().max(metric(&lab, "mirror_buffered_bytes")));
        metric(&lab, "mirror_buffer_refusals_total") >= 30
    })
    .await;
    let most = most.get();
    assert!(most > bytes_max / 4 && most <= bytes_max, "{most} bytes");
    // Who asks now goes elsewhere, at once.
    let refused = lab.get(&manifest, &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    // Contents need no such room, and it is free again when the clients are gone.
    let blob = lab.origin.add_blob("a", Content::generated(1, 1000));
    assert_eq!(lab.get(&path(&blob), &[]).await.status, 200);
    drop(clients);
    until(|| metric(&lab, "mirror_buffered_bytes") == 0).await;
    assert_eq!(lab.get(&manifest, &[]).await.status, 200);
}
