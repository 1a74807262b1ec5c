//! Why a file system's question has no answer.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use darter_types::Digest;
use thiserror::Error;

use crate::blob::BlobError;

/// Why a file system's question has no answer. Cheap to clone: one chunk may have many readers.
#[derive(Clone, Debug, Error)]
pub enum FsError {
    /// There is nothing of that name or number.
    #[error("there is no such file")]
    NotFound,
    /// It is of another kind than the question needs.
    #[error("it is not a {0}")]
    NotA(&'static str),
    /// The bootstrap says what cannot be.
    #[error("the image's metadata is damaged: {0}")]
    Damaged(Arc<str>),
    /// The image needs something that is not there.
    #[error("images with {0} cannot be mounted")]
    Unsupported(&'static str),
    /// A blob's bytes cannot be had.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A chunk has other bytes than its digest says, and again when it was asked for anew.
    #[error("chunk {index} of blob {blob} has other bytes than the image says")]
    WrongBytes {
        /// The blob.
        blob: Digest,
        /// Number of the chunk in it.
        index: u32,
    },
    /// They did not come in time. They may for the next reader.
    #[error("the bytes did not come within {0:?}")]
    Slow(Duration),
    /// This machine fails.
    #[error("{0}")]
    Local(Arc<str>),
}

impl FsError {
    /// The bootstrap says what cannot be.
    pub(super) fn damaged(reason: impl Into<Arc<str>>) -> Self {
        Self::Damaged(reason.into())
    }

    /// This machine fails at something.
    pub(super) fn local(what: &str, error: &dyn std::fmt::Display) -> Self {
        Self::Local(format!("{what}: {error}").into())
    }
}

/// What reading a bootstrap ends with. Nydus's crates panic on some damaged ones, and use errors of several shapes.
pub(super) fn guarded<T>(read: impl FnOnce() -> io::Result<T>) -> Result<T, FsError> {
    // What is shared with later calls is behind locks that then refuse.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if is_not_found(&error) => Err(FsError::NotFound),
        Ok(Err(error)) => Err(FsError::damaged(error.to_string())),
        Err(panic) => Err(FsError::damaged(words(&*panic))),
    }
}

fn is_not_found(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENOENT)
}

/// What a panic said.
pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic of no words".to_owned())
}
