//! Rates bind, over all connections of whoever they are for, and tell that they do.

use darter_origin::Metrics;
use darter_service::config::ByteSize;
use darter_service::limit::Limiter;
use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::*;

/// Two contents of 3 MB take more than a second.
const RATE: ByteSize = ByteSize::mib(4);

async fn takes_its_time(entry: RegistryConfig, config: RegistriesConfig, node: Limiter) -> String {
    let bench = Bench::with(entry.clone(), config.clone()).await;
    let registries = [(bench.running.host(), entry)].into();
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let config = RegistriesConfig { registries, ..config };
    let network = Arc::new(TokioNetwork);
    let origins = Origins::with_metrics(&config, network, 1, metrics, node).unwrap();
    let started = Instant::now();
    let reads = (0..2).map(|_| async {
        let mut fetch = origins.fetch(&bench.locator, 0, None, &ANONYMOUS).await.unwrap();
        right(&drain(&mut fetch).await.1.unwrap());
    });
    join_all(reads).await;
    // The last bytes of each, and a tenth of a second's, need not be waited for.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1000), "{took:?}");
    darter_service::metrics::encode(&registry)
}

fn is_more_than_nothing(text: &str, metric: &str) {
    let line = text.lines().find(|line| line.starts_with(metric)).unwrap();
    let value: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(value > 0, "{line}");
}

#[tokio::test]
async fn a_registry_has_a_rate() {
    let entry = RegistryConfig {
        bytes_per_second_max: Some(RATE),
        ..plain()
    };
    let text = takes_its_time(entry, impatient(), Limiter::unlimited()).await;
    is_more_than_nothing(&text, "origin_delayed_bytes_total{");
}

#[tokio::test]
async fn all_registries_have_a_rate() {
    let config = RegistriesConfig {
        bytes_per_second_max: Some(RATE),
        ..impatient()
    };
    let text = takes_its_time(plain(), config, Limiter::unlimited()).await;
    is_more_than_nothing(&text, "origin_all_delayed_bytes_total");
}

#[tokio::test]
async fn the_node_has_a_rate() {
    let delayed = Counter::default();
    takes_its_time(plain(), impatient(), Limiter::of(Some(RATE), &delayed)).await;
    assert!(delayed.get() > 0);
}
