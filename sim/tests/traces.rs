//! One pull in a cluster as an OpenTelemetry collector sees it.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use darter_service::traces::Traces;
use darter_sim::{Blob, Shape, World};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tracing_subscriber::layer::SubscriberExt as _;

/// Spans that ended, in their order.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Spans {
    fn named(&self, name: &str) -> Vec<SpanData> {
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    fn parent(&self, span: &SpanData) -> Option<SpanData> {
        let spans = self.0.lock().unwrap();
        spans
            .iter()
            .find(|other| other.span_context.span_id() == span.parent_span_id)
            .cloned()
    }

    /// The names of all that a span is part of, its own first.
    fn path(&self, span: &SpanData) -> Vec<String> {
        let up = |span: &SpanData| self.parent(span);
        std::iter::successors(Some(span.clone()), up)
            .map(|span| span.name.to_string())
            .collect()
    }
}

fn field(span: &SpanData, key: &str) -> String {
    let of_key = |pair: &&opentelemetry::KeyValue| pair.key.as_str() == key;
    let found = span.attributes.iter().find(of_key);
    found.map(|pair| pair.value.to_string()).unwrap_or_default()
}

/// A pull by a node whose seed reads the registry.
fn pulled(spans: &Spans) -> Blob {
    let traces = Traces::to_exporter(spans.clone(), "proxy");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let mut world = World::new(
            1,
            Shape {
                nodes: 1,
                seeds: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(1024 * 1024);
        world.pull_as(0, &blob, Some("Basic aHVzaDpodXNo"));
        world.settle(Duration::from_secs(10));
        world.run_for(Duration::from_secs(1));
        world.finish();
        blob
    })
}

#[test]
fn one_pull_is_a_tree_of_spans() {
    let spans = Spans::default();
    let blob = pulled(&spans);

    let requests = spans.named("mirror request");
    let request = requests.first().expect("the client's request");
    assert_eq!(
        (field(request, "registry"), field(request, "status")),
        ("registry.test".into(), "200".into())
    );
    assert_eq!(field(request, "bytes"), blob.length().to_string());
    assert!(field(request, "endpoint").contains(&blob.digest));

    // The node's own, for the client; the seed's, for the cluster.
    let pulls = spans.named("pull");
    let own = pulls
        .iter()
        .find(|pull| field(pull, "background") == "false")
        .unwrap();
    let seeds = pulls
        .iter()
        .find(|pull| field(pull, "background") == "true")
        .unwrap();
    assert_eq!(spans.path(own), ["pull", "mirror request"]);
    assert_eq!(field(own, "task"), blob.digest);
    assert_eq!(
        (field(own, "peer_bytes"), field(own, "origin_bytes")),
        (blob.length().to_string(), "0".into())
    );
    assert_eq!(spans.path(seeds), ["pull"]);

    let fetches = spans.named("peer fetch");
    assert!(!fetches.is_empty());
    for fetch in &fetches {
        assert_eq!(spans.path(fetch), ["peer fetch", "pull", "mirror request"]);
        assert_eq!(
            (field(fetch, "source"), field(fetch, "peer")),
            ("peer".into(), "seed-0".into())
        );
    }
    let answers = spans.named("pieces");
    assert_eq!(answers.len(), fetches.len());
    for answer in &answers {
        let through = ["pieces", "peer fetch", "pull", "mirror request"];
        assert_eq!(spans.path(answer), through, "the other node's is a part of it");
    }
    let bytes: u64 = fetches
        .iter()
        .map(|fetch| field(fetch, "bytes").parse::<u64>().unwrap())
        .sum();
    assert_eq!(bytes, blob.length());

    let wants = spans.named("scheduler want");
    let own = wants.iter().find(|want| spans.path(want).len() == 3).unwrap();
    assert_eq!(spans.path(own), ["scheduler want", "pull", "mirror request"]);
    assert_eq!(field(own, "decision"), "parents");
    let decided = spans.named("want");
    let decision = field(decided.first().expect("the scheduler's side"), "decision");
    assert!(
        decision.contains("seed-0: lease") && decision.contains("node-0: 1 parents"),
        "{decision}"
    );

    let paths: Vec<_> = spans
        .named("origin exchange")
        .iter()
        .map(|span| spans.path(span))
        .collect();
    let head = ["origin exchange", "mirror request"].map(str::to_owned).to_vec();
    let get = ["origin exchange", "origin fetch", "pull"]
        .map(str::to_owned)
        .to_vec();
    assert!(paths.contains(&head) && paths.contains(&get), "{paths:?}");

    // The one client's secret is in nothing of it.
    let all = format!("{:?}", spans.0.lock().unwrap());
    assert!(!all.contains("aHVzaDpodXNo") && !all.contains("hush"), "{all}");
}
