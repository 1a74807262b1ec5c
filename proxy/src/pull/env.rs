//! What every pull of a node needs: the origin, the store, other nodes, the scheduler, and the node's own memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_engine::Limits;
use darter_origin::{Origins, Version};
use darter_service::config::{ByteSize, Period};
use darter_service::limit::Limiter;
use darter_service::supervise::Tasks;
use darter_store::PieceStore;
use darter_types::{HostId, Moment, OriginLocator, RegistryName, TaskId};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::changes::Changing;
use super::quiet::Quiet;
use super::recent::Recent;
use super::{Right, Shared};
use crate::access::{self, AccessConfig};
use crate::journal::Journal;
use crate::metrics::PullMetrics;
use crate::mirror::Source;
use crate::peer::{PeerConfig, Peers};
use crate::scheduling::Scheduling;

/// One travels while the other is served: a pull with fewer would stand still half of the time.
const REQUESTS_SHARE_MIN: usize = 2;
/// How long a node that sent wrong bytes is not asked.
const BLOCKED: Duration = Duration::from_secs(600);
/// How long a content whose chain was wrong is fetched from its origin alone.
const DISTRUSTED: Duration = Duration::from_secs(600);
/// Hosts and contents remembered for either; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 4096;

/// Section `pull` of the proxy's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PullConfig {
    /// Contents that are fetched at the same time. Further ones are answered 503, which makes containerd go to its
    /// next host.
    pub pulls_max: usize,
    /// When clients get bytes. Default `linked`.
    pub release: Release,
    /// How long a reader waits while nothing comes before its stream is ended and the client goes elsewhere.
    pub reader_patience: Period,
    /// Requests to all parents of one content together. More keeps more links busy, but each piece then takes longer
    /// to arrive whole, and only whole pieces are passed on.
    pub requests_max: usize,
    /// Requests to other nodes over all contents that are fetched. They share it equally, and each may have two.
    pub requests_total_max: usize,
    /// Parents of one content that are listened to at the same time.
    pub parents_max: usize,
    /// Which nodes fetch the pieces that readers of ranges wait for ahead of the chain. Default `alone`.
    pub on_demand: OnDemand,
    /// Most bytes a second that this node receives, from registries and other nodes together; absent = no limit.
    pub bytes_per_second_max: Option<ByteSize>,
    /// Most bytes a second of contents that nobody waits for: no client of this node reads them, and no other node
    /// listens. Absent = no limit.
    pub background_bytes_per_second_max: Option<ByteSize>,
}

/// When clients get bytes of a content that other nodes vouch for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Release {
    /// As pieces are linked; the last one when the whole is proved.
    #[default]
    Linked,
    /// Not one before the whole is proved, but to clients that say that they check what they read.
    Proved,
}

impl From<Release> for darter_engine::Release {
    fn from(release: Release) -> Self {
        match release {
            Release::Linked => Self::Linked,
            Release::Proved => Self::Proved,
        }
    }
}

/// Who fetches pieces out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnDemand {
    /// A node without schedulers. One in a swarm fetches contents in order, also for readers of ranges.
    #[default]
    Alone,
    /// Every node.
    Always,
}

impl Default for PullConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            pulls_max: 4096,
            release: Release::default(),
            reader_patience: Period::from(Duration::from_secs(10)),
            requests_max: limits.requests_max,
            requests_total_max: 24,
            parents_max: limits.parents_max,
            on_demand: OnDemand::default(),
            bytes_per_second_max: None,
            background_bytes_per_second_max: None,
        }
    }
}

/// Who may have what is not public.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// Whether other nodes may.
    private: bool,
    /// Which registries vouch for one another.
    trust: AccessConfig,
}

impl Sharing {
    /// As configured, where nodes have certificates (`tls`) or not.
    pub fn new(peer: &PeerConfig, access: &AccessConfig, tls: bool) -> Self {
        Self {
            private: peer.share_private.applies(tls),
            trust: access.clone(),
        }
    }
}

