//! Ranges that nobody waits for yet, as the bridge's prefetching marks them, are in no reader's way.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::time::Duration;

use darter_service::config::ByteSize;
use darter_testkit::client::{End, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use prometheus_client::registry::Registry;
use tokio::time::{sleep, timeout};

use lonely::{Lonely, lonely};

const MIB: u64 = 1024 * 1024;
const LENGTH: u64 = 16 * MIB;
/// Longest that anything here may take.
const HANG: Duration = Duration::from_secs(60);
const BACKGROUND: (&str, &str) = ("X-Darter-Priority", "background");

struct World {
    origin: Origin,
    running: RunningOrigin,
    contents: Vec<(String, Content)>,
    dir: tempfile::TempDir,
}

/// A registry with two blobs.
async fn world() -> World {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let contents = [3, 4].map(|seed| {
        let content = Content::generated(seed, LENGTH);
        (origin.add_blob("team/app", content.clone()), content)
    });
    World {
        origin,
        running,
        contents: contents.into(),
        dir: tempfile::tempdir().unwrap(),
    }
}

impl World {
    async fn node(&self) -> Lonely {
        let registries = [("registry.test", &self.running)];
        let edit = |config: &mut darter_proxy::config::Config| {
            // What nobody waits for crawls.
            config.pull.background_bytes_per_second_max = Some(ByteSize::kib(64));
        };
        lonely(self.dir.path(), &registries, &mut Registry::default(), edit).await
    }

    async fn get(&self, node: &Lonely, blob: usize, start: u64, headers: &[(&str, &str)]) -> Response {
        let (digest, _) = &self.contents[blob];
        let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
        let range = format!("bytes={start}-{}", start + MIB - 1);
        let headers = [&[("Range", range.as_str())], headers].concat();
        let mirror = node.node.mirror_address.parse().unwrap();
        timeout(HANG, get(mirror, &target, &headers))
            .await
            .unwrap()
            .unwrap()
    }

    fn is_right(&self, answer: &Response, blob: usize, start: u64) -> bool {
        (answer.status, answer.end) == (206, End::Complete)
            && answer.body == self.contents[blob].1.read(start..start + MIB)
    }

    /// The registry thinks for so long before it sends anything of a blob.
    fn slow(&self, blob: usize, delay: Duration) {
        let (digest, _) = &self.contents[blob];
        self.origin
            .inject(Match::digest(digest).get(), When::Always, Fault::Delay(delay));
    }
}

async fn stop(node: Lonely) {
    node.stop.cancel();
    node.tasks.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_can_wait_is_not_begun_while_a_reader_waits() {
    let world = world().await;
    let node = world.node().await;
    world.slow(0, Duration::from_secs(4));
    let reader = world.get(&node, 0, 0, &[]);
    let background = async {
        while world.origin.requests_total() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        let (digest, _) = &world.contents[1];
        let refused = world.get(&node, 1, 0, &[BACKGROUND]).await;
        let asked = world.origin.bytes_sent_for(digest);
        // Another reader goes on at once.
        let urgent = world.get(&node, 1, 8 * MIB, &[]).await;
        (refused.status, asked, urgent)
    };
    let (answer, (refused, asked, urgent)) = tokio::join!(reader, background);
    assert!(world.is_right(&answer, 0, 0));
    assert_eq!((refused, asked), (503, 0));
    assert!(world.is_right(&urgent, 1, 8 * MIB));
    // When nobody waits it is served.
    assert!(world.is_right(&world.get(&node, 1, 8 * MIB, &[BACKGROUND]).await, 1, 8 * MIB));
    stop(node).await;
}

#[tokio::test]
async fn what_can_wait_has_the_rate_of_what_nobody_waits_for() {
    let world = world().await;
    let node = world.node().await;
    let background = world.get(&node, 0, 0, &[BACKGROUND]);
    let reader = async {
        sleep(Duration::from_secs(1)).await;
        world.get(&node, 1, 8 * MIB, &[]).await
    };
    let first = async {
        tokio::select! {
            _ = background => "background",
            answer = reader => {
                assert!(world.is_right(&answer, 1, 8 * MIB));
                "reader"
            }
        }
    };
    let first = timeout(HANG, first).await.unwrap();
    assert_eq!(first, "reader", "it came later, and was first");
    stop(node).await;
}
