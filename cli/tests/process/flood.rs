//! Strangers that send nothing but bad requests: they cannot fill the log, nor write into it what a terminal obeys.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use darter_testkit::cases;
use serde_json::Value;
use tokio::time::Instant;

use super::role::{LONG, address, exchange};

/// Bar 45.
const LOG_BYTES_A_MINUTE: u64 = 10 * 1024 * 1024;
/// Requests of one connection: all but the last one leave it open.
const PIPELINED: u32 = 50;

/// A proxy whose log goes into a file.
struct Proxy {
    child: Child,
    log: PathBuf,
    mirror: SocketAddr,
    peer: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn start(dir: &Path) -> Self {
        let log = dir.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args(["proxy", "run", "--set", "host=here"]);
        let store = format!("store.dir={}", dir.join("store").display());
        command.args(["--set", &store, "--set", "origin.allowOnlyConfigured=true"]);
        for listen in ["mirror", "peer", "admin"] {
            command.args(["--set", &format!("{listen}.listen=127.0.0.1:0")]);
        }
        let file = std::fs::File::create(&log).unwrap();
        let child = command
            .env_clear()
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut proxy = Self {
            child,
            log,
            mirror: ([127, 0, 0, 1], 0).into(),
            peer: ([127, 0, 0, 1], 0).into(),
        };
        let ready = proxy.ready();
        proxy.mirror = address(&ready, "mirror");
        proxy.peer = address(&ready, "peer");
        proxy
    }

    fn ready(&mut self) -> Value {
        loop {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended: {}",
                self.text()
            );
            let text = self.text();
            let line = text.lines().find(|line| line.contains("proxy is ready"));
            if let Some(event) = line.and_then(|line| serde_json::from_str(line).ok()) {
                return event;
            }
            std::thread::yield_now();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }
}

/// Paths and headers that nobody has in good faith. Their connections stay open.
const RUDE: [(&str, &str); 8] = [
    ("/v2/%1b%5b31mred%0d%0a/blobs/sha256:00", "x: y"),
    ("/v2/a/blobs/md5:%00%07%1b?ns=%1b%5b2J", "x: y"),
    ("/v2/a/manifests/%0a%7b%22level%22:%22ERROR%22%7d", "x: y"),
    ("/v2/a/manifests/v1?ns=169.254.169.254", "authorization: Bearer x"),
    ("/v2/a/manifests/v1?ns=evil.test", "x-darter-registry: evil.test"),
    (
        "/v2/a/tags/list?n=99999999999999999999",
        "x-darter-registry: \u{202e}\u{9b}31m",
    ),
    ("/../../etc/passwd", "range: bytes=0-,0-,0-"),
    ("/v1/tasks/sha256:%1b/have", "darter-host: \u{9b}2J"),
];

/// What ends a connection.
const RUDER: [&[u8]; 8] = [
    b"GET /\x1b[2J\x07 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"G\x1bT / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\nhost: a\x1b[31m\n\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx\x00y: \x1b]0;title\x07\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nuser-agent: \x7f\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nhost: a\r\nhost: \xc2\x9b2J\r\n\r\n",
    b"\x1b\x1b\x1b\x1b\r\n\r\n",
];

/// One connection of [`PIPELINED`] requests, read to its end; how many were answered.
fn be_rude(port: SocketAddr, round: u32) -> usize {
    let mut stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut text = Vec::new();
    for number in 1..PIPELINED {
        let (path, header) = RUDE[(round + number) as usize % RUDE.len()];
        text.extend(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n").into_bytes());
    }
    text.extend(RUDER[round as usize % RUDER.len()]);
    stream.write_all(&text).unwrap();
    let mut answers = Vec::new();
    // It may be reset behind the last answer.
    let _ = stream.read_to_end(&mut answers);
    String::from_utf8_lossy(&answers).matches("HTTP/1.1 4").count()
}

#[test]
fn bad_requests_fill_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path());
    let began = Instant::now();
    let rounds = cases(100_000, 1_000_000) / PIPELINED;
    for round in 0..rounds {
        let port = if round % 4 == 0 { proxy.peer } else { proxy.mirror };
        let answered = be_rude(port, round);
        assert!(
            answered >= PIPELINED as usize - 1,
            "round {round}: {answered} answers"
        );
    }
    assert!(
        exchange(
            proxy.mirror,
            "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            LONG
        )
        .contains("200")
    );
    let minutes = began.elapsed().as_secs() / 60 + 1;
    let size = std::fs::metadata(&proxy.log).unwrap().len();
    assert!(
        size <= LOG_BYTES_A_MINUTE * minutes,
        "{size} bytes in {minutes} minutes"
    );
    let log = BufReader::new(std::fs::File::open(&proxy.log).unwrap());
    for line in log.split(b'\n') {
        let line = line.unwrap();
        let raw = line.iter().find(|byte| byte.is_ascii_control());
        assert_eq!(raw, None, "{}", String::from_utf8_lossy(&line).escape_debug());
        let text = String::from_utf8(line).expect("the log is text");
        assert!(!text.chars().any(char::is_control), "{}", text.escape_debug());
    }
}
