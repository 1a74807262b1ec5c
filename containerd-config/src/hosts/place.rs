//! Where a registry's `hosts.toml` is or belongs, and the plan to put the proxy into it.

use std::path::{Path, PathBuf};

use super::Host;
use crate::plan::Change;
use crate::{Error, Note, Plan, Registry, rooted};

/// Where a registry's `hosts.toml` is or belongs.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// The `_default` that the client uses for this registry at present, while it has no directory.
    pub(crate) shadowed_default: Option<PathBuf>,
}

/// Follows containerd's own search: directory by directory of `config_path` (at least one), in each the registry's
/// names and then `_default`.
pub(crate) fn find(root: &Path, directories: &[PathBuf], registry: &Registry) -> Result<Place, Error> {
    let names = registry.directories();
    let own = |directory: &Path| directory.join(names.last().map_or("_default", String::as_str));
    for directory in directories {
        for name in &names {
            let own = directory.join(name);
            if rooted::is_dir(root, &own)? {
                return Ok(Place {
                    path: own.join("hosts.toml"),
                    shadowed_default: None,
                });
            }
        }
        let default = directory.join("_default");
        if rooted::is_dir(root, &default)? {
            return Ok(Place {
                path: own(directory).join("hosts.toml"),
                shadowed_default: Some(default.join("hosts.toml")),
            });
        }
    }
    let first = directories
        .first()
        .map_or(Path::new("/etc/containerd/certs.d"), PathBuf::as_path);
    Ok(Place {
        path: own(first).join("hosts.toml"),
        shadowed_default: None,
    })
}

impl Place {
    /// Plans the file with the proxy as its first host; answers what the file holds now.
    pub(crate) fn plan(
        self,
        plan: &mut Plan,
        registry: &Registry,
        host: &Host,
    ) -> Result<Option<Vec<u8>>, Error> {
        let root = plan.root.clone();
        let before = rooted::read(&root, &self.path)?;
        let after = match &before {
            Some(bytes) if !bytes.is_empty() => super::merge(&self.path, bytes, host)?,
            _ => {
                let directory = self.path.parent().unwrap_or(Path::new("/"));
                super::create(
                    registry.origin().as_deref(),
                    &rooted::names(&root, directory)?,
                    host,
                )
            }
        };
        if let Some(path) = self.shadowed_default {
            let ours = plan
                .changes
                .iter()
                .any(|change| change.path == path && change.before.is_none());
            if rooted::read(&root, &path)?.is_some() && !ours {
                plan.note(Note::DefaultNoLongerApplies {
                    registry: registry.to_string(),
                    path,
                });
            }
        }
        plan.change(Change {
            path: self.path,
            before: before.clone(),
            after: Some(after.into_bytes()),
            restart: false,
            private: false,
        });
        Ok(before)
    }
}
