//! Why there is no mount, or still one: what a person can act on.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no mount, or still one.
#[derive(Debug, Error)]
pub enum MountError {
    /// The directory is in use.
    #[error("something is mounted at {0} already; unmount it first")]
    Taken(PathBuf),
    /// There is nothing of ours.
    #[error("no image is mounted at {0}")]
    NotMounted(PathBuf),
    /// Processes use it.
    #[error("{0} is in use by a process; end that first, or unmount with --lazy")]
    Busy(PathBuf),
    /// The image, or the kernel, is not of the kind.
    #[error("it cannot be mounted by the kernel's EROFS: {0}; --driver fuse can")]
    NoErofs(&'static str),
    /// The system refuses.
    #[error("cannot {what} {path}: {error}")]
    System {
        /// What it refuses.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

pub(super) fn system(what: &'static str, path: &Path, error: io::Error) -> MountError {
    MountError::System {
        what,
        path: path.to_owned(),
        error,
    }
}
