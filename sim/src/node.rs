//! One simulated proxy: the real one, with the store that outlives its crashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_origin::{LargeBlobsConfig, RegistryConfig};
use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::sendfile::ZeroCopy;
use darter_service::config::ByteSize;
use darter_service::net::Address;
use darter_service::supervise::Tasks;
use darter_store::MemoryStore;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::fate::Fate;
use crate::network::{Rate, TurmoilNetwork};
use crate::world::{ORIGIN, REGISTRY};

/// Where a node serves others.
const PEER_PORT: u16 = 4000;
/// How long a node may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a node is, in all its lives.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name, which is its address as well.
    pub name: String,
    /// What it says that it is called: its name, unless somebody made a mistake.
    pub id: String,
    /// Peer or seed.
    pub role: NodeRole,
    /// The schedulers that it is told.
    pub schedulers: Vec<String>,
    /// Seed of its randomness.
    pub seed: u64,
    /// Its uplink.
    pub rate: Rate,
    /// Its disk.
    pub store: MemoryStore,
    /// What its configuration has besides.
    pub edit: fn(&mut Config),
}

/// One life of a node: from its start to a stop or a crash.
#[derive(Debug)]
struct Life {
    node: Node,
    tasks: Tasks,
    stop: CancellationToken,
    registry: Registry,
    /// What still ran after it had stopped; `None` while it lives or when it crashed.
    left: Option<BTreeMap<&'static str, usize>>,
}

/// A node as the world sees it.
#[derive(Clone, Debug)]
pub struct SimNode {
    /// What it is.
    pub spec: NodeSpec,
    lives: Rc<RefCell<Vec<Life>>>,
}

impl SimNode {
    /// A node that did not start.
    pub fn new(spec: NodeSpec) -> Self {
        Self {
            spec,
            lives: Rc::default(),
        }
    }

    /// One life, until it is stopped, or until `fate` severs it.
    pub async fn live(self, fate: Fate) -> turmoil::Result {
        let number = self.lives.borrow().len();
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let mut registry = Registry::default();
        let network = TurmoilNetwork::new(self.spec.rate.clone());
        let node = start(NodeParts {
            config: self.config(),
            host: self.spec.id.parse()?,
            network: Arc::new(network.clone()),
            store: Arc::new(self.spec.store.clone()),
            zero_copy: ZeroCopy::default(),
            registry: &mut registry,
            tasks: tasks.clone(),
            stop: stop.clone(),
            seed: self.spec.seed ^ ((number as u64) << 48),
            secret: [0; 32],
        })
        .await?;
        self.lives.borrow_mut().push(Life {
            node,
            tasks: tasks.clone(),
            stop: stop.clone(),
            registry,
            left: None,
        });
        fate.or(&network, stop.cancelled()).await;
        tasks.shut_down(STOP_GRACE).await;
        if let Some(life) = self.lives.borrow_mut().get_mut(number) {
            life.left = Some(tasks.running());
        }
        Ok(())
    }

    fn config(&self) -> Config {
        let mut config = Config {
            role: self.spec.role,
            ..Config::default()
        };
        config.peer.advertise = Some(format!("{}:{PEER_PORT}", self.spec.name));
        config.mirror.listen = Address::Tcp("0.0.0.0:4001".to_owned());
        config.scheduler.addresses.clone_from(&self.spec.schedulers);
        let registry = RegistryConfig {
            endpoint: Some(format!("http://{ORIGIN}:80")),
            ..RegistryConfig::default()
        };
        config.origin.registries.insert(REGISTRY.to_owned(), registry);
        // As in life, only smaller: what is large here takes several connections.
        config.origin.large_blobs = LargeBlobsConfig {
            connections_per_blob: 4,
            length_min: ByteSize::kib(2560),
            segment_length: ByteSize::kib(256),
            read_ahead_max: ByteSize::mib(4),
        };
        (self.spec.edit)(&mut config);
        config
    }

    /// Asks its last life to stop.
    pub fn stop(&self) {
        if let Some(life) = self.lives.borrow().last() {
            life.stop.cancel();
        }
    }

    /// Whether it started at all.
    pub fn has_started(&self) -> bool {
        !self.lives.borrow().is_empty()
    }

    /// What still ran after its last life had stopped; `None` if it did not stop.
    pub fn left_running(&self) -> Option<BTreeMap<&'static str, usize>> {
        self.lives.borrow().last()?.left.clone()
    }

    /// What runs in its last life.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.lives
            .borrow()
            .last()
            .map(|life| life.tasks.running())
            .unwrap_or_default()
    }

    /// Changes the role of its last life.
    pub fn set_role(&self, role: NodeRole) {
        if let Some(life) = self.lives.borrow().last() {
            life.node.role.set(role);
        }
    }

    /// How many schedulers its last life can speak to.
    pub fn schedulers_up(&self) -> usize {
        self.lives
            .borrow()
            .last()
            .map_or(0, |life| life.node.scheduling.up_count())
    }

    /// The sum of a metric over all its lives, all label sets that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let lives = self.lives.borrow();
        lives.iter().map(|life| metric(&life.registry, name, label)).sum()
    }
}

/// The sum of the samples of a metric whose labels contain `label`.
fn metric(registry: &Registry, name: &str, label: &str) -> u64 {
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        return 0;
    }
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let fits = labels.is_empty() || labels.starts_with('{');
        (fits && labels.contains(label)).then(|| value.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}
