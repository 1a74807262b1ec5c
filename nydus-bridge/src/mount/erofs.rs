//! The tree through the kernel's EROFS: the bootstrap is the file system, and its devices are flat files that this process
//! serves ([`super::flat`]). Names, attributes and pages that were read are the kernel's own business.
//!
//! Needs an image of the sixth version, and a kernel that mounts EROFS from files. Whether it does is found out by trying.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use darter_service::supervise::Tasks;
use fuser::Session;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};
use tokio::sync::oneshot;

use super::flat::{self, Flat, HARMLESS};
use super::mark::Mark;
use super::{Kept, MountError, Serving, config, serve, system, takeover};
use crate::fs::OpenImage;

/// Mounts `image` at `path`, and serves its flat files.
pub(super) async fn mount(
    image: &OpenImage,
    name: &str,
    path: &Path,
    tasks: &Tasks,
) -> Result<(Mark, Serving, Kept), MountError> {
    let lengths = image.flat().ok_or(MountError::NoErofs("the image is not flat"))?;
    let count = lengths.len();
    let cannot = |error: std::io::Error| system("mount by EROFS at", path, error);
    let (device, root) = flat::detached().map_err(|error| cannot(error.into()))?;
    let flat = Flat::new(image.clone(), lengths, tasks.clone());
    let note = flat.agreed();
    let configuration = config(name, None);
    let acl = configuration.acl;
    let session = Session::from_fd(flat, device, acl, configuration).map_err(cannot)?;
    let connection = session.as_fd().try_clone_to_owned().map_err(cannot)?;
    let serving: oneshot::Receiver<_> = serve(session, tasks);
    // The bootstrap may have no name any more. The kernel opens it once, on behalf of this process.
    let bootstrap = format!("/proc/self/fd/{}", image.bootstrap().as_raw_fd());
    let mark = Mark::new(image.folder(), name, Path::new(&bootstrap)).map_err(cannot)?;
    let (source, point) = (mark.source().to_owned(), path.to_owned());
    // The kernel asks for the flat files meanwhile: not on a thread that may have to answer.
    let attach = move || attach(&source, &root, count, &point);
    let attached = tasks.blocking("mount by EROFS", attach).await;
    let attached = attached.unwrap_or(Err(rustix::io::Errno::CANCELED));
    attached.map_err(|error| cannot(error.into()))?;
    let kept = Kept {
        connection,
        agreed: note.get(),
        mark: Some(mark.source().to_owned()),
        over: None,
    };
    Ok((mark, serving, kept))
}

/// Goes on with the flat files of a mount that another process served.
pub(super) fn take_over(
    image: &OpenImage,
    path: &Path,
    kept: &Kept,
    tasks: &Tasks,
) -> Result<Session<Flat>, MountError> {
    let lengths = image.flat().ok_or(MountError::NoErofs("the image is not flat"))?;
    let flat = Flat::new(image.clone(), lengths, tasks.clone());
    let connection = kept.connection.as_fd();
    let session = takeover::session(flat, connection, kept.agreed, config("", None));
    session.map_err(|error| system("take over the mount at", path, error))
}

fn attach(source: &Path, blobs: &OwnedFd, count: usize, point: &Path) -> rustix::io::Result<()> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", source)?;
    fsconfig_set_flag(context, "ro")?;
    for blob in 0..count {
        let device = format!("/proc/self/fd/{}/{blob}", blobs.as_raw_fd());
        fsconfig_set_string(context, "device", device)?;
    }
    fsconfig_create(context)?;
    let mounted = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)?;
    move_mount(mounted, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
