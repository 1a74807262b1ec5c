//! Which layers of a manifest are Nydus's: by the annotations and media types that its converters write. Pure.

use std::collections::BTreeMap;

use darter_types::Digest;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

/// Most layers, or manifests of an index, that are looked at.
const ENTRIES_MAX: usize = 4096;

/// Most manifests that refer to an image which are looked at.
const REFERRERS_MAX: usize = 8;

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
    #[error(
        "this is not a Nydus image, and the registry knows of no Nydus form of it: `darter nydus convert` makes one"
    )]
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
    #[serde(deserialize_with = "or_nothing")]
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact a manifest is.
    #[serde(deserialize_with = "or_nothing")]
    pub artifact_type: String,
    /// Which machines a manifest is for.
    #[serde(deserialize_with = "or_nothing")]
    pub platform: Platform,
}

/// Some registries write `null` for what is not there.
fn or_nothing<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
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
    #[serde(rename = "os.features", deserialize_with = "or_nothing")]
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

/// The manifests among those that refer to an image which may be its Nydus form: those that say so first.
pub(super) fn referring(manifests: &[Descriptor]) -> Vec<Digest> {
    let mut candidates: Vec<&Descriptor> = manifests.iter().collect();
    candidates.sort_by_key(|candidate| !candidate.is_nydus_variant());
    let digests = candidates
        .into_iter()
        .filter_map(|candidate| candidate.digest.parse().ok());
    digests.take(REFERRERS_MAX).collect()
}

/// Whether a manifest says that it is about the image `subject`. What a registry lists is not proved by anything.
pub(super) fn is_about(manifest: &[u8], subject: &Digest) -> bool {
    #[derive(Deserialize)]
    struct About {
        subject: Descriptor,
    }
    let about = serde_json::from_slice::<About>(manifest);
    about.is_ok_and(|about| {
        about
            .subject
            .digest
            .parse()
            .is_ok_and(|digest: Digest| digest == *subject)
    })
}

/// Reads any bytes as a manifest: what is recognised is what the manifest names, within the bounds.
///
/// # Panics
/// If that does not hold.
pub fn fuzz_manifest(data: &[u8]) {
    let subject = Digest::of(darter_types::Algorithm::Sha256, b"");
    is_about(data, &subject);
    match Document::parse(data) {
        Ok(Document::Image(layers)) => {
            assert!(layers.len() <= ENTRIES_MAX, "{} layers", layers.len());
            let names = |digest: Digest| layers.iter().any(|layer| layer.digest == digest.to_string());
            if let Ok(image) = NydusImage::recognise(&layers) {
                assert!(
                    names(image.bootstrap.digest),
                    "{:?} is not in it",
                    image.bootstrap
                );
                assert!(image.blobs.len() < layers.len(), "more blobs than layers");
                assert!(
                    image.blobs.iter().all(|blob| names(blob.digest)),
                    "{:?}",
                    image.blobs
                );
            }
        }
        Ok(Document::Index(manifests)) => {
            assert!(manifests.len() <= ENTRIES_MAX, "{} manifests", manifests.len());
            let names = |digest: &Digest| manifests.iter().any(|one| one.digest == digest.to_string());
            let chosen = choose(&manifests, "amd64");
            assert!(
                chosen.is_err() || chosen.is_ok_and(|digest| names(&digest)),
                "it was not listed"
            );
            let referring = referring(&manifests);
            assert!(
                referring.len() <= REFERRERS_MAX && referring.iter().all(names),
                "{referring:?}"
            );
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
