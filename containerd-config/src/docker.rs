//! The Docker daemon: `registry-mirrors` in `daemon.json`, and a `hosts.toml` per registry for the containerd image
//! store.
//!
//! The classic image store uses `registry-mirrors`, for Docker Hub alone. The containerd image store (the default of
//! new installations since Docker 29) reads `hosts.toml` files of any registry and then ignores `registry-mirrors`
//! for it, so mirrors that stand there are carried over. Files do not always tell which store is in use; then both
//! forms are written, since each store leaves the other's alone.
//!
//! `daemon` edits `daemon.json` and is pure. A daemon that is given `--registry-mirror` does not start with the same
//! setting in its file: that is looked for, and refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::containerd::Capabilities;
use crate::hosts::{self, Host, place};
use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup, rooted};
use daemon::Daemon;

mod daemon;
mod inspect;
pub mod proxy;

pub use inspect::{Inspection, inspect};

/// Where Docker's packages put it.
const CONFIG: &str = "/etc/docker/daemon.json";
/// Where the containerd image store looks for `hosts.toml`.
const HOSTS_DIRECTORY: &str = "/etc/docker/certs.d";
const DATA_ROOT: &str = "/var/lib/docker";
/// Storage drivers that only the classic store has.
const CLASSIC_DRIVERS: [&str; 4] = ["overlay2", "vfs", "aufs", "devicemapper"];
/// What names a proxy for TLS in a unit or an environment file.
const PROXY_VARIABLES: [&str; 2] = ["HTTPS_PROXY=", "https_proxy="];
const MIRROR_FLAG: &str = "--registry-mirror";
/// Where a flag for the daemon can stand: units of systemd, their drop-ins, and environment files.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const ENVIRONMENT_FILES: [&str; 2] = ["/etc/default/docker", "/etc/sysconfig/docker"];

/// What `darter setup docker` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `daemon.json` to use instead of `/etc/docker/daemon.json`; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the proxy.
    pub mirror: Mirror,
    /// The registries to pull through the proxy; empty means Docker Hub.
    pub registries: Vec<Registry>,
    /// How long the containerd image store waits for a connection to the proxy. Whole milliseconds.
    pub dial_timeout: Duration,
}

impl Options {
    /// The defaults: Docker Hub, the proxy at `http://127.0.0.1:4001`, 200 ms.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            config: None,
            mirror: Mirror::default(),
            registries: Vec::new(),
            dial_timeout: Duration::from_millis(200),
        }
    }
}

/// Which image store the daemon uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Classic,
    Containerd,
    Unknown,
}

/// What has to change so that Docker pulls through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or set in a way that the daemon would refuse.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let root = &options.root;
    let path = options.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
    check_flags(root, &path)?;
    let before = rooted::read(root, &path)?;
    let daemon = Daemon::parse(&path, before.as_deref().unwrap_or_default())?;
    let others = daemon.other_mirrors(&options.mirror)?;
    let store = store(root, &daemon)?;
    let registries = match options.registries.as_slice() {
        [] => vec!["docker.io".parse()?],
        named => named.to_vec(),
    };
    let mut plan = Plan::new(root, Runtime::Docker);
    for registry in &registries {
        if *registry == Registry::Default {
            // Docker would stop applying `insecure-registries` to every registry.
            return Err(Error::InvalidRegistry {
                name: registry.to_string(),
                reason: "Docker's mirrors are set for each registry",
            });
        }
        if store == Store::Classic && !registry.is_docker_hub() {
            plan.note(Note::DockerHubOnly {
                registry: registry.to_string(),
            });
        }
    }
    if registries.iter().any(Registry::is_docker_hub) {
        plan_daemon(&mut plan, &path, before.as_deref(), &daemon, &options.mirror)?;
    }
    if store != Store::Classic {
        plan_hosts(&mut plan, options, &path, &registries, &daemon, &others)?;
        let directory = PathBuf::from(HOSTS_DIRECTORY);
        plan.note(match store {
            Store::Containerd => Note::ContainerdStore { directory },
            _ => Note::UnknownStore { directory },
        });
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, Runtime::Docker)
}

