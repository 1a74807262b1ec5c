//! Rights and time: how soon a deletion counts, how long a registry that cannot answer is waited for, what asking costs.

use std::time::Duration;

use darter_testkit::cases;
use darter_testkit::content::Content;
use darter_testkit::image::{Image, ImageSpec, add_image};
use darter_testkit::origin::{Access, CutBy, Fault, Match, Origin, When};
use http::Method;
use tokio::time::{Instant, advance};

use super::rights::shape;
use super::still::{Still, StillNode};
use crate::access::AccessConfig;

const TOKEN: (&str, &str) = ("authorization", "Bearer alice-token");
const DAY: Duration = Duration::from_secs(86_400);
/// What a clock adds by its own steps.
const STEP: Duration = Duration::from_millis(10);

/// One image under several names that Alice may read, and others only with `public`.
fn shared(origin: &Origin, names: &[&str], public: bool, layers: &[usize]) -> Image {
    let add = |name: &&str| {
        let image = add_image(origin, name, Some("v1"), &ImageSpec::new(1, layers));
        if !public {
            origin.set_access(name, Access::Bearer { public: false });
        }
        origin.allow(name, "alice");
        image
    };
    let images: Vec<Image> = names.iter().map(add).collect();
    origin.add_user("alice", "pw");
    origin.add_token("alice-token", Some("alice"), names, DAY);
    images.into_iter().next().unwrap()
}

/// All that a pull asks for, under one name.
fn targets(name: &str, image: &Image) -> Vec<String> {
    let blobs = image
        .blobs()
        .map(|blob| format!("/v2/{name}/blobs/{}", blob.digest));
    let manifest = format!("/v2/{name}/manifests/{}", image.manifest.digest);
    blobs
        .chain([manifest, format!("/v2/{name}/manifests/v1")])
        .collect()
}

