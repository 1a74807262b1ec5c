//! Ordinary images that are converted: what is mounted afterwards is what their layers hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use darter_nydus_bridge::blob::{BlobSource, Client, Mirror, Patience};
use darter_nydus_bridge::convert::{
    Access, Compressor, ConvertError, Converted, Options, Place, Platform, Progress, Registry, Source, Stage,
    convert,
};
use darter_nydus_bridge::image::{self, ImageName, RafsVersion};
use darter_nydus_bridge::mount::Driver;
use darter_service::supervise::Tasks;
use darter_testkit::origin::{self, Origin, RequestRecord, RunningOrigin};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::Built;
use crate::snapshot::Seen;
use crate::{mounted, snapshot, tree};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const REPOSITORY: &str = "team/app";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Some moment, for everything that is made here.
fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

fn put(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    File::open(&path).unwrap().set_modified(moment()).unwrap();
}

/// Directories that both layers have, or the upper one alone.
fn settle(root: &Path) {
    for name in ["files", "small", "new"] {
        File::open(root.join(name))
            .unwrap()
            .set_modified(moment())
            .unwrap();
    }
}

/// What the upper layer changes, as the tree itself shows it or as a layer tells it.
fn change(root: &Path, as_layer: bool) {
    put(root, "files/words", "other words");
    put(root, "small/only.txt", "alone");
    put(root, "new/deep/file", "new");
    if as_layer {
        put(root, "files/.wh.zeros", "");
        put(root, "small/.wh..wh..opq", "");
    } else {
        fs::remove_file(root.join("files/zeros")).unwrap();
        for entry in fs::read_dir(root.join("small")).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("only.txt") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    File::open(root.join("new/deep"))
        .unwrap()
        .set_modified(moment())
        .unwrap();
    settle(root);
}

/// The bytes of a tree as an archive.
fn archive(tree: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--format=pax",
        "--warning=none",
        "--xattrs",
        "--xattrs-include=*",
    ]);
    let output = tar.arg("--directory").arg(tree).arg(".").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) struct Lab {
    pub(crate) registry: Origin,
    running: RunningOrigin,
    tasks: Tasks,
    work: TempDir,
    /// What the image is.
    pub(crate) expected: PathBuf,
    dir: TempDir,
}

impl Lab {
    /// A registry with the image `team/app:1`: two layers, packed by `pack`.
    pub(crate) async fn start(pack: fn(&[u8]) -> Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (base, upper) = (dir.path().join("base"), dir.path().join("upper"));
        tree::make(&base);
        fs::create_dir(&upper).unwrap();
        change(&upper, true);
        let layers = [&base, &upper].map(|tree| pack(&archive(tree)));
        change(&base, false);
        Self::with(dir, base, &layers).await
    }

    /// A registry with the image `team/app:1` of these layers, which make the tree `expected` in `dir`.
    pub(crate) async fn with(dir: TempDir, expected: PathBuf, layers: &[Vec<u8>]) -> Self {
        let registry = Origin::new();
        registry.take_pushes();
        add_image(&registry, "1", layers);
        let running = registry.spawn_on_loopback().await.unwrap();
        Self {
            registry,
            running,
            tasks: Tasks::new(),
            work: tempfile::tempdir().unwrap(),
            expected,
            dir,
        }
    }

    pub(crate) fn name(&self, reference: &str) -> ImageName {
        let host = self.running.host();
        format!("{host}/team/app{reference}").parse().unwrap()
    }

    /// From now on only `someone` comes in, whose password is `secret`.
    pub(crate) fn protect(&self, access: origin::Access) {
        self.registry.add_user("someone", "secret");
        self.registry.allow(REPOSITORY, "someone");
        self.registry.set_access(REPOSITORY, access);
    }

