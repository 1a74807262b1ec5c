//! Where the image that is converted is read: the node's mirror, or the registry itself. What comes is proved here.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use darter_service::net::BoxFuture;
use darter_types::{ByteRange, Digest, ManifestReference};

use super::error::ConvertError;
use super::original::Layer;
use super::progress::LayerProgress;
use super::registry::Registry;
use crate::blob::{self, BlobError, BlobSource, Mirror};

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
}

impl BlobSource for Source {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        match self {
            Self::Mirror(mirror) => mirror.read(blob, range),
            Self::Registry(registry) => registry.read(blob, range),
        }
    }
}

/// Whether bytes are the content of that digest.
pub(super) fn check(wanted: &Digest, bytes: &[u8]) -> Result<(), ConvertError> {
    let found = Digest::of(wanted.algorithm(), bytes);
    if found == *wanted {
        return Ok(());
    }
    Err(ConvertError::Digest {
        wanted: *wanted,
        found,
    })
}

/// A layer in a file without a name, at its beginning, proved.
pub(super) async fn fetch(
    layer: &Layer,
    source: &dyn BlobSource,
    folder: &Path,
    told: &LayerProgress,
) -> Result<File, ConvertError> {
    let came = |bytes| told.add(bytes);
    Ok(blob::fetch(&layer.digest, layer.size, source, folder, came).await?)
}
