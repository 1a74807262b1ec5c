//! What a node counts. One struct a component, made and registered when the node is put together.

mod memory;
mod store;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use darter_engine::ParentFailure;
use darter_service::http_server::Cuts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

pub use memory::MemoryCollector;
pub use store::StoreCollector;

/// Where bytes that a client gets came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BytesFrom {
    /// They were in the store before anybody fetched them for this client.
    Cache,
    /// Another node.
    Peer,
    /// The registry.
    Origin,
}

impl BytesFrom {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Cache, Self::Peer, Self::Origin];

    fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Peer => "peer",
            Self::Origin => "origin",
        }
    }
}

/// What did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// A piece that another node sent.
    Peer,
    /// A piece that the store kept over a restart.
    Store,
    /// A content: two chains of it differ, or the registry's bytes are not those of the digest.
    Chain,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

impl Outcome {
    fn of(good: bool) -> Self {
        Self {
            result: if good { "ok" } else { "error" },
        }
    }
}

/// What pulls count.
#[derive(Debug, Default)]
pub struct PullMetrics {
    running: Gauge,
    ended: Family<Outcome, Counter>,
    received: Family<Source, Counter>,
    served: Family<Source, Counter>,
    verify_failures: Family<Source, Counter>,
    parent_failures: Family<Reason, Counter>,
    delayed: Family<Limit, Counter>,
    past_store: Counter,
    store_too_slow: Counter,
    scrubbed: Family<Outcome, Counter>,
    refused: Counter,
}

impl PullMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "pulls_running",
            "Contents that are being fetched",
            metrics.running.clone(),
        );
        registry.register(
            "pulls",
            "Contents whose fetch ended, by result",
            metrics.ended.clone(),
        );
        registry.register_with_unit(
            "received",
            "Bytes fetched into this node, by source: a piece from a peer counts once it is linked",
            Unit::Bytes,
            metrics.received.clone(),
        );
        registry.register_with_unit(
            "served",
            "Bytes given to clients, by where they came from: cache is what the store had before the pull",
            Unit::Bytes,
            metrics.served.clone(),
        );
        registry.register(
            "verify_failures",
            "What was refused because it does not fit its digest: pieces of a peer or of the store, whole contents (chain)",
            metrics.verify_failures.clone(),
        );
        // Rates need a zero to begin at, and an alert on the first failure needs one too.
        for from in BytesFrom::ALL {
            metrics.served(from, 0);
        }
        for what in [Unverified::Peer, Unverified::Store, Unverified::Chain] {
            metrics.failures(what).inc_by(0);
        }
        registry.register(
            "parent_failures",
            "Parents given up or paused, by reason; wrong_bytes are pieces that failed verification",
            metrics.parent_failures.clone(),
        );
        registry.register_with_unit(
            "received_delayed",
            "Bytes that waited for pull.bytesPerSecondMax (all) or pull.backgroundBytesPerSecondMax (background)",
            Unit::Bytes,
            metrics.delayed.clone(),
        );
        registry.register(
            "past_store_reads",
            "Readers that went past the store because it is full, failed or is too slow",
            metrics.past_store.clone(),
        );
        registry.register(
            "store_too_slow",
            "Contents that were not kept because the disk took less than store.slowBytesPerSecond while readers waited",
            metrics.store_too_slow.clone(),
        );
        registry.register(
            "store_scrubbed_pieces",
            "Stored pieces that were read back and linked again, by result",
            metrics.scrubbed.clone(),
        );
        registry.register(
            "pulls_refused",
            "Contents that were not fetched because pull.pullsMax were",
            metrics.refused.clone(),
        );
        metrics
    }

    /// A stored piece was read back.
    pub(crate) fn scrubbed(&self, good: bool) {
        self.scrubbed.get_or_create(&Outcome::of(good)).inc();
    }

    /// A pull did not begin because as many run as may.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    pub(crate) fn past_store(&self) {
        self.past_store.inc();
    }

    /// A pull gave up a store that is too slow.
    pub(crate) fn store_too_slow(&self) {
        self.store_too_slow.inc();
    }

    /// Bytes that waited for the rate of all that is received, or of what nobody reads.
    pub(crate) fn delayed(&self, limit: &'static str) -> Counter {
        self.delayed.get_or_create(&Limit { limit }).clone()
    }

    pub(crate) fn running(&self, count: usize) {
        self.running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn pull_ended(&self, good: bool) {
        self.ended.get_or_create(&Outcome::of(good)).inc();
    }

    pub(crate) fn piece(&self, from_peer: bool, bytes: u64) {
        if from_peer {
            self.received
                .get_or_create(&Source { source: "peer" })
                .inc_by(bytes);
        }
    }

    pub(crate) fn served(&self, from: BytesFrom, bytes: u64) {
        self.served
            .get_or_create(&Source { source: from.name() })
            .inc_by(bytes);
    }

    fn failures(&self, what: Unverified) -> Counter {
        let source = match what {
            Unverified::Peer => "peer",
            Unverified::Store => "store",
            Unverified::Chain => "chain",
        };
        self.verify_failures.get_or_create(&Source { source }).clone()
    }

    pub(crate) fn unverified(&self, what: Unverified) {
        self.failures(what).inc();
    }

    pub(crate) fn origin_bytes(&self, bytes: usize) {
        self.received
            .get_or_create(&Source { source: "origin" })
            .inc_by(bytes as u64);
    }

    pub(crate) fn parent_failed(&self, failure: ParentFailure) {
        let reason = match failure {
            ParentFailure::Unreachable => "unreachable",
            ParentFailure::Silent => "silent",
            ParentFailure::WrongBytes => {
                self.unverified(Unverified::Peer);
                "wrong_bytes"
            }
            ParentFailure::Missing => "missing",
            ParentFailure::Busy => "busy",
        };
        self.parent_failures.get_or_create(&Reason { reason }).inc();
    }
}

