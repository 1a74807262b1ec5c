//! One node without a scheduler, over real sockets and a real disk: it fetches from the registry, proves, stores, serves.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use darter_proxy::app::Node;
use darter_proxy::config::Config;
use darter_service::supervise::Tasks;
use darter_testkit::client::{End, RawConnection, Response, get};
use darter_testkit::content::Content;
use darter_testkit::image::{ImageSpec, add_image};
use darter_testkit::origin::{CutBy, Fault, Match, Origin, RunningOrigin, When};
use oci_client::client::{Client, ClientConfig, ClientProtocol, ImageLayer};
use oci_client::secrets::RegistryAuth;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use lonely::{Lonely, lonely};

struct World {
    origin: Origin,
    node: Node,
    metrics: Registry,
    stop: CancellationToken,
    tasks: Tasks,
    _running: RunningOrigin,
    dir: tempfile::TempDir,
}

async fn world() -> World {
    world_with(|_| {}).await
}

async fn world_with(change: impl FnOnce(&mut Config)) -> World {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut metrics = Registry::default();
    let Lonely { node, stop, tasks } =
        lonely(dir.path(), &[("registry.test", &running)], &mut metrics, change).await;
    World {
        origin,
        node,
        metrics,
        stop,
        tasks,
        _running: running,
        dir,
    }
}

impl World {
    async fn get(&self, digest: &str, headers: &[(&str, &str)]) -> Response {
        let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
        get(self.node.mirror_address.parse().unwrap(), &target, headers)
            .await
            .unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
        assert!(self.tasks.running().is_empty());
    }
}

#[tokio::test]
async fn a_socket_file_answers_as_the_port_does_until_the_node_stops() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("darter").join("proxy.sock");
    // What a killed process leaves.
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let world = world_with(|config| config.mirror.socket = Some(path.clone())).await;
    let content = Content::generated(1, 3_000_001);
    let digest = world.origin.add_blob("team/app", content.clone());
    // By a header that nobody on a network may say elsewhere, over one connection.
    let target = format!("/v2/team/app/blobs/{digest}");
    let mut client = RawConnection::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    for range in [0..content.len(), 1_000_000..1_000_010] {
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let headers = [("X-Darter-Registry", "registry.test"), ("Range", &asked)];
        client.request("GET", "mirror", &target, &headers).await.unwrap();
        let answer = client.read_response(false).await.unwrap();
        assert_eq!(answer.status, 206);
        assert!(answer.body == content.read(range), "wrong bytes");
    }
    assert_eq!(world.get(&digest, &[]).await.status, 200);
    assert_eq!(world.origin.bytes_sent_for(&digest), content.len());
    drop(client);
    world.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_blob_comes_once_from_the_registry_and_then_from_the_store() {
    let world = world().await;
    let content = Content::generated(1, 3_000_001);
    let digest = world.origin.add_blob("team/app", content.clone());
    let truth = content.read(0..content.len());
    for _ in 0..3 {
        let answer = world.get(&digest, &[]).await;
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == truth, "wrong bytes");
    }
    assert_eq!(world.origin.bytes_sent_for(&digest), content.len());
    let metrics = darter_service::metrics::encode(&world.metrics);
    for line in [
        "darter_proxy_served_bytes_total{source=\"origin\"} 3000001\n",
        "darter_proxy_served_bytes_total{source=\"cache\"} 6000002\n",
        "darter_proxy_served_bytes_total{source=\"peer\"} 0\n",
        "darter_proxy_first_byte_seconds_count 3\n",
        "darter_proxy_verify_failures_total{source=\"chain\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in:\n{metrics}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_names_the_registry_in_the_path_pulls_an_image() {
    // The client wants a TLS library at hand, though it speaks plain HTTP to a mirror on loopback. Another test of this
    // process may have given it one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = world().await;
    let image = add_image(
        &world.origin,
        "team/app",
        Some("v1"),
        &ImageSpec::new(5, &[700_000, 30]),
    );
    let config = ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    };
    let client = Client::new(config);
    let name = format!("{}/registry.test/team/app:v1", world.node.mirror_address);
    let types = image
        .layers
        .iter()
        .map(|layer| layer.media_type.as_str())
        .collect();
    let pulled = client
        .pull(&name.parse().unwrap(), &RegistryAuth::Anonymous, types)
        .await
        .unwrap();
    assert_eq!(pulled.digest, Some(image.manifest.digest));
    // It fetches layers side by side and keeps them in the order in which they came.
    let digests: BTreeSet<String> = pulled.layers.iter().map(ImageLayer::sha256_digest).collect();
    let expected: BTreeSet<String> = image.layers.iter().map(|layer| layer.digest.clone()).collect();
    assert_eq!(digests, expected);
    world.stop().await;
}

