//! Conversions and registries: logins, what is in the registry before, and registries that misbehave.

use std::path::PathBuf;

use darter_nydus_bridge::convert::{Access, ConvertError, Options, Place, Platform, Registry, Source};
use darter_testkit::content::bytes_at;
use darter_testkit::origin::{self, CutBy, Fault, Match, Origin, RedirectTo, RequestRecord, TlsMode, When};
use serde_json::{Value, json};

use crate::convert::{INDEX, Lab, MANIFEST, REPOSITORY, add_image, add_image_for, architecture, gzip};

/// Bytes that do not become fewer.
const LENGTH: usize = 9 << 20;

fn layer(seed: u64, length: usize) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(length as u64);
    let content = bytes_at(seed, 0, length);
    archive
        .append_data(&mut header, "file", content.as_slice())
        .unwrap();
    gzip(&archive.into_inner().unwrap())
}

async fn lab(length: usize) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    Lab::with(dir, PathBuf::new(), &[layer(1, length)]).await
}

fn login() -> Option<(String, String)> {
    Some(("someone".to_owned(), "secret".to_owned()))
}

fn place(lab: &Lab, place: Place) -> Options {
    Options {
        place,
        ..lab.options()
    }
}

fn digest_of(lab: &Lab, pointer: &str) -> String {
    let manifest = lab.manifest("1").unwrap();
    manifest
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap()
        .to_owned()
}

