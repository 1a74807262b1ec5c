//! What a Nydus image's manifest, configuration and index look like. Pure.

use darter_types::{Algorithm, Digest};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::error::ConvertError;
use super::original::{Original, Platform};
use crate::image::{self, Descriptor, Document, RafsVersion};

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

/// The list of what refers to something, with one more entry before all others; the rest stays as it is. None: it has that
/// entry.
pub(super) fn referrers(known: Option<&[u8]>, entry: Value) -> Result<Option<Vec<u8>>, ConvertError> {
    let mut list = match known {
        Some(known) => serde_json::from_slice(known)?,
        None => empty(),
    };
    let Some(manifests) = list.get_mut("manifests").and_then(Value::as_array_mut) else {
        let reason = "the tag that lists its referrers is something else: nothing was put there";
        return Err(ConvertError::Manifest(reason.to_owned()));
    };
    if manifests.iter().any(|other| digest(other) == digest(&entry)) {
        return Ok(None);
    }
    manifests.insert(0, entry);
    Ok(Some(list.to_string().into_bytes()))
}

fn empty() -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] })
}

fn digest(entry: &Value) -> Option<&str> {
    entry.get("digest")?.as_str()
}

/// The machines that an entry is for.
type Machine = (Option<Value>, Option<Value>, Value, Option<Value>);

/// None, where it says nothing of machines: an attestation, say.
fn machine(entry: &Value) -> Option<Machine> {
    let of = |name: &str| entry.get("platform")?.get(name).cloned();
    let known = of("architecture").is_some_and(|name| name != "unknown");
    let variant = of("variant").unwrap_or_else(|| "".into());
    known.then(|| (of("os"), of("architecture"), variant, of("os.version")))
}

fn is_nydus(entry: &Value) -> bool {
    Descriptor::deserialize(entry).is_ok_and(|entry| entry.is_nydus_variant())
}

/// What the name of an index stands for when the new image is in it: the index that has the name, if one has it, else the
/// one that the original was found in. In it the new image takes the place of an earlier one for the same machines. All else
/// stays, but for originals that are others by now: the new ones take their places, and what was made of them goes.
///
/// # Errors
/// What has the name cannot be read: it is not written over.
pub(super) fn index(
    known: Option<&[u8]>,
    original: &Original,
    entry: Value,
) -> Result<Vec<u8>, ConvertError> {
    let is_index = |value: &Value| value.get("manifests").is_some_and(Value::is_array);
    let known: Option<Value> = known.map(serde_json::from_slice).transpose().map_err(|error| {
        ConvertError::Manifest(format!("what has the index's name cannot be read: {error}"))
    })?;
    let known = known.filter(is_index);
    let mut index = known
        .or_else(|| original.index.clone().filter(is_index))
        .unwrap_or_else(empty);
    let found = original.index.as_ref().and_then(|index| index.get("manifests"));
    let found = found.and_then(Value::as_array).cloned();
    let originals = found.unwrap_or_else(|| vec![alone(original)]);
    if let Some(index) = index.as_object_mut() {
        index.insert("mediaType".to_owned(), INDEX.into());
    }
    if let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) {
        for original in originals {
            renew(manifests, original);
        }
        let (new, machine) = (digest(&entry).map(str::to_owned), machine(&entry));
        manifests.retain(|other| {
            let earlier = is_nydus(other) && self::machine(other) == machine;
            !earlier && digest(other) != new.as_deref()
        });
        manifests.push(entry);
    }
    Ok(index.to_string().into_bytes())
}

/// Puts one of the original's entries into an index, if it is not there.
fn renew(manifests: &mut Vec<Value>, original: Value) {
    if manifests.iter().any(|other| digest(other) == digest(&original)) {
        return;
    }
    let Some(machine) = machine(&original) else {
        manifests.push(original);
        return;
    };
    let same = |other: &Value| self::machine(other).as_ref() == Some(&machine);
    let nydus = is_nydus(&original);
    let place = manifests
        .iter()
        .position(|other| same(other) && is_nydus(other) == nydus);
    match place.and_then(|place| manifests.get_mut(place)) {
        // A Nydus image in the index is as new as the one that the original has.
        Some(_) if nydus => {}
        Some(other) => {
            *other = original;
            manifests.retain(|other| !(same(other) && is_nydus(other)));
        }
        None => manifests.push(original),
    }
}

/// What an index says of an original that was in none.
fn alone(original: &Original) -> Value {
    let mut alone = original.descriptor.clone();
    let mut platform = json!({ "os": "linux", "architecture": original.platform.architecture });
    if let (false, Some(of)) = (original.platform.variant.is_empty(), platform.as_object_mut()) {
        of.insert("variant".to_owned(), original.platform.variant.clone().into());
    }
    if let Some(alone) = alone.as_object_mut() {
        alone.insert("platform".to_owned(), platform);
    }
    alone
}

#[cfg(test)]
mod tests;
