//! What a program sees of a tree, for comparison: every name with its attributes, content and extended attributes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darter_testkit::content::sha256_of;
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// One file of a tree. Lengths and numbers of links of directories, and inode numbers, are a file system's own business.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    uid: u32,
    gid: u32,
    device: u64,
    size: u64,
    links: u64,
    modified: (i64, i64),
    /// Digest of the content, or where the link points.
    content: String,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file, for hard links.
    same_as: Option<PathBuf>,
}

impl Seen {
    /// Forgets the other times: folders are changed after they were made.
    pub(crate) fn keep_times_of_files(&mut self) {
        if self.mode & libc::S_IFMT != libc::S_IFREG {
            self.modified = (0, 0);
        }
        self.modified.1 = 0;
    }
}

/// All of a tree, by path.
pub(crate) fn of(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut paths = Vec::new();
    collect(root, &mut paths);
    paths.sort();
    let mut first_names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut tree = BTreeMap::new();
    for path in paths {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let mut seen = look(&path);
        let metadata = fs::symlink_metadata(&path).unwrap();
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = first_names.entry(metadata.ino()).or_insert_with(|| name.clone());
            seen.same_as = (*first != name).then(|| first.clone());
        }
        if path == root {
            // The builder leaves it out, so that equal trees make equal images.
            seen.modified = (0, 0);
        }
        tree.insert(name, seen);
    }
    tree
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) {
    paths.push(path.to_owned());
    // By the type in the listing, as find(1) does, so that a wrong one is noticed.
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), paths);
        } else {
            paths.push(entry.path());
        }
    }
}

fn look(path: &Path) -> Seen {
    let metadata = fs::symlink_metadata(path).unwrap();
    let directory = metadata.is_dir();
    let content = if metadata.is_file() {
        sha256_of(&fs::read(path).unwrap())
    } else if metadata.is_symlink() {
        format!("{:?}", fs::read_link(path).unwrap())
    } else {
        String::new()
    };
    Seen {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        device: metadata.rdev(),
        size: if directory { 0 } else { metadata.size() },
        links: if directory { 0 } else { metadata.nlink() },
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        xattrs: xattrs(path),
        same_as: None,
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = OsString::from_vec(name.to_vec());
            let mut value = vec![0; 64 * 1024];
            let length = lgetxattr(path, &*name, &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// Fails with the first differences of two trees.
pub(crate) fn assert_same(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    for (path, seen) in expected {
        let other = found.get(path);
        assert_eq!(other, Some(seen), "{}", path.display());
    }
    let more: Vec<_> = found
        .keys()
        .filter(|path| !expected.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?} were not there before");
}

/// Whether a read failed with EIO.
pub(crate) fn is_io_error<T: std::fmt::Debug>(read: std::io::Result<T>) -> bool {
    let error = read.unwrap_err();
    error.raw_os_error() == Some(libc::EIO) || error.kind() == ErrorKind::Other
}

/// What is left of a tree when it is packed into a tar archive as this crate's fixtures do.
pub(crate) fn as_a_layer(tree: &mut BTreeMap<PathBuf, Seen>) {
    as_an_archive(tree);
    tree.values_mut().for_each(|seen| seen.xattrs.clear());
}

/// What is left of it when the archive has all that an archive can hold.
pub(crate) fn as_an_archive(tree: &mut BTreeMap<PathBuf, Seen>) {
    tree.remove(Path::new("special/socket"));
    tree.values_mut().for_each(|seen| seen.modified.1 = 0);
}
