//! What all instances are told, as the database has it: read at every change and every second, so that what another manager
//! wrote is told as well.
//!
//! Instances do not write to the database by themselves: what they say waits here and is written by one transaction, and one
//! statement says of all of them that they are alive. So a cluster that comes back at once is a few transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Shared;
use crate::auth::secret;
use crate::placement::{About, Places};
use crate::store::clusters::{self, Cluster};
use crate::store::instances::Instance;
use crate::store::{Millis, StoreError};

/// How often the database is read when nothing is heard of.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two rounds: what many say at once is one transaction.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// How long an instance is remembered that is away.
const REMEMBERED: Millis = 24 * 3_600_000;
/// How often those that are away longer are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// What all instances are told, at one moment. What did not change is shared with the one before, so that each of many streams
/// keeps and compares no more than pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) clusters: Arc<Clusters>,
    /// Schedulers that live, by their cluster's id; sorted.
    pub(crate) schedulers: BTreeMap<String, Arc<[String]>>,
    /// The newest configuration, with its version, by the cluster's id.
    pub(crate) configurations: BTreeMap<String, Arc<(u64, String)>>,
    /// Ids of the join tokens that have not ended.
    pub(crate) tokens: BTreeSet<String>,
}

/// All clusters, and the way to the one of a node.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    pub(crate) all: Vec<Cluster>,
    pub(crate) places: Places,
}

impl PartialEq for Clusters {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Clusters {}

/// Where one instance was placed last: its patterns are looked through when clusters or what it says change, and not whenever
/// something else does.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    clusters: Arc<Clusters>,
    about: Option<About>,
    found: Option<(usize, String)>,
}

impl Placed {
    /// The instance's cluster, as its place in `clusters.all`, with the reason; `None`: none is for it, and none is the default.
    pub(crate) fn find(&mut self, clusters: &Arc<Clusters>, about: About) -> Option<(usize, String)> {
        if !Arc::ptr_eq(&self.clusters, clusters) || self.about.as_ref() != Some(&about) {
            let found = clusters.places.find(&about);
            self.found = found.map(|(at, reason)| (at, reason.to_string()));
            self.clusters = Arc::clone(clusters);
            self.about = Some(about);
        }
        self.found.clone()
    }
}

/// The way to the directory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    waiting: Arc<Mutex<Waiting>>,
    wake: Arc<Notify>,
    streams: Arc<AtomicU64>,
    /// This life of the manager, by which it knows its own instances.
    pub(crate) life: String,
}

/// What waits to be written, by the instance's id: bounded by the connections, for each says the last thing about one.
#[derive(Debug, Default)]
struct Waiting {
    put: BTreeMap<String, Instance>,
    parted: BTreeMap<String, Millis>,
    /// The newest stream of each instance that has one: the end of an older one says nothing.
    streams: BTreeMap<String, u64>,
}

impl View {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new stream; each is greater than those before.
    pub(crate) fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// An instance is here, or has changed. Nothing, if it has a newer stream.
    pub(crate) fn put(&self, instance: Instance, stream: u64) {
        let mut waiting = self.waiting();
        let id = instance.id.clone();
        let newest = waiting.streams.entry(id.clone()).or_insert(stream);
        let before = std::mem::replace(newest, stream.max(*newest));
        if before > stream {
            return;
        }
        waiting.parted.remove(&id);
        waiting.put.insert(id.clone(), instance);
        drop(waiting);
        if before < stream {
            tracing::warn!(
                instance = id,
                "it has a new stream while an older one is up: if this repeats, two machines have one name or address"
            );
        }
        self.wake.notify_one();
    }

    /// The database is to be read at once.
    pub(crate) fn read_soon(&self) {
        self.wake.notify_one();
    }

    /// Whether no stream counts as the instance's: the newest has ended, and an older one is to take its place.
    pub(crate) fn is_without(&self, id: &str) -> bool {
        !self.waiting().streams.contains_key(id)
    }

