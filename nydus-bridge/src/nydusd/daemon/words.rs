//! What the process is told at its start, what it says of itself, and why something is not done.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use darter_service::net::Address;
use thiserror::Error;

use crate::fs::{FsError, Limits};
use crate::mount::{Counts, MountError, SharedError};
use crate::nydusd::config::ConfigError;
use crate::nydusd::source::BackendSource;
use crate::nydusd::state::StateError;

/// Why something is not done.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The image cannot be opened.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It cannot be shown in the mount.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// The process before left nothing that can be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file cannot be used.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The supervisor cannot be talked to.
    #[error("cannot talk to the supervisor: {0}")]
    Supervisor(io::Error),
    /// There is none.
    #[error("there is no supervisor: give one with --supervisor")]
    NoSupervisor,
    /// It is not the time for that.
    #[error("that cannot be done in the state {0}")]
    Order(&'static str),
    /// The process shows one image.
    #[error("this process shows one image, which it was started with")]
    Dedicated,
    /// No image of that name.
    #[error("there is no image {0:?}")]
    Unknown(String),
    /// It is stopping, or the runtime fails.
    #[error("the process is stopping")]
    Stopping,
}

/// How the process was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub id: Option<String>,
    /// Where the mount is, or will be.
    pub mountpoint: PathBuf,
    /// Who keeps the mount when the process dies.
    pub supervisor: Option<PathBuf>,
    /// The node's mirror.
    pub mirror: Address,
    /// Threads that take requests from the kernel.
    pub threads: Option<usize>,
    /// Where blobs are kept, if the configuration does not say.
    pub folder: PathBuf,
    /// Bounds of what an image fetches and keeps.
    pub limits: Limits,
    /// Between two looks at the cache folders.
    pub tidy_every: Duration,
    /// Files and directories of the one image that are fetched before anybody reads them; `/` alone is everything.
    pub prefetch: Vec<PathBuf>,
    /// Where the credential of the one image is asked for, if its configuration has none.
    pub backend_source: Option<BackendSource>,
}

/// What the process begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// One image.
    Image {
        /// Its metadata.
        bootstrap: PathBuf,
        /// Its configuration.
        config: String,
    },
    /// No image: they come and go.
    Shared,
    /// Another process served the mount, and will tell.
    Successor,
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no mount.
    Init,
    /// It has one that it does not serve yet.
    Ready,
    /// It serves.
    Running,
}

impl State {
    /// As nydusd calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Ready => "READY",
            Self::Running => "RUNNING",
        }
    }
}

/// An image as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nydusd) struct About {
    pub(in crate::nydusd) mountpoint: String,
    pub(in crate::nydusd) kind: &'static str,
    pub(in crate::nydusd) from: String,
    pub(in crate::nydusd) mounted: u64,
}

/// What is known of an image's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nydusd) struct Cached {
    pub(in crate::nydusd) folder: PathBuf,
    pub(in crate::nydusd) counts: Counts,
}

/// Seconds since 1970, for people.
#[expect(
    clippy::disallowed_methods,
    reason = "it is shown, and nothing is decided by it"
)]
pub(in crate::nydusd) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
