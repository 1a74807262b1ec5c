//! What the manager counts, as `darter_manager_…`.

use darter_service::http_server::Cuts;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    status: u16,
}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

/// What instances do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRole {
    role: &'static str,
}

/// All roles of instances.
const ROLES: [&str; 3] = ["scheduler", "seed", "peer"];

/// Its counters. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    sign_ins: Family<Answered, Counter>,
    refusals: Family<Answered, Counter>,
    cut: Family<Limit, Counter>,
    instances: Family<ByRole, Gauge>,
    joins_refused: Counter,
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
        registry.register(
            "connections_cut",
            "Connections that a limit ended",
            metrics.cut.clone(),
        );
        registry.register(
            "instances",
            "Schedulers and nodes of all clusters that were heard of lately, by any manager",
            metrics.instances.clone(),
        );
        registry.register(
            "joins_refused",
            "Schedulers and nodes that may not join",
            metrics.joins_refused.clone(),
        );
        metrics
    }

    /// So many of each role live.
    pub(crate) fn instances(&self, counts: &[(String, i64)]) {
        for role in ROLES {
            let count = counts
                .iter()
                .find(|(of, _)| of == role)
                .map_or(0, |(_, count)| *count);
            self.instances.get_or_create(&ByRole { role }).set(count);
        }
    }

    pub(crate) fn join_refused(&self) {
        self.joins_refused.inc();
    }

    /// Connections that a limit ended.
    pub(crate) fn cuts(&self) -> Cuts {
        let cut = |limit| self.cut.get_or_create(&Limit { limit }).clone();
        Cuts {
            too_many: cut("connectionsMax"),
            stalled: cut("stallTimeout"),
        }
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
