//! What all instances are told, as the database has it: read at every change and every second, so that what another manager
//! wrote is told as well.
//!
//! Instances do not write to the database by themselves: what they say waits here and is written by one transaction, and one
//! statement says of all of them that they are alive. So a cluster that comes back at once is a few transactions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Shared;
use crate::auth::secret;
use crate::store::clusters::Cluster;
use crate::store::instances::Instance;
use crate::store::join_tokens::JoinToken;
use crate::store::{Millis, StoreError};

/// How often the database is read when nothing is heard of.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two rounds: what many say at once is one transaction.
const ROUND_MIN: Duration = Duration::from_millis(100);
/// How long an instance is remembered that is away.
const REMEMBERED: Millis = 24 * 3_600_000;
/// How often those that are away longer are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// What all instances are told, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) clusters: Arc<Vec<Cluster>>,
    /// Schedulers that live, by their cluster's id; sorted.
    pub(crate) schedulers: BTreeMap<String, Vec<String>>,
    /// The newest configuration by the cluster's id.
    pub(crate) configurations: BTreeMap<String, (u64, String)>,
    /// Join tokens by their ids.
    pub(crate) tokens: BTreeMap<String, JoinToken>,
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
        let newest = waiting.streams.entry(instance.id.clone()).or_insert(stream);
        if *newest > stream {
            return;
        }
        *newest = stream;
        waiting.parted.remove(&instance.id);
        waiting.put.insert(instance.id.clone(), instance);
        drop(waiting);
        self.wake.notify_one();
    }

    /// An instance has no stream any more; it was heard last at `seen`.
    pub(crate) fn part(&self, id: &str, stream: u64, seen: Millis) {
        let mut waiting = self.waiting();
        if waiting.streams.get(id) != Some(&stream) {
            return;
        }
        waiting.streams.remove(id);
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
        if self.failing {
            // Before anybody says to be alive: those that were when it was last possible to say so count for a while.
            let last = self.shared.store.last_seen().await?;
            let until = Instant::now() + Duration::from_millis(silence.unsigned_abs());
            self.grace = last.map(|last| (until, last.saturating_sub(silence)));
        }
        self.write().await?;
        let now = self.shared.now();
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
        let clusters = store.clusters().await?;
        let mut schedulers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for live in store.live_schedulers(since).await? {
            schedulers.entry(live.cluster).or_default().push(live.address);
        }
        for addresses in schedulers.values_mut() {
            addresses.truncate(darter_proto::limits::SCHEDULERS_MAX);
        }
        let configurations = store.newest_configurations().await?.into_iter().map(|kept| {
            let version = kept.version.unsigned_abs();
            (kept.cluster, (version, kept.document))
        });
        let tokens = store.join_tokens().await?.into_iter();
        self.shared
            .metrics
            .instances(&store.count_instances(since).await?);
        Ok(Snapshot {
            clusters: Arc::new(clusters),
            schedulers,
            configurations: configurations.collect(),
            tokens: tokens.map(|token| (token.id.clone(), token)).collect(),
        })
    }
}