/// The digest of the image, and the tag under which old registries list what refers to it.
fn subject(lab: &Lab) -> (String, String) {
    let bytes = lab.registry.manifest(REPOSITORY, "1").unwrap();
    let digest = darter_testkit::content::sha256_of(&bytes);
    (digest.clone(), digest.replace(':', "-"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_among_the_referrers_stays() {
    let lab = lab(1000).await;
    lab.registry.set_referrers_supported(false);
    let (_, tag) = subject(&lab);
    let others: Vec<Value> = (0..5000)
        .map(|number| {
            json!({
                "mediaType": MANIFEST, "size": 1, "digest": format!("sha256:{number:064x}"),
                "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json", "unheard-of": [number],
            })
        })
        .collect();
    let list = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": others, "annotations": { "mine": "kept" }, "new": 1,
    });
    let bytes = list.to_string().into_bytes();
    lab.registry.add_manifest(REPOSITORY, Some(&tag), INDEX, bytes);
    let done = lab
        .convert(":nydus", &place(&lab, Place::Referrer))
        .await
        .unwrap();
    let mut found = lab.manifest(&tag).unwrap();
    let ours = found["manifests"].as_array_mut().unwrap().remove(0);
    assert_eq!(ours["digest"], done.manifest.to_string());
    assert_eq!(found, list);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_referrers_that_cannot_be_read_is_not_written() {
    let lab = lab(1000).await;
    lab.registry.set_referrers_supported(false);
    let (_, tag) = subject(&lab);
    let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
    for code in [401, 403, 429, 500] {
        let fault = Fault::status(code);
        let refused = lab.registry.inject(Match::path(&path).get(), When::Always, fault);
        let error = lab.convert(":nydus", &place(&lab, Place::Referrer)).await;
        assert!(
            matches!(error, Err(ConvertError::Read { .. })),
            "{code}: {error:?}"
        );
        assert!(lab.registry.fired(refused) > 0);
        lab.registry.heal(refused);
        assert_eq!(lab.manifest(&tag), None, "{code}");
    }
    // Somebody's image has that tag.
    let other = json!({ "schemaVersion": 2, "layers": [] });
    let bytes = other.to_string().into_bytes();
    lab.registry.add_manifest(REPOSITORY, Some(&tag), MANIFEST, bytes);
    let error = lab.convert(":nydus", &place(&lab, Place::Referrer)).await;
    assert!(error.unwrap_err().to_string().contains("something else"));
    assert_eq!(lab.manifest(&tag), Some(other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_lists_referrers_needs_no_tag() {
    let lab = lab(1000).await;
    let (digest, tag) = subject(&lab);
    lab.convert(":nydus", &place(&lab, Place::Referrer))
        .await
        .unwrap();
    assert_eq!(lab.manifest(&tag), None);
    assert_eq!(
        lab.manifest("nydus").unwrap().pointer("/subject/digest"),
        Some(&json!(digest))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_keeps_what_was_made_for_other_machines() {
    let lab = lab(1000).await;
    let other = if architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let images = [(architecture(), 2), (other, 3)].map(|(machine, seed)| {
        let digest = add_image_for(&lab.registry, "part", machine, &[layer(seed, 1000)]);
        let size = lab.registry.manifest(REPOSITORY, &digest).unwrap().len();
        let platform = json!({ "os": "linux", "architecture": machine });
        json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform, "odd": machine })
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": images, "annotations": { "of": "the original" },
    });
    let bytes = index.to_string().into_bytes();
    lab.registry.add_manifest(REPOSITORY, Some("1"), INDEX, bytes);
    let mut made = Vec::new();
    for machine in [architecture(), other, architecture()] {
        let options = Options {
            platform: machine.parse::<Platform>().unwrap(),
            ..place(&lab, Place::Index)
        };
        made.push(lab.convert(":both", &options).await.unwrap());
    }
    let both = lab.manifest("both").unwrap();
    assert_eq!(both["annotations"], index["annotations"]);
    let digests: Vec<_> = both["manifests"].as_array().unwrap().iter().collect();
    assert_eq!(digests.len(), 4, "{both}");
    assert_eq!([digests[0], digests[1]], [&images[0], &images[1]]);
    let new: Vec<_> = made.iter().map(|done| json!(done.manifest.to_string())).collect();
    assert_eq!([&digests[2]["digest"], &digests[3]["digest"]], [&new[1], &new[0]]);
    assert_eq!(made[2].pushed, 0, "it is found again in the index");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_fetched_once_for_reading_and_once_for_pushing() {
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<_> = (0..6).map(|seed| layer(seed, 1000)).collect();
    let lab = Lab::with(dir, PathBuf::new(), &layers).await;
    lab.protect(origin::Access::Bearer { public: false });
    let error = lab.direct(":nydus", &lab.options(), None).await.unwrap_err();
    assert!(error.to_string().contains("--docker-config"), "{error}");
    lab.registry.reset_counters();
    let done = lab.direct(":nydus", &lab.options(), login()).await.unwrap();
    assert!(done.pushed > 0);
    let tokens = |seen: &RequestRecord| seen.path == "/token";
    assert_eq!(lab.registry.count(tokens), 2);
    // Nothing but the realm sees the password.
    let basic = |seen: &RequestRecord| {
        seen.authorization()
            .is_some_and(|shown| shown.starts_with("Basic"))
    };
    assert_eq!(lab.registry.count(basic), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_goes_to_a_realm_in_the_clear() {
    let thief = Origin::new();
    let elsewhere = thief.spawn_on_loopback().await.unwrap();
    let realm = format!("{}/token", elsewhere.url());

    // A registry that is spoken to in the clear names somebody else.
    let lab = lab(1000).await;
    lab.protect(origin::Access::Bearer { public: false });
    lab.registry.set_realm(&realm);
    let error = lab.direct(":nydus", &lab.options(), login()).await.unwrap_err();
    assert!(error.to_string().contains("not https"), "{error}");

    // One with TLS does, also where there is no login.
    let registry = Origin::new();
    add_image(&registry, "1", &[layer(1, 1000)]);
    registry.set_access(REPOSITORY, origin::Access::Bearer { public: true });
    let running = registry.spawn_on_loopback_tls(TlsMode::Valid).await.unwrap();
    let host = format!("localhost:{}", running.addr.port());
    let name = format!("{host}/{REPOSITORY}:1").parse().unwrap();
    let read = async |login| {
        let access = Access {
            plain: false,
            authority: running.ca_pem.clone().map(String::into_bytes),
            login,
        };
        let source = Source::Registry(Registry::new(&name, access).unwrap());
        lab.convert_with(source, ":tls", &lab.options(), self::login())
            .await
    };
    registry.set_realm(&realm);
    for login in [None, login()] {
        let error = read(login).await.unwrap_err().to_string();
        assert!(error.contains("not https"), "{error}");
    }
    assert_eq!(thief.requests_total(), 0);
    // It is the realm that is at fault.
    lab.registry
        .set_realm(&format!("http://{}/token", lab.name(":1").registry));
    registry.set_realm(&format!("https://{host}/token"));
    read(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_leaves_the_registry_once_whether_it_knows_ranges_or_not() {
    let lab = lab(LENGTH).await;
    let digest = digest_of(&lab, "/layers/0/digest");
    let size = lab.registry.blob(REPOSITORY, &digest).unwrap().len();
    lab.registry
        .inject(Match::digest(&digest), When::Always, Fault::IgnoreRange);
    lab.registry.reset_counters();
    lab.direct(":nydus", &lab.options(), None).await.unwrap();
    assert_eq!(lab.registry.bytes_sent_for(&digest), size);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_breaks_off_is_gone_on_with() {
    for ranges in [true, false] {
        let lab = lab(LENGTH).await;
        let digest = digest_of(&lab, "/layers/0/digest");
        let size = lab.registry.blob(REPOSITORY, &digest).unwrap().len();
        let cut = Fault::Cut {
            at: size / 2,
            by: CutBy::Fin,
        };
        let cut = lab.registry.inject(Match::digest(&digest), When::First(1), cut);
        if !ranges {
            let fault = Fault::IgnoreRange;
            lab.registry.inject(Match::digest(&digest), When::Always, fault);
        }
        lab.registry.reset_counters();
        lab.direct(":nydus", &lab.options(), None).await.unwrap();
        assert_eq!(lab.registry.fired(cut), 1);
        let sent = lab.registry.bytes_sent_for(&digest);
        let most = if ranges { size + (1 << 20) } else { 2 * size };
        assert!(sent > size / 2 && sent <= most, "{sent} of {size}");
        // One that never gets further is given up.
        let cut = Fault::Cut {
            at: 1000,
            by: CutBy::Fin,
        };
        lab.registry.inject(Match::digest(&digest), When::Always, cut);
        let otherwise = Options {
            chunk_bytes: 1 << 16,
            ..lab.options()
        };
        let error = lab.direct(":nydus", &otherwise, None).await.unwrap_err();
        assert!(matches!(error, ConvertError::Read { .. }), "{error}");
    }
}

/// Storage that a registry leads to may want to know who asks: it is not told, and what it says is not repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_goes_to_where_storage_wants_it() {
    let lab = lab(1000).await;
    let thief = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    thief.set_nonblocking(true).unwrap();
    let realm = format!("https://{}/token", thief.local_addr().unwrap());
    let refusal = format!(
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"{realm}\"\r\ncontent-length: 13\r\n\
         connection: close\r\n\r\nsignature=abc"
    );
    let storage = Origin::new();
    let running = storage.spawn_on_loopback().await.unwrap();
    let asked = storage.inject(
        Match::path("/elsewhere"),
        When::Always,
        Fault::Raw(refusal.into_bytes().into()),
    );
    let there = RedirectTo::Exactly(format!("http://{}/elsewhere", running.host()));
    let layer = digest_of(&lab, "/layers/0/digest");
    lab.registry
        .inject(Match::digest(&layer).get(), When::Always, Fault::Redirect(there));
    let error = lab.direct(":nydus", &lab.options(), login()).await.unwrap_err();
    let said = error.to_string();
    assert!(storage.fired(asked) > 0);
    assert!(said.contains("401") && !said.contains("signature"), "{said}");
    let connected = thief.accept().map_err(|error| error.kind());
    assert_eq!(connected.unwrap_err(), std::io::ErrorKind::WouldBlock);
}
