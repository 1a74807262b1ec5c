//! Where registries send us: followed within limits, and never with credentials.

use darter_testkit::origin::{Fault, Match, RedirectTo, When};
use http::HeaderValue;

use super::*;

async fn redirecting(to: RedirectTo) -> Bench {
    let bench = Bench::new().await;
    bench.origin.inject(
        Match::target(darter_testkit::origin::Target::Path(format!(
            "/v2/{REPOSITORY}/blobs/{}",
            bench.digest
        ))),
        When::Always,
        Fault::Redirect(to),
    );
    bench
}

async fn storage() -> (Origin, RunningOrigin) {
    let storage = Origin::new();
    storage.add_blob("storage", blob());
    let running = storage.spawn_on_loopback().await.unwrap();
    (storage, running)
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let (storage, running) = storage().await;
    let bench = redirecting(RedirectTo::Host(running.url())).await;
    let mine = Credentials::Caller(HeaderValue::from_static("Bearer canary"));
    let mut fetch = bench.origins.fetch(&bench.locator, 0, None, &mine).await.unwrap();
    right(&drain(&mut fetch).await.1.unwrap());
    let mut fetch = bench
        .origins
        .fetch(&bench.locator, 1000, Some(2000), &mine)
        .await
        .unwrap();
    assert_eq!(drain(&mut fetch).await.1.unwrap(), blob().read(1000..2000));
    assert!(bench.origin.tokens_seen().contains("canary"));
    assert!(storage.authorizations_seen().is_empty());
    assert_eq!(storage.requests_total(), 2);
}

#[tokio::test]
async fn within_the_registry_credentials_are_kept() {
    let bench = redirecting(RedirectTo::SameHost).await;
    let mine = Credentials::Caller(HeaderValue::from_static("Bearer mine"));
    bench.origins.head(&bench.locator, &mine).await.unwrap();
    assert!(
        bench
            .origin
            .log()
            .iter()
            .all(|record| record.authorization() == Some("Bearer mine"))
    );
    assert_eq!(bench.origin.requests_total(), 2);
}

#[tokio::test]
async fn who_sends_us_back_gets_no_credentials_along() {
    let bench = Bench::new().await;
    let away = Origin::new();
    let running = away.spawn_on_loopback().await.unwrap();
    let path = format!("/v2/{REPOSITORY}/blobs/{}", bench.digest);
    bench.origin.inject(
        Match::path(&path),
        When::Always,
        Fault::Redirect(RedirectTo::Exactly(format!("{}/hop", running.url()))),
    );
    let back = format!("http://{}/v2/secret/tags/list", bench.registry());
    away.inject(
        Match::any(),
        When::Always,
        Fault::Redirect(RedirectTo::Exactly(back)),
    );
    let mine = Credentials::Caller(HeaderValue::from_static("Bearer canary"));
    let _ = bench.origins.head(&bench.locator, &mine).await.unwrap_err();
    let log = bench.origin.log();
    let last = log.last().unwrap();
    assert_eq!(
        (last.path.as_str(), last.authorization()),
        ("/v2/secret/tags/list", None)
    );
}

#[tokio::test]
async fn circles_end_soon() {
    let bench = redirecting(RedirectTo::Loop).await;
    is_unusable(&bench.fails().await, "circle");
    assert!(bench.origin.requests_total() <= 6);

    let bench = Bench::new().await;
    for hop in 0..20 {
        let path = if hop == 0 {
            format!("/v2/{REPOSITORY}/blobs/{}", bench.digest)
        } else {
            format!("/hop/{hop}")
        };
        let next = RedirectTo::Exactly(format!("/hop/{}", hop + 1));
        bench
            .origin
            .inject(Match::path(&path), When::Always, Fault::Redirect(next));
    }
    is_unusable(&bench.fails().await, "too often");
    assert_eq!(bench.origin.requests_total(), 6);
}

#[tokio::test]
async fn signed_addresses_work_and_an_expired_one_is_asked_for_anew() {
    let valid = |seconds| RedirectTo::Presigned {
        host: None,
        valid: Duration::from_secs(seconds),
    };
    let bench = redirecting(valid(60)).await;
    right(&bench.read().await.unwrap());
    right(&bench.read().await.unwrap());
    assert_eq!(bench.origin.requests_total(), 4, "a signed address is used once");

    let (storage, running) = storage().await;
    storage.inject(Match::any(), When::First(1), Fault::status(403));
    let bench = redirecting(RedirectTo::Host(running.url())).await;
    right(&bench.read().await.unwrap());
    storage.inject(Match::any(), When::Always, Fault::status(403));
    let error = bench.fails().await;
    assert!(!error.is_credential(), "{error:?}");
    is_unusable(&error, "403");
}

#[tokio::test]
async fn odd_destinations_are_refused() {
    for (to, part) in [
        ("ftp://127.0.0.1/x", "no http address"),
        ("file:///etc/passwd", "no http address"),
        ("http://user:secret@127.0.0.1/x", "password"),
        ("http://", "where to"),
    ] {
        let bench = redirecting(RedirectTo::Exactly(to.to_owned())).await;
        let error = bench.fails().await;
        is_unusable(&error, part);
        assert!(!error.to_string().contains("secret"));
    }
}
