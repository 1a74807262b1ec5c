//! Each fault happens, where and when it was asked for, and not otherwise.

use super::*;

#[tokio::test]
async fn statuses() {
    for code in [401, 403, 404, 405, 500, 503] {
        let bench = Bench::with(Fault::status(code)).await;
        assert_eq!(bench.get(&[]).await.status, code);
        assert_eq!(bench.head().await.status, code);
        assert_eq!(bench.origin.bytes_sent(), 0, "an error body is no payload");
    }
    let bench = Bench::with(Fault::too_many_requests(7)).await;
    let got = bench.get(&[]).await;
    assert_eq!((got.status, got.header("retry-after")), (429, Some("7")));
}

#[tokio::test]
async fn matches_and_counts_bind() {
    let bench = Bench::new().await;
    let statuses = async |count: usize| {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(bench.get(&[]).await.status);
        }
        statuses
    };
    let table = [
        (When::Nth(2), [200, 500, 200, 200]),
        (When::First(2), [500, 500, 200, 200]),
        (When::After(2), [200, 200, 500, 500]),
        (When::Every(2), [200, 500, 200, 500]),
        (When::Percent(100), [500; 4]),
        (When::Percent(0), [200; 4]),
    ];
    for (when, wanted) in table {
        let id = bench
            .origin
            .inject(Match::path(&bench.path).get(), when, Fault::status(500));
        assert_eq!(
            bench.head().await.status,
            200,
            "HEAD is not matched, and not counted"
        );
        assert_eq!(statuses(4).await, wanted, "{when:?}");
        let fired = wanted.iter().filter(|status| **status == 500).count();
        assert_eq!(bench.origin.fired(id), fired as u64);
        assert!(bench.origin.heal(id) && !bench.origin.heal(id));
    }
    bench
        .origin
        .inject(Match::target(Target::Manifests), When::Always, Fault::status(500));
    bench.origin.inject(
        Match::target(Target::Repository("other".into())),
        When::Always,
        Fault::status(500),
    );
    bench
        .origin
        .inject(Match::digest("sha256:other"), When::Always, Fault::status(500));
    assert_eq!(statuses(1).await, [200]);
    bench
        .origin
        .inject(Match::target(Target::Blobs), When::Always, Fault::status(500));
    assert_eq!(statuses(1).await, [500]);
    bench.origin.heal_all();
    assert_eq!(statuses(1).await, [200]);
}

#[tokio::test]
async fn a_fraction_fails_and_equal_seeds_fail_alike() {
    let run = async |seed| {
        let bench = Bench::new().await;
        bench.origin.seed(seed);
        bench
            .origin
            .inject(Match::any(), When::Percent(30), Fault::status(503));
        let mut failed = Vec::new();
        for _ in 0..200 {
            failed.push(bench.head().await.status == 503);
        }
        failed
    };
    let first = run(1).await;
    let count = first.iter().filter(|failed| **failed).count();
    assert!((30..90).contains(&count), "{count} of 200");
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
}

#[tokio::test]
async fn cuts_are_exact() {
    for at in [0, 1, 65_535, 65_536, 200_000, LENGTH - 1] {
        for (by, end) in [(CutBy::Fin, End::Fin), (CutBy::Rst, End::Reset)] {
            let bench = Bench::with(Fault::Cut { at, by }).await;
            let got = bench.get(&[]).await;
            assert_eq!(
                (got.status, got.end, got.content_length()),
                (200, end, Some(LENGTH)),
                "{at} {by:?}"
            );
            assert_eq!(got.body.len() as u64, at);
            assert!(blob().starts_with(&got.body));
            assert_eq!(bench.origin.bytes_sent_for(&bench.digest), at);
        }
    }
    let bench = Bench::with(Fault::Cut {
        at: 10,
        by: CutBy::Fin,
    })
    .await;
    let tail = bench.get(&[("range", "bytes=100-")]).await;
    assert_eq!(
        (tail.status, tail.end, &tail.body[..]),
        (206, End::Fin, &blob()[100..110])
    );
    let short = bench.get(&[("range", "bytes=100-109")]).await;
    assert_eq!(
        (short.body.len(), short.end),
        (10, End::Complete),
        "a body that ends there is whole"
    );
}

