//! Snapshotters that read layers lazily: stargz-snapshotter and SOCI, whose settings have the same form.
//!
//! Both ask a mirror without saying for which registry. stargz can send a header with each request, which names it;
//! SOCI cannot, so its mirror must have that registry as its default.

use std::path::{Path, PathBuf};

use toml_edit::{InlineTable, Item, TableLike, Value};

use crate::document::{self, Entry, child, set, wrong_type};
use crate::plan::Change;
use crate::{Error, Mirror, Note, Plan, Registry, Runtime, backup, rooted};

/// The header that names the registry to the proxy.
const REGISTRY_HEADER: &str = "X-Darter-Registry";

/// Which snapshotter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshotter {
    /// `containerd-stargz-grpc`
    Stargz,
    /// `soci-snapshotter-grpc`
    Soci,
}

/// What `darter setup stargz` or `soci` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which of the two.
    pub snapshotter: Snapshotter,
    /// The node's file system: `/`, or where it is mounted.
    pub root: PathBuf,
    /// The `config.toml` to use instead of the snapshotter's usual one; as seen from inside the root.
    pub config: Option<PathBuf>,
    /// The address of the proxy.
    pub mirror: Mirror,
    /// The registries to read through the proxy; empty means Docker Hub.
    pub registries: Vec<Registry>,
}

impl Snapshotter {
    fn runtime(self) -> Runtime {
        match self {
            Self::Stargz => Runtime::Stargz,
            Self::Soci => Runtime::Soci,
        }
    }

    fn config(self) -> &'static Path {
        Path::new(match self {
            Self::Stargz => "/etc/containerd-stargz-grpc/config.toml",
            Self::Soci => "/etc/soci-snapshotter-grpc/config.toml",
        })
    }
}

impl Options {
    /// The defaults: Docker Hub, the proxy at `http://127.0.0.1:4001`.
    pub fn new(snapshotter: Snapshotter, root: impl Into<PathBuf>) -> Self {
        Self {
            snapshotter,
            root: root.into(),
            config: None,
            mirror: Mirror::default(),
            registries: Vec::new(),
        }
    }
}

/// What has to change so that the snapshotter reads through the proxy. Reads only.
///
/// # Errors
/// Any [`Error`] about what is there now: unreadable, invalid, or of another type than the snapshotter expects.
pub fn plan(options: &Options) -> Result<Plan, Error> {
    let authority = options.mirror.authority()?;
    let runtime = options.snapshotter.runtime();
    let path = options
        .config
        .clone()
        .unwrap_or_else(|| options.snapshotter.config().to_path_buf());
    let before = rooted::read(&options.root, &path)?;
    let mut document = document::parse(&path, before.as_deref().unwrap_or_default())?;
    let mut plan = Plan::new(&options.root, runtime);
    let registries = match options.registries.as_slice() {
        [] => vec!["docker.io".parse()?],
        named => named.to_vec(),
    };
    for registry in &registries {
        let mirror = Mirrored {
            registry: registry.name()?,
            authority,
            insecure: options.mirror.is_http(),
            header: options.snapshotter == Snapshotter::Stargz,
        };
        mirror.set(&path, document.as_item_mut(), runtime)?;
        if options.snapshotter == Snapshotter::Soci && !registry.is_docker_hub() {
            plan.note(Note::NamesNoRegistry {
                registry: registry.to_string(),
            });
        }
    }
    let after = document.to_string().trim_start_matches('\n').as_bytes().to_vec();
    if before.as_ref() != Some(&after) {
        plan.note(Note::RestartNeeded {
            path: path.clone(),
            runtime,
        });
        plan.change(Change {
            path,
            before,
            after: Some(after),
            restart: true,
            private: false,
        });
    }
    Ok(plan)
}

/// What has to change to take back every [`plan`] that was applied with the same `state_dir`. Reads only.
///
/// # Errors
/// [`Error::BadRecord`] if the record is damaged, and errors of reading.
pub fn undo(snapshotter: Snapshotter, root: &Path, state_dir: &Path) -> Result<Plan, Error> {
    backup::undo(root, state_dir, snapshotter.runtime())
}

/// A registry that is to be read through the proxy.
struct Mirrored<'n> {
    registry: &'n str,
    authority: &'n str,
    insecure: bool,
    /// Whether the snapshotter sends headers.
    header: bool,
}

impl Mirrored<'_> {
    fn set(&self, path: &Path, root: &mut Item, runtime: Runtime) -> Result<(), Error> {
        let name = format!("resolver.host.\"{}\"", self.registry);
        let wrong = || wrong_type(path, &name, "a table");
        let resolver = child(root, "resolver").ok_or_else(wrong)?;
        let hosts = child(resolver, "host").ok_or_else(wrong)?;
        let host = child(hosts, self.registry).ok_or_else(wrong)?;
        let host = host.as_table_like_mut().ok_or_else(wrong)?;
        let is_it = |table: &dyn TableLike| table.get("host").and_then(Item::as_str) == Some(self.authority);
        let fill = |table: &mut dyn TableLike| self.fill(table);
        let first = Entry {
            comment: runtime.comment(),
            is_it: &is_it,
            fill: &fill,
        };
        first.put_first(path, &format!("{name}.mirrors"), host, "mirrors")
    }

    fn fill(&self, table: &mut dyn TableLike) {
        if table.get("host").and_then(Item::as_str) != Some(self.authority) {
            set(table, "host", self.authority.into());
        }
        if table.get("insecure").and_then(Item::as_bool) != self.insecure.then_some(true) {
            match self.insecure {
                true => set(table, "insecure", true.into()),
                false => drop(table.remove("insecure")),
            }
        }
        if !self.header {
            return;
        }
        match table.get_mut("header").and_then(Item::as_table_like_mut) {
            Some(header) => {
                if header.get(REGISTRY_HEADER).and_then(Item::as_str) != Some(self.registry) {
                    set(header, REGISTRY_HEADER, self.registry.into());
                }
            }
            None => {
                let header = InlineTable::from_iter([(REGISTRY_HEADER, Value::from(self.registry))]);
                set(table, "header", Value::InlineTable(header));
            }
        }
    }
}

#[cfg(test)]
mod tests;
