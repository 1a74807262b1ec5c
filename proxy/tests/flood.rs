//! Strangers who pull one large digest after the other: their registry has a quota, so that what others use stays.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::Config;
use darter_proxy::sendfile::ZeroCopy;
use darter_service::config::ByteSize;
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use darter_store::{DiskOptions, DiskStore, PieceStore as _};
use darter_testkit::client::{End, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Origin, RunningOrigin};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1024 * 1024;
/// What the store may hold, and what of it may be the strangers'.
const QUOTA: u64 = 24 * MIB;
const STRANGERS_QUOTA: u64 = 8 * MIB;
/// What stays free on the file system.
const FLOOR: u64 = MIB;
/// Contents that somebody reads again and again.
const HOT: u64 = 8;
/// What strangers pull, each once: about a megabyte, and now and then more than they may have at all.
const LENGTH: u64 = MIB - 1000;
const TOO_LARGE: u64 = STRANGERS_QUOTA + 1;
const TOO_LARGE_EVERY: u64 = 50;

struct World {
    origin: Origin,
    node: Node,
    store: Arc<DiskStore>,
    metrics: Registry,
    /// Bytes that clients got.
    got: u64,
    /// Bytes of those that the registry had to send.
    missed: u64,
}

impl World {
    /// Pulls a blob of a registry, whole and right.
    async fn pull(&mut self, registry: &str, digest: &str, length: u64) {
        let target = format!("/v2/team/app/blobs/{digest}?ns={registry}");
        let before = self.origin.bytes_sent_for(digest);
        let answer = get(self.node.mirror_address.parse().unwrap(), &target, &[])
            .await
            .unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Complete), "{target}");
        assert_eq!(answer.body.len() as u64, length);
        self.got += length;
        if self.origin.bytes_sent_for(digest) > before {
            self.missed += length;
        }
    }

    /// The sum of a counter over its labels.
    fn counted(&self, name: &str) -> u64 {
        let text = darter_service::metrics::encode(&self.metrics);
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.rsplit_once(' ')?.1.parse::<u64>().ok()
        });
        values.sum()
    }
}

fn config(url: &str) -> Config {
    let mut config = Config::default();
    config.mirror.listen = "127.0.0.1:0".parse().unwrap();
    config.peer.listen = "127.0.0.1:0".parse().unwrap();
    for registry in ["good.test", "strangers.test"] {
        let entry = serde_json::json!({ "endpoint": url });
        config
            .origin
            .registries
            .insert(registry.to_owned(), serde_json::from_value(entry).unwrap());
    }
    config
        .store
        .registry_quotas
        .insert("strangers.test".to_owned(), ByteSize::mib(STRANGERS_QUOTA / MIB));
    config
}

/// A node, its registry, and what ends it.
async fn world(dir: &Path) -> (World, Tasks, CancellationToken, RunningOrigin) {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let options = DiskOptions {
        dir: dir.join("store"),
        quota_bytes: QUOTA,
        free_floor_bytes: FLOOR,
    };
    let store = Arc::new(DiskStore::open(options).unwrap().0);
    let config = config(&running.url());
    store.set_registry_quotas(config.store.quotas());
    let (stop, tasks, mut metrics) = (CancellationToken::new(), Tasks::new(), Registry::default());
    let node = start(NodeParts {
        config,
        host: "node".parse().unwrap(),
        network: Arc::new(TokioNetwork),
        zero_copy: ZeroCopy::new(Some(store.mappings())),
        store: store.clone(),
        registry: &mut metrics,
        tasks: tasks.clone(),
        stop: stop.clone(),
        seed: 7,
        secret: [7; 32],
    })
    .await
    .unwrap();
    let world = World {
        origin,
        node,
        store,
        metrics,
        got: 0,
        missed: 0,
    };
    (world, tasks, stop, running)
}

#[tokio::test]
async fn parts_of_a_registry_that_is_at_its_quota_take_the_place_of_its_old_contents() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, tasks, stop, _running) = world(dir.path()).await;
    let add = |seed, length| {
        let content = Content::generated(seed, length);
        world.origin.add_blob("team/app", content)
    };
    let (hot, old, new) = (add(1, MIB), add(2, STRANGERS_QUOTA), add(3, MIB));
    world.pull("good.test", &hot, MIB).await;
    world.pull("strangers.test", &old, STRANGERS_QUOTA).await;
    let target = format!("/v2/team/app/blobs/{new}?ns=strangers.test");
    let mirror = world.node.mirror_address.parse().unwrap();
    let read = async || {
        let answer = get(mirror, &target, &[("range", "bytes=0-9")]).await.unwrap();
        assert_eq!((answer.status, answer.end), (206, End::Complete));
        world.origin.bytes_sent_for(&new)
    };
    let sent = read().await;
    assert_eq!(read().await, sent, "it was kept");
    let of = |name: &str| world.store.by_registry().get(&name.parse().unwrap()).copied();
    assert_eq!(of("good.test"), Some(MIB));
    assert!(of("strangers.test") < Some(STRANGERS_QUOTA), "the old one went");
    stop.cancel();
    tasks.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_flood_of_digests_leaves_the_hot_set_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, tasks, stop, _running) = world(dir.path()).await;
    drown(&mut world).await;

    // What is counted is what moved.
    assert_eq!(world.counted("darter_proxy_served_bytes_total"), world.got);
    assert_eq!(world.counted("darter_proxy_received_bytes_total"), world.missed);
    assert!(world.missed <= world.origin.bytes_sent());
    stop.cancel();
    tasks.shut_down(Duration::from_secs(5)).await;
}

async fn drown(world: &mut World) {
    let hot: Vec<String> = (0..HOT)
        .map(|seed| world.origin.add_blob("team/app", Content::generated(seed, MIB)))
        .collect();
    for digest in &hot {
        world.pull("good.test", digest, MIB).await;
    }
    let strangers = "strangers.test".parse().unwrap();
    let (mut hits, mut asked) = (0, 0);
    for number in 1..=u64::from(darter_testkit::cases(150, 10_000)) {
        let length = if number.is_multiple_of(TOO_LARGE_EVERY) {
            TOO_LARGE
        } else {
            LENGTH
        };
        let seed = HOT + number;
        let digest = world
            .origin
            .add_blob("team/app", Content::generated(seed, length));
        world.pull("strangers.test", &digest, length).await;
        world.origin.remove_blob("team/app", &digest);
        let held = world.store.by_registry().get(&strangers).copied().unwrap_or(0);
        assert!(held <= STRANGERS_QUOTA, "strangers hold {held} bytes");
        let usage = world.store.usage();
        assert!(
            usage.stored_bytes <= QUOTA && usage.free_bytes >= FLOOR,
            "{usage:?}"
        );

        let digest = &hot[usize::try_from(number % HOT).unwrap()];
        let before = world.origin.bytes_sent_for(digest);
        world.pull("good.test", digest, MIB).await;
        asked += 1;
        hits += u64::from(world.origin.bytes_sent_for(digest) == before);
    }
    assert!(hits * 100 >= asked * 95, "{hits} of {asked} were hits");
}
