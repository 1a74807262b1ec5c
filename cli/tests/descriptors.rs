//! A process without a free file descriptor: it waits, says so once, and serves again when there are some.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

/// More than the process has descriptors for.
const CONNECTIONS: usize = 120;

/// A role as a process; killed when a test fails.
struct Role {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Role {
    /// With 64 descriptors.
    fn start(role: &str, settings: &[&str]) -> Self {
        // util-linux, which every Debian has.
        let mut command = Command::new("prlimit");
        command.args(["--nofile=64", env!("CARGO_BIN_EXE_darter"), role, "run"]);
        command.args(["--set", "admin.listen=127.0.0.1:0"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.env_clear().stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// The next line of the log with this word.
    fn until(&mut self, word: &str) -> Value {
        loop {
            let line = self.log.next().expect("it runs").unwrap();
            if line.contains(word) {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    /// Takes all descriptors by connections, until it says so, and gives them back.
    fn starve(&mut self, listen: &str) {
        let held: Vec<_> = (0..CONNECTIONS)
            .map(|_| TcpStream::connect(listen).unwrap())
            .collect();
        let said = self.until("connections cannot be accepted at the moment");
        assert!(
            said["error"].as_str().unwrap().contains("Too many open files"),
            "{said}"
        );
        drop(held);
    }
}

fn ask(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    // A reset is no answer.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_scheduler_without_descriptors_serves_again_when_there_are_some() {
    let mut scheduler = Role::start("scheduler", &["listen=127.0.0.1:0"]);
    let ready = scheduler.until("scheduler is ready");
    let listen = ready["listen"].as_str().unwrap();
    let admin = ready["admin"].as_str().unwrap();
    scheduler.starve(listen);

    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    let asked = command
        .args(["scheduler", "hosts", "--json", "--address", listen])
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    assert!(ask(admin, "/readyz").ends_with("ready\n"));
    let tasks = ask(admin, "/debug/tasks");
    assert!(
        tasks.contains("scheduler 1\n") && tasks.contains("scheduler-grpc 1\n"),
        "{tasks}"
    );
}

#[test]
fn a_proxy_without_descriptors_serves_again_when_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("store.dir={}", dir.path().join("store").display());
    let settings = [
        "host=here",
        "mirror.listen=127.0.0.1:0",
        "peer.listen=127.0.0.1:0",
        &store,
    ];
    let mut proxy = Role::start("proxy", &settings);
    let ready = proxy.until("proxy is ready");
    let listens = |name: &str| ready[name].as_str().unwrap().to_owned();
    for port in ["mirror", "peer"] {
        proxy.starve(&listens(port));
        assert!(
            ask(&listens("mirror"), "/v2/").starts_with("HTTP/1.1 200"),
            "after {port}"
        );
        assert!(
            ask(&listens("peer"), "/").starts_with("HTTP/1.1 404"),
            "after {port}"
        );
        assert!(
            ask(&listens("admin"), "/readyz").ends_with("ready\n"),
            "after {port}"
        );
    }
}
