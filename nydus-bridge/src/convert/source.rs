//! Where the image that is converted is read: the node's mirror, or the registry itself. What comes is proved here.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use darter_types::{ByteRange, Digest, ManifestReference};

use super::error::ConvertError;
use super::original::Layer;
use super::progress::LayerProgress;
use super::registry::Registry;
use crate::blob::{self, BlobSource as _, Mirror};

/// Where an image is read.
#[derive(Debug)]
pub enum Source {
    /// The node's mirror.
    Mirror(Mirror),
    /// The registry itself.
    Registry(Registry),
}

impl Source {
    /// A manifest, which fits its digest where it was asked for by one.
    pub(super) async fn manifest(&self, reference: &ManifestReference) -> Result<Bytes, ConvertError> {
        let bytes = match self {
            Self::Mirror(mirror) => mirror.manifest(reference).await?,
            Self::Registry(registry) => registry.manifest(reference).await?,
        };
        if let ManifestReference::Digest(wanted) = reference {
            check(wanted, &bytes)?;
        }
        Ok(bytes)
    }

    /// A short blob, proved.
    pub(super) async fn bytes(&self, blob: &Digest, size: u64) -> Result<Bytes, ConvertError> {
        let bytes = match self {
            Self::Mirror(mirror) => mirror.read(blob, ByteRange::new(0, size)).await?,
            Self::Registry(registry) => registry.bytes(blob, size).await?,
        };
        check(blob, &bytes)?;
        Ok(bytes)
    }

    /// A layer in a file without a name, at its beginning, proved.
    pub(super) async fn fetch(
        &self,
        layer: &Layer,
        folder: &Path,
        told: &LayerProgress,
    ) -> Result<File, ConvertError> {
        match self {
            Self::Mirror(mirror) => {
                let came = |bytes| told.add(bytes);
                Ok(blob::fetch(&layer.digest, layer.size, mirror, folder, came).await?)
            }
            Self::Registry(registry) => registry.fetch(layer, folder, told).await,
        }
    }
}

/// Whether bytes are the content of that digest.
fn check(wanted: &Digest, bytes: &[u8]) -> Result<(), ConvertError> {
    let found = Digest::of(wanted.algorithm(), bytes);
    if found == *wanted {
        return Ok(());
    }
    Err(ConvertError::Digest {
        wanted: *wanted,
        found,
    })
}
