//! An image as a directory, through FUSE: mounted, served by several threads, unmounted cleanly.
//!
//! [`Mount::new`] mounts, [`Mount::run`] serves until it is asked to stop or somebody else unmounts. `adapter` translates
//! between FUSE and [`crate::fs`], `mounts` knows what is mounted where.
//!
//! What must hold: no callback waits for the network on a FUSE thread as long as there is room elsewhere; a panic in one
//! is an I/O error to its caller; whatever ends the process in order leaves no mount behind.

mod adapter;
mod errno;
mod mounts;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use darter_service::supervise::Tasks;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fs::OpenImage;
use adapter::Adapter;

/// What the source of these mounts begins with in `/proc/mounts`.
const SOURCE: &str = "darter:";
/// Threads that take requests from the kernel.
const THREADS_MAX: usize = 4;
/// How long a mount may stay busy after it was asked to go; then it is detached, and goes with its last user.
const BUSY_GRACE: Duration = Duration::from_secs(2);
/// Between two attempts to unmount.
const BUSY_STEP: Duration = Duration::from_millis(100);
/// How long the threads may take to notice that the mount is gone. The kernel may keep it for others' namespaces.
const END_GRACE: Duration = Duration::from_secs(2);

/// Why there is no mount, or still one.
#[derive(Debug, Error)]
pub enum MountError {
    /// The directory is in use.
    #[error("something is mounted at {0} already; unmount it first")]
    Taken(PathBuf),
    /// There is nothing of ours.
    #[error("no image is mounted at {0}")]
    NotMounted(PathBuf),
    /// Processes use it.
    #[error("{0} is in use by a process; end that first, or unmount with --lazy")]
    Busy(PathBuf),
    /// The system refuses.
    #[error("cannot {what} {path}: {error}")]
    System {
        /// What it refuses.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

/// Takes a mount away when it is dropped, whatever the reason.
#[derive(Debug)]
struct Attached {
    path: PathBuf,
    gone: bool,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.gone {
            // Nobody is left to be told.
            let _ = detach(&self.path);
        }
    }
}

/// A mounted image.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    session: Session<Adapter>,
    tasks: Tasks,
}

impl Mount {
    /// Mounts `image`, which `/proc/mounts` shows as `name`, at a directory. A mount there whose process died is taken away.
    /// Must be called within a runtime. Nothing can be read before [`Self::run`].
    ///
    /// # Errors
    /// The directory is in use or missing, or the system refuses.
    pub fn new(image: OpenImage, name: &str, path: &Path, tasks: Tasks) -> Result<Self, MountError> {
        let path = mounts::recover(path)?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName(format!("{SOURCE}{}", name.replace(',', "_"))),
            MountOption::DefaultPermissions,
            // An image is a stranger's: what it marks as root's own must not become root for whoever runs it here.
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        // Containers run as anybody; the kernel checks permissions by what the image says.
        config.acl = SessionACL::All;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(threads.clamp(2, THREADS_MAX));
        config.clone_fd = true;
        let adapter = Adapter::new(image, tasks.clone());
        let session = Session::new(adapter, &path, &config);
        Ok(Self {
            session: session.map_err(|error| system("mount at", &path, error))?,
            path,
            tasks,
        })
    }

    /// Serves the mount until `stop`, or until it is unmounted by somebody else. It is unmounted in either case, and
    /// when the future is dropped.
    ///
    /// # Errors
    /// FUSE fails, or the mount cannot be taken away.
    pub async fn run(self, stop: CancellationToken) -> Result<(), MountError> {
        let Self { path, session, tasks } = self;
        let mut attached = Attached {
            path: path.clone(),
            gone: false,
        };
        let (ended, mut end) = oneshot::channel();
        let serving = tasks.clone();
        // It ends with the mount, which may outlive this function: nobody waits for it.
        tasks.spawn("FUSE session", async move {
            let served = serving.blocking("FUSE session", move || session.run()).await;
            let _ = ended.send(served.unwrap_or_else(|error| Err(io::Error::other(error))));
        });
        tokio::select! {
            biased;
            served = &mut end => {
                attached.gone = true;
                return outcome(served, &path);
            }
            () = stop.cancelled() => {}
        }
        leave(&path).await?;
        attached.gone = true;
        match timeout(END_GRACE, end).await {
            Ok(served) => outcome(served, &path),
            Err(_) => {
                tracing::info!(path = %path.display(), "the mount is detached and goes with its last user");
                Ok(())
            }
        }
    }
}

fn outcome(served: Result<io::Result<()>, oneshot::error::RecvError>, path: &Path) -> Result<(), MountError> {
    let served = served.unwrap_or_else(|error| Err(io::Error::other(error)));
    served.map_err(|error| system("serve", path, error))
}

/// Unmounts, and detaches what stays busy.
async fn leave(path: &Path) -> Result<(), MountError> {
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

fn detach(path: &Path) -> Result<(), MountError> {
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
    match unmount(&path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(path)),
        Err(error) => Err(system("unmount", &path, error.into())),
    }
}

fn system(what: &'static str, path: &Path, error: io::Error) -> MountError {
    MountError::System {
        what,
        path: path.to_owned(),
        error,
    }
}
