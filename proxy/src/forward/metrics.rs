//! What the forward proxy counts.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// A tunnel that is not looked into.
    Tunnel,
    /// A tunnel whose TLS ends here.
    Intercept,
    /// Answered as the mirror answers.
    Shared,
    /// Passed on.
    Direct,
    /// Refused: no user, a rule, a port, an address, or not a request for a forward proxy.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    way: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

/// The forward proxy's metrics. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct ForwardMetrics {
    requests: Family<Answered, Counter>,
    passed: Family<Direction, Counter>,
    tunnels: Gauge,
    pub(super) handshakes_failed: Counter,
    /// Tunnels and requests on which nothing moved for `forward.idleTimeout`.
    pub(super) idle_ends: Counter,
    pub(super) certificates_made: Counter,
    /// Connections beyond `forward.connectionsMax`.
    pub(super) refused: Counter,
}

impl ForwardMetrics {
    /// Makes and registers them, named below `darter_proxy`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "forward_requests",
            "Requests to the forward proxy, by what became of them and status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "forward_passed",
            "Bytes that the forward proxy passed on unread, in tunnels and for other hosts, by direction",
            Unit::Bytes,
            metrics.passed.clone(),
        );
        registry.register(
            "forward_tunnels_running",
            "Tunnels of the forward proxy that are open, those that are looked into included",
            metrics.tunnels.clone(),
        );
        registry.register(
            "forward_handshakes_failed",
            "Tunnels to be looked into whose client did not trust the authority, or spoke no TLS",
            metrics.handshakes_failed.clone(),
        );
        registry.register(
            "forward_idle_ends",
            "Tunnels and requests that were passed on and ended because of forward.idleTimeout",
            metrics.idle_ends.clone(),
        );
        registry.register(
            "forward_certificates_made",
            "Certificates made for hosts whose tunnels are looked into; again for those that forward.intercept.certificatesMax pushed out",
            metrics.certificates_made.clone(),
        );
        registry.register(
            "forward_connections_refused",
            "Connections of clients that were told 503 since forward.connectionsMax were open",
            metrics.refused.clone(),
        );
        metrics
    }

    pub(super) fn answered(&self, way: Way, status: StatusCode) {
        let way = match way {
            Way::Tunnel => "tunnel",
            Way::Intercept => "intercept",
            Way::Shared => "shared",
            Way::Direct => "direct",
            Way::Refused => "refused",
        };
        let code = status.as_u16();
        self.requests.get_or_create(&Answered { way, code }).inc();
    }

    /// Counts a tunnel as open until it is dropped.
    pub(super) fn tunnel(&self) -> OpenTunnel {
        self.tunnels.inc();
        OpenTunnel(self.tunnels.clone())
    }

    pub(super) fn received(&self, bytes: usize) {
        self.direction("from_host", bytes);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.direction("to_host", bytes);
    }

    fn direction(&self, direction: &'static str, bytes: usize) {
        let direction = Direction { direction };
        self.passed.get_or_create(&direction).inc_by(bytes as u64);
    }
}

/// A tunnel that is open.
#[derive(Debug)]
pub(super) struct OpenTunnel(Gauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}
