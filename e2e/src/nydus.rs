//! Nydus images of real ones, on nodes that mount them lazily: by Darter's own bridge, or by the real `nydusd`.
//!
//! The images are made by `darter nydus convert` or by the real `nydus-image` and pushed to a writable registry on loopback;
//! nodes read the same directory from a read-only one in the network. The real programs are installed by `cargo xtask e2e`.

mod daemon;
mod made;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::command::{command, output, run};
use crate::containerd::REGISTRY;
use crate::darter::{Darter, Role, Surroundings, binary, proxy_config};
use crate::image::{Descriptor, Set, cache_folder, prepare};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::Process;
use crate::registry::Registry;
use crate::slow::Relay;

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

/// What nodes are.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// How many.
    pub nodes: u8,
    /// Whether they are a swarm, with a scheduler and a seed. Otherwise they know nothing of each other.
    pub swarm: bool,
    /// `pull.onDemand`: whether pieces that readers of parts ask for come out of order in a swarm as well (`always`), or only
    /// without one (`alone`).
    pub always: bool,
    /// How much later each request comes to the registry.
    pub delay: Duration,
}

impl Setting {
    /// Nodes that know nothing of each other.
    pub fn alone(nodes: u8) -> Self {
        Self {
            nodes,
            swarm: false,
            always: false,
            delay: Duration::ZERO,
        }
    }

    /// Section `pull` of each node's configuration, the seed's too.
    fn pull(&self) -> Value {
        json!({ "onDemand": if self.always { "always" } else { "alone" } })
    }

    /// A swarm, whose nodes fetch contents in order.
    pub fn swarm(nodes: u8) -> Self {
        Self {
            swarm: true,
            ..Self::alone(nodes)
        }
    }
}

/// A registry with an ordinary image, and nodes with a proxy each. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct Nodes {
    /// Each node's proxy.
    pub proxies: Vec<Darter>,
    swarm: Option<Swarm>,
    _relay: Option<Relay>,
    /// Where the nodes' bytes come from.
    pub registry: Registry,
    origin_url: String,
    writer: Registry,
    configs: Vec<Value>,
    store: PathBuf,
    source: PathBuf,
    mounts: AtomicU32,
    lab: Lab,
}

/// What makes nodes a swarm, in the order in which it must end.
#[derive(Debug)]
struct Swarm {
    _seed: Darter,
    scheduler: Darter,
}

/// A mounted image. Unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    process: Process,
    point: PathBuf,
    cache: PathBuf,
}

