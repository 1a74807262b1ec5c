//! What the mirror counts.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::room::Room;

/// Limits that cut connections, by the keys of the configuration.
const CONNECTIONS: &str = "connectionsMax";
const HEADER_TIMEOUT: &str = "headerTimeout";
const HEADER_SIZE: &str = "headerBytesMax";
const STALL: &str = "stallTimeout";

/// Whether the system gave a connection up because the client took nothing for too long.
fn is_stalled(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// Which endpoint answered with what. Both come from closed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    handler: &'static str,
    code: u16,
}

/// 0.5 ms (out of the store) to 16 s (a client's patience is over), each twice the one before.
fn buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.0005, 2.0, 16)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cut {
    limit: &'static str,
}

/// The mirror's metrics. Clones share the counters.
#[derive(Clone, Debug)]
pub struct MirrorMetrics {
    requests: Family<Answered, Counter>,
    head: Histogram,
    first_byte: Histogram,
    hand_overs: Counter,
    stale_tags: Counter,
    cut: Family<Cut, Counter>,
    buffered: Gauge,
    buffer_refusals: Counter,
}

impl MirrorMetrics {
    /// Registers the metrics, named below `darter_proxy`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            head: Histogram::new(buckets()),
            first_byte: Histogram::new(buckets()),
            hand_overs: Counter::default(),
            stale_tags: Counter::default(),
            cut: Family::default(),
            buffered: Gauge::default(),
            buffer_refusals: Counter::default(),
        };
        let requests = metrics.requests.clone();
        registry.register(
            "requests",
            "Requests of clients, by endpoint and status",
            requests,
        );
        let help = "Time from a client's request to the head of its answer";
        registry.register("answer_seconds", help, metrics.head.clone());
        let help = "Time from a client's request to the first byte of the content that it gets";
        registry.register("first_byte_seconds", help, metrics.first_byte.clone());
        let help = "Requests answered by 503 because their content broke off";
        registry.register("hand_overs", help, metrics.hand_overs.clone());
        let help = "Tags answered as last known because their registry could not be asked";
        registry.register("stale_tags", help, metrics.stale_tags.clone());
        let help = "Connections of clients that were closed or refused because of a limit";
        registry.register("connections_cut", help, metrics.cut.clone());
        registry.register_with_unit(
            "mirror_buffered",
            "Bytes of manifests and lists that wait in memory until clients have taken them",
            Unit::Bytes,
            metrics.buffered.clone(),
        );
        registry.register(
            "mirror_buffer_refusals",
            "Manifests and lists that were answered 503 because of mirror.bufferBytesMax",
            metrics.buffer_refusals.clone(),
        );
        for limit in [CONNECTIONS, HEADER_TIMEOUT, HEADER_SIZE, STALL] {
            drop(metrics.cut.get_or_create(&Cut { limit }));
        }
        metrics
    }

    /// Room that these metrics tell of.
    pub(super) fn room(&self, bytes_max: usize) -> Room {
        Room::new(bytes_max, self.buffered.clone(), self.buffer_refusals.clone())
    }

    /// A connection was refused because there are as many as there may be.
    pub(super) fn connection_refused(&self) {
        self.cut.get_or_create(&Cut { limit: CONNECTIONS }).inc();
    }

    /// A connection ended with an error: counted if a limit made it.
    pub(super) fn connection_failed(&self, error: &hyper::Error) {
        let limit = if error.is_parse_too_large() {
            HEADER_SIZE
        } else if error.is_timeout() {
            HEADER_TIMEOUT
        } else if is_stalled(error) {
            STALL
        } else {
            return;
        };
        self.cut.get_or_create(&Cut { limit }).inc();
    }

    pub(super) fn answered(&self, handler: &'static str, status: StatusCode, waited: Duration) {
        let code = status.as_u16();
        self.requests.get_or_create(&Answered { handler, code }).inc();
        self.head.observe(waited.as_secs_f64());
    }

    pub(super) fn first_byte(&self, waited: Duration) {
        self.first_byte.observe(waited.as_secs_f64());
    }

    pub(super) fn handed_over(&self) {
        self.hand_overs.inc();
    }

    pub(super) fn stale_tag(&self) {
        self.stale_tags.inc();
    }
}
