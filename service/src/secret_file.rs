//! Files with secrets in them: read whole, only where nobody but their owner and group can read them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Longest file that is read: credentials are short.
const BYTES_MAX: u64 = 1024 * 1024;
/// What nobody may have: anything for others, writing for the group. A group may read, as Kubernetes' `fsGroup` does.
const FORBIDDEN_BITS: u32 = 0o027;

/// Why a file with a secret cannot be used. The file's content is never part of it.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("{}: it is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Others than its owner and group can read it, or its group can write to it.
    #[error("{}: others can read or change it (mode {mode:04o}); run chmod 600 on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is longer than any secret.
    #[error("{}: it is longer than {BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
}

/// Reads a file with a secret. Blocks for as long as the file system does.
///
/// # Errors
/// It is unreadable, too long, or readable for others: a secret that leaked already is not used.
pub fn read(path: &Path) -> Result<Vec<u8>, SecretFileError> {
    let failed = |source| SecretFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the file that was opened, not of what has that name a moment later.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & FORBIDDEN_BITS != 0 {
        let path = path.to_owned();
        return Err(SecretFileError::Open { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(SecretFileError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    #[test]
    fn only_files_that_are_private_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, "canary").unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o604, false),
        ] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let found = read(&path);
            assert_eq!(found.is_ok(), good, "{mode:o}");
            if let Err(problem) = found {
                assert!(!problem.to_string().contains("canary"));
                assert!(problem.to_string().contains("chmod 600"));
            }
        }
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&path), Err(SecretFileError::TooLong(_))));
        assert!(matches!(read(dir.path()), Err(SecretFileError::NotAFile(_))));
        assert!(matches!(
            read(&dir.path().join("absent")),
            Err(SecretFileError::Read { .. })
        ));
    }
}
