//! How much is remembered, read when somebody looks.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::mirror::Mirror;

/// Shows what a mirror remembers of earlier answers.
#[derive(Debug)]
pub struct MemoryCollector {
    mirror: Mirror,
}

impl MemoryCollector {
    /// Of this mirror.
    pub fn new(mirror: Mirror) -> Self {
        Self { mirror }
    }
}

impl Collector for MemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "What is remembered of earlier answers: tags, lengths, grants (rights to read), refusals";
        let kind = ConstGauge::new(0i64).metric_type();
        let mut metric = encoder.encode_descriptor("darter_proxy_remembered", help, None, kind)?;
        for (what, count) in self.mirror.remembered() {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(metric.encode_family(&[("what", what)])?)?;
        }
        Ok(())
    }
}
