//! Manifests, tags, referrers.

use darter_testkit::content::sha256_of;
use darter_testkit::image::{ImageSpec, add_image, add_referrer};
use darter_testkit::origin::{Fault, Match, When};
use darter_types::Digest;
use http::Method;

use super::lab::{Lab, headers_of};
use crate::mirror::MirrorConfig;

const TYPES: &str = "application/vnd.oci.image.manifest.v1+json";
const BY_TAG: &str = "/v2/a/manifests/v1";

#[tokio::test]
async fn a_pull_asks_the_registry_once_for_each_content_and_once_for_the_tag() {
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "a", Some("v1"), &ImageSpec::new(1, &[1000, 2000]));
    let resolved = lab.head(BY_TAG, &[("accept", TYPES), ("accept", "*/*")]).await;
    assert_eq!(resolved.status, 200);
    assert_eq!(
        resolved.header("docker-content-digest"),
        Some(image.manifest.digest.as_str())
    );
    assert_eq!(resolved.header("content-type"), Some(TYPES));
    assert_eq!(resolved.content_length(), Some(image.manifest.size));
    let by_digest = format!("/v2/a/manifests/{}", image.manifest.digest);
    let manifest = lab.get(&by_digest, &[]).await;
    assert_eq!(sha256_of(&manifest.body), image.manifest.digest);
    assert_eq!(headers_of(&manifest), headers_of(&resolved));
    let task = image.manifest.digest.parse::<Digest>().unwrap().into();
    assert_eq!(
        lab.contents.lengths.lock().unwrap().get(&task),
        Some(&Some(image.manifest.size)),
        "what HEAD told of the tag is known of the digest"
    );
    for blob in image.blobs() {
        let answer = lab.get(&format!("/v2/a/blobs/{}", blob.digest), &[]).await;
        assert_eq!((answer.status, answer.body_digest()), (200, blob.digest.clone()));
    }
    assert_eq!(lab.origin.count(|request| request.method == Method::HEAD), 1);
    assert_eq!(lab.origin.requests_total(), 1 + 1 + 3);
    // Each line of Accept reached the registry.
    let accepts: Vec<_> = lab.origin.log()[0]
        .headers
        .iter()
        .filter(|(name, _)| name == "accept")
        .map(|(_, v)| v.clone())
        .collect();
    assert_eq!(accepts, [TYPES, "*/*"]);
}

#[tokio::test]
async fn a_tag_by_get_is_the_manifest_itself() {
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "a", Some("v1"), &ImageSpec::new(1, &[10]));
    let by_tag = lab.get(BY_TAG, &[]).await;
    let by_digest = lab
        .get(&format!("/v2/a/manifests/{}", image.manifest.digest), &[])
        .await;
    assert_eq!((by_tag.status, &by_tag.body), (200, &by_digest.body));
    assert_eq!(headers_of(&by_tag), headers_of(&by_digest));
    assert_eq!(lab.get("/v2/a/manifests/nothing", &[]).await.status, 404);
}

