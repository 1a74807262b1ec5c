//! Who may read: the registry decides, whatever is cached here.

use std::time::Duration;

use darter_service::config::Period;
use darter_testkit::cases;
use darter_testkit::client::{self, Response};
use darter_testkit::content::Content;
use darter_testkit::image::{Descriptor, Image, ImageSpec, add_image};
use darter_testkit::origin::{Access, Denial, Fault, Match, When};

use super::lab::{Lab, headers_of};
use crate::mirror::MirrorConfig;

const TOKEN: (&str, &str) = ("authorization", "Bearer alice-token");

/// A private image, and Alice who may read it.
fn private(lab: &Lab) -> Image {
    let image = add_image(&lab.origin, "secret", Some("v1"), &ImageSpec::new(1, &[5000]));
    lab.origin.set_access("secret", Access::Bearer { public: false });
    lab.origin.add_user("alice", "pw");
    lab.origin.allow("secret", "alice");
    lab.origin.add_token(
        "alice-token",
        Some("alice"),
        &["secret"],
        Duration::from_secs(300),
    );
    image
}

fn targets(image: &Image) -> Vec<String> {
    let blobs = image
        .blobs()
        .map(|blob| format!("/v2/secret/blobs/{}", blob.digest));
    let manifest = format!("/v2/secret/manifests/{}", image.manifest.digest);
    blobs
        .chain([manifest, "/v2/secret/manifests/v1".to_owned()])
        .collect()
}

/// Status, headers and body, to compare.
pub(super) fn shape(answer: &Response) -> (u16, Vec<(String, String)>, bytes::Bytes) {
    (answer.status, headers_of(answer), answer.body.clone())
}

#[tokio::test]
async fn cached_private_content_is_refused_as_if_it_were_not_cached() {
    let lab = Lab::new().await;
    let image = private(&lab);
    let targets = targets(&image);
    let mut before = Vec::new();
    for target in &targets {
        before.push(lab.get(target, &[]).await);
    }
    for target in targets.iter().rev() {
        assert_eq!(lab.get(target, &[TOKEN]).await.status, 200, "{target}");
    }
    assert!(!lab.contents.held.lock().unwrap().is_empty());
    for (target, before) in targets.iter().zip(&before) {
        for _ in 0..cases(5, 200) {
            let after = lab.get(target, &[]).await;
            assert_eq!(after.status, 401);
            let challenge = after.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            assert_eq!(shape(&after), shape(before), "{target}");
        }
    }
}

#[tokio::test]
async fn a_token_for_another_repository_opens_nothing() {
    for (denial, status) in [(Denial::Forbidden, 403), (Denial::NotFound, 404)] {
        let lab = Lab::new().await;
        let image = private(&lab);
        lab.origin.set_denial(denial);
        lab.origin.add_user("bob", "pw");
        lab.origin.add_token(
            "bob-token",
            Some("bob"),
            &["secret", "own"],
            Duration::from_secs(300),
        );
        add_image(&lab.origin, "own", Some("v1"), &ImageSpec::new(2, &[10]));
        let bob = ("authorization", "Bearer bob-token");
        // The digest in a repository that Bob may read is not there.
        let own = |target: &String| {
            target
                .replace("/secret/", "/own/")
                .replace("manifests/v1", "manifests/v2")
        };
        let mut asked = Vec::new();
        for target in targets(&image) {
            for (target, status) in [(own(&target), 404), (target, status)] {
                let before = lab.get(&target, &[bob]).await;
                assert_eq!(before.status, status, "{target}");
                asked.push((target, shape(&before)));
            }
        }
        for target in targets(&image) {
            assert_eq!(lab.get(&target, &[TOKEN]).await.status, 200, "{target}");
        }
        for (target, before) in asked {
            for _ in 0..cases(5, 200) {
                let after = shape(&lab.get(&target, &[bob]).await);
                assert_eq!(after, before, "cached, {target} is refused in another way");
            }
        }
    }
}

/// Bob, who may write to a repository of his own; what he sends.
fn bob(lab: &Lab) -> (&'static str, &'static str) {
    lab.origin.set_access("own", Access::Bearer { public: false });
    lab.origin.add_user("bob", "pw");
    lab.origin.allow("own", "bob");
    let life = Duration::from_secs(300);
    lab.origin.add_token("bob-token", Some("bob"), &["own"], life);
    ("authorization", "Bearer bob-token")
}

