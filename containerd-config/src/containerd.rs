//! containerd: `config_path` in its `config.toml`, and a `hosts.toml` per registry that names the proxy first.
//!
//! containerd tries the hosts of a `hosts.toml` in the order of the file and the registry itself last, so a proxy
//! that does not answer costs a pull no more than the dial timeout. It reads `hosts.toml` at each pull, but
//! `config.toml` only at its start: that is the one restart.
//!
//! `config` finds and edits `config.toml`, `distribution` knows the places, `snapshotter` what our snapshotter needs; `crate::hosts` edits a `hosts.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hosts::Host;
use crate::hosts::place::{self, Place};
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup};
use config::Config;
use distribution::Distribution;

mod config;
mod distribution;
mod inspect;
mod snapshotter;

pub use crate::hosts::fuzz_hosts;

pub(crate) use inspect::entry;
pub use inspect::{Entry, Inspection, inspect};

/// Where `hosts.toml` files go if containerd has no `config_path` yet.
const HOSTS_DIRECTORY: &str = "/etc/containerd/certs.d";

/// What containerd may ask the proxy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capabilities {
    /// Contents by digest, and which digest a tag means.
    #[default]
    PullAndResolve,
    /// Contents by digest only: tags are asked of the registry itself.
    Pull,
}

/// Which files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parts {
    /// `hosts.toml`, and `config_path` where it is missing.
    #[default]
    All,
    /// `hosts.toml` alone; a note says where `config_path` is missing.
    Hosts,
    /// `config_path` alone, for a proxy that writes `hosts.toml` itself.
    ConfigPath,
}

/// What `darter setup containerd` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `config.toml` to use instead of those that are found; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// Which files are written.
    pub parts: Parts,
    /// The address of the proxy.
    pub mirror: Mirror,
    /// The registries to pull through the proxy; empty means all ([`Registry::Default`]).
    pub registries: Vec<Registry>,
    /// What containerd may ask the proxy for.
    pub capabilities: Capabilities,
    /// How long containerd waits for a connection to the proxy before it goes to the next host. Whole
    /// milliseconds; containerd's own default of 30 s would stall each request while a node's address is dead.
    pub dial_timeout: Duration,
    /// The socket of `darter snapshotter`, if containerd is to take that for its snapshots.
    pub snapshotter: Option<PathBuf>,
}

impl Options {
    /// The defaults: every registry, the proxy at `http://127.0.0.1:4001`, 200 ms.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            config: None,
            parts: Parts::default(),
            mirror: Mirror::default(),
            registries: Vec::new(),
            capabilities: Capabilities::default(),
            dial_timeout: Duration::from_millis(200),
            snapshotter: None,
        }
    }
}

/// Where `darter snapshotter` listens, unless it is told otherwise. The folder is root's alone: whoever can replace the socket
/// tells containerd, which is root, what to mount. So it is not the proxy's, which belongs to the proxy's user.
pub const SNAPSHOTTER_SOCKET: &str = "/run/darter-snapshotter/snapshotter.sock";

/// What has to change so that containerd pulls through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or set in a way that containerd would refuse.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let host = Host::new(
        Runtime::Containerd,
        &options.mirror,
        options.capabilities,
        options.dial_timeout,
    )?;
    let mut plan = Plan::new(&options.root, Runtime::Containerd);
    let mut planned: Vec<PathBuf> = Vec::new();
    for distribution in distribution::find(&options.root, options.config.as_deref())? {
        let directories = plan_config(&mut plan, options, &distribution)?;
        if options.parts == Parts::ConfigPath {
            continue;
        }
        let registries = match options.registries.as_slice() {
            [] => &[Registry::Default],
            named => named,
        };
        for registry in registries {
            let place = place::find(&options.root, &directories, registry)?;
            // The same registry twice, or two configurations with one directory.
            if planned.contains(&place.path) {
                continue;
            }
            planned.push(place.path.clone());
            plan_hosts(&mut plan, &distribution, registry, &host, place)?;
        }
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, Runtime::Containerd)
}

/// Plans the edit of `config.toml` if it is needed; answers the directories of `config_path`.
fn plan_config(
    plan: &mut Plan,
    options: &Options,
    distribution: &Distribution,
) -> Result<Vec<PathBuf>, Error> {
    let mut config = Config::load(&options.root, &distribution.config)?;
    if config.cri_disabled() {
        plan.note(Note::CriDisabled {
            path: distribution.config.clone(),
        });
    }
    let found = config.directories()?;
    if found.is_none() && options.parts == Parts::Hosts {
        plan.note(Note::NoConfigPath {
            path: distribution.config.clone(),
        });
    }
    let lacks_path = found.is_none() && options.parts != Parts::Hosts;
    let snapshotter = options
        .snapshotter
        .as_deref()
        .filter(|_| options.parts != Parts::Hosts);
    if lacks_path {
        config.set_directory(HOSTS_DIRECTORY)?;
    }
    if let Some(socket) = snapshotter {
        config.set_snapshotter(&socket.display().to_string())?;
    }
    let changes = config.changes();
    if let Some(name) = distribution.generated_by
        && !changes.is_empty()
    {
        return Err(Error::Generated {
            path: distribution.config.clone(),
            distribution: name,
            template: distribution.template(config.version()),
        });
    }
    for change in changes {
        plan.note(Note::RestartNeeded {
            path: change.path.clone(),
            runtime: Runtime::Containerd,
        });
        plan.change(change);
    }
    Ok(found.unwrap_or_else(|| vec![PathBuf::from(HOSTS_DIRECTORY)]))
}

fn plan_hosts(
    plan: &mut Plan,
    distribution: &Distribution,
    registry: &Registry,
    host: &Host,
    place: Place,
) -> Result<(), Error> {
    let path = place.path.clone();
    let before = place.plan(plan, registry, host)?;
    if let Some(name) = distribution.generated_by
        && before.as_deref().is_some_and(distribution::is_generated)
    {
        plan.note(Note::Regenerated {
            path,
            distribution: name,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
