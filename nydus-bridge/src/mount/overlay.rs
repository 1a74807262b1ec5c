//! What can be written over an image: an overlay on top of its mount, at the same directory. What is written is in a folder
//! of this machine; the image stays what it is.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

/// Where what is written goes, and what the kernel needs beside it, on the same file system.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// The folder for what is written, locked: two mounts that write to one folder damage it.
pub(super) fn prepare(folder: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    lock(folder)
}

/// Locks the folder of an overlay that is there.
pub(super) fn lock(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Mounts an overlay over the image at `point`, which `/proc/mounts` shows as `source`. Its process must serve the image
/// meanwhile.
pub(super) fn attach(source: &Path, point: &Path, folder: &Path) -> io::Result<()> {
    let folder = fs::canonicalize(folder)?;
    let (upper, work) = (folder.join(UPPER), folder.join(WORK));
    let root = fs::metadata(point)?;
    if !upper.exists() {
        // It stands for the image's root directory from here on.
        fs::create_dir(&upper)?;
        chown(&upper, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(root.mode() & 0o7777))?;
    }
    if !work.exists() {
        fs::create_dir(&work)?;
    }
    // By number: the paths may have signs in them that overlays take for their own.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let [lower, upper, work] = [point, &upper, &work].map(|path| open(path, flags, Mode::empty()));
    let (lower, upper, work) = (lower?, upper?, work?);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, dir) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
        fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    Ok(move_mount(
        &mounted,
        "",
        CWD,
        point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}
