//! Opens the image that a configuration and a bootstrap describe. Asks nothing of the network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use darter_service::net::Address;
use darter_service::supervise::Tasks;

use super::config::{Backend, Config, ConfigError, Early, basic};
use super::daemon::DaemonError;
use super::state::ImageState;
use crate::blob::{BlobSource, Client, Credential, Folder, Mirror, Patience};
use crate::fs::{CacheFolder, Limits, OpenImage};
use crate::mount::Shown;

/// Opens images.
#[derive(Debug)]
pub(super) struct Images {
    /// The node's mirror, where a configuration names no other.
    mirror: Address,
    /// Where blobs are kept, where a configuration names no other place.
    folder: PathBuf,
    limits: Limits,
    tasks: Tasks,
    /// One client a mirror, so that all images together have one number of connections.
    clients: Mutex<BTreeMap<String, Arc<Client>>>,
    /// The cache folders that are open.
    folders: Mutex<BTreeMap<PathBuf, CacheFolder>>,
    /// Keys of configurations that are not known, and of which the log has heard.
    told: Mutex<BTreeSet<String>>,
}

/// Keys that are told at all.
const TOLD_MAX: usize = 256;

/// An image that is open, with what it was opened by.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) shown: Shown,
    pub(super) state: ImageState,
    pub(super) credential: Credential,
    /// Where its blobs are kept.
    pub(super) folder: PathBuf,
    /// Its user's name for it.
    pub(super) id: Option<String>,
    /// What its configuration wants to be fetched early.
    pub(super) prefetch: Early,
    /// Where its blobs come from, without secrets: for people.
    pub(super) backend: (&'static str, String),
}

impl Images {
    pub(super) fn new(mirror: Address, folder: PathBuf, limits: Limits, tasks: Tasks) -> Self {
        Self {
            mirror,
            folder,
            limits,
            tasks,
            clients: Mutex::default(),
            folders: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// A cache folder, which is made if need be. All images that use it share it.
    fn folder(&self, path: &Path) -> Result<CacheFolder, DaemonError> {
        make(path)?;
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get(path) {
            return Ok(folder.clone());
        }
        let folder = CacheFolder::open(path, self.limits.cache_bytes_max)?;
        folders.insert(path.to_owned(), folder.clone());
        Ok(folder)
    }

    /// Looks after the cache folders, and closes those that no image uses. Takes its time.
    pub(super) fn tidy(&self) {
        let open: Vec<CacheFolder> = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            folders.retain(|_, folder| folder.is_shared());
            folders.values().cloned().collect()
        };
        open.iter().for_each(CacheFolder::tidy);
    }

    fn client(&self, mirror: &Address) -> Arc<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Client::new(
                mirror.clone(),
                Patience::default(),
                self.tasks.clone(),
            ))
        };
        Arc::clone(clients.entry(mirror.to_string()).or_insert_with(new))
    }

    /// Tells of keys that nobody knows, of each once.
    fn tell(&self, mut unknown: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.retain(|key| told.len() < TOLD_MAX && told.insert(key.clone()));
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "keys of the configuration that are not known are passed over");
        }
    }

    /// Opens an image. Must be called within a runtime; reads a few files.
    pub(super) fn open(&self, state: ImageState) -> Result<Opened, DaemonError> {
        let config = Config::parse(state.config.as_bytes())?;
        self.tell(config.unknown);
        let credential = Credential::default();
        let source: Arc<dyn BlobSource>;
        let backend;
        match config.backend {
            Backend::Folder(folder) => {
                source = Arc::new(Folder::new(&folder, self.tasks.clone()));
                backend = ("localfs", folder.display().to_string());
            }
            Backend::Registry(registry) => {
                credential.set(registry.authorization);
                if let Some(auth) = &state.auth {
                    credential.set(Some(basic(auth).ok_or(ConfigError::Key("registry_auth"))?));
                }
                backend = ("registry", format!("{}/{}", registry.host, registry.repository));
                let client = self.client(registry.mirror.as_ref().unwrap_or(&self.mirror));
                let mirror = Mirror::new(client, registry.host, registry.repository);
                source = Arc::new(mirror.with_credential(credential.clone()));
            }
        }
        let folder = config.work_dir.unwrap_or_else(|| self.folder.clone());
        let kept = self.folder(&folder)?;
        let (limits, tasks) = (self.limits, self.tasks.clone());
        let image = OpenImage::open_in(&state.bootstrap, source, &kept, limits, tasks)?;
        Ok(Opened {
            shown: Shown::new(image),
            state,
            credential,
            folder,
            id: config.id,
            prefetch: config.prefetch,
            backend,
        })
    }
}

fn make(folder: &Path) -> Result<(), DaemonError> {
    std::fs::create_dir_all(folder).map_err(|error| DaemonError::File {
        path: folder.to_owned(),
        error,
    })
}
