//! From FUSE to [`Files`] and back: translates and counts, decides nothing else.
//!
//! An image never changes, so that the kernel may keep whatever it is told: attributes, names, names that are not there,
//! pages, listings. Opening files is not told to this process at all where the kernel can do without.

mod counters;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use darter_service::supervise::Tasks;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errno::errno;
use super::shared::Files;
use super::takeover::{Agreed, Note};
use crate::fs::{Attributes, FsError, Kind, Pending, Reading};

pub use counters::{Counters, Counts, Inflight, WaitingRead};
pub(super) use counters::{Question, Watch};

/// How long the kernel may keep what it is told: as good as for ever.
pub(super) const KEEP: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Reads that wait for chunks besides those that wait on FUSE's own threads.
const READS_MAX: usize = 256;
/// Reads ahead that the kernel may have out.
const BACKGROUND_MAX: u16 = 64;
pub(super) const BLOCK_BYTES: u32 = 4096;
const NAME_BYTES_MAX: u32 = 255;

/// Images as a FUSE file system.
#[derive(Debug)]
pub(super) struct Adapter {
    files: Files,
    later: Later,
    inflight: Inflight,
    agreed: Note,
    /// The kernel needs not tell that a file, or a directory, is opened.
    opens_unseen: (bool, bool),
}

impl Adapter {
    /// Must be called within a runtime.
    pub(super) fn new(files: Files, tasks: Tasks) -> Self {
        Self {
            files,
            later: Later::new(tasks),
            inflight: Inflight::default(),
            agreed: Note::default(),
            opens_unseen: (false, false),
        }
    }

    /// The reads that wait.
    pub(super) fn inflight(&self) -> Inflight {
        self.inflight.clone()
    }

    /// Where stands what was agreed with the kernel, once it was.
    pub(super) fn agreed(&self) -> Note {
        self.agreed.clone()
    }
}

/// Answers reads that have to wait.
#[derive(Debug)]
pub(super) struct Later {
    tasks: Tasks,
    runtime: Handle,
    reads: Arc<Semaphore>,
}

