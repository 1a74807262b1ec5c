//! What is mounted at a directory, as `/proc/self/mountinfo` has it.
//!
//! A mount whose process died answers nothing any more, not even `stat`: so a path is made absolute without looking at its
//! last part.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{MountError, SOURCE, detach, mark, system};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The directory, free to be mounted at: a mount of ours whose process died is taken away, with all its layers.
pub(super) fn recover(path: &Path) -> Result<PathBuf, MountError> {
    let path = absolute(path).map_err(|error| system("find", path, error))?;
    while let Some(source) = source(&path)? {
        if !is_ours(&source) || !is_dead(&path, &source) {
            return Err(MountError::Taken(path));
        }
        tracing::warn!(path = %path.display(), "a mount whose process died is taken away");
        while self::source(&path)?.is_some_and(|beneath| beneath == source) {
            detach(&path)?;
        }
        mark::remove(Path::new(&source));
    }
    match fs::metadata(&path) {
        Ok(there) if there.is_dir() => Ok(path),
        Ok(_) => Err(system("mount at", &path, io::ErrorKind::NotADirectory.into())),
        Err(error) => Err(system("mount at", &path, error)),
    }
}

/// The directory, if an image is mounted there.
pub(super) fn ours(path: &Path) -> Result<PathBuf, MountError> {
    let path = absolute(path).map_err(|error| system("find", path, error))?;
    if is_still(&path)? {
        Ok(path)
    } else {
        Err(MountError::NotMounted(path))
    }
}

/// The directory, whatever is mounted there. Nobody is asked for it who may be dead.
pub(super) fn place(path: &Path) -> Result<PathBuf, MountError> {
    absolute(path).map_err(|error| system("find", path, error))
}

/// Takes a mount of ours away, if there is one, with all its layers. `path` must be as [`place`] gives it.
pub(super) fn take_away(path: &Path) -> Result<(), MountError> {
    while let Some(source) = source(path)?.filter(|source| is_ours(source)) {
        detach(path)?;
        mark::remove(Path::new(&source));
    }
    Ok(())
}

/// Whether something is mounted at exactly this path. Nobody is asked who may be dead.
pub(super) fn is_mounted(path: &Path) -> Result<bool, MountError> {
    Ok(source(path)?.is_some())
}

/// Whether an image is mounted at this very path.
pub(super) fn is_still(path: &Path) -> Result<bool, MountError> {
    Ok(source(path)?.is_some_and(|source| is_ours(&source)))
}

/// Whether the image at exactly this path is served, if one is topmost there. May hang with its process.
pub(super) fn is_served(path: &Path) -> Result<Option<bool>, MountError> {
    let source = source(path)?.filter(|source| is_ours(source));
    Ok(source.map(|source| !is_dead(path, &source)))
}

/// Removes from the cache folder what mounts left behind whose processes died.
pub(super) fn sweep(folder: &Path) {
    if let Ok(table) = table() {
        mark::sweep(folder, &table);
    }
}

/// Either `darter:` and the image, or the path of such a name in the folder that marks the mount.
fn is_ours(source: &OsStr) -> bool {
    let name = Path::new(source).file_name().unwrap_or(source);
    [source, name]
        .iter()
        .any(|text| text.as_bytes().starts_with(SOURCE.as_bytes()))
}

/// Nobody answers for it.
fn is_dead(path: &Path, source: &OsStr) -> bool {
    let source = Path::new(source);
    if source.is_absolute() {
        return mark::is_dead(source);
    }
    // What `stat` tells, the kernel may remember of a process that is gone.
    matches!(rustix::fs::statfs(path), Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The path without links in it; its last part may be a dead mount, which cannot be looked at.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(whole) => Ok(whole),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            let whole = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
                return Err(error);
            };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        Err(error) => Err(error),
    }
}

/// What is mounted topmost at exactly this path.
fn source(path: &Path) -> Result<Option<OsString>, MountError> {
    Ok(topmost(&table()?, path))
}

fn table() -> Result<Vec<u8>, MountError> {
    fs::read(MOUNTINFO).map_err(|error| system("read", Path::new(MOUNTINFO), error))
}

fn topmost(table: &[u8], path: &Path) -> Option<OsString> {
    let lines = table.split(|byte| *byte == b'\n');
    let mut here = lines.filter_map(parse).filter(|(at, _)| at == path);
    here.next_back().map(|(_, source)| source)
}

/// The mount point and the source of a line: `36 35 98:0 /root /mount/point options optional... - type source options`.
fn parse(line: &[u8]) -> Option<(PathBuf, OsString)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4)?;
    let source = fields.skip_while(|field| *field != b"-").nth(2)?;
    let point = PathBuf::from(OsString::from_vec(unescape(point)));
    Some((point, OsString::from_vec(unescape(source))))
}

/// Blanks and backslashes are written as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 0:20 / / rw - ext4 /dev/vda rw
36 22 0:40 / /mnt/a\\040b rw,nosuid shared:1 master:2 - fuse darter:image ro
37 22 0:41 / /mnt/c rw - tmpfs tmpfs rw
38 37 0:42 / /mnt/c rw - fuse darter:image ro
";

    #[test]
    fn the_topmost_mount_counts() {
        for (path, source) in [
            ("/mnt/a b", Some("darter:image")),
            ("/mnt/c", Some("darter:image")),
            ("/", Some("/dev/vda")),
            ("/mnt", None),
        ] {
            assert_eq!(
                topmost(TABLE, Path::new(path)).as_deref(),
                source.map(OsStr::new),
                "{path}"
            );
        }
    }

    #[test]
    fn ours_are_told_by_their_source() {
        for (source, ours) in [
            ("darter:docker.io/library/a:1", true),
            ("/cache/mount-x/darter:docker.io_library_a:1", true),
            ("/dev/vda", false),
            ("/darter:/x", false),
        ] {
            assert_eq!(is_ours(OsStr::new(source)), ours, "{source}");
        }
    }

    #[test]
    fn any_line_is_read_or_left_out() {
        for line in [
            "",
            "a b c",
            "1 2 3 4 /p - ",
            "1 2 3 4 /p x y",
            "1 2 3 4 \\9 - t s",
        ] {
            let _ = parse(line.as_bytes());
        }
        assert_eq!(unescape(b"\\134\\04x"), b"\\\\04x");
    }

    #[test]
    fn what_is_no_mount_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ours(dir.path()), Err(MountError::NotMounted(_))));
        assert!(matches!(recover(Path::new("/proc")), Err(MountError::Taken(_))));
        assert_eq!(recover(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        assert!(recover(&dir.path().join("missing")).is_err());
    }
}