/// A manifest in Bob's repository that names a layer, with some more members in its descriptor.
fn naming(lab: &Lab, layer: &Descriptor, more: &str) -> String {
    let (digest, size) = (&layer.digest, layer.size);
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":{size}}},"layers":[{{"digest":"{digest}","size":{size}{more}}}]}}"#
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    lab.origin.add_manifest("own", None, media_type, text)
}

#[tokio::test]
async fn a_manifest_opens_nothing_that_came_in_confidence_from_another_repository() {
    for more in ["", r#","urls":["https://elsewhere.test/layer"]"#] {
        let lab = Lab::new().await;
        let image = private(&lab);
        for target in targets(&image) {
            assert_eq!(lab.get(&target, &[TOKEN]).await.status, 200, "{target}");
        }
        let (bob, layer) = (bob(&lab), &image.layers[0]);
        let manifest = naming(&lab, layer, more);
        let own = format!("/v2/own/manifests/{manifest}");
        assert_eq!(lab.get(&own, &[bob]).await.status, 200);
        lab.origin.reset_counters();
        let stolen = format!("/v2/own/blobs/{}", layer.digest);
        for _ in 0..2 {
            assert_eq!(lab.get(&stolen, &[bob]).await.status, 404, "{more}");
            assert_eq!(lab.head(&stolen, &[bob]).await.status, 404, "{more}");
        }
        assert_eq!(lab.origin.requests_for(&http::Method::GET, &layer.digest), 0);

        // Once the layer is in his repository as well, one question opens it.
        let content = lab.get(&targets(&image)[1], &[TOKEN]).await.body;
        assert_eq!(lab.origin.add_blob("own", content.to_vec()), layer.digest);
        lab.origin.reset_counters();
        for _ in 0..3 {
            let answer = lab.get(&stolen, &[bob]).await;
            assert_eq!((answer.status, answer.body_digest()), (200, layer.digest.clone()));
        }
        assert_eq!(lab.origin.requests_for(&http::Method::HEAD, &layer.digest), 1);
        assert_eq!(lab.origin.requests_for(&http::Method::GET, &layer.digest), 0);
    }
}

#[tokio::test]
async fn a_private_image_of_many_layers_costs_no_question_about_a_layer() {
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "secret", Some("v1"), &ImageSpec::new(1, &[5000; 12]));
    lab.origin.set_access("secret", Access::Bearer { public: false });
    lab.origin.add_user("alice", "pw");
    lab.origin.allow("secret", "alice");
    let life = Duration::from_secs(300);
    lab.origin
        .add_token("alice-token", Some("alice"), &["secret"], life);
    let mut targets = targets(&image);
    targets.rotate_right(1);
    // Once from the registry, once from here.
    for _ in 0..2 {
        for target in &targets {
            assert_eq!(lab.get(target, &[TOKEN]).await.status, 200, "{target}");
        }
    }
    for blob in image.blobs() {
        let questions = lab.origin.requests_for(&http::Method::HEAD, &blob.digest);
        assert_eq!(questions, 0, "{} was asked about", blob.digest);
    }
    // Of a pull: as nobody, twice where a token for nobody is tried, and as Alice.
    let heads = lab.origin.count(|request| request.method == http::Method::HEAD);
    assert!(heads <= 4, "{heads} questions in two pulls");
}

#[tokio::test]
async fn while_the_registry_cannot_answer_private_content_stays_closed() {
    for fault in [Fault::status(500), Fault::too_many_requests(1), Fault::Silence] {
        let lab = Lab::with(MirrorConfig {
            first_byte_deadline: Period::millis(300),
            ..MirrorConfig::default()
        })
        .await;
        let image = private(&lab);
        let open = lab.origin.add_blob("open", "everybody's");
        let layer = format!("/v2/secret/blobs/{}", image.layers[0].digest);
        assert_eq!(lab.get(&layer, &[TOKEN]).await.status, 200);
        let open = format!("/v2/open/blobs/{open}");
        assert_eq!(lab.get(&open, &[]).await.status, 200);
        lab.origin
            .inject(Match::any().before_access(), When::Always, fault.clone());
        // A token that was never seen, for content that is here.
        let other = ("authorization", "Bearer other");
        let answer = lab.get(&layer, &[other]).await;
        assert_eq!(
            (answer.status, answer.header("retry-after").is_some()),
            (503, true),
            "{fault:?}"
        );
        assert_eq!(lab.get(&open, &[]).await.status, 200, "{fault:?}");
    }
}

