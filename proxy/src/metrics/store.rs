//! What the store holds and refuses, read when somebody looks.

use std::fmt;
use std::sync::Arc;

use darter_store::PieceStore;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Shows a store.
#[derive(Debug)]
pub struct StoreCollector {
    store: Arc<dyn PieceStore>,
}

impl StoreCollector {
    /// Of this store.
    pub fn new(store: Arc<dyn PieceStore>) -> Self {
        Self { store }
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.store.usage();
        let gauges = [
            ("stored_bytes", "Bytes that contents take", usage.stored_bytes),
            ("quota_bytes", "Most bytes that they may take", usage.quota_bytes),
            (
                "unwritten_bytes",
                "Bytes that wait in memory for a slow disk",
                usage.unwritten_bytes,
            ),
            ("free_bytes", "Free bytes of the file system", usage.free_bytes),
            (
                "contents",
                "Contents that are held, whole or in part",
                usage.tasks,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let name = format!("darter_proxy_store_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let refusals = [
            ("quota", usage.refusals.quota),
            ("registryQuota", usage.refusals.registry_quota),
            ("freeFloor", usage.refusals.free_floor),
            ("fileSystem", usage.refusals.file_system),
        ];
        let help = "Times that there was no room, by what had run out; what can be dropped is dropped then";
        let kind = ConstCounter::new(0u64).metric_type();
        let mut metric = encoder.encode_descriptor("darter_proxy_store_refusals", help, None, kind)?;
        for (limit, count) in refusals {
            let labels = [("limit", limit)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_store::{ContentFacts, MemoryStore};
    use darter_types::{PieceLayout, TaskId};

    #[test]
    fn a_store_that_is_full_says_so() {
        let store = Arc::new(MemoryStore::new(1000));
        let facts = ContentFacts {
            layout: PieceLayout::of(800).unwrap(),
            origin: None,
            media_type: None,
            whole: true,
            public: true,
        };
        let task = |name: &str| TaskId::of_url(name, "", "", "");
        store.open(task("a"), &facts).unwrap();
        store.open(task("b"), &facts).unwrap_err();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(StoreCollector::new(store)));
        let text = darter_service::metrics::encode(&registry);
        for line in [
            "darter_proxy_store_stored_bytes 800\n",
            "darter_proxy_store_quota_bytes 1000\n",
            "darter_proxy_store_contents 1\n",
            "darter_proxy_store_unwritten_bytes 0\n",
            "darter_proxy_store_refusals_total{limit=\"quota\"} 1\n",
            "darter_proxy_store_refusals_total{limit=\"freeFloor\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