#[tokio::test]
async fn hanging_up_and_raw_answers() {
    for (by, wanted) in [(CutBy::Fin, End::Fin), (CutBy::Rst, End::Reset)] {
        let bench = Bench::with(Fault::HangUp(by)).await;
        match bench.try_get(&[]).await {
            Err(ClientError::NoAnswer { end, bytes: 0 }) => assert_eq!(end, wanted),
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.origin.log()[0].status, None);
    }
    let raw = Bytes::from_static(b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx");
    let bench = Bench::with(Fault::Raw(raw.clone())).await;
    let mut connection = bench.impatient().await;
    assert_eq!(connection.read_to_end().await.unwrap(), (raw, End::Fin));
}

#[tokio::test]
async fn silence_before_and_inside_the_body() {
    let bench = Bench::with(Fault::Silence).await;
    let quiet = bench.impatient().await.read_head().await;
    assert!(matches!(
        quiet,
        Err(ClientError::NoAnswer {
            end: End::Quiet,
            bytes: 0
        })
    ));
    bench.origin.heal_all();
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::Stall { at: 70_000 });
    let got = bench.impatient().await.read_response(false).await.unwrap();
    assert_eq!((got.body.len(), got.end), (70_000, End::Quiet));
}

#[tokio::test(start_paused = true)]
async fn delays_and_drips_take_their_time() {
    let origin = Origin::new();
    origin.add_blob_as("a", "sha256:a", Content::generated(1, 1000));
    let (server, client) = tokio::io::duplex(1 << 16);
    origin.inject(Match::any(), When::Always, Fault::Delay(Duration::from_secs(3)));
    origin.inject(
        Match::any(),
        When::Always,
        Fault::Drip {
            bytes_per_second: 100,
        },
    );
    let mut connection = RawConnection::new(client);
    let talk = async move {
        let start = Instant::now();
        connection
            .request("GET", "x", "/v2/a/blobs/sha256:a", &[])
            .await
            .unwrap();
        connection.read_head().await.unwrap();
        let head = start.elapsed();
        let (body, _) = connection.read_raw(1000).await.unwrap();
        (head, start.elapsed(), body)
    };
    let ((), (head, whole, body)) = tokio::join!(origin.serve_connection(server), talk);
    assert_eq!(body, bytes_at(1, 0, 1000));
    // Simulated time: it passes as the faults say, not as the machine runs.
    assert!(
        (Duration::from_secs(3)..Duration::from_millis(3100)).contains(&head),
        "{head:?}"
    );
    assert!(
        (Duration::from_millis(12_500)..Duration::from_secs(14)).contains(&whole),
        "{whole:?}"
    );
}

#[tokio::test]
async fn one_byte_is_wrong_in_whatever_range_has_it() {
    let bench = Bench::with(Fault::WrongByte { at: 100_000 }).await;
    let mut wanted = blob();
    wanted[100_000] ^= 0xff;
    assert_eq!(bench.get(&[]).await.body, wanted);
    assert_eq!(
        bench.get(&[("range", "bytes=99999-100001")]).await.body,
        wanted[99_999..100_002]
    );
    assert_eq!(
        bench.get(&[("range", "bytes=100001-")]).await.body,
        blob()[100_001..]
    );
}

#[tokio::test]
async fn sizes_lie() {
    let short = Bench::with(Fault::ShortBy(10)).await.get(&[]).await;
    assert_eq!(
        (short.content_length(), short.end),
        (Some(LENGTH - 10), End::Complete)
    );
    assert!(blob().starts_with(&short.body));
    let long = Bench::with(Fault::LongBy(10))
        .await
        .get(&[("range", "bytes=299999-")])
        .await;
    assert_eq!(long.header("content-range"), Some("bytes 299999-300009/300010"));
    assert_eq!((long.body.len(), long.body[0]), (11, blob()[299_999]));
    let none = Bench::with(Fault::NoBytes).await.get(&[]).await;
    assert_eq!(
        (none.status, none.content_length(), none.end),
        (200, Some(0), End::Complete)
    );
    let bench = Bench::with(Fault::HeadLength(5)).await;
    assert_eq!(bench.head().await.content_length(), Some(5));
    assert_eq!(bench.get(&[]).await.body, blob());
}

#[tokio::test]
async fn kept_bytes_get_longer_and_shorter_too() {
    let bench = Bench::new().await;
    let digest = bench.origin.add_blob("kept", "hello");
    let path = format!("/v2/kept/blobs/{digest}");
    let id = bench
        .origin
        .inject(Match::digest(&digest), When::Always, Fault::LongBy(3));
    let long = bench.at(&path, &[]).await;
    assert_eq!((long.body.len(), &long.body[..5]), (8, &b"hello"[..]));
    bench.origin.heal(id);
    bench
        .origin
        .inject(Match::digest(&digest), When::Always, Fault::ShortBy(3));
    assert_eq!(bench.at(&path, &[]).await.body, "he");
}

