//! What the faults happen to: a registry that misbehaves on demand, real nodes, a scheduler, and clients beside them.
//!
//! Addresses: registry 10.77.0.1, scheduler .2, seed .3, a second registry .4, nodes from .10. Each host has an
//! [`Island`] for what of this process stands on it. Fields are in the order in which they must end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_testkit::content::Content;
use darter_testkit::origin::{Origin, RunningOrigin};
use darter_testkit::puller::{Errand, Progress, Watch};
use serde_json::{Value, json};

use super::island::Island;
use super::node::{Node, Settings};
use crate::bench::median;
use crate::clock::{now, pause, until};
use crate::containerd::{Containerd, REGISTRY};
use crate::darter::{Darter, MIRROR, Role};
use crate::image::{Descriptor, Image};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::shape::{Cap, limit_upload};

pub(super) const MIB: u64 = 1 << 20;
/// Where blobs are.
pub(super) const REPOSITORY: &str = "e2e/blobs";
const PORT: u16 = 5000;
const FIRST_NODE: u8 = 10;
const START: Duration = Duration::from_secs(60);
/// Until a scheduler that started empty gives leases.
const SETTLING: Duration = Duration::from_millis(1500);
/// Pulls of which the median is what a pull takes without Darter.
const PLAIN_PULLS: usize = 3;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Which hosts there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan {
    pub(super) nodes: u8,
    pub(super) scheduler: bool,
    pub(super) seed: bool,
    pub(super) containerd: bool,
    /// What the registry may send, Mbit/s; none for a link as fast as the machine.
    pub(super) mbit: Option<u32>,
}

/// A registry in this process, on a host.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) origin: Origin,
    running: Option<RunningOrigin>,
    pub(super) island: Island,
    host: Namespace,
}

/// A content of the registries.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) nodes: Vec<Node>,
    pub(super) seed: Option<Node>,
    pub(super) scheduler: Option<Darter>,
    pub(super) scheduler_host: Option<Namespace>,
    /// The registry that clients fall back to.
    pub(super) registry: Registry,
    /// Another one, for nodes that are told of it instead.
    pub(super) other: Option<Registry>,
    made: u64,
    lab: Lab,
}

impl Registry {
    fn start(lab: &mut Lab, name: &str, octet: u8) -> Result<Self> {
        let host = lab.host(name, octet)?;
        let mut registry = Self {
            origin: Origin::new(),
            running: None,
            island: Island::start(&host)?,
            host,
        };
        registry.open()?;
        Ok(registry)
    }

    /// `host:port`.
    pub(super) fn address(&self) -> String {
        format!("{}:{PORT}", self.host.address())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Closes its port and all connections.
    pub(super) fn close(&mut self) -> Result<()> {
        match self.running.take() {
            Some(running) => self.island.run(running.stop()),
            None => Ok(()),
        }
    }

    pub(super) fn open(&mut self) -> Result<()> {
        let (origin, address) = (self.origin.clone(), self.address());
        let address = address.parse()?;
        let running = self.island.run(async move { origin.spawn_on(address).await })?;
        self.running = Some(running.context("cannot serve a registry")?);
        Ok(())
    }
}

impl Scene {
    pub(super) fn start(plan: Plan) -> Result<Self> {
        let mut scene = Self::prepare(plan)?;
        scene.start_all()?;
        Ok(scene)
    }

    /// Hosts, registry and scheduler; the nodes are configured and do not run yet.
    pub(super) fn prepare(plan: Plan) -> Result<Self> {
        let mut lab = Lab::start()?;
        let registry = Registry::start(&mut lab, "origin", 1)?;
        if let Some(mbit) = plan.mbit {
            limit_upload(&registry.host, Cap::mbit(mbit))?;
        }
        let scheduler_host = plan.scheduler.then(|| lab.host("scheduler", 2)).transpose()?;
        let settings = |name: &str, role| Settings {
            name: name.to_owned(),
            role,
            registry: registry.url(),
            schedulers: scheduler_host.iter().cloned().collect(),
            wire: false,
            store: PathBuf::new(),
            more: json!({}),
            wrapper: Vec::new(),
            supervised: false,
        };
        let seed = plan
            .seed
            .then(|| Node::add(&mut lab, settings("seed", Role::Seed), 3))
            .transpose()?;
        let mut nodes = Vec::new();
        for index in 0..plan.nodes {
            let name = format!("n{index}");
            let mut node = Node::add(&mut lab, settings(&name, Role::Peer), FIRST_NODE + index)?;
            if plan.containerd {
                let content = lab.memory_of(&name);
                let containerd = Containerd::start(&node.host, &lab.folder_of(&name), &content)?;
                containerd.set_hosts(&registry.url(), &[MIRROR])?;
                node.containerd = Some(containerd);
            }
            nodes.push(node);
        }
        let mut scene = Self {
            nodes,
            seed,
            scheduler: None,
            scheduler_host,
            registry,
            other: None,
            made: 0,
            lab,
        };
        scene.start_scheduler()?;
        Ok(scene)
    }

