//! The bootstrap: names, attributes, and which chunks a file is made of.
//!
//! Numbers of files are the bootstrap's own, but for the root, which is FUSE's [`ROOT`]: the two change places.

mod blobs;
mod extents;
mod flat;
mod fuzz;
mod order;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nydus_api::ConfigV2;
use nydus_rafs::metadata::{RafsInode, RafsInodeWalkAction, RafsSuper};
use nydus_storage::device::BlobInfo;

use self::flat::Places;
pub use self::fuzz::fuzz_bootstrap;
use self::order::Order;
use super::ROOT;
use super::chunk::Blob;
use super::error::{FsError, guarded};

/// Longest table of what is to be fetched first.
const PREFETCH_MAX: u32 = 1 << 20;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
}

impl Kind {
    fn of(mode: u32) -> Result<Self, FsError> {
        Ok(match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFREG => Self::File,
            libc::S_IFLNK => Self::Link,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFIFO => Self::Pipe,
            libc::S_IFSOCK => Self::Socket,
            _ => return Err(FsError::damaged(format!("mode {mode:o} is of no kind of file"))),
        })
    }

    fn is_device(self) -> bool {
        matches!(self, Self::BlockDevice | Self::CharDevice)
    }
}

/// What `stat` shows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: u64,
    /// Its kind.
    pub kind: Kind,
    /// Its permissions, with the bits for set-user-id, set-group-id and sticky.
    pub permissions: u16,
    /// Its length in bytes.
    pub size: u64,
    /// How many names it has.
    pub links: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The device that it stands for, if it is one.
    pub device: u32,
    /// When it was changed.
    pub modified: SystemTime,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it names. `.` and `..` name the directory itself here.
    pub attributes: Attributes,
    /// The name.
    pub name: OsString,
    /// Where the listing goes on after it.
    pub next: u64,
}

/// A bootstrap that was read.
pub(super) struct Tree {
    meta: RafsSuper,
    root: u64,
    /// For images that do not record owners.
    owner: Option<(u32, u32)>,
    blobs: Vec<Blob>,
    infos: Vec<Arc<BlobInfo>>,
    /// Files and directories that the image wants to be fetched first.
    table: Vec<u64>,
    order: OnceLock<Order>,
    flat: OnceLock<Places>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.meta.meta.version;
        f.debug_struct("Tree")
            .field("version", &version)
            .field("blobs", &self.blobs)
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// Reads the bootstrap in a file. The file must not change as long as the tree is used.
    pub(super) fn open(path: &Path) -> Result<Self, FsError> {
        let (meta, infos, table) = guarded(|| {
            let config = Arc::new(ConfigV2::default());
            let (meta, mut reader) = RafsSuper::load_from_file(path, config, false)?;
            let infos = meta.superblock.get_blob_infos();
            let table = if (1..=PREFETCH_MAX).contains(&meta.meta.prefetch_table_entries) {
                // It is a hint: one that is damaged is none.
                meta.get_prefetched_inos(&mut reader).unwrap_or_default()
            } else {
                Vec::new()
            };
            Ok((meta, infos, table))
        })?;
        let owner = (!meta.meta.explicit_uidgid()).then(|| {
            let uid = rustix::process::geteuid().as_raw();
            (uid, rustix::process::getegid().as_raw())
        });
        let tree = Self {
            root: meta.superblock.root_ino(),
            blobs: blobs::table(&infos)?,
            infos,
            meta,
            owner,
            table: table.into_iter().map(u64::from).collect(),
            order: OnceLock::new(),
            flat: OnceLock::new(),
        };
        match tree.attributes(ROOT)?.kind {
            Kind::Directory => Ok(tree),
            _ => Err(FsError::damaged("the root is no directory")),
        }
    }

    /// The blobs, in the order in which chunks number them.
    pub(super) fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// What the Nydus crates know of each blob.
    pub(super) fn infos(&self) -> &[Arc<BlobInfo>] {
        &self.infos
    }

    /// Files and directories that the image wants to be fetched first.
    pub(super) fn prefetch_table(&self) -> Vec<u64> {
        self.table.iter().map(|ino| self.swap(*ino)).collect()
    }

    /// How many files there are.
    pub(super) fn files(&self) -> u64 {
        self.meta.meta.inodes_count
    }

    /// How many bytes all files have, each chunk counted once.
    pub(super) fn bytes(&self) -> u64 {
        let lengths = self.infos.iter().map(|info| info.uncompressed_size());
        lengths.fold(0, u64::saturating_add)
    }

