//! What the snapshotter tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a request, or a mount, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was answered as it must be: there is none of that name, or there is one already, or it may not be done. Each layer
    /// that is left out is told so.
    Refused,
    /// It failed.
    Failed,
    /// It was not tried, as the last attempt failed a moment ago.
    HeldBack,
}

/// What containerd can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "the methods of the service")]
pub enum Method {
    Prepare,
    View,
    Mounts,
    Commit,
    Remove,
    Stat,
    Update,
    List,
    Usage,
    Cleanup,
}

const METHODS: [Method; 10] = [
    Method::Prepare,
    Method::View,
    Method::Mounts,
    Method::Commit,
    Method::Remove,
    Method::Stat,
    Method::Update,
    Method::List,
    Method::Usage,
    Method::Cleanup,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    method: Method,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMount {
    outcome: Outcome,
}

/// The snapshotter's metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requests: Family<OfRequest, Counter<u64, AtomicU64>>,
    mounts: Family<OfMount, Counter<u64, AtomicU64>>,
    layers_left_out: Counter<u64, AtomicU64>,
    snapshots: Gauge<i64, AtomicI64>,
    images: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// Registers them, with all their labels.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.0;
        for method in METHODS {
            for outcome in [Outcome::Done, Outcome::Refused, Outcome::Failed] {
                drop(inner.requests.get_or_create(&OfRequest { method, outcome }));
            }
        }
        for outcome in [Outcome::Done, Outcome::Failed, Outcome::HeldBack] {
            drop(inner.mounts.get_or_create(&OfMount { outcome }));
        }
        let name = |rest: &str| format!("darter_snapshotter_{rest}");
        registry.register(name("requests"), "Requests of containerd", inner.requests.clone());
        registry.register(
            name("mounts"),
            "Attempts to mount a Nydus image",
            inner.mounts.clone(),
        );
        registry.register(
            name("layers_left_out"),
            "Layers of Nydus images that containerd did not fetch",
            inner.layers_left_out.clone(),
        );
        registry.register(name("snapshots"), "Snapshots", inner.snapshots.clone());
        registry.register(
            name("images"),
            "Nydus images that are mounted",
            inner.images.clone(),
        );
        metrics
    }

    pub(super) fn answered(&self, method: Method, outcome: Outcome) {
        self.0
            .requests
            .get_or_create(&OfRequest { method, outcome })
            .inc();
    }

    pub(super) fn mounted(&self, outcome: Outcome) {
        self.0.mounts.get_or_create(&OfMount { outcome }).inc();
    }

    pub(super) fn left_out(&self) {
        self.0.layers_left_out.inc();
    }

    pub(super) fn count(&self, snapshots: usize, images: Option<usize>) {
        self.0.snapshots.set(i64::try_from(snapshots).unwrap_or(i64::MAX));
        if let Some(images) = images {
            self.0.images.set(i64::try_from(images).unwrap_or(i64::MAX));
        }
    }
}