    /// An instance has no stream any more; it was heard last at `seen`.
    pub(crate) fn part(&self, id: &str, stream: u64, seen: Millis) {
        let mut waiting = self.waiting();
        if waiting.streams.get(id) != Some(&stream) {
            return;
        }
        waiting.streams.remove(id);
        // Written late, it would take the instance from the manager that it has a stream to by then.
        waiting.put.remove(id);
        waiting.parted.insert(id.to_owned(), seen);
        drop(waiting);
        self.wake.notify_one();
    }
}

/// Reads and writes the database for all instances.
#[derive(Debug)]
pub(crate) struct Directory {
    shared: Shared,
    view: View,
    publish: watch::Sender<Arc<Snapshot>>,
    /// After a time in which nobody could say to be alive: until when, and since when those count that said it before.
    grace: Option<(Instant, Millis)>,
    forgotten: Instant,
    failing: bool,
    /// The time of the last round.
    last_round: Millis,
}

impl Directory {
    /// What the database has now.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn load(shared: Shared) -> Result<Self, StoreError> {
        let life = secret::id(shared.now()).map_err(|_| StoreError::InUse("there is no randomness"))?;
        let (publish, snapshot) = watch::channel(Arc::default());
        let view = View {
            snapshot,
            waiting: Arc::default(),
            wake: Arc::clone(&shared.changed),
            streams: Arc::default(),
            life,
        };
        let mut directory = Self {
            shared,
            view,
            publish,
            grace: None,
            forgotten: Instant::now(),
            failing: true,
            last_round: 0,
        };
        directory.round().await?;
        Ok(directory)
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let woken = tokio::time::timeout(READ_INTERVAL, self.view.wake.notified());
            if stop.run_until_cancelled(woken).await.is_none() {
                return;
            }
            let began = Instant::now();
            if let Err(error) = self.round().await {
                if !self.failing {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "instances are told what was read last until the database answers");
                }
                self.failing = true;
            }
            let next = began + ROUND_MIN;
            stop.run_until_cancelled(tokio::time::sleep_until(next)).await;
        }
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let silence = self.shared.silence_max;
        let now = self.shared.now();
        if self.failing || now < self.last_round {
            // The clock may have been set back: nobody may count for as long as it takes to come to that time again.
            let latest = now.saturating_add(silence);
            self.shared.store.bring_back_instances(latest, now).await?;
            // Before anybody says to be alive: those that were when it was last possible to say so count for a while.
            let last = self.shared.store.last_seen().await?;
            let until = Instant::now() + Duration::from_millis(silence.unsigned_abs());
            self.grace = last.map(|last| (until, last.saturating_sub(silence)));
        }
        self.last_round = now;
        self.write().await?;
        if self.grace.is_some_and(|(until, _)| until <= Instant::now()) {
            self.grace = None;
        }
        let since = now.saturating_sub(silence);
        let since = self.grace.map_or(since, |(_, earlier)| earlier.min(since));
        let read = self.read(since).await?;
        self.failing = false;
        self.publish.send_if_modified(|told| {
            let changed = **told != read;
            if changed {
                *told = Arc::new(read);
            }
            changed
        });
        if self.forgotten.elapsed() >= FORGET_INTERVAL {
            self.forgotten = Instant::now();
            self.shared
                .store
                .forget_instances(now.saturating_sub(REMEMBERED))
                .await?;
        }
        Ok(())
    }

    /// Writes what waits; it waits on if that fails.
    async fn write(&self) -> Result<(), StoreError> {
        let (put, parted) = {
            let mut waiting = self.view.waiting();
            (
                std::mem::take(&mut waiting.put),
                std::mem::take(&mut waiting.parted),
            )
        };
        let instances: Vec<Instance> = put.into_values().collect();
        let mut written = Ok(());
        if !instances.is_empty() {
            written = self.shared.store.put_instances(&instances).await;
        }
        if written.is_ok() {
            let (store, now) = (&self.shared.store, self.shared.now());
            written = store.touch_instances(&self.view.life, now).await;
        }
        let mut left = parted.into_iter();
        while written.is_ok()
            && let Some((id, seen)) = left.next()
        {
            let (store, life) = (&self.shared.store, &self.view.life);
            written = store.part_instance(&id, life, seen).await;
            if written.is_err() {
                self.view.waiting().parted.entry(id).or_insert(seen);
            }
        }
        if written.is_err() {
            let mut waiting = self.view.waiting();
            for instance in instances {
                if !waiting.parted.contains_key(&instance.id) {
                    waiting.put.entry(instance.id.clone()).or_insert(instance);
                }
            }
            for (id, seen) in left {
                if !waiting.put.contains_key(&id) {
                    waiting.parted.entry(id).or_insert(seen);
                }
            }
        }
        written
    }

    async fn read(&self, since: Millis) -> Result<Snapshot, StoreError> {
        let store = &self.shared.store;
        let before = Arc::clone(&self.publish.borrow());
        let all = store.clusters().await?;
        let clusters = match before.clusters.all == all {
            true => Arc::clone(&before.clusters),
            false => Arc::new(Clusters {
                places: clusters::places(&all),
                all,
            }),
        };
        let mut schedulers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for live in store.live_schedulers(since).await? {
            schedulers.entry(live.cluster).or_default().push(live.address);
        }
        let schedulers = schedulers.into_iter().map(|(cluster, mut addresses)| {
            addresses.truncate(darter_proto::limits::SCHEDULERS_MAX);
            let same = before
                .schedulers
                .get(&cluster)
                .filter(|known| ***known == *addresses);
            let addresses = same.map_or_else(|| addresses.into(), Arc::clone);
            (cluster, addresses)
        });
        let schedulers = schedulers.collect();
        let now = self.shared.now();
        let tokens = store.join_tokens().await?.into_iter();
        let tokens = tokens.filter(|token| token.is_good(now)).map(|token| token.id);
        let tokens = tokens.collect();
        self.shared
            .metrics
            .instances(&store.count_instances(since).await?);
        Ok(Snapshot {
            clusters,
            schedulers,
            configurations: self.configurations(&before).await?,
            tokens,
        })
    }

    /// The newest configurations. A version never changes: only those that are new are read.
    async fn configurations(
        &self,
        before: &Snapshot,
    ) -> Result<BTreeMap<String, Arc<(u64, String)>>, StoreError> {
        let store = &self.shared.store;
        let mut newest = BTreeMap::new();
        for (cluster, version) in store.newest_versions().await? {
            let known = before.configurations.get(&cluster);
            let same = known.filter(|known| known.0 == version.unsigned_abs());
            if let Some(known) = same {
                newest.insert(cluster, Arc::clone(known));
            } else if let Some(read) = store.configuration(&cluster, Some(version)).await? {
                newest.insert(cluster, Arc::new((read.version.unsigned_abs(), read.document)));
            }
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Scope;

    fn of(names: &[&str]) -> Arc<Clusters> {
        let cluster = |name: &&str| Cluster {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            description: String::new(),
            is_default: false,
            scope: Scope {
                idcs: vec![(*name).to_owned()],
                ..Scope::default()
            },
            created: 0,
        };
        let all: Vec<Cluster> = names.iter().map(cluster).collect();
        let places = clusters::places(&all);
        Arc::new(Clusters { all, places })
    }

    #[test]
    fn an_instance_is_placed_anew_when_clusters_or_what_it_says_change() {
        let about = |idc: &str| About {
            address: std::net::IpAddr::from([127, 0, 0, 1]),
            hostname: String::new(),
            idc: idc.to_owned(),
            location: String::new(),
        };
        let (one, other) = (of(&["a"]), of(&["b", "a"]));
        let mut placed = Placed::default();
        let mut at = |clusters, idc: &str| placed.find(clusters, about(idc)).map(|(at, _)| at);
        assert_eq!(
            [at(&one, "a"), at(&one, "a"), at(&one, "b")],
            [Some(0), Some(0), None]
        );
        assert_eq!(
            [at(&other, "b"), at(&other, "a"), at(&one, "a")],
            [Some(0), Some(1), Some(0)]
        );
    }
}
