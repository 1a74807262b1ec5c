//! Nydus images of real ones, on nodes that mount them lazily: by Darter's own bridge, or by the real `nydusd`.
//!
//! The images are made by `darter nydus convert` or by the real `nydus-image` and pushed to a writable registry on loopback;
//! nodes read the same directory from a read-only one in the network. The real programs are installed by `cargo xtask e2e`.

mod daemon;
mod made;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::clock::until;
use crate::command::{command, output, run};
use crate::containerd::REGISTRY;
use crate::darter::{Darter, Role, Surroundings, binary, proxy_config};
use crate::image::{Set, cache_folder, prepare};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::Process;
use crate::registry::Registry;

pub use daemon::{Daemon, Through};
pub use made::Kind;
pub use tree::{Tree, tree_of};

/// First node's last octet.
const FIRST_NODE: u8 = 10;
/// Far longer than a mount takes.
const MOUNT: Duration = Duration::from_secs(60);
/// Where the nodes' forward proxy listens.
pub const FORWARD: &str = "127.0.0.1:4003";
/// The repository of everything here.
pub const REPOSITORY: &str = "e2e/lazy";

/// One of the real programs: `nydus-image` or `nydusd`.
///
/// # Errors
/// When it is not installed.
pub fn tool(name: &str) -> Result<PathBuf> {
    let tools = std::env::var_os("DARTER_NYDUS_TOOLS").map_or_else(
        || cache_folder().with_file_name("tools").join("bin"),
        PathBuf::from,
    );
    let path = tools.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: cargo xtask e2e installs it, or cargo install nydus-rs --version 2.2.0 --locked and \
         DARTER_NYDUS_TOOLS with its folder",
        path.display()
    );
    Ok(path)
}

/// A registry with an ordinary image, a scheduler, a seed, and nodes with a proxy each. Fields are in the order in which they
/// must end.
#[derive(Debug)]
pub struct Nodes {
    /// Each node's proxy.
    pub proxies: Vec<Darter>,
    /// The seed.
    pub seed: Darter,
    /// The scheduler.
    pub scheduler: Darter,
    /// Where the nodes' bytes come from.
    pub registry: Registry,
    writer: Registry,
    configs: Vec<Value>,
    store: PathBuf,
    source: PathBuf,
    lab: Lab,
}

/// A mounted image. Unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    process: Process,
    point: PathBuf,
}

