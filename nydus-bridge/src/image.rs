//! What an image's name stands for: its Nydus layers, and its metadata as a file.
//!
//! [`resolve`] asks the mirror for the manifest, recognises the layers ([`NydusImage`]), and fetches and unpacks the layer
//! that holds the bootstrap. The blobs themselves are not touched.

mod bootstrap;
mod manifest;
mod name;

use std::path::Path;
use std::sync::Arc;

use darter_service::supervise::Tasks;
use darter_types::{Digest, ManifestReference};
use thiserror::Error;

use crate::blob::{BlobError, Client, Mirror};

pub use bootstrap::{Bootstrap, BootstrapError};
pub use manifest::{Descriptor, Document, ManifestError, NydusImage, RafsVersion};
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
    Ok(Resolved { bootstrap, mirror })
}

/// The Nydus image behind a reference, through indices if need be.
async fn find(mut reference: ManifestReference, mirror: &Mirror) -> Result<NydusImage, ImageError> {
    for _ in 0..=INDICES_MAX {
        let bytes = mirror.manifest(&reference).await?;
        if let ManifestReference::Digest(wanted) = reference {
            let found = Digest::of(wanted.algorithm(), &bytes);
            if found != wanted {
                return Err(ImageError::OtherManifest { wanted, found });
            }
        }
        match Document::parse(&bytes)? {
            Document::Image(layers) => return Ok(NydusImage::recognise(&layers)?),
            Document::Index(manifests) => {
                reference = ManifestReference::Digest(manifest::choose(&manifests, &architecture())?);
            }
        }
    }
    Err(ManifestError::Nested.into())
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