    /// The bootstrap's number for FUSE's, and the other way.
    fn swap(&self, ino: u64) -> u64 {
        match ino {
            ROOT => self.root,
            ino if ino == self.root => ROOT,
            ino => ino,
        }
    }

    fn inode(&self, ino: u64) -> std::io::Result<Arc<dyn RafsInode>> {
        self.meta.get_inode(self.swap(ino), false)
    }

    /// What `stat` shows of a file.
    pub(super) fn attributes(&self, ino: u64) -> Result<Attributes, FsError> {
        guarded(|| Ok(self.attributes_of(&*self.inode(ino)?)))?
    }

    fn attributes_of(&self, inode: &dyn RafsInode) -> Result<Attributes, FsError> {
        let raw = inode.get_attr();
        let kind = Kind::of(raw.mode)?;
        let (uid, gid) = self.owner.unwrap_or((raw.uid, raw.gid));
        let size = match kind {
            // The fifth version keeps it elsewhere.
            Kind::Link => u64::from(inode.get_symlink_size()),
            _ => raw.size,
        };
        let modified = Duration::new(raw.mtime, raw.mtimensec.min(999_999_999));
        Ok(Attributes {
            ino: self.swap(raw.ino),
            kind,
            // Twelve bits.
            permissions: u16::try_from(raw.mode & 0o7777).unwrap_or_default(),
            size,
            links: raw.nlink,
            uid,
            gid,
            device: if kind.is_device() { raw.rdev } else { 0 },
            modified: SystemTime::UNIX_EPOCH
                .checked_add(modified)
                .unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    /// What `name` in a directory names.
    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, FsError> {
        guarded(|| {
            let parent = self.inode(parent)?;
            if !parent.is_dir() {
                return Ok(Err(FsError::NotA("directory")));
            }
            let child = parent.get_child_by_name(name)?;
            Ok(self.attributes_of(child.as_inode()))
        })?
    }

    /// Shows the entries of a directory from a place on, until `show` says that it has enough.
    pub(super) fn entries(
        &self,
        ino: u64,
        from: u64,
        mut show: impl FnMut(Entry) -> bool,
    ) -> Result<(), FsError> {
        guarded(|| {
            let directory = self.inode(ino)?;
            if !directory.is_dir() {
                return Ok(Err(FsError::NotA("directory")));
            }
            let own = match self.attributes_of(&*directory) {
                Ok(own) => own,
                Err(error) => return Ok(Err(error)),
            };
            let mut outcome = Ok(());
            directory.walk_children_inodes(from, &mut |child, name, number, next| {
                let attributes = if name == "." || name == ".." {
                    Ok(own)
                } else if let Some(child) = child {
                    self.attributes_of(&*child)
                } else {
                    self.attributes_of(&*self.meta.get_inode(number, false)?)
                };
                let more = match attributes {
                    Ok(attributes) => show(Entry {
                        attributes,
                        name,
                        next,
                    }),
                    Err(ref error) => {
                        outcome = Err(error.clone());
                        false
                    }
                };
                Ok(if more {
                    RafsInodeWalkAction::Continue
                } else {
                    RafsInodeWalkAction::Break
                })
            })?;
            Ok(outcome)
        })?
    }

    /// Where a symbolic link points.
    pub(super) fn link(&self, ino: u64) -> Result<OsString, FsError> {
        guarded(|| {
            let inode = self.inode(ino)?;
            if inode.is_symlink() {
                inode.get_symlink().map(Ok)
            } else {
                Ok(Err(FsError::NotA("symbolic link")))
            }
        })?
    }

    /// An extended attribute, if the file has it.
    pub(super) fn xattr(&self, ino: u64, name: &OsStr) -> Result<Option<Vec<u8>>, FsError> {
        guarded(|| {
            let inode = self.inode(ino)?;
            if inode.has_xattr() {
                inode.get_xattr(name)
            } else {
                Ok(None)
            }
        })
    }

    /// The names of all extended attributes of a file.
    pub(super) fn xattrs(&self, ino: u64) -> Result<Vec<OsString>, FsError> {
        let names = guarded(|| {
            let inode = self.inode(ino)?;
            if inode.has_xattr() {
                inode.get_xattrs()
            } else {
                Ok(Vec::new())
            }
        })?;
        Ok(names.into_iter().map(OsString::from_vec).collect())
    }
}
