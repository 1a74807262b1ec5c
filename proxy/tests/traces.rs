//! A trace goes on at the registry. Alone in its process: who listens to spans is remembered for all threads of one.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::time::Duration;

use darter_service::traces::Traces;
use darter_testkit::client::get;
use darter_testkit::image::{ImageSpec, add_image};
use darter_testkit::origin::Origin;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus_client::registry::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use lonely::{Lonely, lonely};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

#[tokio::test]
async fn a_trace_goes_on_at_the_registry_and_nothing_that_vendors_add_to_it() {
    for traced in [true, false] {
        let traces = Traces::to_exporter(Nowhere, "proxy");
        let subscriber = tracing_subscriber::registry().with(traced.then(|| traces.layer()));
        let _guard = tracing::subscriber::set_default(subscriber);
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let (dir, mut metrics) = (tempfile::tempdir().unwrap(), Registry::default());
        let known = [("registry.test", &running)];
        let Lonely { node, stop, tasks } = lonely(dir.path(), &known, &mut metrics, |_| ()).await;
        add_image(&origin, "a", Some("v1"), &ImageSpec::new(1, &[10]));
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let headers = [("traceparent", parent.as_str()), ("tracestate", "canary=1")];
        let mirror = node.mirror_address.parse().unwrap();
        let answer = get(mirror, "/v2/a/manifests/v1?ns=registry.test", &headers).await;
        assert_eq!(answer.unwrap().status, 200);
        let log = origin.log();
        assert!(!log.is_empty());
        // The pull that fetches it is a part of the request too.
        for seen in log {
            let trace = seen.header("traceparent").and_then(|value| value.get(3..35));
            assert_eq!(trace, traced.then_some(TRACE), "{seen:?}");
            assert_eq!(seen.header("tracestate"), None);
        }
        stop.cancel();
        tasks.shut_down(Duration::from_secs(5)).await;
    }
}
