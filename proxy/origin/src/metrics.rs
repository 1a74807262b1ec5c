//! What is counted about registries. A value that is handed in: two nodes in one process count apart.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds for the time to the head of an answer.
const HEAD_SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    /// The registry's name where the configuration has it, else `other`.
    registry: Arc<str>,
    /// The status, `silent`, `unreachable`, `forbidden` (its address) or `notAllowed` (its name).
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistryLabels {
    registry: Arc<str>,
}

/// Counters of the origin client. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    bytes: Family<RegistryLabels, Counter>,
    retries: Family<RegistryLabels, Counter>,
    waiting: Family<RegistryLabels, Gauge>,
    ahead: Family<RegistryLabels, Counter>,
    ahead_bytes: Gauge,
    delayed_bytes: Family<RegistryLabels, Counter>,
    all_delayed_bytes: Counter,
    head_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            bytes: Family::default(),
            retries: Family::default(),
            waiting: Family::default(),
            ahead: Family::default(),
            ahead_bytes: Gauge::default(),
            delayed_bytes: Family::default(),
            all_delayed_bytes: Counter::default(),
            head_seconds: Histogram::new(HEAD_SECONDS),
        }
    }
}

impl Metrics {
    /// Counters that are shown by `registry` (whose prefix is the role's, for example `darter_proxy`).
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "origin_requests",
            "Requests to registries and their token realms, redirects included",
            metrics.requests.clone(),
        );
        registry.register(
            "origin_bytes",
            "Bytes of bodies that registries sent",
            metrics.bytes.clone(),
        );
        registry.register(
            "origin_retries",
            "Requests to registries that were repeated",
            metrics.retries.clone(),
        );
        registry.register(
            "origin_waiting",
            "Requests that wait for one of a registry's connections",
            metrics.waiting.clone(),
        );
        registry.register(
            "origin_ahead_requests",
            "Requests for parts of large blobs ahead of what is being read, on connections of their own",
            metrics.ahead.clone(),
        );
        registry.register(
            "origin_ahead_bytes",
            "Memory that is set aside for such parts",
            metrics.ahead_bytes.clone(),
        );
        registry.register(
            "origin_delayed_bytes",
            "Bytes of a registry that waited for its bytesPerSecondMax",
            metrics.delayed_bytes.clone(),
        );
        registry.register(
            "origin_all_delayed_bytes",
            "Bytes of registries that waited for origin.bytesPerSecondMax",
            metrics.all_delayed_bytes.clone(),
        );
        registry.register(
            "origin_head_seconds",
            "Time from a request to the head of its answer",
            metrics.head_seconds.clone(),
        );
        metrics
    }

    /// Memory in bytes that is set aside for parts of large blobs which come before their turn.
    pub fn ahead_bytes(&self) -> i64 {
        self.ahead_bytes.get()
    }

    /// What shows it.
    pub(crate) fn ahead_gauge(&self) -> Gauge {
        self.ahead_bytes.clone()
    }

    /// Bytes that waited for the rate of all registries together.
    pub(crate) fn all_delayed_bytes(&self) -> &Counter {
        &self.all_delayed_bytes
    }

    /// The counters of one registry.
    pub(crate) fn of(&self, registry: &str) -> RegistryMetrics {
        let labels = RegistryLabels {
            registry: registry.into(),
        };
        RegistryMetrics {
            bytes: self.bytes.get_or_create(&labels).clone(),
            retries: self.retries.get_or_create(&labels).clone(),
            waiting: self.waiting.get_or_create(&labels).clone(),
            ahead: self.ahead.get_or_create(&labels).clone(),
            delayed_bytes: self.delayed_bytes.get_or_create(&labels).clone(),
            all: self.clone(),
            labels,
        }
    }
}

/// The counters of one registry, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct RegistryMetrics {
    pub(crate) bytes: Counter,
    pub(crate) retries: Counter,
    pub(crate) ahead: Counter,
    pub(crate) delayed_bytes: Counter,
    waiting: Gauge,
    all: Metrics,
    labels: RegistryLabels,
}

impl RegistryMetrics {
    /// A request ended, with a status or without.
    pub(crate) fn request(&self, code: &'static str) {
        let registry = Arc::clone(&self.labels.registry);
        self.all
            .requests
            .get_or_create(&RequestLabels { registry, code })
            .inc();
    }

    /// The head of an answer came after so long.
    pub(crate) fn head(&self, status: http::StatusCode, elapsed: std::time::Duration) {
        self.request(code(status));
        self.all.head_seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a request as waiting until it is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A label from a closed set: a registry cannot make up series.
fn code(status: http::StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        206 => "206",
        304 => "304",
        301 | 302 | 303 | 307 | 308 => "redirect",
        401 => "401",
        403 => "403",
        404 => "404",
        416 => "416",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        100..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let mut registry = Registry::with_prefix("darter_proxy");
        let metrics = Metrics::register(&mut registry).of("docker.io");
        metrics.head(http::StatusCode::OK, std::time::Duration::from_millis(3));
        metrics.request("unreachable");
        metrics.bytes.inc_by(7);
        metrics.ahead.inc();
        let waiting = metrics.wait();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"darter_proxy_origin_requests_total{registry="docker.io",code="200"} 1"#,
            r#"darter_proxy_origin_requests_total{registry="docker.io",code="unreachable"} 1"#,
            r#"darter_proxy_origin_bytes_total{registry="docker.io"} 7"#,
            r#"darter_proxy_origin_waiting{registry="docker.io"} 1"#,
            r#"darter_proxy_origin_ahead_requests_total{registry="docker.io"} 1"#,
            "darter_proxy_origin_ahead_bytes 0",
            "darter_proxy_origin_head_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(waiting);
        assert_eq!(metrics.waiting.get(), 0);
    }
}
