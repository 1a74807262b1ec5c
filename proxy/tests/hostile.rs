//! Both ports of a real node against requests that want out of the store's directory, or announce more than anybody has: no
//! file beside the store is touched, and memory stays where it was.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use darter_proxy::app::Node;
use darter_service::supervise::Tasks;
use darter_testkit::client::{End, RawConnection};
use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, RunningOrigin, When};
use darter_testkit::smuggling::{CORPUS, HIDDEN};
use prometheus_client::registry::Registry;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio_util::sync::CancellationToken;

use lonely::{Lonely, lonely};

const CANARY: &str = "canary-7c1f";
/// What one connection may cost whatever it announces (bar 38).
const PER_CONNECTION_BYTES: u64 = 1024 * 1024;

/// Memory is measured for the whole process: one test after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct World {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    origin: Origin,
    node: Node,
    stop: CancellationToken,
    tasks: Tasks,
    dir: tempfile::TempDir,
    _running: RunningOrigin,
}

async fn world() -> World {
    let alone = ALONE.lock().await;
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let Lonely { node, stop, tasks } = lonely(
        dir.path(),
        &[("registry.test", &running)],
        &mut Registry::default(),
        |config| {
            config.origin.allow_only_configured = true;
            config.origin.retries = 0;
        },
    )
    .await;
    World {
        _alone: alone,
        node,
        origin,
        stop,
        tasks,
        dir,
        _running: running,
    }
}

impl World {
    /// Sends a request as it is to one of the ports; the status and all that came.
    async fn ask(&self, port: &str, request: &[u8]) -> (u16, Vec<u8>) {
        let mut connection = RawConnection::connect(port.parse().unwrap()).await.unwrap();
        let _ = connection.send(request).await;
        match connection.read_response(false).await {
            Ok(answer) => (answer.status, answer.body.to_vec()),
            Err(_) => (0, Vec::new()),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
        assert!(self.tasks.running().is_empty());
    }
}

/// Ways out, each in many spellings, to a file beside the store.
fn corpus(dir: &Path) -> Vec<String> {
    let beside = ["canary", "etc/canary", "store/VERSION", "store/LOCK"];
    let mut targets: Vec<String> = beside.iter().map(|name| format!("../{name}")).collect();
    targets.extend((2..8).map(|depth| format!("{}canary", "../".repeat(depth))));
    targets.extend(beside.iter().map(|name| dir.join(name).display().to_string()));
    let spell: [fn(&str) -> String; 12] = [
        str::to_owned,
        |text| text.replace("..", "%2e%2e"),
        |text| text.replace('/', "%2f"),
        |text| text.replace("../", "%2e%2e%2f"),
        |text| text.replace("../", "%252e%252e%252f"),
        |text| text.replace("../", "..%c0%af"),
        |text| text.replace("../", "%uff0e%uff0e/"),
        |text| text.replace("../", "..\\"),
        |text| text.replace("../", "....//"),
        |text| text.replace("../", "..;/"),
        |text| format!("{text}%00.txt"),
        |text| text.replace("../", ".%00./"),
    ];
    targets
        .iter()
        .flat_map(|target| spell.map(|spell| spell(target)))
        .collect()
}

/// Each way out in each place of a path that is a name.
fn paths(out: &str) -> [Vec<String>; 2] {
    let zeros = "0".repeat(64);
    let mirror = vec![
        format!("/v2/{out}/blobs/sha256:{zeros}?ns=registry.test"),
        format!("/v2/a/blobs/{out}?ns=registry.test"),
        format!("/v2/a/blobs/sha256:{out}?ns=registry.test"),
        format!("/v2/a/manifests/{out}?ns=registry.test"),
        format!("/v2/a/referrers/{out}?ns=registry.test"),
        format!("/v2/a/blobs/sha256:{zeros}?ns={out}"),
        format!("/{out}"),
    ];
    let peer = vec![
        format!("/v1/tasks/{out}/pieces"),
        format!("/v1/tasks/{out}/have"),
        format!("/v1/tasks/sha256:{out}/pieces"),
        format!("/v1/tasks/sha256:{zeros}/{out}"),
        format!("/{out}"),
    ];
    [mirror, peer]
}

fn watch(dir: &Path) -> OwnedFd {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let what =
        WatchFlags::OPEN | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::MODIFY;
    for watched in [dir.to_owned(), dir.join("etc")] {
        inotify::add_watch(&watch, watched, what).unwrap();
    }
    watch
}

/// The names of what was touched since the watch began.
fn touched(watch: &OwnedFd) -> Vec<String> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = events.next() {
        if !event.events().contains(ReadFlags::IGNORED) {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            names.push(name.unwrap_or_else(|| "the directory itself".to_owned()));
        }
    }
    names
}