impl Nodes {
    /// Starts a swarm; the registry has the ordinary image `e2e/lazy:gzip`.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(nodes: u8) -> Result<Self> {
        Self::with(&Setting::swarm(nodes))
    }

    /// Starts other nodes.
    ///
    /// # Errors
    /// When something does not start.
    pub fn with(setting: &Setting) -> Result<Self> {
        let mut lab = Lab::start()?;
        let fixtures = prepare(Set::Lazy)?;
        let origin = lab.host("origin", 1)?;
        let memory = lab.memory_of("origin");
        std::fs::create_dir_all(&memory)?;
        let store = memory.join("registry");
        run(command(["cp", "--archive"]).arg(&fixtures.store).arg(&store))?;
        let writer = Registry::writer(&store, &lab.folder_of("origin"))?;
        let registry = Registry::serve(&origin, &store, &lab.folder_of("origin"))?;
        let relay = (!setting.delay.is_zero())
            .then(|| Relay::start(&origin, registry.address(), setting.delay))
            .transpose()?;
        let mut around = Surroundings {
            schedulers: Vec::new(),
            registry: relay.as_ref().map_or_else(|| registry.url(), Relay::url),
        };
        let swarm = setting
            .swarm
            .then(|| Swarm::start(&mut lab, &mut around, setting))
            .transpose()?;
        let (mut proxies, mut configs) = (Vec::new(), Vec::new());
        for index in 0..setting.nodes {
            let host = lab.host(&format!("n{index}"), FIRST_NODE + index)?;
            let folder = lab.memory_of(host.name());
            let mut config = proxy_config(&host, Role::Peer, &folder.join("store"), &around);
            if let Some(config) = config.as_object_mut() {
                config.insert("forward".to_owned(), json!({ "listen": FORWARD }));
                config.insert("pull".to_owned(), setting.pull());
            }
            proxies.push(Darter::configured_proxy(&host, &folder, &config)?);
            configs.push(config);
        }
        let source = memory.join("source");
        unpack(&store, &fixtures.image("lazy", "gzip")?.layers, &source)?;
        Ok(Self {
            proxies,
            swarm,
            _relay: relay,
            registry,
            origin_url: around.registry,
            writer,
            configs,
            store,
            source,
            mounts: AtomicU32::new(0),
            lab,
        })
    }

    /// The scheduler.
    ///
    /// # Errors
    /// When the nodes have none.
    pub fn scheduler(&mut self) -> Result<&mut Darter> {
        let swarm = self.swarm.as_mut().context("these nodes have no scheduler")?;
        Ok(&mut swarm.scheduler)
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

    /// Starts a node's proxy again with nothing in its store. It must hold no mount.
    ///
    /// # Errors
    /// When it does not start.
    pub fn empty_proxy(&mut self, node: usize) -> Result<()> {
        let proxy = self.proxies.get_mut(node);
        proxy
            .with_context(|| format!("there is no node {node}"))?
            .process()
            .stop()?;
        let folder = self.lab.memory_of(self.host(node)?.name());
        std::fs::remove_dir_all(folder.join("store")).context("a store")?;
        self.restart_proxy(node)
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
        self.document(tag, "application/vnd.oci.image.manifest.v1+json")
    }

    fn document(&self, tag: &str, kind: &str) -> Result<Value> {
        let url = format!("{}/v2/{REPOSITORY}/manifests/{tag}", self.writer.url());
        let mut curl = command(["curl", "--silent", "--show-error", "--fail"]);
        curl.args(["--header", &format!("Accept: {kind}")]);
        Ok(serde_json::from_str(&output(curl.arg(url))?)?)
    }

    /// The digests of the images that refer to the ordinary one, as a registry without a list of referrers keeps them.
    ///
    /// # Errors
    /// When there are none.
    pub fn referrers(&self) -> Result<Vec<String>> {
        let original = prepare(Set::Lazy)?.image("lazy", "gzip")?.manifest.clone();
        let tag = format!("sha256-{}", original.hex()?);
        let index = self.document(&tag, "application/vnd.oci.image.index.v1+json")?;
        let manifests = index.get("manifests").and_then(Value::as_array);
        let of = |manifest: &Value| Ok(descriptor(manifest)?.0);
        manifests
            .context("an index has manifests")?
            .iter()
            .map(of)
            .collect()
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

    /// Mounts an image of the registry on a node, through its proxy. The bridge has nothing of it, whatever was mounted before.
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
        let number = self.mounts.fetch_add(1, Ordering::Relaxed);
        // On a disk: the kernel mounts no EROFS from a file of a memory file system.
        let cache = folder.join(format!("cache-{number}-{tag}"));
        let mut mount = host.command(binary()?);
        mount.args(["mount"]).args(options);
        mount.arg("--cache-dir").arg(&cache);
        mount.arg(format!("{REGISTRY}/{REPOSITORY}:{tag}")).arg(&point);
        let process = Process::start("darter mount", &mut mount, &folder.join(format!("{tag}.log")))?;
        Ok(Mounted {
            process,
            point,
            cache,
        })
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

    /// The process that serves it. `darter mount` itself only watches that one.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn worker(&self) -> Result<u32> {
        let id = self.process.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let children = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let worker = children.trim().parse();
        worker.with_context(|| format!("the children of the mount's guardian are '{children}'"))
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
        let _ = std::fs::remove_dir_all(&self.cache);
    }
}

impl Swarm {
    fn start(lab: &mut Lab, around: &mut Surroundings, setting: &Setting) -> Result<Self> {
        let host = lab.host("scheduler", 2)?;
        let scheduler = Darter::scheduler(&host, &lab.folder_of("scheduler"))?;
        around.schedulers.push(host);
        let host = lab.host("seed", 3)?;
        let folder = lab.memory_of("seed");
        let mut config = proxy_config(&host, Role::Seed, &folder.join("store"), around);
        if let Some(config) = config.as_object_mut() {
            config.insert("pull".to_owned(), setting.pull());
        }
        Ok(Self {
            _seed: Darter::configured_proxy(&host, &folder, &config)?,
            scheduler,
        })
    }
}

/// Unpacks layers that hide nothing of each other.
fn unpack(store: &Path, layers: &[Descriptor], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for layer in layers {
        let mut unpack = command([
            "tar",
            "--extract",
            "--gzip",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ]);
        unpack.arg(blob_in(store, &layer.digest)?);
        run(unpack.arg("--directory").arg(folder))?;
    }
    Ok(())
}

fn is_mounted(point: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let named = point.display().to_string();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(named.as_str()))
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
