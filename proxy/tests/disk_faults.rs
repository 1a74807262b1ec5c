//! A disk that is full or broken: clients get the right bytes all the same, nothing wrong is kept, and the store is used again
//! as soon as it works.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::Config;
use darter_proxy::sendfile::ZeroCopy;
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use darter_store::{Faults, MemoryStore, Pace, PieceStore};
use darter_testkit::client::{End, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

const LENGTH: u64 = 1_500_001;

struct World {
    origin: Origin,
    node: Node,
    store: Arc<MemoryStore>,
    faults: Faults,
    metrics: Registry,
    tasks: Tasks,
    stop: CancellationToken,
    _running: RunningOrigin,
}

async fn world() -> World {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let store = Arc::new(MemoryStore::new(u64::MAX));
    let mut config = Config::default();
    config.mirror.listen = "127.0.0.1:0".parse().unwrap();
    config.peer.listen = "127.0.0.1:0".parse().unwrap();
    let registry = serde_json::json!({ "endpoint": running.url() });
    config.origin.registries.insert(
        "registry.test".to_owned(),
        serde_json::from_value(registry).unwrap(),
    );
    let (stop, tasks, mut metrics) = (CancellationToken::new(), Tasks::new(), Registry::default());
    let parts = NodeParts {
        config,
        host: "node".parse().unwrap(),
        network: Arc::new(TokioNetwork),
        store: Arc::clone(&store) as Arc<dyn PieceStore>,
        zero_copy: ZeroCopy::default(),
        registry: &mut metrics,
        tasks: tasks.clone(),
        stop: stop.clone(),
        seed: 7,
        secret: [7; 32],
    };
    let node = start(parts).await.unwrap();
    World {
        origin,
        node,
        faults: store.faults(),
        store,
        metrics,
        tasks,
        stop,
        _running: running,
    }
}

impl World {
    fn add(&self, number: u64) -> (String, Vec<u8>) {
        let content = Content::generated(number, LENGTH);
        let truth = content.read(0..LENGTH).to_vec();
        (self.origin.add_blob("team/app", content), truth)
    }

    async fn get(&self, digest: &str, headers: &[(&str, &str)]) -> Response {
        let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
        get(self.node.mirror_address.parse().unwrap(), &target, headers)
            .await
            .unwrap()
    }

    /// A pull gives the right bytes.
    async fn pull(&self, digest: &str, truth: &[u8]) {
        let answer = self.get(digest, &[]).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == truth, "wrong bytes");
    }

    /// What the store holds whole is right.
    fn check(&self) {
        for held in self.store.list().iter().filter(|held| held.held.is_full()) {
            let stored = self.store.find(held.task).unwrap();
            let digest = held.task.digest().unwrap();
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < LENGTH {
                let rest = darter_types::ByteRange::new(bytes.len() as u64, LENGTH);
                bytes.extend_from_slice(&stored.read(rest).unwrap());
            }
            assert_eq!(darter_types::Digest::of(digest.algorithm(), &bytes), digest);
        }
    }

    fn metrics(&self) -> String {
        darter_service::metrics::encode(&self.metrics)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
        assert!(self.tasks.running().is_empty());
    }
}

#[tokio::test]
async fn wherever_space_runs_out_the_pull_is_right_and_space_that_returns_is_used() {
    let world = world().await;
    for (number, free) in (1..).zip([0, 1, 200_000, 262_144, 700_000, 1_048_576, 1_499_999]) {
        let (digest, truth) = world.add(number);
        world.faults.no_space_after(free);
        world.pull(&digest, &truth).await;
        world.pull(&digest, &truth).await;
        world.check();
        world.faults.space_returns();
        // Without a restart, and at once: the next pull is kept.
        world.pull(&digest, &truth).await;
        let sent = world.origin.bytes_sent_for(&digest);
        world.pull(&digest, &truth).await;
        assert_eq!(world.origin.bytes_sent_for(&digest), sent, "after {free} bytes");
    }
    let metrics = world.metrics();
    assert!(!metrics.contains("past_store_reads_total 0\n"), "{metrics}");
    world.stop().await;
}