    /// Starts every node; they know each other when this returns.
    pub(super) fn start_all(&mut self) -> Result<()> {
        for node in self.seed.iter_mut().chain(&mut self.nodes) {
            node.start()?;
        }
        self.settle()
    }

    pub(super) fn start_scheduler(&mut self) -> Result<()> {
        self.scheduler = None;
        if let Some(host) = &self.scheduler_host {
            self.scheduler = Some(Darter::scheduler(host, &self.lab.folder_of("scheduler"))?);
        }
        Ok(())
    }

    /// Waits until the scheduler knows all nodes that run, and decides.
    pub(super) fn settle(&self) -> Result<()> {
        let Some(scheduler) = &self.scheduler else {
            return Ok(());
        };
        let nodes = self.seed.iter().chain(&self.nodes);
        let running = nodes.filter(|node| node.darter.is_some()).count();
        until("all nodes to know the scheduler", START, || {
            let hosts = scheduler.metrics()?.sum("darter_scheduler_hosts", &[]);
            Ok((hosts >= running as f64).then_some(()))
        })?;
        pause(SETTLING);
        Ok(())
    }

    /// A second registry, with what is made from now on.
    pub(super) fn add_other(&mut self) -> Result<String> {
        let other = Registry::start(&mut self.lab, "other", 4)?;
        let url = other.url();
        self.other = Some(other);
        Ok(url)
    }

    pub(super) fn other(&self) -> Result<&Registry> {
        self.other.as_ref().context("a scene with one registry")
    }

    pub(super) fn node(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes.get_mut(index).context("no such node")
    }

    // === contents ===

    /// A blob that nobody has seen, in every registry.
    pub(super) fn blob(&mut self, length: u64) -> Blob {
        self.made += 1;
        let made = Content::generated(self.made, length);
        // Kept: it is compared with often.
        let content = if length <= 128 * MIB {
            Content::Bytes(made.read(0..length))
        } else {
            made
        };
        let digest = self.registry.origin.add_blob(REPOSITORY, content.clone());
        if let Some(other) = &self.other {
            other.origin.add_blob_as(REPOSITORY, &digest, content.clone());
        }
        Blob { digest, content }
    }

    /// An image of so many layers; what is in them is no file system.
    pub(super) fn image(&mut self, layers: &[u64]) -> Result<Image> {
        self.made += 1;
        let (repository, tag) = (format!("e2e/i{}", self.made), "v1".to_owned());
        let mut blobs = vec![Content::from(
            json!({ "architecture": "amd64", "os": "linux", "n": self.made }).to_string(),
        )];
        for length in layers {
            self.made += 1;
            blobs.push(Content::Bytes(
                Content::generated(self.made, *length).read(0..*length),
            ));
        }
        let mut described = Vec::new();
        let origins = [Some(&self.registry), self.other.as_ref()].into_iter().flatten();
        let origins: Vec<Origin> = origins.map(|registry| registry.origin.clone()).collect();
        for content in blobs {
            let digest = content.digest();
            for origin in &origins {
                origin.add_blob_as(&repository, &digest, content.clone());
            }
            described.push(Descriptor {
                digest,
                size: content.len(),
            });
        }
        let manifest = manifest(&described)?;
        let mut digest = String::new();
        for origin in &origins {
            digest = origin.add_manifest(&repository, Some(&tag), MANIFEST, manifest.clone());
        }
        let size = manifest.len() as u64;
        let mut described = described.into_iter();
        Ok(Image {
            repository,
            tag,
            manifest: Descriptor { digest, size },
            config: described.next().context("an image has a configuration")?,
            layers: described.collect(),
        })
    }

    /// What a client of a node is to do for a blob.
    pub(super) fn errand(&self, blob: &Blob) -> Errand {
        Errand {
            repository: REPOSITORY.to_owned(),
            digest: blob.digest.clone(),
            content: blob.content.clone(),
            mirror: Some(MIRROR.trim_start_matches("http://").to_owned()),
            mirror_query: format!("?ns={REGISTRY}"),
            origin: self.registry.address(),
            authorization: None,
        }
    }