#[tokio::test]
async fn a_moved_tag_is_seen_at_once_and_a_stale_one_only_if_asked_for() {
    for stale in [false, true] {
        let lab = Lab::with(MirrorConfig {
            serve_stale_tags: stale,
            ..MirrorConfig::default()
        })
        .await;
        let old = add_image(&lab.origin, "a", Some("v1"), &ImageSpec::new(1, &[10]));
        let new = add_image(&lab.origin, "a", None, &ImageSpec::new(2, &[10]));
        assert_eq!(lab.get(BY_TAG, &[]).await.body_digest(), old.manifest.digest);
        lab.origin.move_tag("a", "v1", &new.manifest.digest);
        let moved = lab.get(BY_TAG, &[]).await;
        assert_eq!(
            (moved.body_digest(), moved.header("warning")),
            (new.manifest.digest.clone(), None)
        );
        lab.origin.inject(Match::any(), When::Always, Fault::status(500));
        let answer = lab.get(BY_TAG, &[]).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &lab.metrics).unwrap();
        if stale {
            assert_eq!(
                (answer.status, answer.body_digest()),
                (200, new.manifest.digest.clone())
            );
            assert_eq!(answer.header("warning"), Some("110 - \"Response is Stale\""));
            assert!(text.contains("stale_tags_total 1\n"), "{text}");
        } else {
            assert_eq!(answer.status, 503);
            assert!(text.contains("stale_tags_total 0\n"), "{text}");
        }
        // By digest it is public and here, so the registry is not needed.
        let by_digest = lab
            .get(&format!("/v2/a/manifests/{}", new.manifest.digest), &[])
            .await;
        assert_eq!(by_digest.status, 200);
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_never_served_as_one() {
    let index = "application/vnd.oci.image.index.v1+json";
    let bad = [
        (TYPES, "<!doctype html><title>Sign in</title>".to_owned()),
        (TYPES, r#"{"errors":[]}"#.to_owned()),
        (
            index,
            r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#.to_owned(),
        ),
        (
            TYPES,
            format!(
                r#"{{"schemaVersion":2,"layers":[],"x":"{}"}}"#,
                "x".repeat(4 << 20)
            ),
        ),
    ];
    for (media_type, body) in bad {
        let lab = Lab::new().await;
        let digest = lab.origin.add_manifest("a", Some("v1"), media_type, body);
        assert_eq!(lab.get(BY_TAG, &[]).await.status, 502, "{digest}");
        assert_eq!(
            lab.get(&format!("/v2/a/manifests/{digest}"), &[]).await.status,
            502,
            "{digest}"
        );
    }
    // A captive portal answers everything with a page.
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "a", Some("v1"), &ImageSpec::new(1, &[10]));
    lab.origin.inject(Match::any(), When::Always, Fault::Html);
    for path in [
        BY_TAG.to_owned(),
        format!("/v2/a/manifests/{}", image.manifest.digest),
    ] {
        for answer in [lab.get(&path, &[]).await, lab.head(&path, &[]).await] {
            assert!(matches!(answer.status, 502 | 503), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn head_does_not_promise_what_get_refused_and_asks_no_more_than_before() {
    let lab = Lab::new().await;
    let ambiguous = r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
    let digest = lab.origin.add_manifest("a", Some("v1"), TYPES, ambiguous);
    let by_digest = format!("/v2/a/manifests/{digest}");
    assert_eq!(lab.get(BY_TAG, &[]).await.status, 502);
    let asked = lab.origin.requests_total();
    for path in [BY_TAG, by_digest.as_str()] {
        assert_eq!(lab.head(path, &[]).await.status, 502, "{path}");
    }
    // One question about the tag, as ever.
    assert_eq!(lab.origin.requests_total(), asked + 1);

    let image = add_image(&lab.origin, "a", Some("v2"), &ImageSpec::new(1, &[10]));
    let by_tag = "/v2/a/manifests/v2";
    let before = lab.head(by_tag, &[]).await;
    lab.get(by_tag, &[]).await;
    lab.origin.reset_counters();
    let after = lab.head(by_tag, &[]).await;
    assert_eq!((after.status, after.body.len()), (200, 0));
    assert_eq!(headers_of(&after), headers_of(&before));
    assert_eq!(after.content_length(), Some(image.manifest.size));
    assert_eq!(lab.origin.requests_total(), 1);
}

#[tokio::test]
async fn referrers_and_tags_are_the_registrys_own_answers() {
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "a", Some("v1"), &ImageSpec::new(1, &[10]));
    let signature = add_referrer(&lab.origin, "a", &image.manifest, "application/x.sig", "signed");
    let path = format!(
        "/v2/a/referrers/{}?artifactType=application/x.sig",
        image.manifest.digest
    );
    let answer = lab.get(&path, &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert!(String::from_utf8_lossy(&answer.body).contains(&signature.digest));
    lab.origin.set_referrers_supported(false);
    assert_eq!(lab.get(&path, &[]).await.status, 404);

    lab.origin.move_tag("a", "v2", &image.manifest.digest);
    let tags = lab.get("/v2/a/tags/list?n=1", &[]).await;
    assert_eq!(tags.body.as_ref(), br#"{"name":"a","tags":["v1"]}"#);
    let head = lab.head("/v2/a/tags/list?n=1", &[]).await;
    assert_eq!(head.content_length(), Some(tags.body.len() as u64));
    assert_eq!(headers_of(&head), headers_of(&tags));
    let next = tags
        .header("link")
        .unwrap()
        .strip_prefix('<')
        .unwrap()
        .split('>')
        .next()
        .unwrap();
    let next = darter_testkit::client::get(lab.mirror, next, &[]).await.unwrap();
    assert_eq!(next.body.as_ref(), br#"{"name":"a","tags":["v2"]}"#);
    lab.origin
        .inject(Match::any(), When::Always, Fault::too_many_requests(1));
    assert_eq!(lab.get("/v2/a/tags/list", &[]).await.status, 503);
}