#[tokio::test]
async fn no_path_leads_out_of_the_store() {
    let world = world().await;
    let dir = world.dir.path();
    std::fs::create_dir(dir.join("etc")).unwrap();
    for name in ["canary", "etc/canary"] {
        std::fs::write(dir.join(name), CANARY).unwrap();
    }
    let watch = watch(dir);
    let mut asked = 0;
    for out in corpus(dir) {
        let ports = [&world.node.mirror_address, &world.node.peer_address];
        for (port, paths) in ports.into_iter().zip(paths(&out)) {
            for path in paths {
                let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
                let (status, body) = world.ask(port, request.as_bytes()).await;
                assert!(matches!(status, 400..=404), "{status} to {path}");
                assert!(!String::from_utf8_lossy(&body).contains(CANARY), "{path}");
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked} requests");
    assert_eq!(touched(&watch), Vec::<String>::new());
    // The watch sees what it is for.
    std::fs::read(dir.join("etc/canary")).unwrap();
    assert_eq!(touched(&watch), ["canary"]);
    // Nothing that was asked became a name in the store either.
    assert_eq!(std::fs::read_dir(dir.join("store/tasks")).unwrap().count(), 0);
    world.stop().await;
}

#[tokio::test]
async fn no_port_answers_a_request_that_hides_in_another() {
    let world = world().await;
    let digest = world.origin.add_blob("team/app", Content::generated(1, 1000));
    let peer = (
        &world.node.peer_address,
        format!("/v1/tasks/{digest}/pieces"),
        format!("/v1/tasks/{digest}/have"),
    );
    let mirror = (&world.node.mirror_address, "/v2/".to_owned(), HIDDEN.to_owned());
    for (port, target, hidden) in [mirror, peer] {
        for case in CORPUS {
            let text = case.text("GET", &target, port, &format!("{hidden}?ns=registry.test"));
            let stream = RawConnection::connect(port.parse().unwrap()).await.unwrap();
            let (answer, end) = case.send(stream.into_inner(), &text).await;
            assert!(
                !answer.contains("HTTP/1.1"),
                "{}: two answers: {answer}",
                case.name
            );
            if case.refused_finally {
                assert!(
                    answer.starts_with("400") || answer.starts_with("431"),
                    "{}: {answer}",
                    case.name
                );
                assert!(matches!(end, End::Fin | End::Reset), "{}: {end:?}", case.name);
            }
        }
    }
    assert_eq!(world.origin.requests_total(), 0);
    world.stop().await;
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

#[tokio::test]
async fn whatever_is_announced_memory_stays() {
    let world = world().await;
    let digest = world.origin.add_blob("team/app", Content::generated(1, 1000));
    let blob = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
    let deep = world.origin.add_manifest(
        "team/app",
        Some("deep"),
        "application/vnd.oci.image.manifest.v1+json",
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
    );
    let long = "x".repeat(1024 * 1024);
    let mirror = [
        format!("GET {blob} HTTP/1.1\r\nhost: a\r\ncontent-length: 9223372036854775808\r\n\r\n"),
        format!("GET {blob} HTTP/1.1\r\nhost: a\r\nrange: bytes=0-18446744073709551615\r\n\r\n"),
        format!("GET {blob} HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        format!("GET /v2/{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET /v2/team/app/manifests/{deep}?ns=registry.test HTTP/1.1\r\nhost: a\r\n\r\n"),
        "GET /v2/team/app/tags/list?n=2147483648&ns=registry.test HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
    ];
    let pieces = format!("/v1/tasks/{digest}/pieces");
    let peer = [
        format!("GET {pieces} HTTP/1.1\r\nhost: a\r\nrange: bytes=0-18446744073709551614\r\n\r\n"),
        format!("GET {pieces} HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551615\r\n\r\n"),
        format!(
            "GET /v1/tasks/{digest}/have HTTP/1.1\r\nhost: a\r\ndarter-inline: 18446744073709551615\r\nconnection: close\r\n\r\n"
        ),
        format!("GET {pieces} HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
    ];
    let all = || {
        let mirror = mirror.iter().map(|request| (&world.node.mirror_address, request));
        let peer = peer.iter().map(|request| (&world.node.peer_address, request));
        mirror.chain(peer)
    };
    // Once, so that what is made at first use is there.
    for (port, request) in all() {
        world.ask(port, request.as_bytes()).await;
    }
    // Each of these connections may cost a megabyte, this client's end in this very process included.
    let allowed = (mirror.len() + peer.len()) as u64 * PER_CONNECTION_BYTES;
    let before = resident();
    for round in 0..20 {
        let asked = all().map(|(port, request)| world.ask(port, request.as_bytes()));
        let answers = futures_util::future::join_all(asked).await;
        let grown = resident().saturating_sub(before);
        assert!(
            grown <= allowed,
            "round {round}: {grown} bytes more by {} connections",
            answers.len()
        );
    }
    // And a registry that announces what nobody has.
    for length in [
        "9223372036854775808",
        "18446744073709551615",
        "99999999999999999999",
    ] {
        let digest = world.origin.add_blob("team/app", Content::generated(2, 2000));
        world.origin.inject(
            Match::digest(&digest),
            When::Always,
            Fault::SetHeader("content-length", length.to_owned()),
        );
        let path = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (status, body) = world.ask(&world.node.mirror_address, request.as_bytes()).await;
        assert!(status >= 500 || status == 0, "{status} for {length} bytes");
        assert!(body.len() < 2000);
        world.origin.heal_all();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown <= allowed, "{grown} bytes more in the end");
    world.stop().await;
}
