//! Ranges of a large content are read as they are asked for: the registry sends little more than what is read.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use darter_testkit::client::{End, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use prometheus_client::registry::Registry;

use lonely::{Lonely, lonely};

const MIB: u64 = 1024 * 1024;
const LENGTH: u64 = 64 * MIB;
const PIECE: u64 = MIB / 4;
/// What a registry sends of an answer that nobody takes any more.
const SLOP: u64 = 2 * MIB;

struct World {
    origin: Origin,
    running: RunningOrigin,
    content: Content,
    digest: String,
    dir: tempfile::TempDir,
}

/// A registry that sends 4 MiB a second.
async fn world() -> World {
    world_with(4 * MIB).await
}

async fn world_with(bytes_per_second: u64) -> World {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let content = Content::generated(3, LENGTH);
    let digest = origin.add_blob("team/app", content.clone());
    let slow = Fault::Drip { bytes_per_second };
    origin.inject(Match::digest(&digest).get(), When::Always, slow);
    World {
        origin,
        running,
        content,
        digest,
        dir: tempfile::tempdir().unwrap(),
    }
}

impl World {
    async fn node(&self) -> Lonely {
        lonely(
            self.dir.path(),
            &[("registry.test", &self.running)],
            &mut Registry::default(),
            |_| {},
        )
        .await
    }

    async fn get(&self, running: &Lonely, range: Option<Range<u64>>) -> Response {
        let target = format!("/v2/team/app/blobs/{}?ns=registry.test", self.digest);
        let asked = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let headers: Vec<_> = asked.iter().map(|asked| ("Range", asked.as_str())).collect();
        let mirror = running.node.mirror_address.parse().unwrap();
        get(mirror, &target, &headers).await.unwrap()
    }

    /// Reads a range, which must be right.
    async fn read(&self, running: &Lonely, range: Range<u64>) {
        let answer = self.get(running, Some(range.clone())).await;
        assert_eq!((answer.status, answer.end), (206, End::Complete), "{range:?}");
        assert!(answer.body == self.content.read(range.clone()), "{range:?}");
    }

    fn sent(&self) -> u64 {
        self.origin.bytes_sent_for(&self.digest)
    }
}

/// Ends a node in order.
async fn stop(node: Lonely) {
    node.stop.cancel();
    node.tasks.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_range_in_the_middle_does_not_wait_for_what_lies_before_it() {
    let world = world().await;
    let node = world.node().await;
    world.read(&node, 48 * MIB..48 * MIB + PIECE).await;
    assert!(world.sent() < 8 * MIB, "{} bytes", world.sent());
    // And nobody fetches the rest afterwards.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(world.sent() <= PIECE + 64 * 1024, "{} bytes", world.sent());
    // The end of it, which a whole that is not proved would hold back.
    world.read(&node, LENGTH - 10..LENGTH).await;
    stop(node).await;
}

/// Offsets of reads, scattered over the content.
fn scattered() -> impl Iterator<Item = Range<u64>> {
    (0..24u64).map(|number| {
        let start = number * 7_654_321 % (LENGTH - MIB);
        start..start + 1000 + number * 20_000
    })
}

#[tokio::test]
async fn scattered_ranges_cost_the_pieces_that_they_touch_once() {
    let world = world().await;
    let node = world.node().await;
    let mut pieces = BTreeSet::new();
    for range in scattered() {
        pieces.extend(range.start / PIECE..=(range.end - 1) / PIECE);
        world.read(&node, range).await;
    }
    let union = pieces.len() as u64 * PIECE;
    assert!(world.sent() * 100 <= union * 102, "{} of {union}", world.sent());
    println!(
        "{} requests, {} bytes for {union}",
        world.origin.requests_total(),
        world.sent()
    );
    // Neither again nor after a restart.
    for range in scattered() {
        world.read(&node, range).await;
    }
    stop(node).await;
    let node = world.node().await;
    for range in scattered() {
        world.read(&node, range).await;
    }
    assert!(world.sent() * 100 <= union * 102, "{} of {union}", world.sent());
    stop(node).await;
}

#[tokio::test]
async fn what_was_read_out_of_order_is_linked_by_a_whole_pull_and_not_fetched_again() {
    let world = world().await;
    world.origin.heal_all();
    let node = world.node().await;
    for range in scattered() {
        world.read(&node, range).await;
    }
    let answer = world.get(&node, None).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == world.content.read(0..LENGTH));
    assert!(world.sent() <= LENGTH + SLOP, "{} bytes", world.sent());
    stop(node).await;
}

#[tokio::test]
async fn a_short_range_overtakes_a_whole_pull_and_costs_nothing_twice() {
    let world = world_with(16 * MIB).await;
    let node = world.node().await;
    let whole = world.get(&node, None);
    let ahead = async {
        while world.sent() < MIB {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.read(&node, 48 * MIB..48 * MIB + PIECE).await;
        world.sent()
    };
    let (whole, sent) = tokio::join!(whole, ahead);
    assert!(sent < 32 * MIB, "{sent} bytes before the range came");
    assert_eq!((whole.status, whole.end), (200, End::Complete));
    assert!(whole.body == world.content.read(0..LENGTH));
    assert!(world.sent() <= LENGTH + SLOP, "{} bytes", world.sent());
    stop(node).await;
}

/// Every byte of the content as ranges of 1 to 4 MiB, the tail among them, in an order that leaps back and forth.
fn all_as_ranges(salt: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < LENGTH {
        let length = MIB + (start / 7 + salt * 1_234_567) % (3 * MIB);
        ranges.push(start..(start + length).min(LENGTH));
        start += length;
    }
    let count = ranges.len();
    (0..count).for_each(|at| ranges.swap(at, (at * 31 + 7 * usize::try_from(salt).unwrap()) % count));
    ranges
}

/// Reads ranges, so many at a time.
async fn read_all(world: &World, node: &Lonely, ranges: Vec<Range<u64>>, at_once: usize) {
    let lanes = (0..at_once).map(|lane| {
        let mine: Vec<_> = ranges.iter().skip(lane).step_by(at_once).cloned().collect();
        async move {
            for range in mine {
                world.read(node, range).await;
            }
        }
    });
    futures_util::future::join_all(lanes).await;
}

/// Bounds a wait that would else be one for ever.
async fn soon(what: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("nothing hangs");
}

#[tokio::test]
async fn many_ranges_at_once_over_all_of_it_come_and_cost_it_once() {
    for (clients, at_once, whole) in [
        (1, 1, false),
        (1, 8, false),
        (3, 4, false),
        (3, 4, true),
        (2, 64, true),
    ] {
        let world = world_with(64 * MIB).await;
        let node = world.node().await;
        let ranges = (0..clients).map(|client| read_all(&world, &node, all_as_ranges(client), at_once));
        let beside = async {
            if whole {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let answer = world.get(&node, None).await;
                assert_eq!((answer.status, answer.end), (200, End::Complete));
                assert!(answer.body == world.content.read(0..LENGTH));
            }
        };
        soon(async { drop(tokio::join!(futures_util::future::join_all(ranges), beside)) }).await;
        let (sent, requests) = (world.sent(), world.origin.requests_total());
        println!("{clients} clients, {at_once} at once, whole {whole}: {sent} bytes, {requests} requests");
        assert!(
            sent * 100 <= LENGTH * 105,
            "{clients} clients, {at_once} at once: {sent} bytes"
        );
        stop(node).await;
    }
}
