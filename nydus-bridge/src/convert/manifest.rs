//! What a Nydus image's manifest, configuration and index look like. Pure.

use darter_types::{Algorithm, Digest};
use serde_json::{Map, Value, json};

use super::original::{Original, Platform};
use crate::image::{self, Document, RafsVersion};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const BOOTSTRAP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What containerd would find, were the layer unpacked.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On an index into a layer: the layer.
const REFERS: &str = "containerd.io/snapshot/nydus-ref";
const BLOB_DIGEST: &str = "containerd.io/snapshot/nydus-blob-digest";
const BLOB_SIZE: &str = "containerd.io/snapshot/nydus-blob-size";
/// On the manifest: what it was made of, and how.
const MADE_OF: &str = "dev.darter.nydus.made-of";
const MADE_BY: &str = "darter nydus convert";

/// A content: its digest and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Its digest.
    pub(super) digest: Digest,
    /// Its length in bytes.
    pub(super) size: u64,
}

impl Content {
    /// Of bytes that are at hand.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
        }
    }
}

/// A layer with data, or with an index into an ordinary layer.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) content: Content,
    /// The ordinary layer.
    pub(super) refers: Option<Digest>,
}

/// The layer with the metadata.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) bootstrap: Content,
    pub(super) diff_id: Digest,
    pub(super) version: RafsVersion,
}

/// The image's configuration: all that the original says, of other layers.
pub(super) fn config(
    original: &[u8],
    blobs: &[Blob],
    metadata: &Metadata,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut config: Map<String, Value> = serde_json::from_slice(original)?;
    let mut diff_ids: Vec<_> = blobs.iter().map(|blob| blob.content.digest.to_string()).collect();
    diff_ids.push(metadata.diff_id.to_string());
    let entry = |comment: String| json!({ "created_by": MADE_BY, "comment": comment });
    let mut history: Vec<_> = blobs
        .iter()
        .map(|blob| entry(format!("Nydus blob {}", blob.content.digest)))
        .collect();
    history.push(entry("Nydus bootstrap".to_owned()));
    config.insert(
        "rootfs".to_owned(),
        json!({ "type": "layers", "diff_ids": diff_ids }),
    );
    config.insert("history".to_owned(), history.into());
    serde_json::to_vec(&config)
}

/// Whether a manifest is that of an image that was made as the mark says.
pub(super) fn is_marked(manifest: &[u8], mark: &str) -> bool {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let said = manifest.get("annotations").and_then(|all| all.get(MADE_OF));
    said.and_then(Value::as_str) == Some(mark)
}

/// Digests of the Nydus images in an index; none, if it is no index.
pub(super) fn nydus_images(index: &[u8]) -> Vec<Digest> {
    let Ok(Document::Index(manifests)) = Document::parse(index) else {
        return Vec::new();
    };
    let nydus = manifests.iter().filter(|entry| entry.is_nydus_variant());
    nydus.filter_map(|entry| entry.digest.parse().ok()).collect()
}

/// How many bytes the layers of a manifest have.
pub(super) fn bytes(manifest: &[u8]) -> u64 {
    match Document::parse(manifest) {
        Ok(Document::Image(layers)) => layers.iter().map(|layer| layer.size).sum(),
        _ => 0,
    }
}

/// The image's manifest, with the mark of what it was made of. With a subject it refers to the original.
pub(super) fn manifest(
    config: Content,
    blobs: &[Blob],
    metadata: &Metadata,
    (mark, subject): (&str, Option<&Value>),
) -> Vec<u8> {
    let mut layers: Vec<_> = blobs.iter().map(layer).collect();
    let version = match metadata.version {
        RafsVersion::V5 => "5",
        RafsVersion::V6 => "6",
    };
    layers.push(json!({
        "mediaType": BOOTSTRAP,
        "digest": metadata.bootstrap.digest.to_string(),
        "size": metadata.bootstrap.size,
        "annotations": {
            image::NYDUS_BOOTSTRAP: "true",
            image::NYDUS_VERSION: version,
            UNCOMPRESSED: metadata.diff_id.to_string(),
        },
    }));
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": config.digest.to_string(), "size": config.size },
        "layers": layers,
        "annotations": { MADE_OF: mark },
    });
    if let (Some(subject), Some(manifest)) = (subject, manifest.as_object_mut()) {
        manifest.insert("artifactType".to_owned(), image::NYDUS_ARTIFACT.into());
        manifest.insert("subject".to_owned(), subject.clone());
    }
    // Keys are in order: equal images are equal bytes.
    manifest.to_string().into_bytes()
}

fn layer(blob: &Blob) -> Value {
    let digest = blob.content.digest.to_string();
    let mut annotations = json!({
        image::NYDUS_BLOB: "true",
        BLOB_DIGEST: digest,
        BLOB_SIZE: blob.content.size.to_string(),
        UNCOMPRESSED: digest,
    });
    if let (Some(refers), Some(annotations)) = (blob.refers, annotations.as_object_mut()) {
        annotations.insert(REFERS.to_owned(), refers.to_string().into());
    }
    json!({
        "mediaType": image::NYDUS_BLOB_TYPE,
        "digest": digest,
        "size": blob.content.size,
        "annotations": annotations,
    })
}

/// The new image in an index or among referrers.
pub(super) fn entry(manifest: Digest, length: usize, platform: &Platform) -> Value {
    let mut of = json!({
        "os": "linux",
        "architecture": platform.architecture,
        "os.features": [image::NYDUS_FEATURE],
    });
    if let (false, Some(of)) = (platform.variant.is_empty(), of.as_object_mut()) {
        of.insert("variant".to_owned(), platform.variant.clone().into());
    }
    json!({
        "mediaType": MANIFEST,
        "artifactType": image::NYDUS_ARTIFACT,
        "digest": manifest.to_string(),
        "size": length,
        "platform": of,
    })
}

/// The original's index, or one of the original alone, with the new image in it: in place of an earlier one.
pub(super) fn index(original: &Original, entry: Value) -> Vec<u8> {
    let listed = original
        .index
        .as_ref()
        .and_then(|index| index.get("manifests")?.as_array().cloned());
    let mut manifests = listed.unwrap_or_else(|| {
        let mut alone = original.descriptor.clone();
        let mut platform = json!({ "os": "linux", "architecture": original.platform.architecture });
        if let (false, Some(of)) = (original.platform.variant.is_empty(), platform.as_object_mut()) {
            of.insert("variant".to_owned(), original.platform.variant.clone().into());
        }
        if let Some(alone) = alone.as_object_mut() {
            alone.insert("platform".to_owned(), platform);
        }
        vec![alone]
    });
    let platform = |entry: &Value| {
        let of = |name: &str| entry.get("platform")?.get(name).cloned();
        (of("architecture"), of("variant"), of("os.features"))
    };
    manifests.retain(|other| platform(other) != platform(&entry));
    manifests.push(entry);
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests;
