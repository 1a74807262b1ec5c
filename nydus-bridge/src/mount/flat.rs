//! The blobs of an image as flat files: unpacked, whole, named by their place in the image's table. The kernel's EROFS reads
//! them beneath the bootstrap, and shows the tree itself.
//!
//! Nobody sees this file system but the kernel: it is mounted nowhere, and goes with the EROFS mount that holds its files.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::SystemTime;

use darter_service::supervise::Tasks;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::adapter::{BLOCK_BYTES, KEEP, Later, agree, shielded};
use super::errno::errno;
use super::takeover::Note;
use crate::fs::{OpenImage, ROOT, Reading};

/// The number of the first blob's file.
const FIRST: u64 = ROOT + 1;

/// An image is a stranger's: nothing in it becomes root's own, or a device.
pub(super) const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Flat files as a FUSE file system.
#[derive(Debug)]
pub(super) struct Flat {
    image: OpenImage,
    lengths: Vec<u64>,
    later: Later,
    agreed: Note,
    opens_unseen: bool,
}

impl Flat {
    /// The blobs of `image`, with these lengths. Must be called within a runtime.
    pub(super) fn new(image: OpenImage, lengths: Vec<u64>, tasks: Tasks) -> Self {
        Self {
            image,
            lengths,
            later: Later::new(tasks),
            agreed: Note::default(),
            opens_unseen: false,
        }
    }

    /// Where stands what was agreed with the kernel, once it was.
    pub(super) fn agreed(&self) -> Note {
        self.agreed.clone()
    }

    fn attr(&self, ino: u64) -> Option<FileAttr> {
        if ino == ROOT {
            return Some(attr(ino, 0, FileType::Directory));
        }
        let length = usize::try_from(ino.checked_sub(FIRST)?)
            .ok()
            .and_then(|blob| self.lengths.get(blob))?;
        Some(attr(ino, *length, FileType::RegularFile))
    }
}

fn attr(ino: u64, size: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0o500,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for Flat {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let useful = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_ASYNC_DIO;
        let able = agree(config, &self.agreed, useful);
        self.opens_unseen = able.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        let number = number.filter(|_| parent.0 == ROOT);
        let ino = number.and_then(|number| number.checked_add(FIRST));
        match ino.and_then(|ino| self.attr(ino)) {
            Some(found) => reply.entry(&KEEP, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(found) => reply.attr(&KEEP, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.opens_unseen {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let blob = ino.0.checked_sub(FIRST).and_then(|blob| u32::try_from(blob).ok());
        let (Some(blob), Some(found)) = (blob, self.attr(ino.0)) else {
            return reply.error(Errno::EINVAL);
        };
        let end = offset.saturating_add(u64::from(size)).min(found.size);
        shielded(
            || match self.image.read_flat(blob, offset, end.saturating_sub(offset)) {
                Ok(Reading::Done(bytes)) => reply.data(&bytes),
                Ok(Reading::Pending(pending)) => self.later.answer(pending, reply, |_| {}),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

/// A FUSE file system that is mounted nowhere: the kernel's side of the device, and its root. It lives as long as the
/// root, or a file that was opened through it.
pub(super) fn detached() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = &context;
    fsconfig_set_string(context, "source", "darter-blobs")?;
    fsconfig_set_string(context, "fd", device.as_raw_fd().to_string())?;
    fsconfig_set_string(context, "rootmode", "40000")?;
    fsconfig_set_string(
        context,
        "user_id",
        rustix::process::geteuid().as_raw().to_string(),
    )?;
    fsconfig_set_string(
        context,
        "group_id",
        rustix::process::getegid().as_raw().to_string(),
    )?;
    // Whoever reads the tree reads these files.
    fsconfig_set_flag(context, "allow_other")?;
    fsconfig_create(context)?;
    let root = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)?;
    Ok((device, root))
}