#[tokio::test]
async fn ranges_are_exact_cold_and_warm() {
    let world = world().await;
    let content = Content::generated(2, 1_000_000);
    let digest = world.origin.add_blob("team/app", content.clone());
    for _ in 0..2 {
        for (range, expected) in [
            ("bytes=0-", 0..1_000_000),
            ("bytes=262000-262300", 262_000..262_301),
            ("bytes=-5", 999_995..1_000_000),
        ] {
            let answer = world.get(&digest, &[("range", range)]).await;
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.body == content.read(expected), "{range}: wrong bytes");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let world = world().await;
    let content = Content::generated(3, 2_000_000);
    let digest = world.origin.add_blob("team/app", content.clone());
    let cut = Fault::Cut {
        at: 300_000,
        by: CutBy::Fin,
    };
    world
        .origin
        .inject(Match::digest(&digest).get(), When::First(3), cut);
    let answer = world.get(&digest, &[]).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == content.read(0..content.len()), "wrong bytes");
    assert!(world.origin.bytes_sent_for(&digest) <= content.len() * 105 / 100);
    world.stop().await;
}

#[tokio::test]
async fn a_registry_that_refuses_the_rest_is_asked_a_few_times_only() {
    let world = world().await;
    let content = Content::generated(7, 2_000_000);
    let digest = world.origin.add_blob("team/app", content.clone());
    let what = Match::digest(&digest).get();
    let (at, by) = (300_000, CutBy::Fin);
    world
        .origin
        .inject(what.clone(), When::Nth(1), Fault::Cut { at, by });
    world.origin.inject(what, When::After(1), Fault::status(503));
    let answer = world.get(&digest, &[]).await;
    // The client is handed over: it goes on at its next host.
    assert_eq!((answer.status, answer.end), (200, End::Fin));
    assert!(content.read(0..answer.body.len() as u64) == answer.body);
    let retries = darter_proxy::config::Config::default().origin.retries;
    let asked = world.origin.requests_for(&http::Method::GET, &digest);
    assert!(asked <= 2 + u64::from(retries), "{asked} requests");
    let next = world.get(&digest, &[]).await;
    assert_eq!(next.status, 503);
    world.stop().await;
}

#[tokio::test]
async fn wrong_bytes_are_never_sent_whole_nor_kept() {
    let world = world().await;
    let content = Content::generated(4, 1_000_000);
    let digest = world.origin.add_blob("team/app", content.clone());
    let fault = world.origin.inject(
        Match::digest(&digest).get(),
        When::Always,
        Fault::WrongByte { at: 999_999 },
    );
    let answer = world.get(&digest, &[]).await;
    assert_ne!(
        answer.end,
        End::Complete,
        "a content that is not its digest was sent whole"
    );
    assert_ne!(answer.end, End::Reset);
    assert!(content.read(0..answer.body.len() as u64) == answer.body);
    let metrics = darter_service::metrics::encode(&world.metrics);
    let failed = "darter_proxy_verify_failures_total{source=\"chain\"} 1\n";
    assert!(metrics.contains(failed), "{metrics}");
    world.origin.heal(fault);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let answer = world.get(&digest, &[]).await;
    assert!(answer.status == 200 && answer.body == content.read(0..content.len()));
    world.stop().await;
}

#[tokio::test]
async fn a_stop_ends_pulls_that_wait_and_their_clients_hear_of_it() {
    let world = world().await;
    let digest = world
        .origin
        .add_blob("team/app", Content::generated(6, 1_000_000));
    world.origin.inject(
        Match::digest(&digest).get(),
        When::Always,
        Fault::Stall { at: 400_000 },
    );
    let waiting = world.get(&digest, &[]);
    let stop = async {
        while world.origin.bytes_sent_for(&digest) < 400_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.stop.cancel();
    };
    let (answer, ()) = tokio::join!(waiting, stop);
    assert_eq!(answer.end, End::Fin);
    assert!(answer.body.len() < 1_000_000);
    world.stop().await;
}

/// Flips one bit of a stored content, on the disk.
fn flip(world: &World, digest: &str, at: u64) {
    let name = digest.replace(':', "-");
    let hex = name.split('-').nth(1).unwrap();
    let data = world
        .dir
        .path()
        .join("store/tasks")
        .join(&hex[..2])
        .join(&name)
        .join("data");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&data)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Waits until a line is among the metrics.
async fn counted(world: &World, line: &str) {
    let found = async {
        while !darter_service::metrics::encode(&world.metrics).contains(line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, found).await.expect(line);
}

#[tokio::test]
async fn a_bit_that_flips_in_the_store_is_found_and_one_piece_fetched_anew() {
    let world = world_with(|config| {
        config.store.scrub_interval = Some(Duration::from_millis(200).into());
    })
    .await;
    let content = Content::generated(4, 3_000_001);
    let digest = world.origin.add_blob("team/app", content.clone());
    let truth = content.read(0..content.len());
    assert!(world.get(&digest, &[]).await.body == truth);
    counted(&world, "darter_proxy_store_scrubbed_pieces_total{result=\"ok\"}").await;
    let before = world.origin.bytes_sent_for(&digest);
    flip(&world, &digest, 1_000_000);
    counted(
        &world,
        "darter_proxy_store_scrubbed_pieces_total{result=\"error\"} 1\n",
    )
    .await;
    let answer = world.get(&digest, &[]).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == truth, "wrong bytes");
    let piece = 256 * 1024;
    assert_eq!(world.origin.bytes_sent_for(&digest) - before, piece, "one piece");
    let metrics = darter_service::metrics::encode(&world.metrics);
    assert!(
        metrics.contains("darter_proxy_verify_failures_total{source=\"store\"} 1\n"),
        "{metrics}"
    );
    world.stop().await;
}
