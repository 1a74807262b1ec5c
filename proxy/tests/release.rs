//! Clients that wait for the proof of the whole, and those that check what they read.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::time::Duration;

use darter_proxy::config::Config;
use darter_proxy::pull::Release;
use darter_testkit::client::{End, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use lonely::{Lonely, lonely};

const KIB: u64 = 1024;
/// Three pieces.
const LENGTH: u64 = 600 * KIB;
/// How fast the registry sends: a piece takes two seconds, the whole not five, and the client of these tests waits for ten.
const RATE: u64 = 128 * KIB;
/// How long a reader waits while nothing comes: for less than a piece.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest that anything here may take.
const HANG: Duration = Duration::from_secs(60);
const CHECKS: (&str, &str) = ("X-Darter-Release", "linked");

struct World {
    origin: Origin,
    _running: RunningOrigin,
    content: Content,
    digest: String,
    node: Lonely,
    _dir: tempfile::TempDir,
}

/// A slow registry with one blob, and a node whose clients wait for the proof, and not for long while nothing comes.
async fn world() -> World {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let content = Content::generated(3, LENGTH);
    let digest = origin.add_blob("team/app", content.clone());
    let drip = Fault::Drip {
        bytes_per_second: RATE,
    };
    origin.inject(Match::digest(&digest).get(), When::Always, drip);
    let dir = tempfile::tempdir().unwrap();
    let edit = |config: &mut Config| {
        config.pull.release = Release::Proved;
        config.pull.reader_patience = PATIENCE.into();
    };
    let registries = [("registry.test", &running)];
    let node = lonely(dir.path(), &registries, &mut Registry::default(), edit).await;
    World {
        origin,
        _running: running,
        content,
        digest,
        node,
        _dir: dir,
    }
}

impl World {
    /// The answer, and how much the registry had sent when it was there.
    async fn get(&self, headers: &[(&str, &str)]) -> (Response, u64) {
        let target = format!("/v2/team/app/blobs/{}?ns=registry.test", self.digest);
        let mirror = self.node.node.mirror_address.parse().unwrap();
        let answer = timeout(HANG, get(mirror, &target, headers)).await.unwrap();
        (answer.unwrap(), self.origin.bytes_sent_for(&self.digest))
    }

    async fn stop(self) {
        self.node.stop.cancel();
        self.node.tasks.shut_down(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_body_waits_as_long_as_bytes_come_however_slowly() {
    let world = world().await;
    let (answer, _) = world.get(&[]).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == world.content.read(0..LENGTH));
    world.stop().await;
}

#[tokio::test]
async fn a_part_waits_for_the_whole_unless_its_client_checks_it() {
    let world = world().await;
    let range = ("Range", "bytes=0-99");
    let (plain, checking) = ([range], [range, CHECKS]);
    let (waits, checks) = tokio::join!(world.get(&plain), world.get(&checking));
    for (answer, _) in [&waits, &checks] {
        assert_eq!((answer.status, answer.end), (206, End::Complete));
        assert!(answer.body == world.content.read(0..100));
    }
    assert!(
        checks.1 < LENGTH && waits.1 >= LENGTH,
        "{} and {}",
        checks.1,
        waits.1
    );
    world.stop().await;
}