#[tokio::test]
async fn space_that_runs_out_in_mid_body_costs_no_pull() {
    let world = world().await;
    for (round, more) in (0..).zip([0, 1, 100_000, 262_144, 700_000, 1_400_000]) {
        let (first, second) = (world.add(2 * round), world.add(2 * round + 1));
        // Room for either when it begins, and not for both.
        world.faults.no_space_after(LENGTH + more);
        tokio::join!(world.pull(&first.0, &first.1), world.pull(&second.0, &second.1));
        world.check();
        world.faults.space_returns();
        world.pull(&first.0, &first.1).await;
        world.pull(&second.0, &second.1).await;
        world.check();
    }
    world.stop().await;
}

#[tokio::test]
async fn ranges_are_right_past_a_full_store_as_well() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    world.faults.no_space_after(0);
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=1000-1299999", 1000..1_300_000),
        ("bytes=1400000-", 1_400_000..1_500_001),
        ("bytes=-1", 1_500_000..1_500_001),
    ] {
        let answer = world.get(&digest, &[("range", range)]).await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{range}");
        assert!(answer.body == truth[expected], "{range}");
    }
    world.stop().await;
}

/// The ranges of the requests for bytes that came to the registry; `None` = without one.
fn asked(world: &World, digest: &str) -> Vec<Option<String>> {
    let log = world.origin.log();
    let gets = log
        .iter()
        .filter(|record| record.method == "GET" && record.digest.as_deref() == Some(digest));
    gets.map(|record| record.header("range").map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_store_that_is_full_costs_one_request_for_just_what_is_read() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    world.faults.no_space_after(0);
    let ranges = ["bytes=700000-700999", "bytes=1300000-1500000", "bytes=0-9"];
    for (range, expected) in ranges.iter().zip([700_000..701_000, 1_300_000..1_500_001, 0..10]) {
        let answer = world.get(&digest, &[("range", range)]).await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{range}");
        assert!(answer.body == truth[expected], "{range}");
    }
    // The end of the content needs no name.
    let expected = ["bytes=700000-700999", "bytes=1300000-", "bytes=0-9"];
    assert_eq!(
        asked(&world, &digest),
        expected.map(|range| Some(range.to_owned()))
    );
    let (whole, truth) = world.add(2);
    world.pull(&whole, &truth).await;
    assert_eq!(asked(&world, &whole), [None]);
    world.stop().await;
}

#[tokio::test]
async fn a_store_that_fills_up_under_a_content_costs_one_request_a_range_as_well() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    let read = async |range: std::ops::Range<usize>| {
        let text = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = world.get(&digest, &[("range", &text)]).await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{text}");
        assert!(answer.body == truth[range], "{text}");
        text
    };
    read(300_000..300_010).await;
    let before = asked(&world, &digest).len();
    world.faults.no_space_after(0);
    // What was read before is here; the rest is not taken.
    read(300_005..300_020).await;
    assert_eq!(asked(&world, &digest).len(), before);
    let text = read(1_000_000..1_000_100).await;
    assert_eq!(asked(&world, &digest)[before..], [Some(text)]);
    world.stop().await;
}

#[tokio::test]
async fn the_beginning_of_a_content_is_a_part_where_only_get_tells_its_length() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    world.faults.no_space_after(0);
    world
        .origin
        .inject(Match::digest(&digest).head(), When::Always, Fault::Chunked);
    let answer = world.get(&digest, &[("range", "bytes=0-9")]).await;
    assert_eq!((answer.status, answer.end), (206, End::Complete));
    assert!(answer.body == truth[..10]);
    // The first one is for the length.
    assert_eq!(asked(&world, &digest), [None, Some("bytes=0-9".to_owned())]);
    world.stop().await;
}

