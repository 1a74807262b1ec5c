//! Spans are made only where they are sent. A process of its own: whether a place in the code makes them is decided for all
//! subscribers of a process together.

use darter_service::log::{LogConfig, Setup};
use darter_service::traces::Traces;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

#[test]
fn spans_are_made_only_where_they_are_sent_and_whatever_is_logged() {
    let traces = Traces::to_exporter(Nowhere, "proxy");
    for (traces, filter, made) in [(None, "trace", false), (Some(&traces), "error", true)] {
        let config = LogConfig {
            filter: filter.into(),
            ..LogConfig::default()
        };
        let setup = Setup {
            config: &config,
            flag: None,
            env: None,
            traces,
        };
        let (subscriber, _handle) = setup.subscriber(std::io::sink, false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(target: "darter_service", "ours");
            assert_eq!(!span.is_disabled(), made, "{filter}");
        });
    }
}