#[tokio::test]
async fn ranges_are_ignored_and_versions_change() {
    let bench = Bench::with(Fault::IgnoreRange).await;
    let got = bench.get(&[("range", "bytes=5-9")]).await;
    assert_eq!((got.status, got.header("content-range")), (200, None));
    assert_eq!(got.body, blob());
    bench.origin.heal_all();
    let other = Fault::Replace {
        content: Content::generated(9, 1000),
        etag: "\"other\"".into(),
    };
    bench
        .origin
        .inject(Match::digest(&bench.digest), When::After(1), other);
    let before = bench.get(&[("range", "bytes=0-499")]).await;
    let after = bench.get(&[("range", "bytes=500-")]).await;
    assert_eq!(before.header("content-range"), Some("bytes 0-499/300000"));
    assert_eq!(after.header("content-range"), Some("bytes 500-999/1000"));
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(after.body, bytes_at(9, 500, 500));
}

#[tokio::test]
async fn redirects() {
    let bench = Bench::with(Fault::Redirect(RedirectTo::SameHost)).await;
    let got = bench.get(&[]).await;
    assert_eq!(got.status, 307);
    assert_eq!(bench.at(got.header("location").unwrap(), &[]).await.body, blob());

    let other = Bench::new().await;
    let bench = Bench::with(Fault::Redirect(RedirectTo::Host(other.running.url()))).await;
    let location = bench.get(&[]).await.header("location").unwrap().to_owned();
    let path = location.strip_prefix(&other.running.url()).unwrap();
    assert_eq!(other.at(path, &[]).await.body, blob());

    let bench = Bench::with(Fault::Redirect(RedirectTo::Loop)).await;
    assert_eq!(bench.get(&[]).await.header("location"), Some(bench.path.as_str()));
    let exactly = RedirectTo::Exactly("http://169.254.169.254/".into());
    let bench = Bench::with(Fault::Redirect(exactly)).await;
    assert_eq!(
        bench.get(&[]).await.header("location"),
        Some("http://169.254.169.254/")
    );
}

#[tokio::test]
async fn presigned_addresses_expire_and_refuse_authorization() {
    let presigned = |valid| Fault::Redirect(RedirectTo::Presigned { host: None, valid });
    let bench = Bench::with(presigned(Duration::from_secs(600))).await;
    let location = bench.get(&[]).await.header("location").unwrap().to_owned();
    assert_eq!(
        bench.at(&location, &[("range", "bytes=0-4")]).await.body,
        blob()[..5]
    );
    assert_eq!(
        bench.at(&location, &[("authorization", "Bearer x")]).await.status,
        400
    );
    assert_eq!(
        bench
            .at(&location.replace("signature-", "forged-"), &[])
            .await
            .status,
        403
    );
    let bench = Bench::with(presigned(Duration::ZERO)).await;
    let location = bench.get(&[]).await.header("location").unwrap().to_owned();
    assert_eq!(bench.at(&location, &[]).await.status, 403);
}

#[tokio::test]
async fn wrong_types_encodings_and_headers() {
    let html = Bench::with(Fault::Html).await.get(&[]).await;
    assert_eq!(
        (html.status, html.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(html.body.starts_with(b"<!doctype html>"));

    let bench = Bench::with(Fault::Gzip).await;
    assert_eq!(bench.get(&[("accept-encoding", "identity")]).await.body, blob());
    let packed = bench.get(&[("accept-encoding", "zstd;q=1.0, gzip;q=0.8")]).await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut unpacked).unwrap();
    assert_eq!(unpacked, blob());

    let chunked = Bench::with(Fault::Chunked).await.get(&[]).await;
    assert_eq!(
        (chunked.content_length(), chunked.header("transfer-encoding")),
        (None, Some("chunked"))
    );
    assert_eq!((chunked.body, chunked.end), (blob().into(), End::Complete));

    let bench = Bench::with(Fault::SetHeader("content-type", "x/y".into())).await;
    bench.origin.inject(
        Match::any(),
        When::Always,
        Fault::DropHeader("docker-content-digest"),
    );
    let got = bench.get(&[]).await;
    assert_eq!(
        (got.header("content-type"), got.header("docker-content-digest")),
        (Some("x/y"), None)
    );
}

#[tokio::test]
async fn faults_act_together() {
    let bench = Bench::with(Fault::WrongByte { at: 3 }).await;
    bench.origin.inject(
        Match::any(),
        When::Always,
        Fault::Cut {
            at: 5,
            by: CutBy::Fin,
        },
    );
    let got = bench.get(&[]).await;
    assert_eq!((got.body.len(), got.end, got.body[3]), (5, End::Fin, !blob()[3]));
}
