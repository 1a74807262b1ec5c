//! Traces to an OpenTelemetry collector (OTLP over gRPC): off unless an endpoint is named.
//!
//! The collector is never waited for: spans go through a bounded queue on a thread of its own, and what does not fit
//! is dropped. There is no global provider; what exports is a value that the program keeps and shuts down.

use std::time::Duration;

use http::Uri;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as SpanExporterTrait;
use opentelemetry_sdk::trace::{SdkTracerProvider, TracerProviderBuilder};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::build_info;
use crate::config::Problems;

/// How long one batch may take, and the last one at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The section `traces` of every role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct TracesConfig {
    /// Where spans go: `http://collector:4317`. Nowhere by default. Spans are sent as they are, without TLS: name a
    /// collector of this machine or of this cluster.
    pub otlp_endpoint: Option<String>,
}

impl TracesConfig {
    /// Adds what is wrong with it.
    pub fn validate(&self, problems: &mut Problems) {
        if let Some(endpoint) = &self.otlp_endpoint
            && !is_endpoint(endpoint)
        {
            problems.add(
                "otlpEndpoint",
                format!("expected http://host:port, got {endpoint:?}"),
            );
        }
    }
}

fn is_endpoint(text: &str) -> bool {
    let uri = text.parse::<Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.port_u16().is_some())
}

/// The exporter cannot be made.
#[derive(Debug, Error)]
#[error("traces cannot be sent to {endpoint}: {reason}")]
pub struct TracesError {
    endpoint: String,
    reason: String,
}

/// Sends spans to a collector.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts to export, if an endpoint is named. Must be called in a runtime, which has to outlive it.
    ///
    /// # Errors
    /// An endpoint that is none. One that does not answer is no error: it may come later.
    pub fn start(config: &TracesConfig, role: &'static str) -> Result<Option<Self>, TracesError> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let wrong = |reason: String| TracesError {
            endpoint: endpoint.clone(),
            reason,
        };
        if !is_endpoint(endpoint) {
            return Err(wrong("write http://host:port".into()));
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let provider = builder(role).with_batch_exporter(exporter).build();
        Ok(Some(Self { provider }))
    }

    /// Hands each span to `exporter` as soon as it ends, in the thread that ends it: for tests.
    pub fn to_exporter(exporter: impl SpanExporterTrait + 'static, role: &str) -> Self {
        let provider = builder(role).with_simple_exporter(exporter).build();
        Self { provider }
    }

    /// What a subscriber hands spans to.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        layer(Some(self))
    }

    /// Sends what is left, for three seconds at most, and ends. The last step of a program.
    pub async fn shut_down(&self) {
        let provider = self.provider.clone();
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// What a subscriber hands spans to, and what is logged in the middle of them. Only this project's: the exporter's own
/// connection must not trace itself. Where they go nowhere it takes none, and its filter says so before one is made.
pub(crate) fn layer<S>(traces: Option<&Traces>) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let most = traces.map_or(LevelFilter::OFF, |_| LevelFilter::INFO);
    let filter =
        filter_fn(move |metadata| *metadata.level() <= most && metadata.target().starts_with("darter"));
    let spans =
        traces.map(|traces| tracing_opentelemetry::layer().with_tracer(traces.provider.tracer("darter")));
    spans.with_filter(filter.with_max_level_hint(most))
}

fn builder(role: &str) -> TracerProviderBuilder {
    let resource = Resource::builder_empty()
        .with_service_name(format!("darter-{role}"))
        .with_attribute(KeyValue::new("service.version", build_info::VERSION))
        .build();
    SdkTracerProvider::builder().with_resource(resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogConfig, Setup};
    use crate::net::{Network as _, TokioNetwork};
    use tokio::io::AsyncReadExt as _;

    fn to(endpoint: &str) -> TracesConfig {
        TracesConfig {
            otlp_endpoint: Some(endpoint.into()),
        }
    }

    #[test]
    fn is_off_unless_an_endpoint_is_named() {
        assert!(
            Traces::start(&TracesConfig::default(), "proxy")
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for wrong in [
            "",
            "collector:4317",
            "https://collector:4317",
            "http://collector",
            "http://",
        ] {
            assert!(Traces::start(&to(wrong), "proxy").is_err(), "{wrong}");
            let mut problems = Problems::new();
            to(wrong).validate(&mut problems);
            assert_eq!(problems.found().len(), 1, "{wrong}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spans_reach_the_collector() {
        let mut listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let traces = Traces::start(&to(&endpoint), "proxy").unwrap().unwrap();
        let config = LogConfig::default();
        let setup = Setup {
            config: &config,
            flag: None,
            env: None,
            traces: Some(&traces),
        };
        let (subscriber, _handle) = setup.subscriber(std::io::sink, false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("ours").in_scope(|| {});
            tracing::info_span!(target: "another_crate", "theirs").in_scope(|| {});
        });
        // A collector that never answers: what it hears is enough, and the end does not wait for it for ever.
        let heard = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard).contains("ours") {
                assert_ne!(
                    stream.read_buf(&mut heard).await.unwrap(),
                    0,
                    "ended without the span"
                );
            }
            String::from_utf8_lossy(&heard).into_owned()
        };
        let (heard, ()) = tokio::join!(heard, traces.shut_down());
        assert!(
            heard.contains("darter-proxy") && !heard.contains("theirs"),
            "{heard}"
        );
    }
}
