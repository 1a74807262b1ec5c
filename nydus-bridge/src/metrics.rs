//! What the bridge measures of a mount.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use crate::fs::{OpenImage, Stats};

/// Adds the metrics of a mount to a registry.
pub fn register(image: &OpenImage, registry: &mut Registry) {
    registry.register_collector(Box::new(Mounted(image.clone())));
}

/// Reads the counts when somebody asks.
#[derive(Debug)]
struct Mounted(OpenImage);

type Row = (&'static str, &'static str, fn(&Stats) -> u64);

const ROWS: [Row; 8] = [
    (
        "darter_bridge_read_bytes",
        "Bytes that programs were given",
        |stats| stats.read,
    ),
    (
        "darter_bridge_waited_bytes",
        "Bytes that programs were given after they waited for a request, or for the proof of a kept chunk",
        |stats| stats.waited,
    ),
    (
        "darter_bridge_wanted_bytes",
        "Packed bytes that somebody wanted for the first time and that were not kept",
        |stats| stats.wanted,
    ),
    (
        "darter_bridge_fetched_bytes",
        "Packed bytes that came from the mirror",
        |stats| stats.fetched,
    ),
    (
        "darter_bridge_prefetched_bytes",
        "Of the fetched bytes, those that came in the background",
        |stats| stats.background,
    ),
    (
        "darter_bridge_requests",
        "Requests to the mirror that were answered",
        |stats| stats.requests,
    ),
    (
        "darter_bridge_requests_failed",
        "Requests to the mirror that failed after all attempts",
        |stats| stats.failed,
    ),
    (
        "darter_bridge_wrong_chunks",
        "Chunks that came with wrong bytes",
        |stats| stats.wrong,
    ),
];

impl Collector for Mounted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in ROWS {
            let counter = ConstCounter::new(value(&stats));
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