    /// A manifest that the registry has.
    pub(crate) fn manifest(&self, reference: &str) -> Option<Value> {
        let bytes = self.registry.manifest(REPOSITORY, reference)?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// How many blobs were pushed since this was asked.
    fn take_pushes(&self) -> usize {
        let uploads = |seen: &RequestRecord| seen.method == "PUT" && seen.path.contains("/uploads/");
        let pushed = self.registry.count(uploads);
        self.registry.reset_counters();
        pushed
    }

    fn mirror(&self) -> Mirror {
        let client = Client::new(
            self.running.host().parse().unwrap(),
            Patience::default(),
            self.tasks.clone(),
        );
        let name = self.name(":1");
        Mirror::new(Arc::new(client), name.registry, name.repository)
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            version: RafsVersion::V6,
            compressor: Compressor::Zstd,
            chunk_bytes: 1 << 20,
            refer: false,
            place: Place::Alone,
            platform: Platform::here(),
            folder: self.work.path().to_owned(),
        }
    }

    pub(crate) async fn convert(&self, to: &str, options: &Options) -> Result<Converted, ConvertError> {
        self.convert_with(Source::Mirror(self.mirror()), to, options, None)
            .await
    }

    /// Reads and pushes with this login, past the mirror.
    pub(crate) async fn direct(
        &self,
        to: &str,
        options: &Options,
        login: Option<(String, String)>,
    ) -> Result<Converted, ConvertError> {
        let access = Access {
            plain: true,
            login: login.clone(),
            ..Access::default()
        };
        let source = Source::Registry(Registry::new(&self.name(":1"), access).unwrap());
        self.convert_with(source, to, options, login).await
    }

    pub(crate) async fn convert_with(
        &self,
        source: Source,
        to: &str,
        options: &Options,
        login: Option<(String, String)>,
    ) -> Result<Converted, ConvertError> {
        let to = self.name(to);
        let access = Access {
            plain: true,
            login,
            ..Access::default()
        };
        let registry = Registry::new(&to, access)?;
        let progress = Arc::new(Progress::default());
        let from = self.name(":1");
        let done = convert(
            (&from, &source),
            (&to, &registry),
            options,
            &progress,
            &self.tasks,
        )
        .await;
        assert_eq!(
            fs::read_dir(self.work.path()).unwrap().count(),
            0,
            "nothing is left on disk"
        );
        if let Ok(done) = &done {
            let stages: Vec<_> = progress.layers().iter().map(|layer| layer.look().0).collect();
            let expected = match done.pushed {
                0 => Stage::Waiting,
                _ => Stage::Done,
            };
            assert_eq!(stages, vec![expected; stages.len()]);
        }
        done
    }

    /// Compares an image of the registry with what it should be.
    async fn compare(&self, reference: &str) {
        let found = self.seen(reference).await;
        let mut expected = snapshot::of(&self.expected);
        snapshot::as_an_archive(&mut expected);
        snapshot::assert_same(&found, &expected);
    }

    /// What a mounted image of the registry shows, without the times of what is no file.
    pub(crate) async fn mounted(&self, reference: &str) -> BTreeMap<PathBuf, Seen> {
        let mut found = self.seen(reference).await;
        found.values_mut().for_each(Seen::keep_times_of_files);
        found
    }

    /// Mounts an image of the registry and looks at it.
    async fn seen(&self, reference: &str) -> BTreeMap<PathBuf, Seen> {
        let built = Built::empty();
        let client = Client::new(
            self.running.host().parse().unwrap(),
            Patience::default(),
            self.tasks.clone(),
        );
        let name = self.name(reference);
        let resolved = image::resolve(&name, Arc::new(client), &built.cache(), &self.tasks)
            .await
            .unwrap();
        let built = built.with(resolved.bootstrap.path());
        let mirror = Arc::new(resolved.mirror) as Arc<dyn BlobSource>;
        mounted::mounted(&built, Driver::Fuse, |_| mirror, snapshot::of).await
    }
}

/// Puts an ordinary image there; its manifest's digest.
pub(crate) fn add_image(registry: &Origin, tag: &str, layers: &[Vec<u8>]) -> String {
    add_image_for(registry, tag, architecture(), layers)
}