impl Later {
    /// Must be called within a runtime.
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            runtime: Handle::current(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// Answers a read when its chunks are here: on the runtime, or here and now if too many wait there. `done` sees the
    /// answer first.
    pub(super) fn answer(
        &self,
        pending: Pending,
        reply: ReplyData,
        done: impl FnOnce(&Answer) + Send + 'static,
    ) {
        match Arc::clone(&self.reads).try_acquire_owned() {
            Ok(permit) => {
                let _runtime = self.runtime.enter();
                self.tasks
                    .spawn("read of a file", finish(pending, reply, done, permit));
            }
            Err(_) => {
                let bytes = self.runtime.block_on(pending.finish());
                done(&bytes);
                answer(reply, bytes);
            }
        }
    }
}

/// The bytes of a read, or why there are none.
type Answer = Result<Vec<u8>, FsError>;

async fn finish(
    pending: Pending,
    reply: ReplyData,
    done: impl FnOnce(&Answer),
    _permit: OwnedSemaphorePermit,
) {
    let bytes = pending.finish().await;
    done(&bytes);
    answer(reply, bytes);
}

fn answer(reply: ReplyData, bytes: Answer) {
    match bytes {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Runs a callback. After a panic its caller gets an I/O error, as the reply is dropped, and the thread goes on.
pub(super) fn shielded(callback: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(callback)) {
        tracing::error!(panic = crate::fs::words(&*panic), "a FUSE callback panicked");
    }
}

/// Agrees with the kernel on what is useful of what it is able to do, and notes that; gives all that it is able to do.
pub(super) fn agree(config: &mut KernelConfig, agreed: &Note, useful: InitFlags) -> InitFlags {
    let able = config.capabilities();
    agreed.set(Agreed {
        capabilities: able.bits(),
    });
    // It knows all of them, and takes any number.
    let _ = config.add_capabilities(useful & able);
    let _ = config.set_max_background(BACKGROUND_MAX);
    able
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let useful = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_ASYNC_DIO;
        let able = agree(config, &self.agreed, useful);
        self.opens_unseen = (
            able.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
            able.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
        );
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        shielded(|| {
            let watch = self.files.watch(Question::Lookup, parent.0);
            match watch.note(self.files.lookup(parent.0, name)) {
                Ok(found) => reply.entry(&KEEP, &attr(&found), Generation(0)),
                // Number 0: there is none, and that may be kept as well.
                Err(FsError::NotFound) if self.files.is_fixed(parent.0) => {
                    reply.entry(&KEEP, &nothing(), Generation(0));
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        shielded(|| {
            let watch = self.files.watch(Question::Getattr, ino.0);
            match watch.note(self.files.attributes(ino.0)) {
                Ok(found) => reply.attr(&KEEP, &attr(&found)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        shielded(|| {
            let watch = self.files.watch(Question::Readlink, ino.0);
            match watch.note(self.files.link(ino.0)) {
                Ok(target) => reply.data(target.as_bytes()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.opens_unseen.0 {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        match self.opens_unseen.1 {
            true => reply.error(Errno::ENOSYS),
            false => reply.opened(FileHandle(0), flags),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        shielded(|| {
            let watch = self.files.watch(Question::Read, ino.0);
            match self.files.read(ino.0, offset, u64::from(size)) {
                Ok(Reading::Pending(pending)) => {
                    let waits = self.inflight.enter(request.unique().0, ino.0);
                    self.later.answer(pending, reply, move |bytes| {
                        drop(waits);
                        watch.note_read(bytes, true);
                    });
                }
                Ok(Reading::Done(bytes)) => {
                    let bytes = Ok(bytes);
                    watch.note_read(&bytes, false);
                    answer(reply, bytes);
                }
                Err(error) => {
                    let failed = Err(error);
                    watch.note_read(&failed, false);
                    answer(reply, failed);
                }
            }
        });
    }

    /// Nothing is ever written: the kernel needs not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        shielded(|| {
            let watch = self.files.watch(Question::Readdir, ino.0);
            let shown = self.files.entries(ino.0, offset, |entry| {
                let found = entry.attributes;
                !reply.add(INodeNo(found.ino), entry.next, kind(found.kind), &entry.name)
            });
            match watch.note(shown) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        shielded(|| {
            let watch = self.files.watch(Question::Readdirplus, ino.0);
            let shown = self.files.entries(ino.0, offset, |entry| {
                let (found, number) = (attr(&entry.attributes), INodeNo(entry.attributes.ino));
                !reply.add(number, entry.next, &entry.name, &KEEP, &found, Generation(0))
            });
            match watch.note(shown) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let watch = self.files.watch(Question::Statfs, ino.0);
        let (files, bytes) = self.files.size();
        let blocks = bytes.div_ceil(u64::from(BLOCK_BYTES));
        // It cannot fail.
        let _ = watch.note(Ok(()));
        reply.statfs(blocks, 0, 0, files, 0, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        shielded(|| {
            let watch = self.files.watch(Question::Getxattr, ino.0);
            match watch.note(self.files.xattr(ino.0, name)) {
                Ok(Some(value)) => sized(&value, size, reply),
                Ok(None) => reply.error(Errno::ENODATA),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        shielded(|| {
            let watch = self.files.watch(Question::Listxattr, ino.0);
            match watch.note(self.files.xattrs(ino.0)) {
                Ok(names) => {
                    let names = names.iter().flat_map(|name| [name.as_bytes(), b"\0"]);
                    sized(&names.collect::<Vec<_>>().concat(), size, reply);
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

/// The value, or how long it is, as the caller has room for it.
fn sized(value: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn attr(found: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino),
        size: found.size,
        blocks: found.size.div_ceil(512),
        atime: found.modified,
        mtime: found.modified,
        ctime: found.modified,
        crtime: found.modified,
        kind: kind(found.kind),
        perm: found.permissions,
        nlink: found.links,
        uid: found.uid,
        gid: found.gid,
        rdev: found.device,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What the kernel is told for a name that is not there.
fn nothing() -> FileAttr {
    attr(&Attributes {
        ino: 0,
        kind: Kind::File,
        permissions: 0,
        size: 0,
        links: 0,
        uid: 0,
        gid: 0,
        device: 0,
        modified: SystemTime::UNIX_EPOCH,
    })
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::CharDevice => FileType::CharDevice,
        Kind::Pipe => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}
