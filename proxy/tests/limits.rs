//! Limits of a real node bind, are counted, and leave the others alone: one test a key of docs/operate/limits.md that has
//! none beside its code.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::net::SocketAddr;
use std::time::Duration;

use darter_proxy::app::Node;
use darter_proxy::config::Config;
use darter_service::config::{ByteSize, Period};
use darter_service::supervise::Tasks;
use darter_testkit::client::{RawConnection, Response, get};
use darter_testkit::content::Content;
use darter_testkit::image::{ImageSpec, add_image};
use darter_testkit::origin::{Access, Fault, Match, Origin, RunningOrigin, When};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use lonely::{Lonely, lonely};

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
        let mut metrics = Registry::default();
        let Lonely { node, stop, tasks } = lonely(
            dir.path(),
            &[("registry.test", &running)],
            &mut metrics,
            |config| {
                config.origin.retries = 0;
                edit(config);
            },
        )
        .await;
        Self {
            node,
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

#[tokio::test]
async fn uploads_beyond_their_limit_are_refused() {
    let world = World::new(|config| {
        config.peer.uploads_max = 1;
        config.peer.stall_timeout = Period::secs(600);
    })
    .await;
    let digest = world.held(LENGTH).await;
    let mut first = world.ask_as_node(&digest, LENGTH).await;
    until("the first is being answered", || {
        world.metric("peer_uploads_running") == 1
    })
    .await;
    let second = world
        .ask_as_node(&digest, 1000)
        .await
        .read_response(false)
        .await
        .unwrap();
    assert_eq!(second.status, 503);
    assert_eq!(world.metric("peer_uploads_refused_total"), 1);
    // Who reads gets it all, and then the next one does.
    let whole = first.read_response(false).await.unwrap();
    assert_eq!((whole.status, whole.body.len() as u64), (206, LENGTH));
    let third = world
        .ask_as_node(&digest, 1000)
        .await
        .read_response(false)
        .await
        .unwrap();
    assert_eq!(third.status, 206);
    world.end().await;
}

#[tokio::test]
async fn connections_of_nodes_beyond_their_limit_are_refused() {
    let world = World::new(|config| config.peer.connections_max = 1).await;
    let digest = world.held(1000).await;
    let mut first = world.ask_as_node(&digest, 1000).await;
    assert_eq!(first.read_response(false).await.unwrap().status, 206);
    let second = world
        .ask_as_node(&digest, 1000)
        .await
        .read_response(false)
        .await
        .unwrap();
    assert_eq!((second.status, second.header("retry-after")), (503, Some("1")));
    assert_eq!(
        world.metric("peer_connections_cut_total{limit=\"connectionsMax\"}"),
        1
    );
    world.end().await;
}

#[tokio::test]
async fn rates_of_what_is_sent_hold_on_the_real_port() {
    type Edit = fn(&mut Config);
    let set: [(&str, Edit); 2] = [
        ("all", |config| {
            config.peer.upload_bytes_per_second_max = Some(ByteSize::mib(1))
        }),
        ("node", |config| {
            config.peer.upload_bytes_per_second_max_per_node = Some(ByteSize::mib(1));
        }),
    ];
    for (limit, edit) in set {
        let world = World::new(edit).await;
        let digest = world.held(3 * MIB).await;
        let asked = tokio::time::Instant::now();
        // Two connections of one node share its rate.
        let (mut one, mut other) = (
            world.ask_as_node(&digest, MIB + MIB / 2).await,
            world.ask_as_node(&digest, MIB + MIB / 2).await,
        );
        let (one, other) = tokio::join!(one.read_response(false), other.read_response(false));
        let came = one.unwrap().body.len() + other.unwrap().body.len();
        assert_eq!(came as u64, 3 * MIB);
        // Three seconds but for what may pass at once.
        assert!(
            asked.elapsed() > Duration::from_secs(2),
            "{limit}: {:?}",
            asked.elapsed()
        );
        let delayed = world.metric(&format!("peer_sent_delayed_bytes_total{{limit=\"{limit}\"}}"));
        assert!(delayed > 0, "{limit}");
        world.end().await;
    }
}

#[tokio::test]
async fn contents_beyond_those_that_may_be_fetched_are_refused() {
    let world = World::new(|config| config.pull.pulls_max = 1).await;
    let first = world.origin.add_blob("a", Content::generated(1, 2 * MIB));
    let second = world.origin.add_blob("a", Content::generated(2, 1000));
    let stall = world.origin.inject(
        Match::digest(&first).get(),
        When::Always,
        Fault::Stall { at: 1000 },
    );
    let refused = async {
        until("the first is being fetched", || {
            world.metric("pulls_running") == 1
        })
        .await;
        world.get(&second).await
    };
    let refused = tokio::select! {
        refused = refused => refused,
        first = world.get(&first) => panic!("it came whole: {}", first.status),
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(world.metric("pulls_refused_total"), 1);
    assert!(world.origin.heal(stall));
    // The first goes on for a while without its reader; then there is room again.
    until("there is room", || world.metric("pulls_running") == 0).await;
    assert_eq!(world.get(&second).await.status, 200);
    world.end().await;
}

#[tokio::test]
async fn connections_to_the_forward_proxy_beyond_their_limit_are_refused() {
    let world = World::new(|config| {
        config.forward.listen = Some("127.0.0.1:0".parse().unwrap());
        config.forward.connections_max = 1;
    })
    .await;
    let proxy: SocketAddr = world.node.forward_address.as_ref().unwrap().parse().unwrap();
    let ask = async || {
        let mut connection = RawConnection::connect(proxy).await.unwrap();
        let request = b"GET ftp://a.test/ HTTP/1.1\r\nhost: a\r\n\r\n";
        connection.send(request).await.unwrap();
        let answer = connection.read_response(false).await.unwrap();
        (answer.status, connection)
    };
    let (status, first) = ask().await;
    assert_eq!(
        (status, world.metric("forward_connections_refused_total")),
        (400, 0)
    );
    assert_eq!(ask().await.0, 503);
    assert_eq!(world.metric("forward_connections_refused_total"), 1);
    drop(first);
    while ask().await.0 != 400 {}
    world.end().await;
}

#[tokio::test]
async fn what_is_remembered_is_counted_and_makes_room() {
    let world = World::new(|config| {
        config.mirror.tags_max = 2;
        config.mirror.lengths_max = 3;
        config.access.grants_max = 4;
        config.access.refusals_max = 1;
    })
    .await;
    for number in 0..5 {
        let tag = format!("v{number}");
        add_image(
            &world.origin,
            "a",
            Some(&tag),
            &ImageSpec::new(number, &[1000, 2000]),
        );
        let target = format!("/v2/a/manifests/{tag}?ns=registry.test");
        assert_eq!(get(world.mirror(), &target, &[]).await.unwrap().status, 200);
        let closed = format!("closed{number}");
        let digest = world.origin.add_blob(&closed, Content::generated(1, 10));
        world.origin.set_access(&closed, Access::Basic);
        let target = format!("/v2/{closed}/blobs/{digest}?ns=registry.test");
        assert_eq!(get(world.mirror(), &target, &[]).await.unwrap().status, 401);
    }
    for (what, count) in [("tags", 2), ("lengths", 3), ("grants", 4), ("refusals", 1)] {
        assert_eq!(
            world.metric(&format!("remembered{{what=\"{what}\"}}")),
            count,
            "{what}"
        );
    }
    world.end().await;
}
