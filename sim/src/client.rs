//! Clients as containerd is one ([`puller`]), on simulated hosts: pulls that are ordered run side by side.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use darter_service::net::{Network as _, Stream};
use darter_service::supervise::Tasks;
use darter_testkit::client::RawConnection;
use darter_testkit::puller::{self, Dial, Errand, Watch};
use tokio::sync::Notify;

use crate::network::TurmoilNetwork;
use crate::world::{Blob, ORIGIN, REGISTRY};

pub use darter_testkit::puller::{Outcome, Progress};

/// A handle on one pull.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Which node's mirror it reads through.
    pub node: String,
    /// What it reads.
    pub blob: Blob,
    /// `Authorization` that it sends, if it has one.
    pub authorization: Option<String>,
    /// Whether the registry would let it read when it was ordered.
    pub allowed: bool,
    watch: Watch,
    /// Parts to read one after the other, rather than the whole.
    ranges: Arc<Vec<Range<u64>>>,
    /// How many of them came, and were right.
    read: Arc<AtomicUsize>,
}

impl Pull {
    /// One that reads parts.
    pub fn of_ranges(node: &str, blob: &Blob, ranges: Vec<Range<u64>>) -> Self {
        Self {
            ranges: Arc::new(ranges),
            ..Self::new(node, blob, None, true)
        }
    }

    /// How many of its parts came, and were right.
    pub fn parts_read(&self) -> usize {
        self.read.load(Ordering::Relaxed)
    }

    /// Reads its parts; stops at the first that is not right.
    async fn read(&self, network: &TurmoilNetwork) -> Option<()> {
        for range in &*self.ranges {
            let io = network.connect(&format!("{}:4001", self.node)).await.ok()?;
            let mut connection = RawConnection::new(io);
            let target = format!(
                "/v2/{}/blobs/{}?ns={REGISTRY}",
                self.blob.repository, self.blob.digest
            );
            let asked = format!("bytes={}-{}", range.start, range.end - 1);
            connection
                .request("GET", &self.node, &target, &[("Range", &asked)])
                .await
                .ok()?;
            let answer = connection.read_response(false).await.ok()?;
            let right = answer.status == 206 && answer.body == self.blob.content.read(range.clone());
            right.then(|| self.read.fetch_add(1, Ordering::Relaxed))?;
        }
        Some(())
    }

    /// A pull that did not start.
    pub fn new(node: &str, blob: &Blob, authorization: Option<&str>, allowed: bool) -> Self {
        Self {
            node: node.to_owned(),
            blob: blob.clone(),
            authorization: authorization.map(str::to_owned),
            allowed,
            watch: Watch::default(),
            ranges: Arc::default(),
            read: Arc::default(),
        }
    }

    /// What it has seen so far.
    pub fn progress(&self) -> Progress {
        self.watch.progress()
    }

    /// Whether it ended, well or not.
    pub fn is_over(&self) -> bool {
        self.progress().outcome.is_some()
    }

    /// Whether it has all bytes.
    pub fn is_done(&self) -> bool {
        self.progress().outcome == Some(Outcome::Done)
    }

    fn errand(&self) -> Errand {
        Errand {
            repository: self.blob.repository.clone(),
            digest: self.blob.digest.clone(),
            content: self.blob.content.clone(),
            mirror: Some(format!("{}:4001", self.node)),
            mirror_query: format!("?ns={REGISTRY}"),
            origin: format!("{ORIGIN}:80"),
            authorization: self.authorization.clone(),
        }
    }
}

/// Pulls that wait for their client's host to run them.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    queue: Arc<Mutex<VecDeque<Pull>>>,
    come: Arc<Notify>,
}

impl Orders {
    /// Orders one pull.
    pub fn push(&self, pull: Pull) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(pull);
        self.come.notify_one();
    }

    fn pop(&self) -> Option<Pull> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

impl Dial for TurmoilNetwork {
    type Io = Stream;

    async fn dial(&self, authority: &str) -> io::Result<Stream> {
        self.connect(authority).await
    }
}

/// A client's host: runs all pulls that are ordered, side by side, for ever.
pub async fn run(orders: Orders, network: TurmoilNetwork) -> turmoil::Result {
    let tasks = Tasks::new();
    loop {
        while let Some(pull) = orders.pop() {
            let network = network.clone();
            if !pull.ranges.is_empty() {
                tasks.spawn("reads of a client", async move {
                    let read = pull.read(&network).await;
                    tracing::debug!(node = %pull.node, ?read, "client has read");
                });
                continue;
            }
            tasks.spawn("pull of a client", async move {
                puller::pull(&network, &pull.errand(), &pull.watch).await;
                tracing::debug!(node = %pull.node, digest = %pull.blob.digest, outcome = ?pull.progress().outcome, "client is done");
            });
        }
        orders.come.notified().await;
    }
}
