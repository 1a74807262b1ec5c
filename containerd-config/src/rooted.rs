//! Files below a root: every path is resolved as if the root were `/`, symbolic links included, so that a node's
//! file system mounted somewhere else is never left by a link that names an absolute path.
//!
//! Writes are atomic: a temporary file in the same directory, then a rename. Mode and owner of a file that was
//! there stay as they were.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::Error;

/// No configuration file of a runtime comes near this; a larger one is a mistake worth telling.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// As many as Linux follows.
const LINKS_MAX: usize = 40;
/// What a new file may be read by: everybody, as containerd's own packages have it.
const NEW_FILE_MODE: u32 = 0o644;
/// What one with a password in it may be read by.
const PRIVATE_FILE_MODE: u32 = 0o600;

/// The real path of `path` (absolute, as seen from inside the root). Parts that do not exist are kept as given.
pub(crate) fn resolve(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut done: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        done.push(part);
        let here = join(root, &done);
        let Ok(target) = fs::read_link(&here) else {
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Error::LinkLoop {
                path: path.to_path_buf(),
            });
        }
        done.pop();
        if target.is_absolute() {
            done.clear();
        }
        for part in parts(&target).into_iter().rev() {
            todo.push_front(part);
        }
    }
    Ok(join(root, &done))
}

fn join(root: &Path, parts: &[OsString]) -> PathBuf {
    let mut path = root.to_path_buf();
    path.extend(parts);
    path
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// The file's bytes, or `None` if there is no such file.
pub(crate) fn read(root: &Path, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let real = resolve(root, path)?;
    let file = match File::open(&real) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let metadata = file.metadata().map_err(|error| Error::io("read", path, error))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge {
            path: path.to_path_buf(),
            length_bytes: metadata.len(),
        });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, error))?;
    Ok(Some(bytes))
}

/// When the file was changed last, or `None` if there is no such file.
pub(crate) fn modified(root: &Path, path: &Path) -> Result<Option<SystemTime>, Error> {
    match fs::metadata(resolve(root, path)?).and_then(|metadata| metadata.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

/// Whether `path` is a directory below the root.
pub(crate) fn is_dir(root: &Path, path: &Path) -> Result<bool, Error> {
    Ok(resolve(root, path)?.is_dir())
}

/// The names in a directory, sorted; none if it does not exist.
pub(crate) fn names(root: &Path, path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(resolve(root, path)?) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", path, error))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The directories above `path` that do not exist yet, outermost first.
pub(crate) fn missing_parents(root: &Path, path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1) {
        if resolve(root, parent)?.exists() {
            break;
        }
        missing.push(parent.to_path_buf());
    }
    missing.reverse();
    Ok(missing)
}

/// Writes the file whole or not at all, and creates the directories above it. A new one that is `private` is readable for its
/// owner alone.
pub(crate) fn write(root: &Path, path: &Path, bytes: &[u8], private: bool) -> Result<(), Error> {
    let real = resolve(root, path)?;
    let old = fs::metadata(&real).ok();
    let mode = if private { PRIVATE_FILE_MODE } else { NEW_FILE_MODE };
    write_real(&real, bytes, old.as_ref(), mode).map_err(|error| Error::io("write", path, error))
}

/// Like [`write()`] for a path outside of any root, readable by its owner alone: copies may hold credentials.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_real(path, bytes, None, PRIVATE_FILE_MODE).map_err(|error| Error::io("write", path, error))
}

fn write_real(real: &Path, bytes: &[u8], old: Option<&Metadata>, new_mode: u32) -> io::Result<()> {
    let parent = real.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::Builder::new().prefix(".darter-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    let mode = old.map_or(new_mode, |old| old.mode() & 0o7777);
    if let Some(old) = old {
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(real).map_err(|error| error.error)?;
    File::open(parent)?.sync_all()
}

/// Removes the file; one that is gone already is fine.
pub(crate) fn remove(root: &Path, path: &Path) -> Result<(), Error> {
    match fs::remove_file(resolve(root, path)?) {
        Err(error) if !is_absent(&error) => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Removes a directory if it is empty; says whether it is gone.
pub(crate) fn remove_empty_dir(root: &Path, path: &Path) -> Result<bool, Error> {
    match fs::remove_dir(resolve(root, path)?) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_leave_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("opt/real")).unwrap();
        symlink("/opt/real", root.path().join("absolute")).unwrap();
        symlink("../../../../opt/real", root.path().join("relative")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        for link in ["/absolute/x/y", "/relative/x/y", "/absolute/../../real/x/y"] {
            let real = resolve(root.path(), Path::new(link)).unwrap();
            let expected = if link.contains("/../") {
                "real/x/y"
            } else {
                "opt/real/x/y"
            };
            assert_eq!(real, root.path().join(expected), "{link}");
        }
        assert!(matches!(
            resolve(root.path(), Path::new("/loop")),
            Err(Error::LinkLoop { .. })
        ));
    }

    #[test]
    fn a_write_goes_through_a_link_and_keeps_the_mode() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("target"), "old").unwrap();
        fs::set_permissions(root.path().join("target"), Permissions::from_mode(0o640)).unwrap();
        symlink("/target", root.path().join("link")).unwrap();
        write(root.path(), Path::new("/link"), b"new", false).unwrap();
        assert!(
            fs::symlink_metadata(root.path().join("link"))
                .unwrap()
                .is_symlink()
        );
        assert_eq!(fs::read(root.path().join("target")).unwrap(), b"new");
        assert_eq!(
            fs::metadata(root.path().join("target")).unwrap().mode() & 0o7777,
            0o640
        );
        assert_eq!(
            names(root.path(), Path::new("/")).unwrap(),
            ["link", "target"],
            "no temporary file is left"
        );
    }

    #[test]
    fn a_huge_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        File::create(root.path().join("big"))
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        assert!(matches!(
            read(root.path(), Path::new("/big")),
            Err(Error::TooLarge { .. })
        ));
    }
}