/// The same question about what was never there.
fn never(target: &str) -> String {
    let (path, reference) = target.rsplit_once('/').unwrap();
    match reference {
        "v1" => format!("{path}/v9"),
        _ => format!("{path}/{}", Content::from("never there").digest()),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_soon_as_if_it_had_never_been_there() {
    let config = AccessConfig::default();
    for (public, life) in [(false, config.private_grant), (true, config.public_grant)] {
        assert!(life.as_duration() <= Duration::from_secs(60));
        let still = Still::new();
        let image = shared(&still.origin, &["left", "right"], public, &[5000, 6000]);
        let node = still.node();
        for name in ["left", "right"] {
            for target in targets(name, &image) {
                assert_eq!(node.get(&target, &[TOKEN]).await.status, 200, "{target}");
            }
        }
        for blob in image.blobs() {
            assert!(still.origin.remove_blob("left", &blob.digest));
        }
        assert!(still.origin.remove_manifest("left", &image.manifest.digest));
        advance(life.as_duration()).await;
        for target in targets("left", &image) {
            for method in [Method::GET, Method::HEAD] {
                let ask = async |target: &str| match method {
                    Method::GET => node.get(target, &[TOKEN]).await,
                    _ => node.head(target, &[TOKEN]).await,
                };
                let gone = ask(&target).await;
                assert_eq!(gone.status, 404, "{method} {target}");
                assert_eq!(
                    shape(&gone),
                    shape(&ask(&never(&target)).await),
                    "{method} {target}"
                );
            }
        }
        for target in targets("right", &image) {
            assert_eq!(node.get(&target, &[TOKEN]).await.status, 200, "{target}");
        }
    }
}

/// Asks, and fails if the answer took longer than a second.
async fn within_a_second(
    node: &StillNode,
    target: &str,
    headers: &[(&str, &str)],
    what: &str,
) -> (u16, bool) {
    let began = Instant::now();
    let answer = node.get(target, headers).await;
    let took = began.elapsed();
    assert!(took <= Duration::from_secs(1) + STEP, "{what}: {took:?}");
    (answer.status, answer.header("retry-after").is_some())
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_cannot_answer_private_content_is_closed_within_a_second() {
    let mute = [
        Fault::status(500),
        Fault::status(503),
        Fault::too_many_requests(1),
        Fault::too_many_requests(3600),
        Fault::Silence,
        Fault::Delay(Duration::from_secs(20)),
        Fault::HangUp(CutBy::Fin),
    ];
    for fault in mute {
        let still = Still::new();
        let image = shared(&still.origin, &["secret"], false, &[5000]);
        let open = format!("/v2/open/blobs/{}", still.origin.add_blob("open", "everybody's"));
        let node = still.node();
        let private = targets("secret", &image);
        for target in &private {
            assert_eq!(node.get(target, &[TOKEN]).await.status, 200, "{target}");
        }
        assert_eq!(node.get(&open, &[]).await.status, 200);
        still
            .origin
            .inject(Match::any().before_access(), When::Always, fault.clone());
        let what = format!("{fault:?}");
        // Somebody whom nobody knows, then Alice, when what is known of her is too old.
        for target in &private {
            let stranger = [("authorization", "Bearer other")];
            let answer = within_a_second(&node, target, &stranger, &what).await;
            assert_eq!(answer, (503, true), "{what}: {target}");
        }
        advance(AccessConfig::default().private_grant.as_duration()).await;
        for target in &private {
            let answer = within_a_second(&node, target, &[TOKEN], &what).await;
            assert_eq!(answer, (503, true), "{what}: {target}");
        }
        // What was everybody's is so for a day, although it would have been asked for again by now.
        advance(Duration::from_secs(2 * 3600)).await;
        assert_eq!(
            within_a_second(&node, &open, &[], &what).await,
            (200, false),
            "{what}"
        );
        advance(DAY).await;
        assert_eq!(
            within_a_second(&node, &open, &[], &what).await,
            (503, true),
            "{what}"
        );
    }
}

/// What containerd asks, with its one credential.
async fn pull(node: &StillNode, image: &Image, credential: (&str, &str)) {
    let resolved = node.head("/v2/app/manifests/v1", &[credential]).await;
    let digest = resolved.header("docker-content-digest").map(str::to_owned);
    assert_eq!(
        (resolved.status, digest.as_ref()),
        (200, Some(&image.manifest.digest))
    );
    let manifest = format!("/v2/app/manifests/{}", image.manifest.digest);
    let blobs = image.blobs().map(|blob| format!("/v2/app/blobs/{}", blob.digest));
    for target in std::iter::once(manifest).chain(blobs) {
        let answer = node.get(&target, &[credential]).await;
        assert!(
            answer.status == 200 && target.ends_with(&answer.body_digest()),
            "{target}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_of_twelve_layers_asks_once_for_anybody_and_once_for_the_caller_and_reads_nothing() {
    // A registry with tokens is asked once more, and its realm once: whether it gives one to anybody.
    for (access, allowed) in [(Access::Basic, 2), (Access::Bearer { public: false }, 4)] {
        let still = Still::new();
        let image = shared(&still.origin, &["app"], false, &[2000; 12]);
        still.origin.set_access("app", access);
        let credential = match access {
            // alice:pw
            Access::Basic => ("authorization", "Basic YWxpY2U6cHc="),
            _ => TOKEN,
        };
        pull(&still.node(), &image, credential).await;
        // The others have it from the first one.
        for number in 0..cases(8, 100) {
            let node = still.node();
            for allowed in [allowed, 1] {
                still.origin.reset_counters();
                pull(&node, &image, credential).await;
                let log = still.origin.log();
                assert!(log.len() <= allowed, "node {number}: {log:?}");
                let reads = log
                    .iter()
                    .filter(|request| request.method == Method::GET && request.path != "/token");
                assert_eq!(reads.count(), 0, "node {number}: {log:?}");
            }
        }
    }
}
