//! Processes that hang: a worker that is stopped as a whole, one whose threads are all blocked; and what supervisors hear.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use darter_testkit::content::Content;
use darter_testkit::origin::{Fault, Match, Origin, When};
use darter_testkit::puller::{self, Errand, Outcome, Tcp, Watch};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::role::{LONG, Role, address, ask, exchange};

/// Waits until a process is no more.
#[expect(clippy::disallowed_methods, reason = "a bound on waiting for a real process")]
fn gone(pid: Pid) {
    let deadline = std::time::Instant::now() + LONG;
    while test_kill_process(pid).is_ok() {
        let state =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        if state.contains(") Z ") {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "process {pid:?} is still there"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_that_is_stopped_is_killed_and_replaced() {
    let mut role = Role::proxy(&["--supervised", "--set", "watchdog.patience=3s"]);
    let first = role.mirror();
    assert_eq!(ask(first, LONG), "HTTP/1.1 200 OK");
    let stopped = role.worker();
    kill_process(stopped, Signal::STOP).unwrap();
    role.logged("does not answer any more");
    let second = role.mirror();
    assert_ne!(role.worker(), stopped);
    assert_eq!(ask(second, LONG), "HTTP/1.1 200 OK");
    // Nobody waits any more at the one that was stopped.
    assert_eq!(ask(first, LONG), "");
    kill_process(role.pid(), Signal::TERM).unwrap();
    let worker = role.worker();
    assert_eq!(role.end().code(), Some(0));
    gone(worker);
}

/// What clients and operators are told of a frozen proxy: it is replaced within its patience, and a moment more.
const BACK_WITHIN: Duration = Duration::from_secs(12);

/// The patience is that of a proxy as it comes; its client is in the middle of a blob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a client waits is what is asked"
)]
async fn a_worker_that_is_stopped_in_mid_pull_costs_its_patience() {
    let content = Content::generated(1, 6 * 1024 * 1024);
    let origin = Origin::new();
    let digest = origin.add_blob("team/app", content.clone());
    let slow = Fault::Drip {
        bytes_per_second: 2 * 1024 * 1024,
    };
    origin.inject(Match::digest(&digest).get(), When::Always, slow);
    let running = origin.spawn_on_loopback().await.unwrap();
    // The next worker must be where the first one was.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = free.local_addr().unwrap();
    drop(free);
    let endpoint = format!("origin.registries.\"registry.test\".endpoint={}", running.url());
    let listen = format!("mirror.listen={mirror}");
    let mut role = Role::proxy(&["--supervised", "--set", &endpoint, "--set", &listen]);
    role.mirror();
    let watch = Watch::default();
    let errand = Errand {
        repository: "team/app".into(),
        digest,
        content: content.clone(),
        mirror: Some(mirror.to_string()),
        mirror_query: "?ns=registry.test".into(),
        origin: running.url().trim_start_matches("http://").into(),
        authorization: None,
    };
    let seen = watch.clone();
    let pull = tokio::spawn(async move { puller::pull(&Tcp, &errand, &seen).await });
    while watch.progress().bytes < 1024 * 1024 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stopped = role.worker();
    kill_process(stopped, Signal::STOP).unwrap();
    let since = std::time::Instant::now();
    pull.await.unwrap();
    let progress = watch.progress();
    assert_eq!((progress.outcome, progress.wrong_bytes), (Some(Outcome::Done), 0));
    assert_eq!(progress.bytes, content.len());
    assert!(
        progress.longest_gap > Duration::from_secs(5),
        "it was not stopped at all"
    );
    assert!(
        progress.longest_gap <= BACK_WITHIN,
        "{:?} without a byte",
        progress.longest_gap
    );
    while ask(mirror, Duration::from_secs(1)) != "HTTP/1.1 200 OK" {
        assert!(since.elapsed() < LONG, "nobody took its place");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(role.worker(), stopped);
}

#[test]
fn a_worker_that_crashes_is_replaced_and_one_that_is_renewed_as_well() {
    let mut role = Role::proxy(&["--supervised"]);
    role.mirror();
    let first = role.worker();
    kill_process(first, Signal::KILL).unwrap();
    role.mirror();
    let second = role.worker();
    assert_ne!(first, second);
    kill_process(role.pid(), Signal::USR2).unwrap();
    role.mirror();
    assert_ne!(second, role.worker());
}

#[test]
fn a_worker_does_not_outlive_its_guardian() {
    let mut role = Role::proxy(&["--supervised"]);
    role.mirror();
    let worker = role.worker();
    kill_process(role.pid(), Signal::KILL).unwrap();
    role.end();
    gone(worker);
}

#[test]
fn a_worker_that_cannot_start_is_not_tried_for_ever() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("mirror.listen={}", taken.local_addr().unwrap());
    let role = Role::proxy(&["--supervised", "--set", &listen]);
    assert_eq!(role.end().code(), Some(1));
}

/// The one thread of the runtime stands in a write to a log that nobody reads.
#[test]
fn a_proxy_whose_threads_are_all_blocked_ends_itself() {
    let mut role = Role::proxy(&["--set", "watchdog.patience=3s"]);
    let ready = role.logged("proxy is ready");
    let (mirror, admin) = (address(&ready, "mirror"), address(&ready, "admin"));
    // Each answered one writes a line.
    let body = "info,".repeat(200);
    let put = format!(
        "PUT /loglevel HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let moment = Duration::from_secs(2);
    let blocked = (0..1000).any(|_| exchange(admin, &put, moment).is_empty());
    assert!(blocked, "it answers although nobody reads its log");
    assert_eq!(ask(mirror, moment), "");
    let status = role.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
}

#[test]
fn a_supervisor_hears_ready_alive_and_stopping() {
    for role in ["proxy", "scheduler"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let said = || {
            let mut bytes = [0; 256];
            let count = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args([role, "run"]).env("NOTIFY_SOCKET", &path);
        let all: &[&str] = match role {
            "proxy" => &["mirror.listen", "peer.listen", "admin.listen"],
            _ => &["listen", "admin.listen"],
        };
        for key in all {
            command.args(["--set", &format!("{key}=127.0.0.1:0")]);
        }
        if role == "proxy" {
            let store = dir.path().join("store");
            command.args([
                "--set",
                &format!("store.dir={}", store.display()),
                "--set",
                "host=here",
            ]);
        }
        let role = Role::start(&mut command, tempfile::tempdir().unwrap());
        assert_eq!(said(), "READY=1");
        assert_eq!(said(), "WATCHDOG=1");
        kill_process(role.pid(), Signal::TERM).unwrap();
        assert!(std::iter::repeat_with(said).any(|word| word == "STOPPING=1"));
        assert_eq!(role.end().code(), Some(0));
    }
}
