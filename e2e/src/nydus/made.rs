//! Images made by the real `nydus-image`, in each of the forms that it has.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Nodes, REPOSITORY, tool};
use crate::command::{command, output, run};
use crate::image::sha256_of_file;

/// A form of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Version of the metadata.
    pub version: u8,
    /// As `nydus-image` calls it; `zran` for an index into an ordinary layer.
    pub compressor: &'static str,
}

impl Kind {
    /// All that the program makes.
    pub const ALL: [Self; 7] = [
        Self::of(5, "zstd"),
        Self::of(5, "lz4_block"),
        Self::of(5, "none"),
        Self::of(6, "zstd"),
        Self::of(6, "lz4_block"),
        Self::of(6, "none"),
        Self::of(6, "zran"),
    ];

    const fn of(version: u8, compressor: &'static str) -> Self {
        Self { version, compressor }
    }

    /// A tag for it.
    pub fn tag(self) -> String {
        format!("v{}-{}", self.version, self.compressor)
    }
}

impl Nodes {
    /// Makes an image of the folder `tree` and puts it into the registry, under the kind's tag.
    ///
    /// # Errors
    /// When a program fails.
    pub fn make(&self, tree: &Path, kind: Kind) -> Result<()> {
        let folder = self.folder().join(kind.tag());
        let blobs = folder.join("blobs");
        std::fs::create_dir_all(&blobs)?;
        let bootstrap = folder.join("image/image.boot");
        std::fs::create_dir_all(folder.join("image"))?;
        let mut create = std::process::Command::new(tool("nydus-image")?);
        create.args([
            "create",
            "--log-level",
            "warn",
            "--fs-version",
            &kind.version.to_string(),
        ]);
        create
            .arg("--bootstrap")
            .arg(&bootstrap)
            .arg("--blob-dir")
            .arg(&blobs);
        if kind.compressor == "zran" {
            let layer = folder.join("layer.tar.gz");
            let mut tar = command(["tar", "--create", "--gzip", "--file"]);
            run(tar.arg(&layer).arg("--directory").arg(tree).arg("."))?;
            run(create.args(["--type", "targz-ref"]).arg(&layer))?;
            let digest = sha256_of_file(&layer)?;
            let hex = digest.strip_prefix("sha256:").context("it begins so")?;
            std::fs::rename(&layer, blobs.join(hex))?;
        } else {
            run(create
                .args(["--type", "dir-rafs", "--compressor", kind.compressor])
                .arg(tree))?;
        }
        let layer = folder.join("bootstrap.tar.gz");
        let mut tar = command(["tar", "--create", "--gzip", "--file"]);
        run(tar.arg(&layer).arg("--directory").arg(&folder).arg("image"))?;
        let mut layers = Vec::new();
        for blob in std::fs::read_dir(&blobs)? {
            let blob = blob?.path();
            layers.push(self.pushed(
                &blob,
                "application/vnd.oci.image.layer.nydus.blob.v1",
                "nydus-blob",
            )?);
        }
        ensure!(!layers.is_empty(), "nydus-image made no blob");
        let kind_of_layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(self.pushed(&layer, kind_of_layer, "nydus-bootstrap")?);
        self.put_manifest(&folder, &kind.tag(), &layers)
    }

    /// Puts a file into the registry; its descriptor.
    fn pushed(&self, file: &Path, media_type: &str, mark: &str) -> Result<Value> {
        let digest = sha256_of_file(file)?;
        let uploads = format!("{}/v2/{REPOSITORY}/blobs/uploads/", self.writer.url());
        let mut curl = command(["curl", "--silent", "--show-error", "--fail", "--request", "POST"]);
        curl.args(["--output", "/dev/null", "--dump-header", "-"]);
        let head = output(curl.arg(uploads))?;
        let location = head
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .context("an upload has a location")?;
        let mut curl = command(["curl", "--silent", "--show-error", "--fail", "--upload-file"]);
        curl.arg(file)
            .args(["--header", "Content-Type: application/octet-stream"]);
        run(curl.arg(format!("{}&digest={digest}", location.trim())))?;
        Ok(json!({
            "mediaType": media_type,
            "digest": digest,
            "size": std::fs::metadata(file)?.len(),
            "annotations": { format!("containerd.io/snapshot/{mark}"): "true" },
        }))
    }

    fn put_manifest(&self, folder: &Path, tag: &str, layers: &[Value]) -> Result<()> {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let config = folder.join("config.json");
        std::fs::write(&config, "{}")?;
        let mut config = self.pushed(&config, "application/vnd.oci.image.config.v1+json", "none")?;
        if let Some(config) = config.as_object_mut() {
            config.remove("annotations");
        }
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let file: PathBuf = folder.join("manifest.json");
        std::fs::write(&file, manifest.to_string())?;
        let mut curl = command(["curl", "--silent", "--show-error", "--fail", "--upload-file"]);
        curl.arg(&file)
            .args(["--header", &format!("Content-Type: {kind}")]);
        run(curl.arg(format!("{}/v2/{REPOSITORY}/manifests/{tag}", self.writer.url())))
    }
}
