//! What nydusd is asked to do, done: mounts images, shows them, hands its mount over and takes one over.
//!
//! One lock holds all that changes; what blocks is done outside of it. The order of states is INIT (nothing yet), READY (a
//! mount was taken over and is not served yet), RUNNING.

mod care;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_service::supervise::Tasks;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::config::{ConfigError, basic};
use super::images::{Images, Opened};
use super::state::{self, ImageState, StateError};
use super::supervisor;
use crate::mount::{Counts, Files, Inflight, Kept, Mount, MountError, Shared, SharedError, WaitingRead};

pub(super) use words::{About, Cached, now};
pub use words::{Beginning, DaemonError, Options, State};

/// How long after it was asked to leave the process does: its answer must be out.
const LEAVE_DELAY: Duration = Duration::from_millis(50);

#[derive(Debug)]
enum Stage {
    Init,
    Ready(Box<Mount>),
    Running,
}

#[derive(Debug)]
struct Inner {
    stage: Stage,
    files: Option<Files>,
    kept: Option<Kept>,
    inflight: Inflight,
    images: BTreeMap<String, Opened>,
}

/// The process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Daemon(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    options: Options,
    images: Images,
    tasks: Tasks,
    stop: CancellationToken,
    leave: CancellationToken,
    started: CancellationToken,
    inner: Mutex<Inner>,
    ended: Mutex<Option<oneshot::Receiver<Result<(), MountError>>>>,
    /// A mount or unmount at a time, as states are sent as a whole.
    turns: tokio::sync::Mutex<()>,
}