fn plan_daemon(
    plan: &mut Plan,
    path: &Path,
    before: Option<&[u8]>,
    daemon: &Daemon<'_>,
    mirror: &Mirror,
) -> Result<(), Error> {
    let after = daemon.with_mirror_first(mirror)?;
    if before == Some(after.as_bytes()) {
        return Ok(());
    }
    plan.note(Note::RestartNeeded {
        path: path.to_path_buf(),
        runtime: Runtime::Docker,
    });
    plan.change(Change {
        path: path.to_path_buf(),
        before: before.map(<[u8]>::to_vec),
        after: Some(after.into_bytes()),
        restart: true,
        private: false,
    });
    Ok(())
}

fn plan_hosts(
    plan: &mut Plan,
    options: &Options,
    config: &Path,
    registries: &[Registry],
    daemon: &Daemon<'_>,
    others: &[String],
) -> Result<(), Error> {
    let host = Host::new(
        Runtime::Docker,
        &options.mirror,
        Capabilities::PullAndResolve,
        options.dial_timeout,
    )?;
    let insecure = daemon.insecure_registries()?;
    for registry in registries {
        let name = registry.to_string();
        if insecure.contains(&name) {
            return Err(Error::InsecureRegistry {
                path: config.to_path_buf(),
                registry: name,
            });
        }
        let place = place::find(&options.root, &[PathBuf::from(HOSTS_DIRECTORY)], registry)?;
        let path = place.path.clone();
        if place.plan(plan, registry, &host)?.is_none() && registry.is_docker_hub() {
            // The daemon's own mirrors no longer apply to a registry that has a `hosts.toml`.
            let new = plan.changes.iter_mut().find(|change| change.path == path);
            if let Some(text) = new.and_then(|change| change.after.as_mut()) {
                text.extend_from_slice(hosts::followers(others).as_bytes());
            }
        }
    }
    Ok(())
}

/// Which store the files speak for.
fn store(root: &Path, daemon: &Daemon<'_>) -> Result<Store, Error> {
    if let Some(on) = daemon.containerd_store()? {
        return Ok(if on { Store::Containerd } else { Store::Classic });
    }
    let driver = daemon.text("storage-driver")?;
    if driver.is_some_and(|driver| CLASSIC_DRIVERS.contains(&driver.as_str())) {
        return Ok(Store::Classic);
    }
    // Docker 29 stays with the classic store where it finds the layers of one.
    let data = daemon.text("data-root")?;
    let layers = Path::new(data.as_deref().unwrap_or(DATA_ROOT)).join("overlay2");
    let used = !rooted::names(root, &layers)?.is_empty();
    Ok(if used { Store::Classic } else { Store::Unknown })
}

/// The files in which a unit's flags and variables can stand, whether or not they are there.
fn unit_files(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files: Vec<PathBuf> = ENVIRONMENT_FILES.iter().map(PathBuf::from).collect();
    for directory in UNIT_DIRECTORIES.iter().map(Path::new) {
        files.push(directory.join("docker.service"));
        let drop_ins = directory.join("docker.service.d");
        files.extend(
            rooted::names(root, &drop_ins)?
                .iter()
                .filter(|name| name.ends_with(".conf"))
                .map(|name| drop_ins.join(name)),
        );
    }
    Ok(files)
}

/// A flag in the way of the file's setting stops the daemon from starting.
fn check_flags(root: &Path, config: &Path) -> Result<(), Error> {
    for path in unit_files(root)? {
        let Some(bytes) = rooted::read(root, &path)? else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().map(str::trim_start);
        if lines.any(|line| !line.starts_with(['#', ';']) && line.contains(MIRROR_FLAG)) {
            return Err(Error::FlagConflict {
                path,
                flag: MIRROR_FLAG,
                config: config.to_path_buf(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
