//! Taking mounts away: in order, by force, or when whoever made one gives up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::time::{Instant, sleep};

use super::error::{MountError, system};
use super::mounts;

/// How long a mount may stay busy after it was asked to go; then it is detached, and goes with its last user.
const BUSY_GRACE: Duration = Duration::from_secs(2);
/// Between two attempts to unmount.
const BUSY_STEP: Duration = Duration::from_millis(100);
/// Mounts at one directory: an image, and what can be written over it.
const LAYERS_MAX: usize = 2;

/// Takes a mount away when it is dropped, whatever the reason.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) path: PathBuf,
    /// Mounts of ours there, one over the other.
    pub(super) layers: usize,
}

impl Drop for Attached {
    fn drop(&mut self) {
        for _ in 0..self.layers {
            // Nobody is left to be told.
            let _ = detach(&self.path);
        }
    }
}

/// Unmounts, and detaches what stays busy.
pub(super) async fn unmount_in_time(path: &Path) -> Result<(), MountError> {
    let deadline = Instant::now() + BUSY_GRACE;
    while let Err(error) = unmount(path, UnmountFlags::empty()) {
        match error {
            Errno::BUSY if Instant::now() >= deadline => return detach(path),
            Errno::BUSY => sleep(BUSY_STEP).await,
            // Somebody else was faster.
            Errno::INVAL => return Ok(()),
            error => return Err(system("unmount", path, error.into())),
        }
    }
    Ok(())
}

pub(super) fn detach(path: &Path) -> Result<(), MountError> {
    unmount(path, UnmountFlags::DETACH).map_err(|error| system("unmount", path, error.into()))
}

/// Unmounts the image at a directory; its process ends by that. `lazy` takes it out of sight at once, and leaves it to the
/// processes that use it.
///
/// # Errors
/// There is none, it is in use, or the system refuses.
pub fn umount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let path = mounts::ours(path)?;
    let flags = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    for _ in 0..LAYERS_MAX {
        match unmount(&path, flags) {
            Ok(()) => {}
            Err(Errno::BUSY) => return Err(MountError::Busy(path)),
            // Its process takes the other layers away as well.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(system("unmount", &path, error.into())),
        }
        if !mounts::is_still(&path)? {
            break;
        }
    }
    Ok(())
}
