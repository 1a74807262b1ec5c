//! What the manager counts, as `darter_manager_…`.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    status: u16,
}

/// Its counters. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    sign_ins: Family<Answered, Counter>,
    refusals: Family<Answered, Counter>,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("darter_manager");
        registry.register(
            "sign_ins",
            "Tries to sign in, by what was answered",
            metrics.sign_ins.clone(),
        );
        registry.register(
            "refusals",
            "Requests of nobody known (401) or of somebody who may not (403)",
            metrics.refusals.clone(),
        );
        metrics
    }

    pub(crate) fn signed_in(&self, status: StatusCode) {
        let label = Answered {
            status: status.as_u16(),
        };
        self.sign_ins.get_or_create(&label).inc();
    }

    pub(crate) fn refused(&self, status: StatusCode) {
        let label = Answered {
            status: status.as_u16(),
        };
        self.refusals.get_or_create(&label).inc();
    }
}
