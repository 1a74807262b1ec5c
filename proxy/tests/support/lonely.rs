//! What most tests here begin with: a node without a scheduler, on real sockets of loopback, with a store on a real disk.

use std::path::Path;
use std::sync::Arc;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::Config;
use darter_proxy::sendfile::ZeroCopy;
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use darter_store::{DiskOptions, DiskStore};
use darter_testkit::origin::RunningOrigin;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// A node that runs, and what ends it.
pub(crate) struct Lonely {
    pub(crate) node: Node,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: Tasks,
}

/// Starts a node whose store is the folder `store` in `dir`, which knows these registries by name, and is configured by default
/// but for `edit`. What it counts is in `metrics`.
pub(crate) async fn lonely(
    dir: &Path,
    registries: &[(&str, &RunningOrigin)],
    metrics: &mut Registry,
    edit: impl FnOnce(&mut Config),
) -> Lonely {
    let options = DiskOptions {
        dir: dir.join("store"),
        quota_bytes: u64::MAX,
        free_floor_bytes: 0,
    };
    let (store, _) = DiskStore::open(options).unwrap();
    let mut config = Config::default();
    config.mirror.listen = "127.0.0.1:0".parse().unwrap();
    config.peer.listen = "127.0.0.1:0".parse().unwrap();
    for (name, running) in registries {
        let registry = serde_json::json!({ "endpoint": running.url() });
        let registry = serde_json::from_value(registry).unwrap();
        config.origin.registries.insert((*name).to_owned(), registry);
    }
    edit(&mut config);
    let (stop, tasks) = (CancellationToken::new(), Tasks::new());
    let parts = NodeParts {
        config,
        host: "node".parse().unwrap(),
        network: Arc::new(TokioNetwork),
        zero_copy: ZeroCopy::new(Some(store.mappings())),
        store: Arc::new(store),
        registry: metrics,
        tasks: tasks.clone(),
        stop: stop.clone(),
        seed: 7,
        secret: [7; 32],
    };
    let node = start(parts).await.unwrap();
    Lonely { node, stop, tasks }
}
