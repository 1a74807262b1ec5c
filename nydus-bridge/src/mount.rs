//! An image as a directory: mounted, served by several threads, unmounted cleanly.
//!
//! [`Mount::new`] and [`Mount::attach`] mount, [`Mount::run`] serves until it is asked to stop or somebody else unmounts.
//! `adapter` translates between FUSE and [`crate::fs`]; `erofs` leaves the tree to the kernel and serves flat files (`flat`)
//! beneath; `overlay` lets programs write over it; `mounts` knows what is mounted where, `mark` which process is behind it.
//!
//! A mount whose process died is served by another one ([`Mount::take_over`]) if somebody kept its connection to the kernel
//! ([`Mount::kept`]): its parent ([`guardian`]), or a supervisor.
//!
//! What must hold: no callback waits for the network on a FUSE thread as long as there is room elsewhere; a panic in one
//! is an I/O error to its caller; whatever ends the process in order leaves no mount behind, unless it is told to.

mod adapter;
mod erofs;
mod errno;
mod error;
mod flat;
pub mod guardian;
mod mark;
mod mounts;
mod overlay;
mod shared;
mod takeover;
mod unmounting;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use darter_service::supervise::Tasks;
use fuser::{Config, Filesystem, MountOption, Session, SessionACL};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fs::OpenImage;
use adapter::Adapter;
use error::system;
use flat::Flat;
use mark::Mark;
use unmounting::{Attached, detach, unmount_in_time};

pub use adapter::{Counters, Counts, Inflight, WaitingRead};
pub use error::MountError;
pub use shared::{Files, IMAGES_MAX, Shared, SharedError, Shown};
pub use takeover::{Agreed, Kept, Over};
pub use unmounting::umount;

/// What the source of these mounts begins with in `/proc/mounts`.
const SOURCE: &str = "darter:";
/// Threads that take requests from the kernel.
const THREADS_MAX: usize = 4;
/// How long the threads may take to notice that the mount is gone. The kernel may keep it for others' namespaces.
const END_GRACE: Duration = Duration::from_secs(2);
/// How long a mount that is there already may take to say whether it is served.
const ASKED_MAX: Duration = Duration::from_secs(5);

/// Who shows the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Driver {
    /// EROFS where kernel and image are of the kind, FUSE elsewhere.
    #[default]
    Auto,
    /// This process.
    Fuse,
    /// The kernel's EROFS, over flat files that this process serves.
    Erofs,
}

/// How an image is mounted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who shows the tree.
    pub driver: Driver,
    /// Programs may write: what they write goes to a folder beside the cache, and with the mount.
    pub writable: bool,
    /// It goes to this folder, and stays.
    pub writable_dir: Option<PathBuf>,
}

/// Tells how a session ended.
type Serving = oneshot::Receiver<io::Result<()>>;

/// A mount's session: it waits to be run, or runs.
#[derive(Debug)]
enum Served {
    Waiting(Box<Session<Adapter>>),
    WaitingFlat(Box<Session<Flat>>),
    Running(Serving),
}

/// A mount.
#[derive(Debug)]
pub struct Mount {
    attached: Attached,
    served: Served,
    kept: Kept,
    inflight: Inflight,
    /// Another process served it before.
    taken_over: bool,
    /// Layers with which another process will go on if this one fails.
    left: usize,
    tasks: Tasks,
    /// Both go last.
    mark: Option<Mark>,
    _written: Option<File>,
}

impl Mount {
    /// Mounts `image` through FUSE, which `/proc/mounts` shows as `name`, at a directory. A mount there whose process died
    /// is taken away. Must be called within a runtime. Nothing can be read before [`Self::run`].
    ///
    /// # Errors
    /// The directory is in use or missing, or the system refuses.
    pub fn new(image: OpenImage, name: &str, path: &Path, tasks: Tasks) -> Result<Self, MountError> {
        Self::of(Files::One(Shown::new(image)), name, path, None, tasks)
    }

