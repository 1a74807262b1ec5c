//! Traces that go through several programs: `traceparent` of W3C Trace Context, taken in and passed on.
//!
//! Only where spans are exported at all ([`crate::traces`]); else nothing is read or said. `tracestate` is neither kept nor
//! passed on: it is what vendors tell each other, of any content, and registries are strangers.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header.
pub const TRACEPARENT: HeaderName = HeaderName::from_static(NAME);
const NAME: &str = "traceparent";
/// Longest value that is looked at: later versions may append something to the 55 bytes of this one.
const VALUE_BYTES_MAX: usize = 128;

/// The one header that is read and written.
#[derive(Default)]
struct OnlyParent(Option<String>);

impl Extractor for OnlyParent {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == NAME)
    }

    fn keys(&self) -> Vec<&str> {
        vec![NAME]
    }
}

impl Injector for OnlyParent {
    fn set(&mut self, key: &str, value: String) {
        if key == NAME {
            self.0 = Some(value);
        }
    }
}

/// Makes `span` a part of the trace that a request names, if it names one well. Before the span is entered first.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    // Without an exporter spans are disabled, or have no place in any trace.
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return;
    };
    let Some(text) = value.to_str().ok().filter(|text| text.len() <= VALUE_BYTES_MAX) else {
        return;
    };
    let parent = parse(text);
    if parent.span().span_context().is_valid() {
        // It fails where spans go nowhere.
        let _ = span.set_parent(parent);
    }
}

fn parse(text: &str) -> Context {
    let carrier = OnlyParent(Some(text.to_owned()));
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// What to tell whoever is asked on behalf of the span that is entered; `None` where spans go nowhere.
pub fn current() -> Option<HeaderValue> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = OnlyParent::default();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    HeaderValue::try_from(carrier.0?).ok()
}

/// The body of a fuzz target: any bytes as the header.
///
/// # Panics
/// If what is read is not told again as it was.
pub fn fuzz_trace_context(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let context = parse(&text);
    if context.span().span_context().is_valid() {
        let mut carrier = OnlyParent::default();
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
        let again = parse(&carrier.0.unwrap_or_default());
        let ids = |context: &Context| {
            let span = context.span().span_context().clone();
            (span.trace_id(), span.span_id(), span.is_sampled())
        };
        assert_eq!(ids(&again), ids(&context), "another place in the trace");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::Traces;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};
    use tracing_subscriber::layer::SubscriberExt as _;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Debug)]
    struct Nowhere;

    impl SpanExporter for Nowhere {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Ok(())
        }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        headers.insert("tracestate", "canary=1".parse().unwrap());
        headers
    }

    /// What is passed on within a span that was asked for with these headers.
    fn passed_on(values: &[&str]) -> Option<String> {
        let traces = Traces::to_exporter(Nowhere, "proxy");
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request");
            adopt(&span, &headers(values));
            span.in_scope(current)
                .map(|value| value.to_str().unwrap().to_owned())
        })
    }

    #[test]
    fn a_trace_goes_on_and_each_span_is_a_step_of_its_own() {
        let told = passed_on(&[PARENT]).unwrap();
        assert_eq!(told.len(), PARENT.len());
        assert_eq!(told[..36], PARENT[..36], "the same trace");
        assert_ne!(told[36..52], PARENT[36..52], "another span");
    }

    #[test]
    fn what_is_no_place_in_a_trace_begins_a_new_one() {
        let long = format!("01-{}-{}", &PARENT[3..], "x".repeat(VALUE_BYTES_MAX));
        for wrong in [
            &[][..],
            &["nonsense"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &[&long],
            &[PARENT, PARENT],
        ] {
            let told = passed_on(wrong).unwrap();
            assert_ne!(told[3..35], PARENT[3..35], "{wrong:?}");
        }
    }

    #[test]
    fn where_spans_go_nowhere_nothing_is_told() {
        let span = tracing::info_span!("request");
        adopt(&span, &headers(&[PARENT]));
        assert_eq!(span.in_scope(current), None);
    }

    #[test]
    fn any_header_is_read_or_left() {
        darter_testkit::fuzz::check("trace_context", fuzz_trace_context);
    }
}
