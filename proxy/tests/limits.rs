//! Limits of a real node bind, are counted, and leave the others alone: one test a key of docs/operate/limits.md that has
//! none beside its code.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::Config;
use darter_proxy::sendfile::ZeroCopy;
use darter_service::config::Period;
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use darter_store::{DiskOptions, DiskStore};
use darter_testkit::client::{RawConnection, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Origin, RunningOrigin};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1024 * 1024;
/// More than the buffers of both ends of a connection hold.
const LENGTH: u64 = 48 * MIB;

struct World {
    origin: Origin,
    node: Node,
    metrics: Registry,
    stop: CancellationToken,
    tasks: Tasks,
    _running: RunningOrigin,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(edit: impl FnOnce(&mut Config)) -> Self {
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = DiskOptions {
            dir: dir.path().join("store"),
            quota_bytes: u64::MAX,
            free_floor_bytes: 0,
        };
        let (store, _) = DiskStore::open(options).unwrap();
        let mut config = Config::default();
        config.mirror.listen = "127.0.0.1:0".parse().unwrap();
        config.peer.listen = "127.0.0.1:0".parse().unwrap();
        config.origin.retries = 0;
        let registry = serde_json::json!({ "endpoint": running.url() });
        config.origin.registries.insert(
            "registry.test".to_owned(),
            serde_json::from_value(registry).unwrap(),
        );
        edit(&mut config);
        let (stop, tasks, mut metrics) = (CancellationToken::new(), Tasks::new(), Registry::default());
        let parts = NodeParts {
            config,
            host: "node".parse().unwrap(),
            network: Arc::new(TokioNetwork),
            zero_copy: ZeroCopy::new(Some(store.mappings())),
            store: Arc::new(store),
            registry: &mut metrics,
            tasks: tasks.clone(),
            stop: stop.clone(),
            seed: 7,
        };
        Self {
            node: start(parts).await.unwrap(),
            origin,
            metrics,
            stop,
            tasks,
            _running: running,
            _dir: dir,
        }
    }

    fn mirror(&self) -> SocketAddr {
        self.node.mirror_address.parse().unwrap()
    }

    fn peer(&self) -> SocketAddr {
        self.node.peer_address.parse().unwrap()
    }

    async fn get(&self, digest: &str) -> Response {
        let target = format!("/v2/a/blobs/{digest}?ns=registry.test");
        get(self.mirror(), &target, &[]).await.unwrap()
    }

    /// A content that this node holds.
    async fn held(&self, length: u64) -> String {
        let digest = self.origin.add_blob("a", Content::generated(1, length));
        assert_eq!(self.get(&digest).await.status, 200);
        digest
    }

    /// Asks for the first bytes of a content as another node does, on a connection of its own.
    async fn ask_as_node(&self, digest: &str, bytes: u64) -> RawConnection {
        let mut connection = RawConnection::connect(self.peer()).await.unwrap();
        let last = bytes - 1;
        let request =
            format!("GET /v1/tasks/{digest}/pieces HTTP/1.1\r\nhost: a\r\nrange: bytes=0-{last}\r\n\r\n");
        connection.send(request.as_bytes()).await.unwrap();
        connection
    }

    /// A metric, by the start of its line behind `darter_proxy_`.
    fn metric(&self, line: &str) -> u64 {
        let text = darter_service::metrics::encode(&self.metrics);
        let line = format!("darter_proxy_{line} ");
        let found = text.lines().find_map(|found| found.strip_prefix(&line));
        found.map_or(0, |value| value.parse().unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
        assert!(self.tasks.running().is_empty());
    }
}

/// Waits for something that another task brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never: {what}");
}

#[tokio::test]
async fn nodes_that_take_nothing_do_not_keep_others_from_being_served() {
    let uploads = 4;
    let world = World::new(|config| {
        config.peer.uploads_max = uploads;
        config.peer.stall_timeout = Period::secs(2);
    })
    .await;
    let digest = world.held(LENGTH).await;
    let mut stopped = Vec::new();
    for _ in 0..uploads {
        stopped.push(world.ask_as_node(&digest, LENGTH).await);
    }
    until("all uploads are taken", || {
        world.metric("peer_uploads_running") == uploads as u64
    })
    .await;
    let served = async {
        loop {
            let answer = world
                .ask_as_node(&digest, 1000)
                .await
                .read_response(false)
                .await
                .unwrap();
            match answer.status {
                206 => return answer.body,
                other => assert_eq!(other, 503),
            }
        }
    };
    let body = tokio::time::timeout(PATIENCE, served).await.unwrap();
    assert_eq!(body, Content::generated(1, LENGTH).read(0..1000));
    until("all of them are ended", || {
        world.metric("peer_connections_cut_total{limit=\"stallTimeout\"}") == uploads as u64
    })
    .await;
    drop(stopped);
    world.end().await;
}