    /// Mounts any files through FUSE, as [`Self::new`] does; `threads` take requests from the kernel.
    ///
    /// # Errors
    /// The directory is in use or missing, or the system refuses.
    pub fn of(
        files: Files,
        name: &str,
        path: &Path,
        threads: Option<usize>,
        tasks: Tasks,
    ) -> Result<Self, MountError> {
        let path = mounts::recover(path)?;
        let adapter = Adapter::new(files.clone(), tasks.clone());
        let (note, inflight) = (adapter.agreed(), adapter.inflight());
        let failed = |error| system("mount at", &path, error);
        let session = Session::new(adapter, &path, &config(name, threads)).map_err(failed)?;
        tell_by(&files, &session);
        let kept = Kept {
            connection: session.as_fd().try_clone_to_owned().map_err(failed)?,
            agreed: note.get(),
            mark: None,
            over: None,
        };
        Ok(Self {
            attached: Attached { path, layers: 1 },
            served: Served::Waiting(Box::new(session)),
            kept,
            inflight,
            taken_over: false,
            left: 0,
            tasks,
            mark: None,
            _written: None,
        })
    }

    /// Mounts `image` at a directory as `options` say, otherwise as [`Self::new`] does.
    ///
    /// # Errors
    /// The directory is in use or missing, the system refuses, or the image is not one for the driver that was named.
    pub async fn attach(
        image: OpenImage,
        name: &str,
        path: &Path,
        options: &Options,
        tasks: Tasks,
    ) -> Result<Self, MountError> {
        free(path, &tasks).await?;
        mounts::sweep(image.folder());
        let folder = image.folder().to_owned();
        let mounted = Self::attach_image(image, name, path, options.driver, tasks).await?;
        if options.writable || options.writable_dir.is_some() {
            mounted
                .write_over(name, &folder, options.writable_dir.as_deref())
                .await
        } else {
            Ok(mounted)
        }
    }

