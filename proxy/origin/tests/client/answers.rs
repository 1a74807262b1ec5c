//! What a well-behaved registry says arrives: heads, tags, everything that is passed through.

use darter_testkit::origin::{Fault, Match, When};
use darter_types::{Algorithm, ManifestReference};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BODY: &[u8] = b"{\"schemaVersion\":2}";

fn tag(text: &str) -> ManifestReference {
    text.parse().unwrap()
}

async fn resolve(bench: &Bench, reference: &str) -> Result<darter_origin::Head, OriginError> {
    let repository = REPOSITORY.parse().unwrap();
    let accept = [HeaderValue::from_static(INDEX), HeaderValue::from_static("*/*")];
    bench
        .origins
        .resolve(
            &bench.registry(),
            &repository,
            &tag(reference),
            &accept,
            &ANONYMOUS,
        )
        .await
}

async fn relay(bench: &Bench, path: &str) -> (u16, HeaderMap, Vec<u8>) {
    let headers = [(header::COOKIE, HeaderValue::from_static("canary"))]
        .into_iter()
        .collect();
    let answer = bench
        .origins
        .relay(&bench.registry(), Method::GET, path, &headers, &ANONYMOUS)
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, body.to_vec())
}

#[tokio::test]
async fn a_content_arrives_with_its_length_and_the_registry_is_not_told_too_much() {
    let bench = Bench::new().await;
    let head = bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
    assert_eq!(head.length, Some(LENGTH));
    assert_eq!(
        head.digest.as_ref().map(Digest::to_string),
        Some(bench.digest.clone())
    );
    let mut fetch = bench.fetch().await.unwrap();
    assert_eq!(
        (fetch.length, fetch.range.start, fetch.range.end),
        (LENGTH, 0, LENGTH)
    );
    right(&drain(&mut fetch).await.1.unwrap());
    for record in bench.origin.log() {
        assert_eq!(record.header("accept-encoding"), Some("identity"));
        assert_eq!(record.header("range"), None, "the whole is asked as a whole");
        assert_eq!(record.header("host"), Some(bench.registry().as_str()));
    }
}

#[tokio::test]
async fn a_registry_that_knows_no_head_is_asked_by_get() {
    let bench = Bench::new().await;
    bench
        .origin
        .inject(Match::any().head(), When::Always, Fault::status(405));
    let head = bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
    assert_eq!(head.length, Some(LENGTH));
    assert_eq!(bench.gets(), 1);
    bench
        .origin
        .inject(Match::any().get(), When::Always, Fault::status(404));
    let error = bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap_err();
    assert!(error.is_absent(), "{error:?}");
}

/// A registry with a content whose length it does not tell.
async fn untold(length: u64) -> (Bench, OriginLocator, Content) {
    let bench = Bench::new().await;
    let content = Content::generated(11, length);
    let digest = bench.origin.add_blob(REPOSITORY, content.clone());
    bench
        .origin
        .inject(Match::digest(&digest), When::Always, Fault::Chunked);
    let locator = locator(bench.registry().as_str(), ContentKind::Blob, &digest);
    (bench, locator, content)
}

const UNTOLD_MAX: u64 = 4 * 1024 * 1024;

#[tokio::test]
async fn a_content_of_untold_length_is_read_to_know_it_or_asked_for_by_a_range() {
    for (length, requests) in [(0, 1), (1, 1), (UNTOLD_MAX, 1), (UNTOLD_MAX + 1, 2)] {
        let (bench, locator, content) = untold(length).await;
        assert_eq!(
            bench.origins.head(&locator, &ANONYMOUS).await.unwrap().length,
            None
        );
        let mut fetch = bench.origins.fetch(&locator, 0, None, &ANONYMOUS).await.unwrap();
        assert_eq!(fetch.length, length);
        assert_eq!(drain(&mut fetch).await.1.unwrap(), content.read(0..length));
        let gets = bench
            .origin
            .requests_for(&Method::GET, &locator.digest.to_string());
        assert_eq!(gets, requests, "{length}");
    }
}

#[tokio::test]
async fn a_long_content_of_untold_length_without_ranges_needs_somebody_who_knows_it() {
    let (bench, locator, content) = untold(UNTOLD_MAX + 1).await;
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::IgnoreRange);
    let error = bench
        .origins
        .fetch(&locator, 0, None, &ANONYMOUS)
        .await
        .unwrap_err();
    is_unusable(&error, "does not tell the length");
    let mut reading = bench.origins.read(&locator, 0, None, Some(content.len()));
    let mut all = Vec::new();
    while let Some(bytes) = reading.next(&ANONYMOUS).await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(all, content.read(0..content.len()));
}

#[tokio::test]
async fn an_untold_length_does_not_hide_a_cut() {
    let (bench, locator, _) = untold(1_000_000).await;
    let cut = Fault::Cut {
        at: 500_000,
        by: darter_testkit::origin::CutBy::Fin,
    };
    bench.origin.inject(Match::any().get(), When::Always, cut);
    let error = bench
        .origins
        .fetch(&locator, 0, None, &ANONYMOUS)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Cut { .. }), "{error:?}");
}

#[tokio::test]
async fn an_empty_content_ends_at_once() {
    let bench = Bench::new().await;
    let digest = bench.origin.add_blob(REPOSITORY, Content::generated(1, 0));
    let locator = locator(bench.registry().as_str(), ContentKind::Blob, &digest);
    let mut fetch = bench.origins.fetch(&locator, 0, None, &ANONYMOUS).await.unwrap();
    assert_eq!(
        (fetch.length, drain(&mut fetch).await.1.unwrap()),
        (0, Vec::new())
    );
}