impl Nodes {
    /// Starts everything; the registry has the ordinary image `e2e/lazy:gzip`.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(nodes: u8) -> Result<Self> {
        let mut lab = Lab::start()?;
        let fixtures = prepare(Set::Lazy)?;
        let origin = lab.host("origin", 1)?;
        let memory = lab.memory_of("origin");
        std::fs::create_dir_all(&memory)?;
        let store = memory.join("registry");
        run(command(["cp", "--archive"]).arg(&fixtures.store).arg(&store))?;
        let writer = Registry::writer(&store, &lab.folder_of("origin"))?;
        let registry = Registry::serve(&origin, &store, &lab.folder_of("origin"))?;
        let host = lab.host("scheduler", 2)?;
        let scheduler = Darter::scheduler(&host, &lab.folder_of("scheduler"))?;
        let around = Surroundings {
            schedulers: vec![host],
            registry: registry.url(),
        };
        let seed = lab.host("seed", 3)?;
        let seed = Darter::proxy(&seed, Role::Seed, &lab.memory_of("seed"), &around)?;
        let (mut proxies, mut configs) = (Vec::new(), Vec::new());
        for index in 0..nodes {
            let host = lab.host(&format!("n{index}"), FIRST_NODE + index)?;
            let folder = lab.memory_of(host.name());
            let mut config = proxy_config(&host, Role::Peer, &folder.join("store"), &around);
            if let Some(config) = config.as_object_mut() {
                config.insert("forward".to_owned(), json!({ "listen": FORWARD }));
            }
            proxies.push(Darter::configured_proxy(&host, &folder, &config)?);
            configs.push(config);
        }
        let source = memory.join("source");
        let layers = fixtures.image("lazy", "gzip")?.layers.clone();
        std::fs::create_dir_all(&source)?;
        for layer in layers {
            let mut unpack = command([
                "tar",
                "--extract",
                "--gzip",
                "--xattrs",
                "--xattrs-include=*",
                "--file",
            ]);
            unpack.arg(blob_in(&store, &layer.digest)?);
            run(unpack.arg("--directory").arg(&source))?;
        }
        Ok(Self {
            proxies,
            seed,
            scheduler,
            registry,
            writer,
            configs,
            store,
            source,
            lab,
        })
    }

    /// What the ordinary image holds, unpacked.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// A folder for files of the test.
    pub fn folder(&self) -> PathBuf {
        self.lab.memory_of("origin")
    }

    /// The host of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn host(&self, node: usize) -> Result<&Namespace> {
        Ok(self.proxy(node)?.host())
    }

    /// Folders for another program on a host: files that are few, and contents.
    pub fn folders_of(&self, host: &Namespace) -> (PathBuf, PathBuf) {
        let content = self.lab.memory_of(host.name()).join("more");
        (self.lab.folder_of(host.name()), content)
    }

    fn proxy(&self, node: usize) -> Result<&Darter> {
        self.proxies
            .get(node)
            .with_context(|| format!("there is no node {node}"))
    }

    /// Starts a node's proxy again, after its process was killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_proxy(&mut self, node: usize) -> Result<()> {
        let host = self.host(node)?.clone();
        let config = self.configs.get(node).context("each node has a configuration")?;
        let folder = self.lab.memory_of(host.name());
        let started = Darter::configured_proxy(&host, &folder, config)?;
        if let Some(place) = self.proxies.get_mut(node) {
            *place = started;
        }
        Ok(())
    }

    /// Converts the ordinary image into `e2e/lazy:TAG` and gives what the command said.
    ///
    /// # Errors
    /// When it fails.
    pub fn convert(&self, tag: &str, options: &[&str]) -> Result<String> {
        let name = |tag: &str| format!("{}/{REPOSITORY}:{tag}", self.writer.address());
        let mut convert = std::process::Command::new(binary()?);
        convert.args(["nydus", "convert", "--direct", "--plain-http"]);
        convert.arg(self.writer.address());
        convert.args(options).arg("--temp-dir").arg(self.folder());
        output(convert.args([name("gzip"), name(tag)]))
    }

    /// The manifest of an image of the registry.
    ///
    /// # Errors
    /// When it has none of that tag.
    pub fn manifest(&self, tag: &str) -> Result<Value> {
        let url = format!("{}/v2/{REPOSITORY}/manifests/{tag}", self.writer.url());
        let mut curl = command(["curl", "--silent", "--show-error", "--fail"]);
        curl.args(["--header", "Accept: application/vnd.oci.image.manifest.v1+json"]);
        Ok(serde_json::from_str(&output(curl.arg(url))?)?)
    }

    /// Digest and length of each blob of a Nydus image.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn blobs(&self, tag: &str) -> Result<BTreeMap<String, u64>> {
        let manifest = self.manifest(tag)?;
        let layers = manifest.get("layers").and_then(Value::as_array);
        let layers = layers.context("an image has layers")?;
        let (_, blobs) = layers.split_last().context("a bootstrap comes last")?;
        blobs.iter().map(descriptor).collect()
    }

    /// The bootstrap of a Nydus image, as a file.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn bootstrap(&self, tag: &str) -> Result<PathBuf> {
        let manifest = self.manifest(tag)?;
        let layers = manifest.get("layers").and_then(Value::as_array);
        let last = layers.and_then(|layers| layers.last());
        let (digest, _) = descriptor(last.context("a bootstrap comes last")?)?;
        let folder = self.folder().join(format!("bootstrap-{tag}"));
        std::fs::create_dir_all(&folder)?;
        let mut unpack = command(["tar", "--extract", "--gzip", "--file"]);
        unpack.arg(blob_in(&self.store, &digest)?);
        run(unpack.arg("--directory").arg(&folder))?;
        Ok(folder.join("image/image.boot"))
    }

    /// Mounts an image of the registry on a node, through its proxy.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn mount(&self, node: usize, tag: &str, options: &[&str]) -> Result<Mounted> {
        let mut mounted = self.start_mount(node, tag, options)?;
        mounted.ready()?;
        Ok(mounted)
    }

    /// The same without waiting for it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_mount(&self, node: usize, tag: &str, options: &[&str]) -> Result<Mounted> {
        let host = self.host(node)?;
        let folder = self.lab.folder_of(host.name());
        let point = folder.join(format!("mnt-{tag}"));
        std::fs::create_dir_all(&point)?;
        let cache = self.lab.memory_of(host.name()).join(format!("cache-{tag}"));
        let mut mount = host.command(binary()?);
        mount.args(["mount"]).args(options);
        mount.arg("--cache-dir").arg(cache);
        mount.arg(format!("{REGISTRY}/{REPOSITORY}:{tag}")).arg(&point);
        let process = Process::start("darter mount", &mut mount, &folder.join(format!("{tag}.log")))?;
        Ok(Mounted { process, point })
    }

    /// Bytes that the registry sent of each content, when it is quiet.
    ///
    /// # Errors
    /// When it does not become quiet.
    pub fn sent(&self) -> Result<BTreeMap<String, u64>> {
        self.registry.settle()?;
        self.registry.sent_by_digest()
    }

    /// The test reached its end.
    pub fn passed(mut self) {
        self.lab.passed();
    }
}

impl Mounted {
    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Its process, for faults.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it is mounted.
    ///
    /// # Errors
    /// When it ends before.
    pub fn ready(&mut self) -> Result<()> {
        let point = self.point.clone();
        self.process.ready(MOUNT, || is_mounted(&point).then_some(()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is in use goes when its user does.
        let _ = self.process.stop();
        if is_mounted(&self.point) {
            let _ = run(command(["umount", "--lazy"]).arg(&self.point));
        }
    }
}

fn is_mounted(point: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let named = point.display().to_string();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(named.as_str()))
}

/// Waits until nothing is mounted there.
///
/// # Errors
/// When something stays.
pub fn wait_for_unmount(point: &Path) -> Result<()> {
    until("an unmount", MOUNT, || Ok((!is_mounted(point)).then_some(())))
}

fn descriptor(layer: &Value) -> Result<(String, u64)> {
    let digest = layer.get("digest").and_then(Value::as_str);
    let size = layer.get("size").and_then(Value::as_u64);
    Ok((
        digest.context("a layer has a digest")?.to_owned(),
        size.context("a layer has a size")?,
    ))
}

/// A blob's file in a registry's directory.
fn blob_in(store: &Path, digest: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("a sha256 digest")?;
    let first = hex.get(..2).context("64 digits")?;
    let blobs = store.join("docker/registry/v2/blobs/sha256");
    Ok(blobs.join(first).join(hex).join("data"))
}
