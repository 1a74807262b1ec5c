//! The real `nydusd` on a node, with its bytes through the node's proxy.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::{FORWARD, MOUNT, Nodes, REPOSITORY, is_mounted, tool};
use crate::command::{command, run};
use crate::containerd::REGISTRY;
use crate::darter::MIRROR;
use crate::process::Process;

/// How it reaches the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// As a proxy of HTTP: absolute addresses.
    Forward,
    /// As a mirror of the registry, which a header names.
    Mirror,
    /// Not at all: it asks the registry.
    Direct,
}

/// A running `nydusd` with one image mounted.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    point: PathBuf,
}

impl Daemon {
    /// Mounts the image `e2e/lazy:TAG` on a node.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn start(nodes: &Nodes, node: usize, tag: &str, through: Through) -> Result<Self> {
        let host = nodes.host(node)?;
        let name = format!("nydusd-{tag}-{through:?}").to_lowercase();
        // Where the bridge has its own.
        let folder = nodes.lab.folder_of(host.name()).join(&name);
        // Nothing of an earlier one is kept.
        let _ = std::fs::remove_dir_all(&folder);
        let (point, work) = (folder.join("mnt"), folder.join("work"));
        std::fs::create_dir_all(&point)?;
        std::fs::create_dir_all(&work)?;
        let (file, bootstrap) = (folder.join("config.json"), folder.join("bootstrap"));
        std::fs::copy(nodes.bootstrap(tag)?, &bootstrap)?;
        std::fs::write(
            &file,
            config(nodes, through, &work.display().to_string()).to_string(),
        )?;
        let mut daemon = host.command(tool("nydusd")?);
        daemon.args(["fuse", "--rlimit-nofile", "0", "--log-level", "info", "--config"]);
        daemon.arg(&file).arg("--mountpoint").arg(&point);
        daemon.arg("--bootstrap").arg(&bootstrap);
        daemon.arg("--apisock").arg(folder.join("api.sock"));
        let log = nodes.lab.folder_of(host.name()).join(format!("{name}.log"));
        let mut process = Process::start("nydusd", &mut daemon, &log)?;
        let mounted = point.clone();
        process.ready(MOUNT, || is_mounted(&mounted).then_some(()))?;
        Ok(Self { process, point })
    }

    /// Where the image is.
    pub fn point(&self) -> &std::path::Path {
        &self.point
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.stop();
        if is_mounted(&self.point) {
            let _ = run(command(["umount", "--lazy"]).arg(&self.point));
        }
    }
}

/// As the snapshotter writes it.
fn config(nodes: &Nodes, through: Through, work: &str) -> Value {
    let registry = nodes.origin_url.trim_start_matches("http://");
    let mut backend = json!({
        "scheme": "http",
        "host": if through == Through::Direct { registry } else { REGISTRY },
        "repo": REPOSITORY,
        "skip_verify": true,
        "timeout": 30,
        "connect_timeout": 5,
        "retry_limit": 2,
    });
    let more = match through {
        Through::Forward => Some((
            "proxy",
            json!({
                "url": format!("http://{FORWARD}"),
                "fallback": false,
                "check_interval": 5,
                "use_http": true,
            }),
        )),
        Through::Mirror => Some((
            "mirrors",
            json!([{
                "host": MIRROR,
                // Otherwise it asks the registry itself until that has given it a token.
                "auth_through": true,
                "headers": { "X-Dragonfly-Registry": format!("http://{REGISTRY}") },
                "health_check_interval": 5,
                "failure_limit": 5,
                "ping_url": format!("{MIRROR}/v2/"),
            }]),
        )),
        Through::Direct => None,
    };
    if let (Some((key, value)), Some(backend)) = (more, backend.as_object_mut()) {
        backend.insert(key.to_owned(), value);
    }
    json!({
        "device": {
            "backend": { "type": "registry", "config": backend },
            "cache": { "type": "blobcache", "config": { "work_dir": work } },
        },
        "mode": "direct",
        "digest_validate": false,
        "iostats_files": false,
        "enable_xattr": true,
        "fs_prefetch": { "enable": false },
    })
}
