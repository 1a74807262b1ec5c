//! Nydus images as FUSE mounts, each served by a process of its own: started, found again, taken away.
//!
//! The processes outlive this one: they are in sessions of their own and are found again by what is mounted where. An image
//! has one attempt at a time, and after a failed one a pause that grows; so a registry that is slow, or an image that is damaged,
//! costs a bounded number of processes. A process whose mount did not come in time is ended before anybody hears of the failure.

mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darter_service::net::Address;
use darter_service::notify::NOTIFY_SOCKET;
use darter_service::supervise::Tasks;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::folders::{Folders, Owner};
use super::metrics::{Metrics, Outcome};
use crate::image::ImageName;
use crate::mount;

/// Processes that are being started at the same time.
const STARTS_MAX: usize = 4;
/// How long a start waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// How long a mount may take. It asks nobody but this machine's disk.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a mount may take to answer; its guardian may just be starting its process anew.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The log of a mount is cut now and then, and may not become long between: nobody may be there to cut it for a while.
const LOG_RATE: &str = "log.bytesPerMinuteMax=256KiB";
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
/// The pause after a failed attempt: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a mount may stay busy; then it goes with its last user.
const BUSY_GRACE: Duration = Duration::from_secs(2);
/// How long a process may take to end when its mount is gone.
const END_GRACE: Duration = Duration::from_secs(5);

/// Why an image is not mounted.
#[derive(Clone, Debug, Error)]
#[error("the image {image} cannot be mounted: {reason}")]
pub struct ImageFailure {
    image: Arc<str>,
    reason: Arc<str>,
}

/// An image that is to be mounted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The number of the snapshot that has its metadata.
    pub id: u64,
    /// These.
    pub bootstrap: PathBuf,
    /// Its name.
    pub name: ImageName,
}

/// How processes are started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program: this one.
    pub program: PathBuf,
    /// The node's mirror.
    pub mirror: Address,
    /// Most bytes of chunks that all of them keep together, as `--cache-size` takes it.
    pub cache_size: String,
}

/// What is known of an image between attempts.
#[derive(Debug, Default)]
struct Slot {
    past: tokio::sync::Mutex<Past>,
    /// Somebody waits for an answer of its mount, maybe for ever.
    asked: AtomicBool,
}

#[derive(Debug, Default)]
struct Past {
    failures: u32,
    /// No attempt before, and why.
    pause: Option<(Instant, ImageFailure)>,
}

/// All mounted images. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    folders: Folders,
    tasks: Tasks,
    /// Those that wait for the end of processes, which outlive this one: nobody waits for them at its end.
    reapers: Tasks,
    slots: Mutex<BTreeMap<u64, Arc<Slot>>>,
    starts: Semaphore,
    metrics: Metrics,
}

