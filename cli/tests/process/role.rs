//! A role as a process whose log is read, and questions to its ports.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;

/// Longer than anything here should take on a busy machine; only a failure waits for it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A process whose log is read; killed when a test fails.
pub(crate) struct Role {
    pub(crate) child: Child,
    log: Option<BufReader<ChildStderr>>,
    _store: tempfile::TempDir,
}

impl Role {
    pub(crate) fn proxy(arguments: &[&str]) -> Self {
        let store = tempfile::tempdir().unwrap();
        let dir = format!("store.dir={}", store.path().join("store").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args(["proxy", "run", "--set", &dir, "--set", "host=here"]);
        // One that is blocked is all of them.
        command.env("TOKIO_WORKER_THREADS", "1");
        for listen in ["mirror", "peer", "admin"] {
            command.args(["--set", &format!("{listen}.listen=127.0.0.1:0")]);
        }
        Self::start(command.args(arguments), store)
    }

    pub(crate) fn start(command: &mut Command, store: tempfile::TempDir) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().map(BufReader::new);
        Self {
            child,
            log,
            _store: store,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The next line of the log that says `message`.
    pub(crate) fn logged(&mut self, message: &str) -> Value {
        let log = self.log.as_mut().unwrap();
        loop {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "it ended without {message:?}"
            );
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if event.to_string().contains(message) {
                return event;
            }
        }
    }

    /// Where the mirror listens, as soon as it does.
    pub(crate) fn mirror(&mut self) -> SocketAddr {
        address(&self.logged("proxy is ready"), "mirror")
    }

    /// The one process that this one runs.
    pub(crate) fn worker(&self) -> Pid {
        let pid = self.pid().as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }

    /// Lets the rest of the log be read and forgotten: a process that logs much must not wait for a reader.
    pub(crate) fn read_on(&mut self) {
        if let Some(log) = self.log.take() {
            std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
        }
    }

    pub(crate) fn end(mut self) -> ExitStatus {
        // What it still says must find its way.
        let log = self.log.take().unwrap();
        let reader = std::thread::spawn(move || log.lines().map_while(Result::ok).collect::<Vec<_>>());
        let status = self.child.wait().unwrap();
        reader.join().unwrap();
        status
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A role with settings, as soon as it is ready; what it said then has its addresses.
pub(crate) fn start(role: &str, settings: &[String]) -> (Role, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    command.args([role, "run"]).stdout(Stdio::null());
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut running = Role::start(&mut command, tempfile::tempdir().unwrap());
    let said = running.logged(&format!("{role} is ready"));
    running.read_on();
    (running, said)
}

/// An address on loopback where nobody listens now: what others are told is what the configuration says.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The address under `key`, wherever in an event it stands.
pub(crate) fn address(event: &Value, key: &str) -> SocketAddr {
    let inner = event.get("fields").and_then(|fields| fields.get(key));
    let text = event.get(key).or(inner).unwrap().as_str().unwrap();
    text.parse().unwrap()
}

/// The status line of the mirror's answer; empty when none comes.
pub(crate) fn ask(mirror: SocketAddr, patience: Duration) -> String {
    let request = "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    exchange(mirror, request, patience)
}

pub(crate) fn exchange(port: SocketAddr, request: &str, patience: Duration) -> String {
    let mut answer = String::new();
    let Ok(mut stream) = TcpStream::connect_timeout(&port, patience) else {
        return answer;
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_string(&mut answer);
    answer.lines().next().unwrap_or_default().to_owned()
}
