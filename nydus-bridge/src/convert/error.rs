//! Why an image cannot be converted.

use std::io;

use darter_types::Digest;
use thiserror::Error;

use crate::blob::{BlobError, WholeError};

/// Why an image cannot be converted.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The mirror does not give what is needed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The registry does not give what is read.
    #[error("{registry} does not give {what}: {reason}")]
    Read {
        /// The registry.
        registry: String,
        /// What was read.
        what: String,
        /// What it says.
        reason: String,
    },
    /// The manifest is none.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The manifest is not that of an image.
    #[error("the image cannot be converted: {0}")]
    Manifest(String),
    /// A content is another one than was asked for.
    #[error("what came for {wanted} has the digest {found}")]
    Digest {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// A local file fails.
    #[error("cannot keep what is converted on disk: {0}")]
    Io(#[from] io::Error),
    /// A layer holds what cannot be converted.
    #[error("layer {layer} cannot be converted: {reason}")]
    Layer {
        /// Which.
        layer: Digest,
        /// Why.
        reason: String,
    },
    /// The layers do not fit together.
    #[error("the layers cannot be merged: {0}")]
    Merge(String),
    /// The builder panicked over the layers.
    #[error("the layers cannot be merged: they break the builder")]
    MergePanicked,
    /// The registry does not take what is pushed.
    #[error("{registry} does not take {what}: {reason}")]
    Push {
        /// The registry.
        registry: String,
        /// What was pushed.
        what: String,
        /// What it says.
        reason: String,
    },
    /// The registry's client cannot be made.
    #[error("cannot speak to {registry}: {reason}")]
    Registry {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The chunk size is none.
    #[error("a chunk has 4 KiB to 16 MiB, as a power of two; not {0} bytes")]
    ChunkSize(u32),
    /// Version 5 knows no references.
    #[error("layers can be referred to in version 6 alone")]
    ReferV5,
    /// What is found from the original must be beside it.
    #[error(
        "a referrer, an index and an image that refers to the original's layers must be in the original's repository"
    )]
    OtherRepository,
    /// The target would take the original's name away.
    #[error("the target has the original's name: choose another tag, or an index")]
    SameName,
}

impl From<WholeError> for ConvertError {
    fn from(error: WholeError) -> Self {
        match error {
            WholeError::Blob(error) => Self::Blob(error),
            WholeError::Io(error) => Self::Io(error),
            WholeError::Digest { wanted, found } => Self::Digest { wanted, found },
        }
    }
}