#[tokio::test]
async fn a_registry_that_lies_is_found_out_past_the_store_too() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    world.faults.no_space_after(0);
    world
        .origin
        .inject(Match::any(), When::Always, Fault::WrongByte { at: 1_200_000 });
    let answer = world.get(&digest, &[]).await;
    assert_ne!(answer.end, End::Complete);
    assert!(answer.body.len() < truth.len(), "the last piece stays here");
    world.stop().await;
}

#[tokio::test]
async fn reads_and_writes_that_fail_cost_no_pull() {
    let world = world().await;
    for number in 1..8 {
        let (digest, truth) = world.add(number);
        // The first write fails whole, or leaves a part.
        world.faults.short_write(if number % 2 == 0 { 0 } else { 1000 });
        world.pull(&digest, &truth).await;
        world.pull(&digest, &truth).await;
        world.check();
        world.faults.fail_reads(number);
        world.pull(&digest, &truth).await;
        world.faults.fail_reads(0);
        world.pull(&digest, &truth).await;
        world.check();
    }
    world.stop().await;
}

/// Drips, so that the registry is never far ahead of whoever reads.
fn drip(world: &World) {
    let bytes_per_second = 2 * LENGTH;
    world
        .origin
        .inject(Match::any(), When::Always, Fault::Drip { bytes_per_second });
}

#[tokio::test]
async fn a_disk_that_gets_too_slow_is_left_at_the_byte_where_it_stands() {
    let world = world().await;
    drip(&world);
    let (digest, truth) = world.add(1);
    let slows_down = async {
        while world.origin.bytes_sent_for(&digest) < LENGTH / 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.faults.set_pace(Pace::TooSlow);
    };
    tokio::join!(world.pull(&digest, &truth), slows_down);
    let sent = world.origin.bytes_sent_for(&digest);
    assert!(sent < LENGTH * 5 / 4, "{sent} bytes were sent for {LENGTH}");
    world.check();
    assert!(world.store.list().iter().all(|held| !held.held.is_full()));
    let metrics = world.metrics();
    assert!(metrics.contains("store_too_slow_total 1\n"), "{metrics}");

    // Readers of one pull each go on by themselves, from wherever they stand.
    let (digest, truth) = world.add(2);
    tokio::join!(world.pull(&digest, &truth), world.pull(&digest, &truth));
    world.faults.set_pace(Pace::Ready);
    world.pull(&digest, &truth).await;
    let sent = world.origin.bytes_sent_for(&digest);
    world.pull(&digest, &truth).await;
    assert_eq!(world.origin.bytes_sent_for(&digest), sent, "it is kept again");
    world.check();
    world.stop().await;
}

#[tokio::test]
async fn a_lie_behind_the_byte_where_a_slow_disk_was_left_is_found_out() {
    let world = world().await;
    drip(&world);
    let (digest, truth) = world.add(1);
    let slows_down = async {
        while world.origin.bytes_sent_for(&digest) < LENGTH / 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let at = LENGTH - 100_000;
        let lie = Fault::WrongByte { at };
        world.origin.inject(Match::any(), When::Always, lie);
        world.faults.set_pace(Pace::TooSlow);
    };
    let (answer, ()) = tokio::join!(world.get(&digest, &[]), slows_down);
    assert_ne!(answer.end, End::Complete);
    assert!(answer.body.len() < truth.len(), "the last piece stays here");
    world.stop().await;
}

#[tokio::test]
async fn a_disk_that_is_only_busy_is_waited_for() {
    let world = world().await;
    let (digest, truth) = world.add(1);
    world.faults.set_pace(Pace::Waits);
    let catches_up = async {
        while world.origin.bytes_sent_for(&digest) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(world.store.list().iter().all(|held| held.held.is_empty()));
        world.faults.set_pace(Pace::Ready);
    };
    tokio::join!(world.pull(&digest, &truth), catches_up);
    assert_eq!(world.origin.bytes_sent_for(&digest), LENGTH);
    assert!(world.metrics().contains("past_store_reads_total 0\n"));
    world.stop().await;
}
