//! What containerd does at present: which file it reads for a registry, and what that says of the proxy. Reads only.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml_edit::{Item, TableLike};

use super::config::Config;
use super::{Options, distribution};
use crate::hosts::place;
use crate::{Error, Registry, document, rooted};

/// One containerd of the node, for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its `config.toml`, which need not exist.
    pub config: PathBuf,
    /// Whether that sets `config_path`; without it no `hosts.toml` is read.
    pub config_path: bool,
    /// When that or a file that it imports was changed last: containerd reads them only at its start.
    pub changed: Option<SystemTime>,
    /// Whether CRI is disabled: Kubernetes does not pull through this containerd.
    pub cri_disabled: bool,
    /// The `hosts.toml` that counts for the registry.
    pub hosts: Option<PathBuf>,
    /// What that says of the proxy.
    pub entry: Option<Entry>,
}

/// The proxy in a `hosts.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is the first host, which is the one that is asked first.
    pub first: bool,
    /// How long containerd waits for a connection, as it is written; `None` is 30 s.
    pub dial_timeout: Option<String>,
}

/// What each containerd of the node does for a registry.
///
/// # Errors
/// As [`super::plan`].
pub fn inspect(options: &Options, registry: &Registry) -> Result<Vec<Inspection>, Error> {
    let found = distribution::find(&options.root, options.config.as_deref())?;
    found
        .iter()
        .map(|one| inspect_one(options, registry, &one.config))
        .collect()
}

fn inspect_one(options: &Options, registry: &Registry, path: &Path) -> Result<Inspection, Error> {
    let config = Config::load(&options.root, path)?;
    let directories = config.directories()?;
    let mut seen = Inspection {
        config: path.to_path_buf(),
        config_path: directories.is_some(),
        changed: config.changed(&options.root)?,
        cri_disabled: config.cri_disabled(),
        hosts: None,
        entry: None,
    };
    let place = place::find(&options.root, &directories.unwrap_or_default(), registry)?;
    let hosts = place.shadowed_default.unwrap_or(place.path);
    if let Some(bytes) = rooted::read(&options.root, &hosts)? {
        seen.entry = entry(&hosts, &bytes, options.mirror.as_str())?;
        seen.hosts = Some(hosts);
    }
    Ok(seen)
}

/// What a `hosts.toml` says of the proxy.
pub(crate) fn entry(path: &Path, bytes: &[u8], mirror: &str) -> Result<Option<Entry>, Error> {
    let document = document::parse(path, bytes)?;
    let Some(hosts) = document.get("host").and_then(Item::as_table_like) else {
        return Ok(None);
    };
    let same = |name: &str| name.trim_end_matches('/') == mirror.trim_end_matches('/');
    let position = hosts.iter().position(|(name, _)| same(name));
    let Some((at, table)) = position.and_then(|at| Some((at, nth(hosts, at)?))) else {
        return Ok(None);
    };
    let dial_timeout = table
        .get("dial_timeout")
        .and_then(Item::as_str)
        .map(str::to_owned);
    Ok(Some(Entry {
        first: at == 0,
        dial_timeout,
    }))
}

fn nth(hosts: &dyn TableLike, at: usize) -> Option<&dyn TableLike> {
    hosts.iter().nth(at)?.1.as_table_like()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &str)], registry: &str) -> Inspection {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let options = Options::new(root.path());
        inspect(&options, &registry.parse().unwrap()).unwrap().remove(0)
    }

    const CONFIG: (&str, &str) = (
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    );

    #[test]
    fn a_node_that_was_never_set_up() {
        let seen = seen(&[], "docker.io");
        assert!(!seen.config_path);
        assert_eq!(seen.changed, None);
        assert_eq!((seen.hosts, seen.entry), (None, None));
    }

    #[test]
    fn the_default_counts_where_the_registry_has_no_directory() {
        let hosts = "[host.\"http://127.0.0.1:4001\"]\ndial_timeout = \"200ms\"\n";
        let default = ("etc/containerd/certs.d/_default/hosts.toml", hosts);
        let found = seen(&[CONFIG, default], "docker.io");
        assert!(found.config_path && found.changed.is_some());
        assert_eq!(
            found.hosts.as_deref(),
            Some(Path::new("/etc/containerd/certs.d/_default/hosts.toml"))
        );
        let dial_timeout = Some("200ms".to_owned());
        assert_eq!(
            found.entry,
            Some(Entry {
                first: true,
                dial_timeout
            })
        );
        // Its own directory hides the default, whatever is in it.
        let own = (
            "etc/containerd/certs.d/docker.io/hosts.toml",
            "server = \"https://x\"\n",
        );
        let found = seen(&[CONFIG, default, own], "docker.io");
        assert_eq!(found.entry, None);
        assert!(found.hosts.is_some());
    }

    #[test]
    fn another_host_before_it_is_noticed() {
        let hosts = "[host.\"https://other\"]\n[host.\"http://127.0.0.1:4001\"]\n";
        let own = ("etc/containerd/certs.d/ghcr.io/hosts.toml", hosts);
        let entry = seen(&[CONFIG, own], "ghcr.io").entry.unwrap();
        assert_eq!(
            entry,
            Entry {
                first: false,
                dial_timeout: None
            }
        );
    }
}
