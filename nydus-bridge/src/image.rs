//! What an image's name stands for: its Nydus layers, and its metadata as a file.
//!
//! [`resolve`] asks the mirror for the manifest, recognises the layers ([`NydusImage`]), or looks for a Nydus image that
//! refers to the one that was named, and fetches and unpacks the layer that holds the bootstrap. The blobs themselves are not touched.

mod bootstrap;
mod manifest;
mod name;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use darter_service::supervise::Tasks;
use darter_types::{Algorithm, Digest, ManifestReference};
use thiserror::Error;

use crate::blob::{BlobError, Client, Mirror};

pub(crate) use bootstrap::BOOTSTRAP_NAMES;
pub use bootstrap::{Bootstrap, BootstrapError};
pub use manifest::{Descriptor, Document, ManifestError, NydusImage, RafsVersion, fuzz_manifest};
pub(crate) use manifest::{
    NYDUS_ARTIFACT, NYDUS_BLOB, NYDUS_BLOB_TYPE, NYDUS_BOOTSTRAP, NYDUS_FEATURE, NYDUS_VERSION,
};
pub use name::{ImageName, ImageNameError};

/// Indices that may point at each other before the image: one for the platform, one for the Nydus variant.
const INDICES_MAX: usize = 2;

/// Why an image cannot be mounted.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The mirror does not give what is needed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The manifest is none, or not of an image that can be mounted.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The metadata cannot be had.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The mirror sent another manifest than was asked for.
    #[error("the mirror sent a manifest whose digest is {found} for {wanted}")]
    OtherManifest {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
}

/// An image that is ready to be mounted.
#[derive(Debug)]
pub struct Resolved {
    /// Its metadata, unpacked.
    pub bootstrap: Bootstrap,
    /// What the metadata are: the digest of the layer that holds them.
    pub key: Digest,
    /// Where its blobs are.
    pub mirror: Mirror,
}

/// Finds the image `name` through the mirror and unpacks its bootstrap into a file in `folder`.
///
/// # Errors
/// The mirror cannot be asked or refuses, the image is not a Nydus image, its metadata is damaged.
pub async fn resolve(
    name: &ImageName,
    client: Arc<Client>,
    folder: &Path,
    tasks: &Tasks,
) -> Result<Resolved, ImageError> {
    let mirror = Mirror::new(client, name.registry.clone(), name.repository.clone());
    let image = find(name.reference.clone(), &mirror).await?;
    let bootstrap = Bootstrap::fetch(&image.bootstrap, &mirror, folder, tasks).await?;
    Ok(Resolved {
        bootstrap,
        key: image.bootstrap.digest,
        mirror,
    })
}

/// The Nydus image behind a reference, through indices if need be, or the one that refers to an ordinary image.
async fn find(mut reference: ManifestReference, mirror: &Mirror) -> Result<NydusImage, ImageError> {
    for _ in 0..=INDICES_MAX {
        let bytes = fetch(&reference, mirror).await?;
        match Document::parse(&bytes)? {
            Document::Image(layers) => {
                return match NydusImage::recognise(&layers) {
                    Err(ManifestError::NotNydus) => referring(&bytes, &reference, mirror).await,
                    other => Ok(other?),
                };
            }
            Document::Index(manifests) => {
                reference = ManifestReference::Digest(manifest::choose(&manifests, &architecture())?);
            }
        }
    }
    Err(ManifestError::Nested.into())
}

async fn fetch(reference: &ManifestReference, mirror: &Mirror) -> Result<Bytes, ImageError> {
    let bytes = mirror.manifest(reference).await?;
    if let ManifestReference::Digest(wanted) = *reference {
        let found = Digest::of(wanted.algorithm(), &bytes);
        if found != wanted {
            return Err(ImageError::OtherManifest { wanted, found });
        }
    }
    Ok(bytes)
}

/// The Nydus image that says that it is another form of an ordinary one, whose manifest these bytes are.
async fn referring(
    bytes: &[u8],
    reference: &ManifestReference,
    mirror: &Mirror,
) -> Result<NydusImage, ImageError> {
    let subject = match reference {
        ManifestReference::Digest(digest) => *digest,
        ManifestReference::Tag(_) => Digest::of(Algorithm::Sha256, bytes),
    };
    let not_nydus = || Err(ManifestError::NotNydus.into());
    let listed = match mirror.referrers(&subject).await {
        Ok(Some(listed)) => listed,
        Ok(None) => return not_nydus(),
        // Many registries have no such list: then the image is what it seems.
        Err(error) => {
            tracing::debug!(%error, "nobody says what refers to the image");
            return not_nydus();
        }
    };
    let Ok(Document::Index(manifests)) = Document::parse(&listed) else {
        return not_nydus();
    };
    for candidate in manifest::referring(&manifests) {
        let bytes = fetch(&ManifestReference::Digest(candidate), mirror).await?;
        let layers = match Document::parse(&bytes) {
            Ok(Document::Image(layers)) if manifest::is_about(&bytes, &subject) => layers,
            _ => continue,
        };
        match NydusImage::recognise(&layers) {
            Err(ManifestError::NotNydus) => {}
            other => return Ok(other?),
        }
    }
    not_nydus()
}

/// This machine's architecture, as image indices write it.
pub(crate) fn architecture() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}