    // === pulls ===

    /// A pull of `blob` on one node, to its end.
    pub(super) fn pull(&self, node: usize, blob: &Blob) -> Result<Progress> {
        let mut ends = self.pull_on(&[node], blob)?;
        ends.pop().context("one pull, one end")
    }

    /// Pulls of `blob` on several nodes at once, to their ends.
    pub(super) fn pull_on(&self, nodes: &[usize], blob: &Blob) -> Result<Vec<Progress>> {
        ended(&self.begin_on(nodes, blob)?)
    }

    /// Starts a pull on each of these nodes.
    pub(super) fn begin_on(&self, nodes: &[usize], blob: &Blob) -> Result<Vec<Watch>> {
        let errand = self.errand(blob);
        let begin = |index: &usize| {
            let node = self.nodes.get(*index).context("no such node")?;
            Ok(node.begin(errand.clone()))
        };
        nodes.iter().map(begin).collect()
    }

    /// What a pull of `length` bytes takes without Darter, on all of `nodes` at once.
    pub(super) fn plain(&mut self, nodes: &[usize], length: u64) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..PLAIN_PULLS {
            let blob = self.blob(length);
            let errand = Errand {
                mirror: None,
                ..self.errand(&blob)
            };
            let mut watches = Vec::new();
            for index in nodes {
                watches.push(self.node(*index)?.begin(errand.clone()));
            }
            let ends = ended(&watches)?;
            ensure!(
                ends.iter().all(|end| end.bytes == length),
                "a pull without Darter failed: {ends:?}"
            );
            let longest = ends.iter().filter_map(|end| end.took).max();
            times.push(longest.unwrap_or_default().as_secs_f64());
        }
        Ok(Duration::from_secs_f64(median(&times)))
    }

    /// What containerd on `node` takes for such an image without Darter.
    pub(super) fn plain_image(&mut self, node: usize, layers: &[u64]) -> Result<Duration> {
        let url = self.registry.url();
        self.node(node)?.containerd()?.set_hosts(&url, &[])?;
        let mut times = Vec::new();
        for _ in 0..PLAIN_PULLS {
            let image = self.image(layers)?;
            times.push(self.pull_image(node, &image)?.as_secs_f64());
            self.node(node)?.containerd()?.forget(&image)?;
        }
        self.node(node)?.containerd()?.set_hosts(&url, &[MIRROR])?;
        Ok(Duration::from_secs_f64(median(&times)))
    }

    /// Fetches an image by containerd on `node`, and verifies it.
    pub(super) fn pull_image(&mut self, node: usize, image: &Image) -> Result<Duration> {
        let containerd = self.node(node)?.containerd()?;
        let start = now();
        containerd.fetch(image)?.wait()?;
        let took = start.elapsed();
        containerd.verify(image)?;
        Ok(took)
    }

    /// The same by the image's digest, as who need not ask what a tag means.
    pub(super) fn pull_digest(&mut self, node: usize, image: &Image) -> Result<Duration> {
        let mut exactly = image.clone();
        exactly.tag = format!("{}@{}", image.tag, image.manifest.digest);
        self.pull_image(node, &exactly)
    }

    /// Everything was tried. Logs are kept when it did not go well.
    pub(super) fn end(mut self, good: bool) {
        if good {
            self.lab.passed();
        }
    }
}

/// Waits for pulls to end.
pub(super) fn ended(watches: &[Watch]) -> Result<Vec<Progress>> {
    until("pulls to end", Duration::from_secs(600), || {
        let ends: Vec<Progress> = watches.iter().map(Watch::progress).collect();
        Ok(ends.iter().all(|end| end.outcome.is_some()).then_some(ends))
    })
}

/// Waits until one of these has so many bytes.
pub(super) fn middle(watches: &[Watch], bytes: u64) -> Result<()> {
    until("a pull to be in its middle", START, || {
        let some = watches.iter().any(|watch| watch.progress().bytes >= bytes);
        Ok(some.then_some(()))
    })
}

fn manifest(blobs: &[Descriptor]) -> Result<Vec<u8>> {
    let describe = |kind: &str, content: &Descriptor| json!({ "mediaType": kind, "digest": content.digest, "size": content.size });
    let (config, layers) = blobs.split_first().context("an image has a configuration")?;
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| describe("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect();
    let config = describe("application/vnd.oci.image.config.v1+json", config);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    Ok(serde_json::to_vec(&manifest)?)
}
