//! What a program is told that asked a question without an answer, and what the log is.

use fuser::Errno;

use crate::fs::FsError;

/// The error number for a program. Whatever says that the image or the world is at fault is EIO, and is logged here, where
/// it stops.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotA("directory") => Errno::ENOTDIR,
        FsError::NotA(_) => Errno::EINVAL,
        FsError::Unsupported(_) => Errno::EOPNOTSUPP,
        FsError::Damaged(_)
        | FsError::Slow(_)
        | FsError::WrongBytes { .. }
        | FsError::Blob(_)
        | FsError::Local(_) => {
            tracing::error!(%error, "an I/O error in a mount");
            Errno::EIO
        }
    }
}