impl Images {
    /// Knows of nothing yet, and starts nothing.
    pub fn new(settings: Settings, folders: Folders, tasks: Tasks, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            settings,
            folders,
            tasks,
            reapers: Tasks::new(),
            slots: Mutex::default(),
            starts: Semaphore::new(STARTS_MAX),
            metrics,
        }))
    }

    /// Mounts an image, unless it is, and gives the owner of its root. An attempt goes on when its caller has left.
    ///
    /// # Errors
    /// It cannot be mounted, or could not a moment ago.
    pub async fn ensure(&self, wanted: Wanted) -> Result<Owner, ImageFailure> {
        let (done, result) = oneshot::channel();
        let (images, image) = (self.clone(), wanted.name.to_string());
        self.0.tasks.spawn("start of a mount", async move {
            let _ = done.send(images.ensure_now(&wanted).await);
        });
        result
            .await
            .unwrap_or_else(|_| Err(failure(&image, "this process stops")))
    }

    async fn ensure_now(&self, wanted: &Wanted) -> Result<Owner, ImageFailure> {
        let slot = self.slot(wanted.id);
        let mut past = slot.past.lock().await;
        let (path, image) = (self.0.folders.image(wanted.id), wanted.name.to_string());
        match self.look(&slot, &path).await {
            Seen::Answers(owner) => return Ok(owner),
            Seen::Silent => return Err(failure(&image, "its mount does not answer")),
            Seen::Dead => self.detach(&path).await,
            Seen::Nothing => {}
        }
        if let Some((until, failure)) = &past.pause
            && Instant::now() < *until
        {
            self.0.metrics.mounted(Outcome::HeldBack);
            return Err(failure.clone());
        }
        let started = self.start(wanted, &slot, &path).await;
        match &started {
            Ok(_) => {
                *past = Past::default();
                self.0.metrics.mounted(Outcome::Done);
                tracing::info!(image, id = wanted.id, "image mounted");
            }
            Err(failure) => {
                let pause = PAUSE.0.saturating_mul(1 << past.failures.min(16)).min(PAUSE.1);
                past.failures = past.failures.saturating_add(1);
                past.pause = Some((Instant::now() + pause, failure.clone()));
                self.0.metrics.mounted(Outcome::Failed);
                tracing::warn!(image, id = wanted.id, error = %failure.reason, "an image cannot be mounted");
            }
        }
        started
    }

    async fn start(&self, wanted: &Wanted, slot: &Arc<Slot>, path: &Path) -> Result<Owner, ImageFailure> {
        let image = wanted.name.to_string();
        let failed = |reason: &str| failure(&image, reason);
        let turn = timeout(TURN_WAIT, self.0.starts.acquire()).await;
        let _turn = turn.map_err(|_| failed("too many images are being mounted"))?;
        let log = self.0.folders.image_log(wanted.id);
        let mut child = self
            .spawn(wanted, path)
            .map_err(|error| failed(&error.to_string()))?;
        match timeout(START_DEADLINE, self.mounted(&mut child, slot, path, &log)).await {
            Ok(Ok(owner)) => {
                let name = image.clone();
                self.0.reapers.spawn("process of a mount", async move {
                    let ended = child.wait().await;
                    tracing::info!(image = name, ?ended, "the process of a mount has ended");
                });
                Ok(owner)
            }
            Ok(Err(reason)) => {
                self.end(child, path).await;
                Err(failed(&reason))
            }
            Err(_) => {
                self.end(child, path).await;
                Err(failed(&format!("it was not mounted within {START_DEADLINE:?}")))
            }
        }
    }

    fn spawn(&self, wanted: &Wanted, path: &Path) -> std::io::Result<Child> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let settings = &self.0.settings;
        let mut command = Command::new(&settings.program);
        command.args(["mount", "--own-session", "--log", "warn", "--bootstrap"]);
        command.arg(&wanted.bootstrap);
        command.arg("--mirror").arg(settings.mirror.to_string());
        command.arg("--cache-dir").arg(self.0.folders.cache());
        command.arg("--cache-size").arg(&settings.cache_size);
        command.arg("--set").arg(LOG_RATE);
        command.arg(wanted.name.to_string()).arg(path);
        // It is not this process's to say that it is ready.
        command.env_remove(NOTIFY_SOCKET);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.0.folders.begin_log(wanted.id)?);
        command.spawn()
    }

    /// Waits until the mount answers, or the process says why not.
    async fn mounted(
        &self,
        child: &mut Child,
        slot: &Arc<Slot>,
        path: &Path,
        log: &Path,
    ) -> Result<Owner, String> {
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(
                    process::last_words(log).unwrap_or_else(|| format!("its process ended: {status}"))
                );
            }
            if let Seen::Answers(owner) = self.look(slot, path).await {
                return Ok(owner);
            }
            sleep(STEP).await;
        }
    }

    /// Ends a process whose mount nobody will use.
    async fn end(&self, mut child: Child, path: &Path) {
        if mount::shows_image(path).unwrap_or(true) {
            self.detach(path).await;
        }
        // It may have ended by itself.
        let _ = child.start_kill();
        if timeout(END_GRACE, child.wait()).await.is_err() {
            tracing::warn!(path = %path.display(), "the process of a mount does not end");
        }
        self.kill_left(path).await;
    }

    /// Takes the mount of a snapshot away, and ends its process.
    pub async fn stop(&self, id: u64) {
        let slot = self.slot(id);
        let path = self.0.folders.image(id);
        {
            let _past = slot.past.lock().await;
            if mount::shows_image(&path).unwrap_or(true) {
                self.leave(&path).await;
                self.kill_left(&path).await;
            }
        }
        self.0
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    /// Unmounts; what stays busy goes with its last user.
    async fn leave(&self, path: &Path) {
        let deadline = Instant::now() + BUSY_GRACE;
        loop {
            let target = path.to_owned();
            let left = self
                .0
                .tasks
                .blocking("unmount", move || unmount(&target, UnmountFlags::empty()));
            match timeout(BUSY_GRACE, left).await {
                Ok(Ok(Err(Errno::BUSY))) if Instant::now() < deadline => sleep(5 * STEP).await,
                Ok(Ok(Ok(()) | Err(Errno::INVAL))) => return,
                _ => return self.detach(path).await,
            }
        }
    }

    async fn detach(&self, path: &Path) {
        let target = path.to_owned();
        let gone = self
            .0
            .tasks
            .blocking("unmount", move || unmount(&target, UnmountFlags::DETACH));
        match timeout(BUSY_GRACE, gone).await {
            Ok(Ok(Ok(()) | Err(Errno::INVAL))) => {}
            other => tracing::warn!(path = %path.display(), ?other, "a mount cannot be taken away"),
        }
    }

    /// Ends processes that serve a mount which is gone, if they do not end by themselves.
    async fn kill_left(&self, path: &Path) {
        let target = path.to_owned();
        let found = self
            .0
            .tasks
            .blocking("look for processes", move || process::serving(&target));
        let Ok(mut left) = found.await else { return };
        let deadline = Instant::now() + END_GRACE;
        while Instant::now() < deadline {
            left.retain(process::Serving::is_alive);
            if left.is_empty() {
                return;
            }
            sleep(STEP).await;
        }
        for one in left {
            tracing::warn!(path = %path.display(), "the process of a mount that is gone is ended");
            one.kill();
        }
    }

    /// The state of a mount, without hanging for long whatever it does.
    async fn look(&self, slot: &Arc<Slot>, path: &Path) -> Seen {
        // A thread that hangs is enough.
        if slot.asked.swap(true, Ordering::AcqRel) {
            return Seen::Silent;
        }
        let (target, asked) = (path.to_owned(), Arc::clone(slot));
        let looking = self.0.tasks.blocking("look at a mount", move || {
            let found = see(&target);
            asked.asked.store(false, Ordering::Release);
            found
        });
        match timeout(ANSWER_DEADLINE, looking).await {
            Ok(Ok(Ok(seen))) => seen,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, path = %path.display(), "a mount cannot be looked at");
                Seen::Silent
            }
            _ => Seen::Silent,
        }
    }

    /// Takes the mount of a snapshot away if its process died, and tells whether it was so.
    pub async fn clear(&self, id: u64) -> bool {
        let (slot, path) = (self.slot(id), self.0.folders.image(id));
        let Ok(_past) = slot.past.try_lock() else {
            return false;
        };
        match self.look(&slot, &path).await {
            Seen::Dead => {
                tracing::warn!(path = %path.display(), "a mount whose process died is taken away");
                self.detach(&path).await;
                true
            }
            Seen::Answers(_) | Seen::Silent | Seen::Nothing => false,
        }
    }

    /// Keeps the log of a mount short.
    pub async fn cut_log(&self, id: u64) {
        let folders = self.0.folders.clone();
        let cut = self.0.tasks.blocking("cut of a log", move || folders.cut_log(id));
        match cut.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(id, %error, "the log of a mount cannot be cut"),
            // This process stops.
            Err(_) => {}
        }
    }

    /// Whether an image is mounted for a snapshot, dead or alive.
    pub fn is_mounted(&self, id: u64) -> bool {
        mount::shows_image(&self.0.folders.image(id)).unwrap_or(true)
    }

    fn slot(&self, id: u64) -> Arc<Slot> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(id).or_default())
    }
}

/// What a look at a mount showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// It is whole, and its root belongs to somebody.
    Answers(Owner),
    /// Its process is gone.
    Dead,
    /// It is there and does not answer.
    Silent,
}

/// May hang with the mount.
fn see(path: &Path) -> std::io::Result<Seen> {
    match mount::is_served(path).map_err(std::io::Error::other)? {
        None => Ok(Seen::Nothing),
        Some(false) => Ok(Seen::Dead),
        Some(true) => Ok(Seen::Answers(Owner::of(path)?)),
    }
}

fn failure(image: &str, reason: &str) -> ImageFailure {
    ImageFailure {
        image: image.into(),
        reason: reason.into(),
    }
}