#[tokio::test]
async fn a_tag_is_resolved_by_head_and_by_get_where_head_does_not_tell() {
    let bench = Bench::new().await;
    let digest = bench.origin.add_manifest(REPOSITORY, Some("v1"), INDEX, BODY);
    let gets = || bench.origin.requests_for(&Method::GET, &digest);
    let head = resolve(&bench, "v1").await.unwrap();
    assert_eq!(head.digest.unwrap().to_string(), digest);
    assert_eq!(
        (head.length, head.media_type.as_deref()),
        (Some(BODY.len() as u64), Some(INDEX))
    );
    assert_eq!(gets(), 0);
    let heads = [
        Fault::status(405),
        Fault::DropHeader("docker-content-digest"),
        Fault::Chunked,
        Fault::Html,
    ];
    for (index, fault) in heads.into_iter().enumerate() {
        let id = bench
            .origin
            .inject(Match::digest(&digest).head(), When::Always, fault.clone());
        let head = resolve(&bench, "v1").await.unwrap();
        assert_eq!(head.digest.unwrap().to_string(), digest, "{fault:?}");
        assert_eq!(gets(), index as u64 + 1, "{fault:?}");
        assert!(bench.origin.heal(id));
    }
    let missing = resolve(&bench, "v2").await.unwrap_err();
    assert!(missing.is_absent() && !missing.is_credential() && !missing.may_retry());
}

#[tokio::test]
async fn a_manifest_that_is_none_is_refused() {
    let bench = Bench::new().await;
    let digest = bench.origin.add_manifest(REPOSITORY, Some("v1"), INDEX, BODY);
    let other = Digest::of(Algorithm::Sha256, b"other").to_string();
    bench
        .origin
        .inject(Match::digest(&digest), When::Always, Fault::Html);
    is_unusable(&resolve(&bench, "v1").await.unwrap_err(), "portal");
    let locator = bench.manifest(&digest);
    is_unusable(
        &bench
            .origins
            .fetch(&locator, 0, None, &ANONYMOUS)
            .await
            .unwrap_err(),
        "web page",
    );
    is_unusable(
        &bench.origins.head(&locator, &ANONYMOUS).await.unwrap_err(),
        "web page",
    );
    bench.origin.heal_all();
    let lie = Fault::SetHeader("docker-content-digest", other);
    bench.origin.inject(Match::digest(&digest), When::Always, lie);
    is_unusable(&resolve(&bench, &digest).await.unwrap_err(), "under the digest");
    is_unusable(
        &bench
            .origins
            .fetch(&locator, 0, None, &ANONYMOUS)
            .await
            .unwrap_err(),
        "under the digest",
    );
    bench.origin.heal_all();
    let long = vec![b' '; 4 * 1024 * 1024 + 1];
    let digest = bench.origin.add_manifest(REPOSITORY, Some("long"), INDEX, long);
    is_unusable(&resolve(&bench, "long").await.unwrap_err(), "4194305 bytes");
    is_unusable(
        &bench
            .origins
            .fetch(&bench.manifest(&digest), 0, None, &ANONYMOUS)
            .await
            .unwrap_err(),
        "4194305 bytes",
    );
}

#[tokio::test]
async fn everything_else_is_passed_through() {
    let bench = Bench::new().await;
    bench.origin.add_manifest(REPOSITORY, Some("v1"), INDEX, BODY);
    let (code, headers, body) = relay(&bench, &format!("/v2/{REPOSITORY}/tags/list?n=10")).await;
    assert_eq!(
        (code, headers[header::CONTENT_TYPE].as_bytes()),
        (200, &b"application/json"[..])
    );
    assert!(String::from_utf8_lossy(&body).contains("\"v1\""));
    let (code, _, body) = relay(&bench, "/v2/no/such/tags/list").await;
    assert_eq!(code, 404);
    assert!(String::from_utf8_lossy(&body).contains("NAME_UNKNOWN"));
    assert_eq!(relay(&bench, "/v2/").await.0, 200);
    assert!(
        bench
            .origin
            .log()
            .iter()
            .all(|record| record.header("cookie").is_none())
    );
    assert_eq!(
        bench.origin.log()[0].target(),
        format!("/v2/{REPOSITORY}/tags/list?n=10")
    );
}

#[tokio::test]
async fn pushes_and_crooked_paths_are_not_passed_through() {
    let bench = Bench::new().await;
    let none = HeaderMap::new();
    for (method, path) in [
        (Method::POST, "/v2/a/blobs/uploads/"),
        (Method::DELETE, "/v2/a/manifests/x"),
        (Method::GET, "/v1/search"),
        (Method::GET, "/v2/../metrics"),
        (Method::GET, "/v2/a/%2e%2e/%2e%2e/metrics"),
        (Method::GET, "/v2/a b"),
    ] {
        let answer = bench
            .origins
            .relay(&bench.registry(), method, path, &none, &ANONYMOUS)
            .await;
        assert!(matches!(answer, Err(OriginError::Unusable { .. })), "{path}");
    }
    assert_eq!(bench.origin.requests_total(), 0);
}

#[tokio::test]
async fn an_endless_answer_is_not_passed_through_for_ever() {
    let bench = Bench::new().await;
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [&head[..], &vec![b'x'; 17 * 1024 * 1024]].concat();
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::Raw(raw.into()));
    let path = format!("/v2/{REPOSITORY}/tags/list");
    let answer = bench
        .origins
        .relay(
            &bench.registry(),
            Method::GET,
            &path,
            &HeaderMap::new(),
            &ANONYMOUS,
        )
        .await
        .unwrap();
    is_unusable(&answer.into_body().collect().await.unwrap_err(), "longer");
}