impl Daemon {
    /// A process with nothing to serve yet. `stop` has it unmount and end.
    pub fn new(options: Options, tasks: Tasks, stop: CancellationToken) -> Self {
        let (mirror, folder) = (options.mirror.clone(), options.folder.clone());
        let images = Images::new(mirror, folder, options.limits, tasks.clone());
        Self(Arc::new(Whole {
            options,
            images,
            tasks,
            stop,
            leave: CancellationToken::new(),
            started: CancellationToken::new(),
            inner: Mutex::new(Inner {
                stage: Stage::Init,
                files: None,
                kept: None,
                inflight: Inflight::default(),
                images: BTreeMap::new(),
            }),
            ended: Mutex::default(),
            turns: tokio::sync::Mutex::default(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Cancelled when the process is to end and leave its mount to another one.
    pub fn left(&self) -> CancellationToken {
        self.0.leave.clone()
    }

    /// How far it is.
    pub fn state(&self) -> State {
        match self.inner().stage {
            Stage::Init => State::Init,
            Stage::Ready(_) => State::Ready,
            Stage::Running => State::Running,
        }
    }

    /// Runs what may block on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, DaemonError> + Send + 'static,
    ) -> Result<T, DaemonError> {
        let daemon = self.clone();
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let _runtime = runtime.enter();
            work(&daemon)
        };
        let done = self.0.tasks.blocking("work of nydusd", work).await;
        done.map_err(|_| DaemonError::Stopping)?
    }

    /// Mounts and serves what the process was started with; nothing, for a successor.
    ///
    /// # Errors
    /// It cannot be opened or mounted.
    pub async fn begin(&self, beginning: Beginning) -> Result<(), DaemonError> {
        if beginning == Beginning::Successor {
            return Ok(());
        }
        self.blocking(move |daemon| daemon.mount_first(beginning)).await?;
        self.ask_for_credential();
        self.start().await?;
        if let Some(only) = self.inner().images.get("/") {
            Self::prefetch(only, &self.options().prefetch);
        }
        Ok(())
    }

    fn mount_first(&self, beginning: Beginning) -> Result<(), DaemonError> {
        let options = self.options();
        let (files, name, opened) = match beginning {
            Beginning::Image { bootstrap, config } => {
                let opened = self.open("/".to_owned(), bootstrap, config)?;
                let name = opened.backend.1.clone();
                (Files::One(opened.shown.clone()), name, Some(opened))
            }
            Beginning::Shared | Beginning::Successor => {
                (Files::Many(Arc::default()), "nydusd".to_owned(), None)
            }
        };
        let (point, tasks) = (&options.mountpoint, self.0.tasks.clone());
        let mount = Mount::of(files.clone(), &name, point, options.threads, tasks)?;
        self.ready(mount, files, opened.into_iter().collect())
    }

    /// Has a mount, and does not serve it yet.
    fn ready(&self, mount: Mount, files: Files, opened: Vec<Opened>) -> Result<(), DaemonError> {
        let kept = mount.kept().map_err(DaemonError::Supervisor)?;
        let mount = match self.options().supervisor {
            Some(_) => mount.left_on_failure(),
            None => mount,
        };
        let mut inner = self.inner();
        inner.inflight = mount.inflight();
        inner.files = Some(files);
        inner.kept = Some(kept);
        inner.images = opened
            .into_iter()
            .map(|opened| (opened.state.mountpoint.clone(), opened))
            .collect();
        inner.stage = Stage::Ready(Box::new(mount));
        Ok(())
    }

    fn open(&self, mountpoint: String, bootstrap: PathBuf, config: String) -> Result<Opened, DaemonError> {
        self.0.images.open(ImageState {
            mountpoint,
            instance: 0,
            bootstrap,
            config,
            auth: None,
            mounted: now(),
        })
    }

    /// Serves the mount that it has.
    ///
    /// # Errors
    /// It has none, or serves it already.
    pub async fn start(&self) -> Result<(), DaemonError> {
        let _turn = self.0.turns.lock().await;
        let mount = {
            let mut inner = self.inner();
            match std::mem::replace(&mut inner.stage, Stage::Running) {
                Stage::Ready(mount) => mount,
                Stage::Init => {
                    inner.stage = Stage::Init;
                    return Err(DaemonError::Order("INIT"));
                }
                Stage::Running => return Err(DaemonError::Order("RUNNING")),
            }
        };
        let (send, ended) = oneshot::channel();
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        self.0.started.cancel();
        let running = mount.run_or_leave(self.0.stop.clone(), self.0.leave.clone());
        self.0.tasks.spawn("nydusd's mount", async move {
            // Whoever waited for it is gone only with the process.
            let _ = send.send(running.await);
        });
        self.look_after();
        Ok(())
    }

    /// Waits for the end: the mount's, or that the process was told to stop or to leave.
    ///
    /// # Errors
    /// The mount fails, or cannot be taken away.
    pub async fn ended(&self) -> Result<(), MountError> {
        tokio::select! {
            () = self.0.stop.cancelled() => {}
            () = self.0.leave.cancelled() => {}
            () = self.0.started.cancelled() => {}
        }
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ended {
            Some(ended) => ended.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }

    /// Shows an image as a directory.
    ///
    /// # Errors
    /// It cannot be opened, or its place is taken.
    pub async fn mount(
        &self,
        mountpoint: String,
        bootstrap: PathBuf,
        config: String,
    ) -> Result<(), DaemonError> {
        let _turn = self.0.turns.lock().await;
        self.blocking(move |daemon| {
            let shared = daemon.shared()?;
            let name = name(&mountpoint)?.to_owned();
            if daemon.inner().images.contains_key(&mountpoint) {
                return Err(SharedError::Taken.into());
            }
            let mut opened = daemon.open(mountpoint.clone(), bootstrap, config)?;
            opened.state.instance = shared.add(OsStr::new(&name), None, opened.shown.clone())?;
            Self::prefetch(&opened, &[]);
            daemon.inner().images.insert(mountpoint, opened);
            Ok(())
        })
        .await
    }

    /// Shows an image no more.
    ///
    /// # Errors
    /// There is none.
    pub async fn umount(&self, mountpoint: String) -> Result<(), DaemonError> {
        let _turn = self.0.turns.lock().await;
        self.blocking(move |daemon| {
            let shared = daemon.shared()?;
            let gone = daemon.inner().images.remove(&mountpoint);
            let name = name(&mountpoint)?;
            if gone.is_none() || !shared.remove(OsStr::new(name)) {
                return Err(DaemonError::Unknown(mountpoint));
            }
            Ok(())
        })
        .await
    }

    fn shared(&self) -> Result<Arc<Shared>, DaemonError> {
        let state = self.state();
        match &self.inner().files {
            _ if state != State::Running => Err(DaemonError::Order(state.name())),
            Some(Files::Many(shared)) => Ok(Arc::clone(shared)),
            _ => Err(DaemonError::Dedicated),
        }
    }

    /// Takes a new credential, a user and a password encoded for a request, for an image.
    ///
    /// # Errors
    /// There is no such image, or it is none that a request can have.
    pub fn renew(&self, id: &str, auth: &str) -> Result<(), DaemonError> {
        let value = basic(auth).ok_or(ConfigError::Key("registry_auth"))?;
        let mut inner = self.inner();
        let opened = inner.find_mut(Some(id))?;
        opened.credential.set(Some(value));
        opened.state.auth = Some(auth.to_owned());
        Ok(())
    }

    /// Tells the supervisor all that another process needs to go on.
    ///
    /// # Errors
    /// There is none, or it cannot be talked to.
    pub async fn send(&self) -> Result<(), DaemonError> {
        let _turn = self.0.turns.lock().await;
        self.blocking(|daemon| {
            let socket = daemon
                .options()
                .supervisor
                .clone()
                .ok_or(DaemonError::NoSupervisor)?;
            let (state, connection) = daemon.told()?;
            supervisor::give(&socket, &state, std::os::fd::AsFd::as_fd(&connection))
                .map_err(DaemonError::Supervisor)
        })
        .await
    }

    fn told(&self) -> Result<(Vec<u8>, std::os::fd::OwnedFd), DaemonError> {
        let inner = self.inner();
        let kept = inner.kept.as_ref().ok_or(DaemonError::Order("INIT"))?;
        let connection = kept.connection.try_clone().map_err(DaemonError::Supervisor)?;
        let shared = match &inner.files {
            Some(Files::Many(shared)) => Some(shared),
            _ => None,
        };
        let mut state = state::State::new(kept.agreed, self.mountpoint(), shared.is_some());
        state.last_instance = shared.map_or(0, |shared| shared.last());
        state.images = inner.images.values().map(|opened| opened.state.clone()).collect();
        Ok((state.write(), connection))
    }

    fn mountpoint(&self) -> PathBuf {
        let point = &self.options().mountpoint;
        std::path::absolute(point).unwrap_or_else(|_| point.clone())
    }

    /// Takes over what the supervisor has. Nothing is answered before [`Self::start`].
    ///
    /// # Errors
    /// There is none, it cannot be talked to, or what it has cannot be used.
    pub async fn take_over(&self) -> Result<(), DaemonError> {
        let _turn = self.0.turns.lock().await;
        match self.state() {
            State::Init => {}
            state => return Err(DaemonError::Order(state.name())),
        }
        self.blocking(|daemon| {
            let socket = daemon
                .options()
                .supervisor
                .clone()
                .ok_or(DaemonError::NoSupervisor)?;
            let (state, connection) = supervisor::take(&socket).map_err(DaemonError::Supervisor)?;
            let state = state::State::parse(&state)?;
            let agreed = state.agreed;
            daemon.restore(
                state,
                Kept {
                    connection,
                    agreed,
                    mark: None,
                    over: None,
                },
            )
        })
        .await?;
        self.ask_for_credential();
        Ok(())
    }

    fn restore(&self, state: state::State, kept: Kept) -> Result<(), DaemonError> {
        let shared = state.shared.then(Arc::<Shared>::default);
        let mut opened = Vec::new();
        for image in state.images {
            let (instance, mountpoint) = (image.instance, image.mountpoint.clone());
            let image = self.0.images.open(image)?;
            if let Some(shared) = &shared {
                shared.add(
                    OsStr::new(name(&mountpoint)?),
                    Some(instance),
                    image.shown.clone(),
                )?;
            }
            opened.push(image);
        }
        let files = match (shared, opened.first()) {
            (Some(shared), _) => {
                shared.skip_to(state.last_instance);
                Files::Many(shared)
            }
            (None, Some(image)) => Files::One(image.shown.clone()),
            (None, None) => return Err(StateError::Wrong("there is no image").into()),
        };
        let (threads, tasks) = (self.options().threads, self.0.tasks.clone());
        let mount = Mount::take_over(&files, &state.mountpoint, kept, threads, tasks)?;
        self.ready(mount, files, opened)
    }

    /// Ends the process in a moment, and leaves its mount to another one.
    pub fn exit(&self) {
        let leave = self.0.leave.clone();
        self.0.tasks.spawn("end of nydusd", async move {
            sleep(LEAVE_DELAY).await;
            leave.cancel();
        });
    }

    /// All images.
    pub(super) fn about(&self) -> Vec<About> {
        let inner = self.inner();
        let about = |opened: &Opened| About {
            mountpoint: opened.state.mountpoint.clone(),
            kind: opened.backend.0,
            from: opened.backend.1.clone(),
            mounted: opened.state.mounted,
        };
        inner.images.values().map(about).collect()
    }

    /// What was counted of an image; of the only one, if none is named.
    pub(super) fn counts(&self, id: Option<&str>) -> Result<Counts, DaemonError> {
        Ok(self.inner().find_mut(id)?.shown.counters().counts())
    }

    /// The same for an image's cache.
    pub(super) fn cached(&self, id: Option<&str>) -> Result<Cached, DaemonError> {
        let mut inner = self.inner();
        let opened = inner.find_mut(id)?;
        Ok(Cached {
            folder: opened.folder.clone(),
            counts: opened.shown.counters().counts(),
        })
    }

    /// The reads that wait for bytes from elsewhere.
    pub(super) fn waiting(&self) -> Vec<WaitingRead> {
        self.inner().inflight.reads()
    }
}

impl Inner {
    /// By its place, or by its user's name for it where there is one image.
    fn find_mut(&mut self, id: Option<&str>) -> Result<&mut Opened, DaemonError> {
        let unknown = || DaemonError::Unknown(id.unwrap_or_default().chars().take(128).collect());
        let only = self.images.len() == 1;
        let fits = |place: &str, opened: &Opened| match id {
            None => only,
            Some(id) => id == place || (place == "/" && opened.id.as_deref() == Some(id)),
        };
        let mut images = self.images.iter_mut();
        let found = images.find(|(place, opened)| fits(place, opened));
        found.map(|(_, opened)| opened).ok_or_else(unknown)
    }
}

/// The name of the directory.
fn name(mountpoint: &str) -> Result<&str, SharedError> {
    let name = mountpoint.strip_prefix('/').ok_or(SharedError::Name)?;
    if name.is_empty() || name.contains('/') {
        return Err(SharedError::Name);
    }
    Ok(name)
}
