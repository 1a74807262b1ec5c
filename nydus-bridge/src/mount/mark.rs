//! A mount's mark in the cache folder: a locked folder that says that its process lives, and holds the name that
//! `/proc/mounts` shows.
//!
//! Metadata of a mount by the kernel's EROFS, or beneath an overlay, can be looked at after the process died: that one
//! cannot tell by `stat` whether anybody serves it. The lock goes with the process, however it ends; the folder is swept
//! by a later one.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::SOURCE;

/// What the names of the folders begin with.
const PREFIX: &str = "mount-";
/// Longest source that the kernel takes as one parameter.
const SOURCE_BYTES_MAX: usize = 255;
/// Characters of an image's name that are shown.
const NAME_CHARS_MAX: usize = 100;
/// Another process may sweep a new folder before it is locked.
const ATTEMPTS_MAX: usize = 3;

/// The mark of a mount of this process. The folder goes with this value, and all that is in it.
#[derive(Debug)]
pub(super) struct Mark {
    dir: PathBuf,
    source: PathBuf,
    /// It does not go with this value: another process will serve the mount.
    stays: bool,
    /// Held as long as the mount is served.
    _lock: File,
}

impl Mark {
    /// Marks a mount of the image `name`; `target` is what the mark's name stands for.
    pub(super) fn new(folder: &Path, name: &str, target: &Path) -> io::Result<Self> {
        let folder = fs::canonicalize(folder)?;
        let name: String = name.chars().take(NAME_CHARS_MAX).collect();
        let name = format!("{SOURCE}{}", name.replace(['/', ','], "_"));
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS_MAX {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&folder)?;
            let source = dir.path().join(&name);
            if source.as_os_str().len() > SOURCE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidFilename.into());
            }
            match lock(dir.path()).and_then(|lock| symlink(target, &source).map(|()| lock)) {
                Ok(lock) => {
                    return Ok(Self {
                        dir: dir.keep(),
                        source,
                        stays: false,
                        _lock: lock,
                    });
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The mark of a mount that another process marked and does not serve any more. It stays until somebody says otherwise: what
    /// is written over the image lies in its folder.
    pub(super) fn adopt(source: &Path) -> io::Result<Self> {
        let dir = source.parent().filter(|dir| is_mark(dir));
        let dir = dir.ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        // What is missing of it is made anew.
        fs::create_dir_all(&dir)?;
        Ok(Self {
            _lock: lock(&dir)?,
            source: source.to_owned(),
            stays: true,
            dir,
        })
    }

    /// What `/proc/mounts` shows as the mount's source.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// Whether it stays when this value goes, for another process to adopt it.
    pub(super) fn stay(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// The folder, for what must go with the mount.
    pub(super) fn folder(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if !self.stays {
            // What is left is swept another time.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn lock(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Whether the process of a mount has died. One whose mark cannot be seen is taken to live.
pub(super) fn is_dead(source: &Path) -> bool {
    source.parent().is_some_and(|dir| lock(dir).is_ok())
}

/// Removes the mark of a mount that was taken away, if its process has died.
pub(super) fn remove(source: &Path) {
    let Some(dir) = source.parent().filter(|dir| is_mark(dir)) else {
        return;
    };
    if let Ok(_lock) = lock(dir) {
        // What stays is swept another time.
        let _ = fs::remove_dir_all(dir);
    }
}

/// Removes what processes left behind that died, but for marks of mounts that are there still: `table` is that of mounts.
pub(super) fn sweep(folder: &Path, table: &[u8]) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = dir.file_name().filter(|_| is_mark(&dir)) else {
            continue;
        };
        if !contains(table, name.as_bytes()) {
            remove(&dir.join("any"));
        }
    }
}

fn is_mark(dir: &Path) -> bool {
    let name = dir.file_name().map(|name| name.as_bytes()).unwrap_or_default();
    name.starts_with(PREFIX.as_bytes())
}

fn contains(table: &[u8], name: &[u8]) -> bool {
    table.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lives_and_dies_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::new(dir.path(), "registry/a:1", Path::new("/target")).unwrap();
        let source = mark.source().to_owned();
        assert!(source.ends_with("darter:registry_a:1"));
        assert_eq!(fs::read_link(&source).unwrap(), Path::new("/target"));
        assert!(!is_dead(&source));
        sweep(dir.path(), b"");
        remove(&source);
        assert!(mark.folder().exists(), "somebody uses it");
        let mut mark = mark;
        mark.stay(true);
        drop(mark);
        drop(Mark::adopt(&source).unwrap());
        let mut mark = Mark::adopt(&source).unwrap();
        assert!(source.is_symlink() && !is_dead(&source));
        mark.stay(false);
        drop(mark);
        assert!(!source.exists());
        assert!(!is_dead(&source), "nobody knows");
    }

    #[test]
    fn what_the_dead_left_is_swept_unless_it_is_mounted_still() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["mount-a", "mount-b", "else"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert!(is_dead(&dir.path().join("mount-a/darter:x")));
        sweep(dir.path(), b"1 2 3 4 /p - erofs /cache/mount-b/darter:x ro");
        let left = |name: &str| dir.path().join(name).exists();
        assert!(!left("mount-a") && left("mount-b") && left("else"));
        remove(&dir.path().join("else/darter:x"));
        assert!(left("else"));
    }

    #[test]
    fn a_folder_whose_path_is_too_long_for_the_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        assert!(Mark::new(&deep, &"n".repeat(100), Path::new("/target")).is_err());
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
    }
}