/// What every pull of a node needs.
#[derive(Debug)]
pub struct Env {
    pub(crate) config: PullConfig,
    pub(crate) limits: Limits,
    /// Whether readers of ranges get pieces ahead of the chain.
    pub(crate) on_demand: bool,
    pub(crate) origins: Origins,
    pub(crate) store: Arc<dyn PieceStore>,
    pub(crate) peers: Peers,
    pub(crate) scheduling: Scheduling,
    sharing: Sharing,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Arc<PullMetrics>,
    pub(crate) journal: Journal,
    pub(crate) arrivals: Changing,
    /// The rate of what nobody waits for.
    pub(super) background: Limiter,
    pub(super) quiet: Quiet,
    pub(super) recent: Recent,
    /// Who reads past the store.
    pub(super) past: Arc<Semaphore>,
    running: Mutex<BTreeMap<TaskId, Arc<Shared>>>,
    blocked: Mutex<BTreeMap<HostId, Instant>>,
    distrusted: Mutex<BTreeMap<TaskId, Instant>>,
    /// What registries call the contents of which the store has pieces that nothing proves yet.
    versions: Mutex<access::Recent<TaskId, Version>>,
    started: Instant,
    seeds: AtomicU64,
}

/// The parts that an [`Env`] is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct EnvParts {
    pub config: PullConfig,
    /// There are no schedulers.
    pub alone: bool,
    pub origins: Origins,
    pub store: Arc<dyn PieceStore>,
    pub peers: Peers,
    pub scheduling: Scheduling,
    pub sharing: Sharing,
    pub tasks: Tasks,
    pub metrics: Arc<PullMetrics>,
    /// Seed of all its randomness.
    pub seed: u64,
}

impl Env {
    /// The rates of all downloads and of those that nobody waits for, which may be changed.
    pub(crate) fn rates(&self) -> [Limiter; 2] {
        [self.peers.rate(), self.background.clone()]
    }

    /// Puts the parts together.
    pub fn new(parts: EnvParts) -> Self {
        let on_demand = parts.alone || parts.config.on_demand == OnDemand::Always;
        let mut limits = Limits {
            requests_max: parts.config.requests_max,
            parents_max: parts.config.parents_max,
            ..Limits::default()
        };
        if !on_demand {
            limits.apart_range_max = 0;
        }
        let background = parts.config.background_bytes_per_second_max;
        Self {
            quiet: Quiet::default(),
            background: Limiter::adjustable(background, &parts.metrics.delayed("background")),
            config: parts.config,
            on_demand,
            limits,
            origins: parts.origins,
            store: parts.store,
            peers: parts.peers,
            scheduling: parts.scheduling,
            sharing: parts.sharing,
            tasks: parts.tasks,
            metrics: parts.metrics,
            journal: Journal::new(),
            arrivals: Changing::default(),
            recent: Recent::default(),
            past: super::past::room(),
            running: Mutex::default(),
            blocked: Mutex::default(),
            distrusted: Mutex::default(),
            versions: Mutex::new(access::Recent::new(REMEMBERED_MAX)),
            started: Instant::now(),
            seeds: AtomicU64::new(parts.seed),
        }
    }

    /// Whether a content is exchanged with other nodes, one that anybody may read or another one.
    pub(crate) fn shares(&self, public: bool) -> bool {
        public || self.sharing.private
    }

    /// Whether a content that came from one place is open to who has a right at another.
    pub(super) fn is_open(&self, source: &Source, right: &Right) -> bool {
        let trusted = |origin: &OriginLocator| {
            let registries = self
                .sharing
                .trust
                .trust_each_other(&origin.registry, &right.registry);
            registries && (right.asked || right.is_for(origin))
        };
        source.public || source.origin.as_ref().is_some_and(trusted)
    }