/// The same for machines of this kind.
pub(crate) fn add_image_for(registry: &Origin, tag: &str, architecture: &str, layers: &[Vec<u8>]) -> String {
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [] },
    })
    .to_string()
    .into_bytes();
    let content = |bytes: &Vec<u8>, kind: &str| {
        let digest = registry.add_blob(REPOSITORY, bytes.clone());
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": content(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers.iter().map(|bytes| content(bytes, layer)).collect::<Vec<_>>(),
    });
    registry.add_manifest(REPOSITORY, Some(tag), MANIFEST, manifest.to_string().into_bytes())
}

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_converted_image_shows_what_its_layers_hold() {
    let lab = Lab::start(gzip).await;
    let all = [
        (RafsVersion::V6, Compressor::Zstd, 1 << 20),
        (RafsVersion::V6, Compressor::Lz4, 256 << 10),
        (RafsVersion::V6, Compressor::None, 1 << 20),
        (RafsVersion::V5, Compressor::Zstd, 1 << 20),
    ];
    for (version, compressor, chunk_bytes) in all {
        eprintln!("{version:?} {compressor:?}");
        let options = Options {
            version,
            compressor,
            chunk_bytes,
            ..lab.options()
        };
        let done = lab.convert(":nydus", &options).await.unwrap();
        assert!(done.pushed > 0 && done.bytes > 1_000_000, "{done:?}");
        assert_eq!(done.manifest, done.target);
        lab.compare(":nydus").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_are_taken_however_they_are_packed() {
    for pack in [<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, |bytes| {
        zstd::stream::encode_all(bytes, 1).unwrap()
    }] {
        let lab = Lab::start(pack).await;
        lab.convert(":nydus", &lab.options()).await.unwrap();
        lab.compare(":nydus").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_refers_to_its_original_copies_nothing() {
    let lab = Lab::start(gzip).await;
    let options = Options {
        refer: true,
        ..lab.options()
    };
    let done = lab.convert(":nydus", &options).await.unwrap();
    assert!(done.pushed < 500_000, "an index and metadata: {done:?}");
    lab.compare(":nydus").await;
    let layers = lab.manifest("nydus").unwrap();
    let refers = layers.pointer("/layers/0/annotations/containerd.io~1snapshot~1nydus-ref");
    let original = lab.manifest("1").unwrap();
    assert_eq!(refers, original.pointer("/layers/0/digest"));

    let lab = Lab::start(<[u8]>::to_vec).await;
    let refused = lab.convert(":nydus", &options).await.unwrap_err().to_string();
    assert!(refused.contains("gzip"), "{refused}");
    assert!(lab.manifest("nydus").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_again_sends_nothing_and_is_the_same() {
    let lab = Lab::start(gzip).await;
    let first = lab.convert(":nydus", &lab.options()).await.unwrap();
    assert!(lab.take_pushes() > 0);
    let second = lab.convert(":nydus", &lab.options()).await.unwrap();
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(second.pushed, 0);
    assert_eq!(lab.take_pushes(), 0);
    let otherwise = Options {
        chunk_bytes: 512 << 10,
        ..lab.options()
    };
    let third = lab.convert(":nydus", &otherwise).await.unwrap();
    assert!(third.manifest != first.manifest && third.pushed > 0, "{third:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_found_from_the_original_as_a_referrer_or_in_an_index() {
    let lab = Lab::start(gzip).await;
    lab.registry.set_referrers_supported(false);
    let place = |place| Options {
        place,
        ..lab.options()
    };
    let done = lab.convert(":nydus", &place(Place::Referrer)).await.unwrap();
    lab.convert(":nydus", &place(Place::Referrer)).await.unwrap();
    let manifest = lab.manifest("nydus").unwrap();
    let subject = manifest
        .pointer("/subject/digest")
        .and_then(Value::as_str)
        .unwrap();
    let referrers = lab.manifest(&subject.replace(':', "-")).unwrap();
    let listed = referrers["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "once, however often it is made: {referrers}");
    assert_eq!(listed[0]["digest"], done.manifest.to_string());
    lab.compare(":nydus").await;

    let done = lab.convert(":both", &place(Place::Index)).await.unwrap();
    assert_ne!(done.manifest, done.target);
    lab.compare(":both").await;
    let index = lab.manifest("both").unwrap();
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["manifests"][0]["digest"], subject);
    let same = lab.convert(":both", &place(Place::Index)).await.unwrap();
    assert_eq!((same.target, same.pushed), (done.target, 0));

    // An index as the original: its ordinary image is converted, whatever else is in it.
    let from = lab.name(":both");
    let (to, progress) = (lab.name(":again"), Arc::new(Progress::default()));
    let access = Access {
        plain: true,
        ..Access::default()
    };
    let registry = Registry::new(&to, access).unwrap();
    let source = Source::Mirror(lab.mirror());
    let options = lab.options();
    let again = convert(
        (&from, &source),
        (&to, &registry),
        &options,
        &progress,
        &lab.tasks,
    )
    .await;
    assert!(again.unwrap().pushed > 0);
    lab.compare(":again").await;
    let nydus = convert(
        (&to, &source),
        (&from, &registry),
        &options,
        &progress,
        &lab.tasks,
    )
    .await;
    assert!(nydus.unwrap_err().to_string().contains("already"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_image_is_read_and_pushed_with_a_login() {
    let lab = Lab::start(gzip).await;
    lab.protect(origin::Access::Basic);
    let refused = lab.convert(":nydus", &lab.options()).await.unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    let login = Some(("someone".to_owned(), "secret".to_owned()));
    let direct = |login| {
        let access = Access {
            plain: true,
            login,
            ..Access::default()
        };
        Source::Registry(Registry::new(&lab.name(":1"), access).unwrap())
    };
    let options = lab.options();
    let source = direct(login.clone());
    let error = lab
        .convert_with(source, ":nydus", &options, None)
        .await
        .unwrap_err();
    assert!(matches!(error, ConvertError::Read { .. }), "{error}");
    assert!(error.to_string().contains("--docker-config"), "{error}");
    let wrong = Some(("someone".to_owned(), "canary".to_owned()));
    let error = lab
        .convert_with(direct(wrong), ":nydus", &options, login.clone())
        .await
        .unwrap_err();
    assert!(!error.to_string().contains("canary"), "{error}");
    let done = lab
        .convert_with(direct(login.clone()), ":nydus", &options, login)
        .await
        .unwrap();
    assert!(done.pushed > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_another_one_is_not_converted() {
    let lab = Lab::start(gzip).await;
    let manifest = lab.manifest("1").unwrap();
    let layer = manifest.pointer("/layers/0/digest").and_then(Value::as_str);
    let layer = layer.unwrap();
    let content = lab.registry.blob(REPOSITORY, layer).unwrap();
    let mut bytes = content.read(0..content.len()).to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    lab.registry.add_blob_as(REPOSITORY, layer, bytes);
    let error = lab.convert(":nydus", &lab.options()).await.unwrap_err();
    assert!(matches!(error, ConvertError::Digest { .. }), "{error}");
    assert!(lab.manifest("nydus").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_layer_is_told() {
    let lab = Lab::start(gzip).await;
    let mut layers = vec![gzip(
        b"no archive, but long enough to look into it"
            .repeat(50)
            .as_slice(),
    )];
    layers.push(gzip(&archive(lab.dir.path().join("upper").as_path())));
    add_image(&lab.registry, "1", &layers);
    let error = lab.convert(":nydus", &lab.options()).await.unwrap_err();
    assert!(matches!(error, ConvertError::Layer { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_refused_before_anything_is_read() {
    let lab = Lab::start(gzip).await;
    let options = lab.options();
    let same = lab.convert(":1", &options).await.unwrap_err();
    assert!(matches!(same, ConvertError::SameName), "{same}");
    for chunk_bytes in [0, 1000, 1 << 30] {
        let odd = Options {
            chunk_bytes,
            ..options.clone()
        };
        let error = lab.convert(":nydus", &odd).await.unwrap_err();
        assert!(matches!(error, ConvertError::ChunkSize(_)), "{error}");
    }
    let old = Options {
        refer: true,
        version: RafsVersion::V5,
        ..options.clone()
    };
    let error = lab.convert(":nydus", &old).await.unwrap_err();
    assert!(matches!(error, ConvertError::ReferV5), "{error}");
    let elsewhere = Options {
        place: Place::Index,
        ..options
    };
    let error = lab.convert("/elsewhere:nydus", &elsewhere).await.unwrap_err();
    assert!(matches!(error, ConvertError::OtherRepository), "{error}");
}
