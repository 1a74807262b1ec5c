//! A whole image through a registry that speaks as the mirror does: manifest, bootstrap, blobs by ranges.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use darter_nydus_bridge::blob::{Client, Patience};
use darter_nydus_bridge::fs::{Limits, OpenImage, ROOT, Reading};
use darter_nydus_bridge::image::{self, ImageError, ImageName};
use darter_service::supervise::Tasks;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::fixture::{self, Built};

const REPOSITORY: &str = "team/app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Lab {
    origin: Origin,
    name: ImageName,
    client: Arc<Client>,
    built: Built,
    tasks: Tasks,
    _running: RunningOrigin,
}

async fn lab(tree: &Path) -> Lab {
    let built = fixture::build(tree, fixture::V6);
    let origin = Origin::new();
    let manifest = publish(&origin, &built);
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST,
            "digest": manifest,
            "size": 1,
            "platform": { "os": "linux", "architecture": architecture, "os.features": ["nydus.remoteimage.v1"] },
        }],
    });
    origin.add_manifest(REPOSITORY, Some("indexed"), INDEX, index.to_string());
    let running = origin.spawn_on_loopback().await.unwrap();
    let tasks = Tasks::new();
    let client = Client::new(
        running.host().parse().unwrap(),
        Patience::default(),
        tasks.clone(),
    );
    Lab {
        origin,
        name: "registry.example/team/app:indexed".parse().unwrap(),
        client: Arc::new(client),
        built,
        tasks,
        _running: running,
    }
}

/// Puts an image into a registry; its manifest's digest.
fn publish(origin: &Origin, built: &Built) -> String {
    let manifest = layers(origin, built);
    origin.add_manifest(REPOSITORY, Some("latest"), MANIFEST, manifest.to_string())
}

/// Puts the layers of an image into a registry; its manifest.
fn layers(origin: &Origin, built: &Built) -> Value {
    let bootstrap = std::fs::read(&built.bootstrap).unwrap();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(bootstrap.len() as u64);
    archive
        .append_data(&mut header, "image/image.boot", &*bootstrap)
        .unwrap();
    let mut encoder = archive.into_inner().unwrap();
    encoder.flush().unwrap();
    let layer = encoder.finish().unwrap();
    let mut layers = Vec::new();
    for blob in std::fs::read_dir(&built.blobs).unwrap() {
        let bytes = std::fs::read(blob.unwrap().path()).unwrap();
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.nydus.blob.v1",
            "size": bytes.len(),
            "digest": origin.add_blob(REPOSITORY, bytes),
            "annotations": { "containerd.io/snapshot/nydus-blob": "true" },
        }));
    }
    layers.push(json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "size": layer.len(),
        "digest": origin.add_blob(REPOSITORY, layer),
        "annotations": { "containerd.io/snapshot/nydus-bootstrap": "true" },
    }));
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": {}, "layers": layers })
}

impl Lab {
    async fn open(&self) -> Result<OpenImage, ImageError> {
        let cache = self.built.cache();
        let resolved = image::resolve(&self.name, Arc::clone(&self.client), &cache, &self.tasks).await?;
        let image = OpenImage::open(
            resolved.bootstrap.path(),
            Arc::new(resolved.mirror),
            &cache,
            Limits::default(),
            self.tasks.clone(),
        );
        Ok(image.unwrap())
    }
}

async fn read(image: &OpenImage, name: &str) -> Vec<u8> {
    let file = image.lookup(ROOT, Path::new(name).as_os_str()).unwrap();
    match image.read(file.ino, 0, file.size).unwrap() {
        Reading::Done(bytes) => bytes,
        Reading::Pending(pending) => pending.finish().await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_found_by_name_and_read_by_ranges() {
    let tree = tempfile::tempdir().unwrap();
    let content = darter_testkit::content::bytes_at(5, 0, 3_000_000);
    std::fs::write(tree.path().join("file"), &content).unwrap();
    let lab = lab(tree.path()).await;
    let image = lab.open().await.unwrap();
    let before = lab.origin.bytes_sent();
    assert!(read(&image, "file").await == content);
    assert!(lab.origin.bytes_sent() - before >= 3_000_000);
    let left = std::fs::read_dir(lab.built.cache()).unwrap().count();
    assert_eq!(left, 1, "the bootstrap has no name, and chunks are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_stumbles_and_lies_once_is_no_matter() {
    let tree = tempfile::tempdir().unwrap();
    let content = darter_testkit::content::bytes_at(6, 0, 3_000_000);
    std::fs::write(tree.path().join("file"), &content).unwrap();
    let lab = lab(tree.path()).await;
    lab.origin
        .inject(Match::any(), When::Every(3), Fault::status(503));
    let image = lab.open().await.unwrap();
    lab.origin
        .inject(Match::any(), When::First(1), Fault::WrongByte { at: 1000 });
    assert!(read(&image, "file").await == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_image_is_told_from_a_nydus_one() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), "content").unwrap();
    let mut lab = lab(tree.path()).await;
    let spec = darter_testkit::image::ImageSpec::new(1, &[1000]);
    darter_testkit::image::add_image(&lab.origin, REPOSITORY, Some("plain"), &spec);
    lab.name = "registry.example/team/app:plain".parse().unwrap();
    let error = lab.open().await.unwrap_err().to_string();
    assert!(error.contains("not a Nydus image"), "{error}");
    lab.name = "registry.example/team/app:missing".parse().unwrap();
    let error = lab.open().await.unwrap_err().to_string();
    assert!(error.contains("404"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_image_is_mounted_by_the_nydus_form_that_refers_to_it() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), "content").unwrap();
    // By the registry's list, and by the tag of those that have none.
    for listed in [true, false] {
        let mut lab = lab(tree.path()).await;
        lab.origin.set_referrers_supported(listed);
        let spec = darter_testkit::image::ImageSpec::new(1, &[1000]);
        let plain = darter_testkit::image::add_image(&lab.origin, REPOSITORY, Some("plain"), &spec);
        let plain = plain.manifest.digest;
        lab.name = "registry.example/team/app:plain".parse().unwrap();
        let mut manifest = layers(&lab.origin, &lab.built);
        let mut refer = |about: &str| {
            manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": about, "size": 1 });
            let referring = lab
                .origin
                .add_manifest(REPOSITORY, None, MANIFEST, manifest.to_string());
            let manifests = json!([{ "mediaType": MANIFEST, "digest": referring, "size": 1 }]);
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            let tag = plain.replace(':', "-");
            lab.origin
                .add_manifest(REPOSITORY, Some(&tag), INDEX, index.to_string());
        };
        // A tag that says so is not enough: the manifest itself must.
        refer(&format!("sha256:{}", "ab".repeat(32)));
        let error = lab.open().await.unwrap_err().to_string();
        assert!(error.contains("darter nydus convert"), "{error}");
        refer(&plain);
        let image = lab.open().await.unwrap();
        assert!(read(&image, "file").await == b"content");
    }
}
