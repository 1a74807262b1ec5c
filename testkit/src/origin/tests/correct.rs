//! Without faults it is a correct registry, and it counts right.

use super::*;
use crate::range_model::{self, Policy, RangeRequest, Representation, Several};

#[tokio::test]
async fn get_and_head_of_a_blob() {
    let bench = Bench::new().await;
    let got = bench.get(&[]).await;
    assert_eq!((got.status, got.end), (200, End::Complete));
    assert_eq!(got.body, blob());
    assert_eq!(got.body_digest(), digest_of(SEED, LENGTH));
    assert_eq!(got.header("docker-content-digest"), Some(bench.digest.as_str()));
    assert_eq!(got.header("accept-ranges"), Some("bytes"));
    let head = bench.head().await;
    assert_eq!(
        (head.status, head.content_length(), head.body.len()),
        (200, Some(LENGTH), 0)
    );
    assert_eq!(head.header("etag"), got.header("etag"));
}

#[tokio::test]
async fn ranges_answer_as_the_model_says() {
    let bench = Bench::new().await;
    let etag = format!("\"{}\"", bench.digest);
    let has = Representation {
        length: LENGTH,
        etag: Some(&etag),
        last_modified: None,
    };
    let policy = Policy {
        several: Several::Whole,
        ..Policy::default()
    };
    let past = format!("bytes={LENGTH}-");
    let ranges = [
        "bytes=0-",
        "bytes=-7",
        "bytes=5-9",
        "bytes=299999-",
        &past,
        "bytes=9-5",
        "bytes=0-1,3-4",
    ];
    for range in ranges {
        for if_range in [None, Some(etag.as_str()), Some("\"other\"")] {
            let request = RangeRequest {
                method: Method::GET,
                range: Some(range),
                if_range,
            };
            let wanted = range_model::expected(&request, &has, policy);
            let mut headers = vec![("range", range)];
            headers.extend(if_range.map(|value| ("if-range", value)));
            let got = bench.get(&headers).await;
            assert_eq!(
                (got.status, got.end),
                (wanted.status, End::Complete),
                "{range} {if_range:?}"
            );
            assert_eq!(got.header("content-range"), wanted.content_range.as_deref());
            if got.status < 300 {
                assert_eq!(got.body, Content::generated(SEED, LENGTH).read(wanted.slice));
            }
        }
    }
}

#[tokio::test]
async fn manifests_tags_and_ping() {
    let bench = Bench::new().await;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let one = bench
        .origin
        .add_manifest(REPOSITORY, Some("v1"), media_type, "{\"n\":1}");
    let two = bench
        .origin
        .add_manifest(REPOSITORY, Some("v2"), media_type, "{\"n\":2}");
    let path = format!("/v2/{REPOSITORY}/manifests/v1");
    let got = bench.at(&path, &[("accept", "text/plain, */*;q=0.1")]).await;
    assert_eq!((got.status, got.body_digest()), (200, one.clone()));
    assert_eq!(got.header("content-type"), Some(media_type));
    assert_eq!(
        bench.at(&path, &[("accept", "application/x-other")]).await.status,
        404
    );
    bench.origin.move_tag(REPOSITORY, "v1", &two);
    let moved = bench.at(&path, &[]).await;
    assert_eq!(moved.header("docker-content-digest"), Some(two.as_str()));
    let by_digest = format!("/v2/{REPOSITORY}/manifests/{one}");
    assert_eq!(bench.at(&by_digest, &[]).await.status, 200);
    assert!(bench.origin.remove_manifest(REPOSITORY, &one));
    assert_eq!(bench.at(&by_digest, &[]).await.status, 404);
    assert_eq!(bench.at("/v2/", &[]).await.status, 200);
    let list = bench.at(&format!("/v2/{REPOSITORY}/tags/list?n=1"), &[]).await;
    assert_eq!(
        list.body,
        format!("{{\"name\":\"{REPOSITORY}\",\"tags\":[\"v1\"]}}")
    );
    assert_eq!(
        list.header("link"),
        Some("</v2/library/thing/tags/list?n=1&last=v1>; rel=\"next\"")
    );
    let rest = bench
        .at(&format!("/v2/{REPOSITORY}/tags/list?n=1&last=v1"), &[])
        .await;
    assert_eq!(
        (rest.body.ends_with(b"[\"v2\"]}"), rest.header("link")),
        (true, None)
    );
}

