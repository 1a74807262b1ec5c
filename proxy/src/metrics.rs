//! What a node counts. One struct a component, made and registered when the node is put together.

use std::sync::atomic::AtomicU64;

use darter_engine::ParentFailure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

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

/// What pulls count.
#[derive(Debug, Default)]
pub struct PullMetrics {
    running: Gauge,
    ended: Family<Outcome, Counter>,
    received: Family<Source, Counter>,
    from_cache: Counter,
    parent_failures: Family<Reason, Counter>,
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
            "cache_served",
            "Bytes given to clients of contents that were whole in this node's store",
            Unit::Bytes,
            metrics.from_cache.clone(),
        );
        registry.register(
            "parent_failures",
            "Parents given up or paused, by reason; wrong_bytes are pieces that failed verification",
            metrics.parent_failures.clone(),
        );
        metrics
    }

    pub(crate) fn running(&self, count: usize) {
        self.running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn pull_ended(&self, good: bool) {
        self.ended
            .get_or_create(&Outcome {
                result: if good { "ok" } else { "error" },
            })
            .inc();
    }

    pub(crate) fn piece(&self, from_peer: bool, bytes: u64) {
        if from_peer {
            self.received
                .get_or_create(&Source { source: "peer" })
                .inc_by(bytes);
        }
    }

    pub(crate) fn cache_served(&self, bytes: usize) {
        self.from_cache.inc_by(bytes as u64);
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
            ParentFailure::WrongBytes => "wrong_bytes",
            ParentFailure::Missing => "missing",
            ParentFailure::Busy => "busy",
        };
        self.parent_failures.get_or_create(&Reason { reason }).inc();
    }
}

/// What the peer server counts.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    sent: Counter<u64, AtomicU64>,
    uploads_running: Gauge,
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
        registry.register(
            "peer_uploads_running",
            "Requests for pieces that are being answered",
            metrics.uploads_running.clone(),
        );
        metrics
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

    /// Requests that are being answered.
    pub(crate) fn uploads_running(&self) -> u32 {
        u32::try_from(self.uploads_running.get()).unwrap_or(0)
    }
}
