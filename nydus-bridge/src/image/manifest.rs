//! Which layers of a manifest are Nydus's: by the annotations and media types that its converters write. Pure.

use std::collections::BTreeMap;

use darter_types::Digest;
use serde::Deserialize;
use thiserror::Error;

/// Most layers, or manifests of an index, that are looked at.
const ENTRIES_MAX: usize = 4096;

pub(crate) const NYDUS_BLOB: &str = "containerd.io/snapshot/nydus-blob";
pub(crate) const NYDUS_BOOTSTRAP: &str = "containerd.io/snapshot/nydus-bootstrap";
pub(crate) const NYDUS_VERSION: &str = "containerd.io/snapshot/nydus-fs-version";
const NYDUS_ENCRYPTED: &str = "containerd.io/snapshot/nydus-encrypted-blob";
const NYDUS_TARFS: &str = "containerd.io/snapshot/nydus-tarfs";
pub(crate) const NYDUS_BLOB_TYPE: &str = "application/vnd.oci.image.layer.nydus.blob.v1";
/// In an index, either of these marks the Nydus variant of a platform.
pub(crate) const NYDUS_FEATURE: &str = "nydus.remoteimage.v1";
pub(crate) const NYDUS_ARTIFACT: &str = "application/vnd.nydus.image.manifest.v1+json";

/// Why a manifest cannot be mounted.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is no JSON, or not in the form of a manifest.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It can be read as an image and as an index, or as neither.
    #[error("the manifest is neither an image nor an index")]
    Form,
    /// It names more than is looked at.
    #[error("the manifest has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// It is an ordinary image.
    #[error("this is not a Nydus image: its last layer is no Nydus bootstrap; convert it first")]
    NotNydus,
    /// It is a Nydus image of a kind that is not supported.
    #[error("the image has {0} layers, which cannot be mounted")]
    Unsupported(&'static str),
    /// A digest is none.
    #[error("the manifest names {0:?}, which is no digest")]
    Digest(String),
    /// An index has nothing for this machine.
    #[error("the image has no variant for linux/{0}")]
    Platform(String),
    /// Indices point at indices.
    #[error("the image's indices are nested too deeply")]
    Nested,
}

/// A content as a manifest names it. What is not needed is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest, as text.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// Anything else.
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact a manifest is.
    pub artifact_type: String,
    /// Which machines a manifest is for.
    pub platform: Platform,
}

/// Which machines a manifest is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Platform {
    /// `linux`, for everything that can be mounted.
    pub os: String,
    /// As Go names it.
    pub architecture: String,
    /// What the runtime must be able to do.
    #[serde(rename = "os.features")]
    pub features: Vec<String>,
}

/// A manifest, by its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// The layers of an image, lowest first.
    Image(Vec<Descriptor>),
    /// The manifests of an index.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
struct Raw {
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// # Errors
    /// It is neither, or too long.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        let (document, entries) = match (raw.layers, raw.manifests) {
            (Some(layers), None) => (Self::Image as fn(_) -> _, layers),
            (None, Some(manifests)) => (Self::Index as fn(_) -> _, manifests),
            _ => return Err(ManifestError::Form),
        };
        if entries.len() > ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        Ok(document(entries))
    }
}

/// The version of the file system's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RafsVersion {
    /// Nydus's own format.
    V5,
    /// The kernel's EROFS.
    V6,
}

/// A Nydus image as its manifest shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NydusImage {
    /// The layer with the metadata.
    pub bootstrap: Content,
    /// The version that the manifest tells; the bootstrap itself decides.
    pub version: Option<RafsVersion>,
    /// The layers with data. A bootstrap may name others of the same repository.
    pub blobs: Vec<Content>,
}

/// A content: its digest and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl NydusImage {
    /// Recognises the layers of an image.
    ///
    /// # Errors
    /// It is not a Nydus image, or one of a kind that cannot be mounted.
    pub fn recognise(layers: &[Descriptor]) -> Result<Self, ManifestError> {
        let (last, below) = layers.split_last().ok_or(ManifestError::NotNydus)?;
        if !last.is_bootstrap() {
            return Err(ManifestError::NotNydus);
        }
        for layer in layers {
            if layer.annotations.contains_key(NYDUS_ENCRYPTED) {
                return Err(ManifestError::Unsupported("encrypted"));
            }
            if layer.annotations.contains_key(NYDUS_TARFS) {
                return Err(ManifestError::Unsupported("tarfs"));
            }
        }
        let version = match last.annotations.get(NYDUS_VERSION).map(String::as_str) {
            Some("5") => Some(RafsVersion::V5),
            Some("6") => Some(RafsVersion::V6),
            _ => None,
        };
        let blobs = below.iter().filter(|layer| layer.is_blob());
        Ok(Self {
            bootstrap: last.content()?,
            version,
            blobs: blobs.map(Descriptor::content).collect::<Result<_, _>>()?,
        })
    }
}

impl Descriptor {
    fn says(&self, annotation: &str) -> bool {
        self.annotations
            .get(annotation)
            .is_some_and(|value| value == "true")
    }

    fn is_bootstrap(&self) -> bool {
        self.says(NYDUS_BOOTSTRAP)
    }

    fn is_blob(&self) -> bool {
        self.says(NYDUS_BLOB) || self.media_type == NYDUS_BLOB_TYPE
    }

    pub(crate) fn is_nydus_variant(&self) -> bool {
        self.artifact_type == NYDUS_ARTIFACT
            || self
                .platform
                .features
                .iter()
                .any(|feature| feature == NYDUS_FEATURE)
    }

    fn content(&self) -> Result<Content, ManifestError> {
        let digest = self.digest.parse();
        Ok(Content {
            digest: digest
                .map_err(|_| ManifestError::Digest(self.digest.chars().take(128).collect::<String>()))?,
            size: self.size,
        })
    }
}

/// The manifest of an index to go on with: of this machine's architecture, the Nydus variant if there is one.
pub(super) fn choose(manifests: &[Descriptor], architecture: &str) -> Result<Digest, ManifestError> {
    let fits = |manifest: &&Descriptor| {
        manifest.platform.os == "linux" && manifest.platform.architecture == architecture
    };
    let chosen = manifests
        .iter()
        .filter(fits)
        .max_by_key(|manifest| manifest.is_nydus_variant())
        .ok_or_else(|| ManifestError::Platform(architecture.to_owned()))?;
    Ok(chosen.content()?.digest)
}

#[cfg(test)]
mod tests;