    pub(super) fn running(&self) -> MutexGuard<'_, BTreeMap<TaskId, Arc<Shared>>> {
        lock(&self.running)
    }

    pub(super) fn moment(&self, now: Instant) -> Moment {
        Moment::after_start(now.saturating_duration_since(self.started))
    }

    /// Requests to other nodes that one of the running pulls may have at the same time.
    pub(super) fn requests_share(&self) -> usize {
        let pulls = self.running().len().max(1);
        (self.config.requests_total_max / pulls).max(REQUESTS_SHARE_MIN)
    }

    pub(super) fn next_seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes an idle pull out of the running ones, unless somebody just joined it.
    pub(super) fn retire(&self, task: TaskId, shared: &Arc<Shared>) -> bool {
        let mut running = self.running();
        // One for the map, one for the driver, and the caller's.
        let idle = shared.readers.count() == 0 && Arc::strong_count(shared) <= 3;
        if idle {
            running.remove(&task);
        }
        idle
    }

    /// Takes a pull that ended out of the running ones.
    pub(super) fn forget(&self, task: TaskId, shared: &Arc<Shared>) {
        let mut running = self.running();
        if running.get(&task).is_some_and(|other| Arc::ptr_eq(other, shared)) {
            running.remove(&task);
        }
        self.metrics.running(running.len());
    }

    /// Evicts until `bytes` more of a content of `registry` fit, and withdraws what went.
    pub(super) fn make_room(&self, registry: Option<&RegistryName>, bytes: u64) {
        // What is open is not evicted.
        self.recent.clear();
        for task in self.store.make_room_for(registry, bytes) {
            self.scheduling.withdraw(task);
        }
    }

    /// Drops a content that the store holds and cannot read: it is fetched anew the next time.
    pub(super) fn drop_unreadable(&self, task: TaskId) {
        self.recent.forget(task);
        if let Err(error) = self.store.remove(task) {
            tracing::debug!(%task, %error, "a content that cannot be read could not be dropped");
        }
        self.scheduling.withdraw(task);
    }

    /// Whether the store takes `bytes` more of what comes from `registry`, if need be once it has dropped what nobody uses.
    pub(super) fn has_room(&self, registry: &RegistryName, bytes: u64) -> bool {
        let has_room = || self.store.has_room(Some(registry), bytes);
        if has_room() {
            return true;
        }
        self.make_room(Some(registry), bytes);
        has_room()
    }

    pub(super) fn block(&self, host: HostId) {
        remember(&self.blocked, host);
    }

    pub(super) fn is_blocked(&self, host: &HostId) -> bool {
        lock(&self.blocked)
            .get(host)
            .is_some_and(|since| since.elapsed() < BLOCKED)
    }

    /// Nothing that others say of this content is believed for a while.
    pub(super) fn disbelieve(&self, task: TaskId) {
        remember(&self.distrusted, task);
    }

    /// The same, and nothing of it stays.
    pub(super) fn distrust(&self, task: TaskId) {
        self.disbelieve(task);
        self.forget_version(task);
        self.recent.forget(task);
        if let Err(error) = self.store.remove(task) {
            tracing::warn!(%task, %error, "a content with a wrong chain could not be dropped");
        }
        self.scheduling.withdraw(task);
    }

    /// What the registry calls the bytes that came of a content, over all pulls until it is proved or dropped.
    pub(super) fn version(&self, task: TaskId) -> Version {
        let mut versions = lock(&self.versions);
        if let Some(known) = versions.get(&task) {
            return known.clone();
        }
        let version = Version::default();
        versions.insert(task, version.clone());
        version
    }

    pub(super) fn forget_version(&self, task: TaskId) {
        lock(&self.versions).remove(&task);
    }

    pub(super) fn is_distrusted(&self, task: TaskId) -> bool {
        lock(&self.distrusted)
            .get(&task)
            .is_some_and(|since| since.elapsed() < DISTRUSTED)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<K: Ord + Clone>(map: &Mutex<BTreeMap<K, Instant>>, key: K) {
    let mut map = lock(map);
    map.insert(key, Instant::now());
    while map.len() > REMEMBERED_MAX {
        let oldest = map
            .iter()
            .min_by_key(|(_, since)| **since)
            .map(|(key, _)| key.clone());
        match oldest {
            Some(key) => drop(map.remove(&key)),
            None => break,
        }
    }
}