/// What the exchange with other nodes counts.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    sent: Counter<u64, AtomicU64>,
    delayed: Family<Limit, Counter>,
    uploads_running: Gauge,
    uploads_refused: Counter,
    requests_running: Gauge,
    buffered: Gauge,
    buffer_waits: Counter,
    cut: Family<Limit, Counter>,
}

impl PeerMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "peer_sent",
            "Bytes of pieces sent to other nodes",
            Unit::Bytes,
            metrics.sent.clone(),
        );
        registry.register_with_unit(
            "peer_sent_delayed",
            "Bytes that waited for peer.uploadBytesPerSecondMax (all) or peer.uploadBytesPerSecondMaxPerNode (node)",
            Unit::Bytes,
            metrics.delayed.clone(),
        );
        registry.register(
            "peer_uploads_running",
            "Requests for pieces that are being answered",
            metrics.uploads_running.clone(),
        );
        registry.register(
            "peer_uploads_refused",
            "Requests for pieces that were answered 503 because peer.uploadsMax were being answered",
            metrics.uploads_refused.clone(),
        );
        registry.register(
            "peer_requests_running",
            "Requests for pieces to other nodes that are under way",
            metrics.requests_running.clone(),
        );
        registry.register_with_unit(
            "peer_buffered",
            "Room that is set aside for pieces that are not verified yet",
            Unit::Bytes,
            metrics.buffered.clone(),
        );
        registry.register(
            "peer_buffer_waits",
            "Requests for pieces that waited because of peer.bufferBytesMax",
            metrics.buffer_waits.clone(),
        );
        registry.register(
            "peer_connections_cut",
            "Connections of other nodes that were refused (connectionsMax) or ended (stallTimeout) because of a limit",
            metrics.cut.clone(),
        );
        drop(metrics.cuts());
        metrics
    }

    /// Bytes that waited for the rate of all that is sent, or of what one node is sent.
    pub(crate) fn delayed(&self, limit: &'static str) -> Counter {
        self.delayed.get_or_create(&Limit { limit }).clone()
    }

    /// Connections that a limit ended.
    pub(crate) fn cuts(&self) -> Cuts {
        let cut = |limit| self.cut.get_or_create(&Limit { limit }).clone();
        Cuts {
            too_many: cut("connectionsMax"),
            stalled: cut("stallTimeout"),
        }
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    /// Bytes sent since the start.
    pub(crate) fn sent_total(&self) -> u64 {
        self.sent.get()
    }

    pub(crate) fn upload_began(&self) {
        self.uploads_running.inc();
    }

    pub(crate) fn upload_ended(&self) {
        self.uploads_running.dec();
    }

    pub(crate) fn upload_refused(&self) {
        self.uploads_refused.inc();
    }

    /// A request for pieces waits for room.
    pub(crate) fn buffer_waits(&self) {
        self.buffer_waits.inc();
    }

    /// A request for pieces has room for so many bytes, and runs until the result is dropped.
    pub(crate) fn request_began(self: &Arc<Self>, bytes: u32) -> RunningRequest {
        self.requests_running.inc();
        self.buffered.inc_by(bytes.into());
        RunningRequest {
            metrics: Arc::clone(self),
            bytes,
        }
    }

    /// Requests that are being answered.
    pub(crate) fn uploads_running(&self) -> u32 {
        u32::try_from(self.uploads_running.get()).unwrap_or(0)
    }
}

/// A request for pieces that is under way.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    metrics: Arc<PeerMetrics>,
    bytes: u32,
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.metrics.requests_running.dec();
        self.metrics.buffered.dec_by(self.bytes.into());
    }
}