#[tokio::test]
async fn credentials_go_to_their_registry_and_into_no_answer() {
    let lab = Lab::new().await;
    let image = private(&lab);
    for target in targets(&image) {
        let answer = lab.get(&target, &[TOKEN]).await;
        assert!(!format!("{:?}", answer.headers).contains("alice"));
    }
    assert!(lab.origin.tokens_seen().contains("alice-token"));
}

#[tokio::test]
async fn addresses_in_a_manifest_are_never_asked() {
    let lab = Lab::new().await;
    let image = private(&lab);
    let foreign = lab.other.add_blob("secret", Content::generated(3, 4000));
    let base = format!("{}/v2/secret/blobs/{foreign}", lab.other_running.url());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": image.config,
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "size": 4000,
            "digest": foreign,
            "urls": [base, format!("{base}?token=alice-token"), "http://169.254.169.254/latest/meta-data"],
        }],
        "urls": [base],
    });
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let digest = lab
        .origin
        .add_manifest("secret", Some("foreign"), kind, manifest.to_string());
    let layer = format!("/v2/secret/blobs/{foreign}");
    for _ in 0..3 {
        for reference in ["foreign", digest.as_str()] {
            let target = format!("/v2/secret/manifests/{reference}");
            assert_eq!(lab.get(&target, &[TOKEN]).await.status, 200);
        }
        // Not in this repository, and no manifest covers it: it is asked for by its own name.
        assert_eq!(lab.get(&layer, &[TOKEN]).await.status, 404);
    }
    assert!(lab.origin.requests_for(&http::Method::HEAD, &foreign) > 0);
    assert_eq!(lab.other.connections(), 0);
    assert_eq!(lab.other.requests_total(), 0);
    assert!(lab.other.authorizations_seen().is_empty());
}

#[tokio::test]
async fn a_public_repository_behind_tokens_is_open_to_all() {
    let lab = Lab::new().await;
    let image = add_image(&lab.origin, "secret", Some("v1"), &ImageSpec::new(1, &[5000]));
    lab.origin.set_access("secret", Access::Bearer { public: true });
    for target in targets(&image) {
        assert_eq!(lab.get(&target, &[]).await.status, 200, "{target}");
        assert_eq!(
            lab.get(&target, &[("authorization", "Bearer nonsense")])
                .await
                .status,
            200,
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_registry_opens_only_what_it_has() {
    let lab = Lab::new().await;
    let image = private(&lab);
    for target in targets(&image) {
        assert_eq!(lab.get(&target, &[TOKEN]).await.status, 200, "{target}");
    }
    // Another registry says yes to those digests, and has other bytes.
    let layer = &image.layers[0];
    lab.other
        .add_blob_as("secret", &layer.digest, Content::generated(9, layer.size));
    let at = |target: &str| format!("{target}?ns={}", lab.other_running.host());
    let blob = at(&format!("/v2/secret/blobs/{}", layer.digest));
    for _ in 0..2 {
        assert_eq!(client::get(lab.mirror, &blob, &[]).await.unwrap().status, 502);
    }
    // Nor does a tag that points to the manifest open it: it has no such bytes.
    let length = usize::try_from(image.manifest.size).unwrap();
    let wrong = lab.other.add_manifest(
        "secret",
        Some("v1"),
        "application/vnd.oci.image.manifest.v1+json",
        "x".repeat(length),
    );
    let digest = image.manifest.digest.clone();
    lab.other.inject(
        Match::digest(&wrong),
        When::Always,
        Fault::SetHeader("docker-content-digest", digest),
    );
    let stolen = client::get(lab.mirror, &at("/v2/secret/manifests/v1"), &[])
        .await
        .unwrap();
    assert_eq!(stolen.status, 404);

    // One that really has the content may open it, once it showed that.
    lab.other.heal_all();
    add_image(&lab.other, "secret", Some("v1"), &ImageSpec::new(1, &[5000]));
    lab.other.reset_counters();
    for _ in 0..3 {
        let answer = client::get(lab.mirror, &blob, &[]).await.unwrap();
        assert_eq!((answer.status, answer.body_digest()), (200, layer.digest.clone()));
    }
    assert_eq!(lab.other.requests_for(&http::Method::GET, &layer.digest), 1);
}