#[tokio::test]
async fn what_is_not_there_is_404_and_writing_405() {
    let bench = Bench::new().await;
    for path in [
        "/",
        "/v2/a/blobs/sha256:00",
        "/v2/library/thing/manifests/none",
        "/v2/none/tags/list",
    ] {
        let got = bench.at(path, &[]).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(got.body.starts_with(b"{\"errors\":[{\"code\":"));
    }
    let mut connection = RawConnection::connect(bench.running.addr).await.unwrap();
    connection.request("DELETE", "x", &bench.path, &[]).await.unwrap();
    assert_eq!(connection.read_response(false).await.unwrap().status, 405);
    // A blob belongs to its repositories alone.
    assert_eq!(
        bench
            .at(&format!("/v2/other/blobs/{}", bench.digest), &[])
            .await
            .status,
        404
    );
    assert!(bench.origin.remove_blob(REPOSITORY, &bench.digest));
    assert_eq!(bench.get(&[]).await.status, 404);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let bench = Bench::new().await;
    let mut connection = RawConnection::connect(bench.running.addr).await.unwrap();
    for _ in 0..3 {
        connection
            .request("GET", "x", &bench.path, &[("range", "bytes=0-9")])
            .await
            .unwrap();
        let got = connection.read_response(false).await.unwrap();
        assert_eq!((got.status, got.body.len(), got.end), (206, 10, End::Complete));
        connection.request("HEAD", "x", &bench.path, &[]).await.unwrap();
        assert_eq!(connection.read_response(true).await.unwrap().status, 200);
    }
    assert_eq!(bench.origin.connections(), 1);
    assert_eq!(bench.origin.bytes_sent_for(&bench.digest), 30);
}

#[tokio::test]
async fn counts_are_exact() {
    let bench = Bench::new().await;
    bench.get(&[("range", "bytes=0-99"), ("x-canary", "yes")]).await;
    bench.get(&[]).await;
    bench.head().await;
    bench
        .at("/nowhere?a=b", &[("authorization", "Bearer secret")])
        .await;
    let origin = &bench.origin;
    assert_eq!(origin.requests(&Method::GET, &bench.path), 2);
    assert_eq!(origin.requests_for(&Method::HEAD, &bench.digest), 1);
    assert_eq!(origin.requests_total(), 4);
    assert_eq!(origin.bytes_sent_for(&bench.digest), LENGTH + 100);
    assert_eq!(origin.bytes_sent(), LENGTH + 100);
    let log = origin.log();
    assert_eq!(
        log.iter().map(|record| record.status).collect::<Vec<_>>(),
        [206, 200, 200, 404].map(Some)
    );
    assert_eq!(log[0].header("x-canary"), Some("yes"));
    assert_eq!(log[3].target(), "/nowhere?a=b");
    assert_eq!(origin.tokens_seen(), BTreeSet::from(["secret".to_owned()]));
    assert_eq!(origin.count(|record| record.authorization().is_some()), 1);
    origin.reset_counters();
    assert_eq!(
        (origin.requests_total(), origin.bytes_sent(), origin.log().len()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn a_client_that_leaves_early_is_counted_for_what_was_written() {
    let origin = Origin::new();
    let len = 64 << 20;
    origin.add_blob_as("big", "sha256:big", Content::generated(1, len));
    let running = origin.spawn_on_loopback().await.unwrap();
    let mut connection = RawConnection::connect(running.addr).await.unwrap();
    connection
        .request("GET", "x", "/v2/big/blobs/sha256:big", &[])
        .await
        .unwrap();
    connection.read_head().await.unwrap();
    let (bytes, end) = connection.read_raw(1 << 20).await.unwrap();
    assert_eq!((bytes.len(), end), (1 << 20, None));
    connection.reset();
    while origin.concurrent() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let sent = origin.bytes_sent_for("sha256:big");
    assert!((1 << 20..len).contains(&sent), "{sent}");
}

#[tokio::test]
async fn concurrency_is_measured() {
    let bench = Bench::with(Fault::Stall { at: 10 }).await;
    let mut connections = Vec::new();
    for count in 1..=5 {
        let mut connection = bench.impatient().await;
        connection.read_head().await.unwrap();
        connections.push(connection);
        assert_eq!(bench.origin.concurrent(), count);
    }
    drop(connections);
    while bench.origin.concurrent() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.origin.concurrent_max(), 5);
}

#[tokio::test]
async fn it_serves_any_io_object() {
    let origin = Origin::new();
    let digest = origin.add_blob("a", "hello");
    let (server, client) = tokio::io::duplex(16);
    let mut connection = RawConnection::new(client);
    let talk = async move {
        connection
            .request("GET", "x", &format!("/v2/a/blobs/{digest}"), &[])
            .await
            .unwrap();
        connection.read_response(false).await.unwrap()
    };
    let ((), got) = tokio::join!(origin.serve_connection(server), talk);
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
}

#[tokio::test]
async fn it_stops_and_comes_back_on_its_port() {
    let bench = Bench::new().await;
    let addr = bench.running.addr;
    bench.origin.inject(Match::any(), When::First(1), Fault::Silence);
    let mut open = RawConnection::connect(addr).await.unwrap();
    open.request("GET", "x", &bench.path, &[]).await.unwrap();
    while bench.origin.concurrent() == 0 {
        tokio::task::yield_now().await;
    }
    bench.running.stop().await;
    assert_eq!(bench.origin.concurrent(), 0, "no request outlives its origin");
    assert_ne!(open.read_to_end().await.unwrap().1, End::Quiet);
    assert!(matches!(
        client::get(addr, "/v2/", &[]).await,
        Err(ClientError::Io(_))
    ));
    let again = bench.origin.spawn_on(addr).await.unwrap();
    assert_eq!(
        client::get(again.addr, &bench.path, &[]).await.unwrap().body,
        blob()
    );
}