    async fn attach_image(
        image: OpenImage,
        name: &str,
        path: &Path,
        driver: Driver,
        tasks: Tasks,
    ) -> Result<Self, MountError> {
        if driver == Driver::Fuse {
            return Self::new(image, name, path, tasks);
        }
        let point = mounts::recover(path)?;
        match erofs::mount(&image, name, &point, &tasks).await {
            Ok((mark, serving, kept)) => Ok(Self {
                attached: Attached {
                    path: point,
                    layers: 1,
                },
                served: Served::Running(serving),
                kept,
                inflight: Inflight::default(),
                taken_over: false,
                left: 0,
                tasks,
                mark: Some(mark),
                _written: None,
            }),
            Err(error) if driver == Driver::Auto => {
                tracing::info!(%error, "the kernel does not mount it by itself");
                Self::new(image, name, path, tasks)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts an overlay on top. The image is served from here on.
    async fn write_over(mut self, name: &str, folder: &Path, dir: Option<&Path>) -> Result<Self, MountError> {
        let path = self.attached.path.clone();
        let cannot = |error: io::Error| system("make writable", &path, error);
        if let Served::Waiting(session) = self.served {
            self.served = Served::Running(serve(*session, &self.tasks));
        }
        let mark = match self.mark.take() {
            Some(mark) => mark,
            None => Mark::new(folder, name, &path).map_err(cannot)?,
        };
        let source = mark.source().to_owned();
        let dir = dir.map_or_else(|| mark.folder().join("written"), Path::to_owned);
        let over = Over {
            source: source.clone(),
            written: std::path::absolute(&dir).map_err(cannot)?,
        };
        self.mark = Some(mark);
        let point = path.clone();
        // The kernel asks for the image's root meanwhile.
        let attach = move || {
            let lock = overlay::prepare(&dir)?;
            overlay::attach(&source, &point, &dir).map(|()| lock)
        };
        let attached = self.tasks.blocking("mount of an overlay", attach).await;
        let attached = attached.unwrap_or_else(|error| Err(io::Error::other(error)));
        self._written = Some(attached.map_err(cannot)?);
        self.attached.layers += 1;
        self.kept.over = Some(over);
        Ok(self)
    }

    /// Goes on with a mount at `path` that another process served. Files must have the numbers that they had there.
    /// Nothing is answered before [`Self::run`].
    ///
    /// # Errors
    /// The system refuses.
    pub fn take_over(
        files: &Files,
        path: &Path,
        kept: Kept,
        threads: Option<usize>,
        tasks: Tasks,
    ) -> Result<Self, MountError> {
        let failed = |error| system("take over the mount at", path, error);
        let (mut mark, mut inflight) = (None, Inflight::default());
        let served = match (&kept.mark, files) {
            (Some(source), Files::One(shown)) => {
                mark = Some(Mark::adopt(source).map_err(failed)?);
                Served::WaitingFlat(Box::new(erofs::take_over(shown.image(), path, &kept, &tasks)?))
            }
            _ => {
                let adapter = Adapter::new(files.clone(), tasks.clone());
                inflight = adapter.inflight();
                let connection = kept.connection.as_fd();
                let session = takeover::session(adapter, connection, kept.agreed, config("", threads));
                let session = session.map_err(failed)?;
                tell_by(files, &session);
                Served::Waiting(Box::new(session))
            }
        };
        let mut written = None;
        if let Some(over) = &kept.over {
            written = Some(overlay::lock(&over.written).map_err(failed)?);
            if mark.is_none() {
                mark = Some(Mark::adopt(&over.source).map_err(failed)?);
            }
        }
        let taken = Self {
            attached: Attached {
                path: path.to_owned(),
                layers: 1 + usize::from(kept.over.is_some()),
            },
            served,
            kept,
            inflight,
            taken_over: true,
            left: 0,
            tasks,
            mark,
            _written: written,
        };
        // Whatever fails from here on, the next process is to find it as this one did.
        Ok(taken.left_on_failure())
    }

    /// Leaves the mount where it is if this process fails, since another one will go on with it.
    #[must_use]
    pub fn left_on_failure(mut self) -> Self {
        self.left = self.left.max(std::mem::take(&mut self.attached.layers));
        if let Some(mark) = &mut self.mark {
            mark.stay(true);
        }
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.attached.path
    }

    /// Who shows the tree.
    pub fn driver(&self) -> Driver {
        match self.kept.mark {
            Some(_) => Driver::Erofs,
            None => Driver::Fuse,
        }
    }

    /// What another process needs to go on with it.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn kept(&self) -> io::Result<Kept> {
        Ok(Kept {
            connection: self.kept.connection.try_clone()?,
            agreed: self.kept.agreed,
            mark: self.kept.mark.clone(),
            over: self.kept.over.clone(),
        })
    }

    /// The reads that wait for bytes from elsewhere.
    pub fn inflight(&self) -> Inflight {
        self.inflight.clone()
    }

    /// Serves the mount until `stop`, or until it is unmounted by somebody else. It is unmounted in either case, and
    /// when the future is dropped.
    ///
    /// # Errors
    /// FUSE fails, or the mount cannot be taken away.
    pub async fn run(self, stop: CancellationToken) -> Result<(), MountError> {
        self.run_or_leave(stop, CancellationToken::new()).await
    }

    /// As [`Self::run`]; with `leave` it ends as well, and the mount stays, for another process to go on with it.
    ///
    /// # Errors
    /// FUSE fails, or the mount cannot be taken away.
    pub async fn run_or_leave(
        self,
        stop: CancellationToken,
        leave: CancellationToken,
    ) -> Result<(), MountError> {
        let Self {
            mut attached,
            served,
            kept,
            taken_over,
            left,
            tasks,
            mut mark,
            _written,
            ..
        } = self;
        let path = attached.path.clone();
        if taken_over {
            let asked_again = takeover::resend(&kept.connection);
            asked_again.map_err(|error| system("take over the mount at", &path, error))?;
        }
        let mut end = match served {
            Served::Waiting(session) => serve(*session, &tasks),
            Served::WaitingFlat(session) => serve(*session, &tasks),
            Served::Running(serving) => serving,
        };
        tokio::select! {
            biased;
            served = &mut end => {
                // What was over it held it.
                attached.layers = 0;
                let ended = outcome(served, &path);
                if let Some(mark) = mark.as_mut().filter(|_| ended.is_ok()) {
                    mark.stay(false);
                }
                return ended;
            }
            () = leave.cancelled() => {
                attached.layers = 0;
                return Ok(());
            }
            () = stop.cancelled() => {}
        }
        // One that is left if this process fails is taken away in order all the same.
        let mut layers = attached.layers.max(left);
        while layers > 0 {
            unmount_in_time(&path).await?;
            layers -= 1;
            attached.layers = attached.layers.min(layers);
        }
        if let Some(mark) = &mut mark {
            mark.stay(false);
        }
        match timeout(END_GRACE, end).await {
            Ok(served) => outcome(served, &path),
            Err(_) => {
                tracing::info!(path = %path.display(), "the mount is detached and goes with its last user");
                Ok(())
            }
        }
    }
}

/// Makes sure that nothing is mounted there. One whose process lives and stands still answers nothing, and is not waited for.
async fn free(path: &Path, tasks: &Tasks) -> Result<(), MountError> {
    let point = path.to_owned();
    let looking = tasks.blocking("look at a mount point", move || mounts::recover(&point));
    match timeout(ASKED_MAX, looking).await {
        Ok(Ok(found)) => found.map(drop),
        Ok(Err(error)) => Err(system("mount at", path, io::Error::other(error))),
        Err(_) => Err(MountError::Taken(path.to_owned())),
    }
}

/// What is alike for all sessions. Several threads read from one descriptor: what was read from a clone of it would fail
/// with this process, instead of being asked again of the next one.
fn config(name: &str, threads: Option<usize>) -> Config {
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
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(threads.unwrap_or(cores).clamp(2, THREADS_MAX));
    config.clone_fd = false;
    config
}

/// Images that come and go are told to the kernel through the session.
fn tell_by(files: &Files, session: &Session<Adapter>) {
    if let Files::Many(shared) = files {
        shared.tell_by(session.notifier());
    }
}

/// Runs a session. It ends with the mount, which may outlive whoever mounted: nobody waits for it.
fn serve<F: Filesystem + Debug>(session: Session<F>, tasks: &Tasks) -> Serving {
    let (ended, end) = oneshot::channel();
    let serving = tasks.clone();
    tasks.spawn("FUSE session", async move {
        let served = serving.blocking("FUSE session", move || session.run()).await;
        let _ = ended.send(served.unwrap_or_else(|error| Err(io::Error::other(error))));
    });
    end
}

fn outcome(served: Result<io::Result<()>, oneshot::error::RecvError>, path: &Path) -> Result<(), MountError> {
    let served = served.unwrap_or_else(|error| Err(io::Error::other(error)));
    served.map_err(|error| system("serve", path, error))
}

/// Whether an image is mounted at an absolute path without links, dead or alive. The mount itself is not asked.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn shows_image(path: &Path) -> Result<bool, MountError> {
    mounts::is_still(path)
}

/// Whether the image that is mounted at such a path is served: `None` without one. It is asked, and may hang with its process.
///
/// # Errors
/// The table of mounts cannot be read.
pub fn is_served(path: &Path) -> Result<Option<bool>, MountError> {
    mounts::is_served(path)
}

/// Whether something is mounted at this very path. Nobody is asked for it who may be dead.
///
/// # Errors
/// There is no such path, or the system does not tell.
pub fn is_mounted(path: &Path) -> Result<bool, MountError> {
    mounts::is_mounted(&mounts::place(path)?)
}
