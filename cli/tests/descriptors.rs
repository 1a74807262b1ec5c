//! A process without a free file descriptor: it waits, says so once, and serves again when there are some.
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// More than the process has descriptors for.
const CONNECTIONS: usize = 120;

struct Scheduler(Child);

impl Drop for Scheduler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_scheduler_without_descriptors_serves_again_when_there_are_some() {
    // util-linux, which every Debian has.
    let mut child = Command::new("prlimit")
        .args(["--nofile=64", env!("CARGO_BIN_EXE_darter"), "scheduler", "run"])
        .args(["--set", "listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let _scheduler = Scheduler(child);
    let mut until = |word: &str| -> Value {
        loop {
            let line = log.next().expect("it runs").unwrap();
            if line.contains(word) {
                return serde_json::from_str(&line).unwrap();
            }
        }
    };
    let ready = until("scheduler is ready");
    let listen = ready["listen"].as_str().unwrap();
    let admin = ready["admin"].as_str().unwrap();

    let held: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(listen).unwrap())
        .collect();
    let said = until("connections cannot be accepted at the moment");
    assert!(
        said["error"].as_str().unwrap().contains("Too many open files"),
        "{said}"
    );
    drop(held);

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
    let answer = |path: &str| {
        let mut stream = TcpStream::connect(admin).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(answer("/readyz").ends_with("ready\n"));
    let tasks = answer("/debug/tasks");
    assert!(
        tasks.contains("scheduler 1\n") && tasks.contains("scheduler-grpc 1\n"),
        "{tasks}"
    );
}
