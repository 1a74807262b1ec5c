//! What the Docker daemon does at present, as its files have it. Reads only.

use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::{CONFIG, HOSTS_DIRECTORY, Options, PROXY_VARIABLES, UNIT_DIRECTORIES, unit_files};
use crate::containerd::{Entry, entry};
use crate::hosts::place;
use crate::{Error, Registry, rooted};

/// The daemon's files, for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its `daemon.json`, which need not exist.
    pub config: PathBuf,
    /// Whether the proxy is the first of `registry-mirrors`, if it is one: what the classic store does for Docker Hub.
    pub mirror: Option<bool>,
    /// What the registry's `hosts.toml` says of it: what the containerd image store does.
    pub hosts: Option<Entry>,
    /// The proxy for TLS that the daemon was given.
    pub proxy: Option<String>,
}

/// What the daemon does for a registry.
///
/// # Errors
/// Any [`Error`] about what is there: unreadable, invalid, or of another type than the daemon expects.
pub fn inspect(options: &Options, registry: &Registry) -> Result<Inspection, Error> {
    let root = &options.root;
    let config = options.config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
    let bytes = rooted::read(root, &config)?.unwrap_or_default();
    let daemon = Daemon::parse(&config, &bytes)?;
    let path = place::find(root, &[PathBuf::from(HOSTS_DIRECTORY)], registry)?.path;
    let hosts = match rooted::read(root, &path)? {
        Some(bytes) => entry(&path, &bytes, options.mirror.as_str())?,
        None => None,
    };
    let proxy = match daemon.proxy()? {
        Some(proxy) => Some(proxy),
        None => proxy_of_unit(root)?,
    };
    Ok(Inspection {
        mirror: daemon.place_of(&options.mirror)?,
        config,
        hosts,
        proxy,
    })
}

/// The proxy that the daemon's environment files name, else its unit with the drop-ins: of one directory the last that is
/// named counts, of several directories the first.
fn proxy_of_unit(root: &Path) -> Result<Option<String>, Error> {
    let mut found: Option<(Option<&str>, String)> = None;
    for path in unit_files(root)? {
        let bytes = rooted::read(root, &path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim_start);
        let set = lines.filter(|line| !line.starts_with(['#', ';']));
        let directory = UNIT_DIRECTORIES.into_iter().find(|one| path.starts_with(one));
        if let Some(value) = set.filter_map(value).next_back()
            && found.as_ref().is_none_or(|(held, _)| *held == directory)
        {
            found = Some((directory, value));
        }
    }
    Ok(found.map(|(_, value)| value))
}

/// The proxy in a line such as `Environment="HTTPS_PROXY=http://p:3128" …`.
fn value(line: &str) -> Option<String> {
    let behind = PROXY_VARIABLES
        .iter()
        .find_map(|variable| line.split_once(variable).map(|(_, behind)| behind))?;
    let value = behind.trim_start_matches(['"', '\'']);
    let end = value.find(['"', '\'', ' ', '\t']).unwrap_or(value.len());
    value
        .get(..end)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
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
        inspect(&Options::new(root.path()), &registry.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_daemon_that_was_never_set_up() {
        let found = seen(&[], "docker.io");
        assert_eq!((found.mirror, found.hosts, found.proxy), (None, None, None));
    }

    #[test]
    fn each_of_its_ways_is_seen() {
        let daemon = |mirrors: &str| format!("{{\"registry-mirrors\": [{mirrors}]}}");
        let file = "etc/docker/daemon.json";
        let first = daemon("\"http://127.0.0.1:4001/\", \"https://m\"");
        assert_eq!(seen(&[(file, &first)], "docker.io").mirror, Some(true));
        let second = daemon("\"https://m\", \"http://127.0.0.1:4001\"");
        assert_eq!(seen(&[(file, &second)], "docker.io").mirror, Some(false));

        let hosts = "[host.\"http://127.0.0.1:4001\"]\ndial_timeout = \"200ms\"\n";
        let files = [("etc/docker/certs.d/ghcr.io/hosts.toml", hosts)];
        assert!(seen(&files, "ghcr.io").hosts.is_some_and(|entry| entry.first));
        assert_eq!(seen(&files, "docker.io").hosts, None);
    }

    #[test]
    fn the_proxy_of_the_unit_that_counts_is_the_last() {
        let unit =
            "[Service]\n# HTTPS_PROXY=http://old:1\nEnvironment=HTTPS_PROXY=http://p:3128 NO_PROXY=a\n";
        let ours = "[Service]\nEnvironment=\"HTTPS_PROXY=http://127.0.0.1:4003\"\n";
        let files = [
            ("usr/lib/systemd/system/docker.service", unit),
            ("etc/systemd/system/docker.service.d/90-darter-proxy.conf", ours),
        ];
        let proxy = |files: &[(&str, &str)]| seen(files, "docker.io").proxy;
        assert_eq!(proxy(&files[..1]).as_deref(), Some("http://p:3128"));
        assert_eq!(proxy(&files).as_deref(), Some("http://127.0.0.1:4003"));
        let daemon = (
            "etc/docker/daemon.json",
            "{\"proxies\": {\"https-proxy\": \"http://d:1\"}}",
        );
        assert_eq!(proxy(&[daemon]).as_deref(), Some("http://d:1"));
    }
}
