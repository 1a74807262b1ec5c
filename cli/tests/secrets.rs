//! Secrets go in by every door, then everything that comes out is searched for them: the logs at their most talkative,
//! metrics, the admin ports' pages, what a scheduler knows, traces, and every file of the store. And no memory is dumped.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a helper of a test that cannot go on fails the test; the collector is a server of the test's own"
)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Fault, Match, Origin, RedirectTo, When};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// `canary-user:canary-password`
const BASIC: &str = "Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBhc3N3b3Jk";

/// A role that logs all it can, killed when a test fails.
struct Role {
    child: Child,
    /// What it said when it was ready.
    ready: serde_json::Value,
}

impl Role {
    async fn start(name: &str, dir: &Path, settings: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args([name, "run", "--log", "trace"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let log = dir.join(format!("{name}.log"));
        let child = command
            .env_clear()
            .stderr(File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ready = told(&log, &format!("{name} is ready")).await;
        Self { child, ready }
    }

    fn at(&self, port: &str) -> SocketAddr {
        self.ready[port].as_str().unwrap().parse().unwrap()
    }

    /// The pages of its admin port.
    async fn pages(&self, more: &[&str], out: &mut Vec<(String, Vec<u8>)>) {
        let all = [
            "/metrics",
            "/config",
            "/debug/tasks",
            "/readyz",
            "/livez",
            "/loglevel",
        ];
        for page in all.iter().chain(more) {
            let answer = get(self.at("admin"), page, &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{page}");
            out.push(((*page).to_owned(), answer.body.to_vec()));
        }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line of the log that says so.
async fn told(log: &Path, message: &str) -> serde_json::Value {
    for _ in 0..3000 {
        let text = fs::read_to_string(log).unwrap();
        if let Some(line) = text.lines().find(|line| line.contains(message)) {
            return serde_json::from_str(line).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not start: {}", fs::read_to_string(log).unwrap());
}

/// A file with a secret in it, for its owner alone.
fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Where each role listens and what it is told: secrets of its own are in `secrets`, which is not searched.
fn settings_of_proxy(
    dir: &Path,
    secrets: &Path,
    origin: &str,
    scheduler: &str,
    collector: &str,
) -> Vec<String> {
    let mut settings: Vec<String> = ["mirror", "peer", "admin", "forward"]
        .map(|port| format!("{port}.listen=127.0.0.1:0"))
        .into();
    let users = secret_file(secrets, "users", "anybody:canary-forward\n");
    let name = secret_file(secrets, "name", "canary-user");
    let password = secret_file(secrets, "password", "canary-password");
    settings.extend([
        "host=here".to_owned(),
        format!("store.dir={}", dir.join("store").display()),
        format!("scheduler.addresses=[\"{scheduler}\"]"),
        format!("traces.otlpEndpoint=http://{collector}"),
        format!("forward.usersFile={users}"),
        "origin.registries.\"node.test\".credentials.share=node".to_owned(),
        format!("origin.registries.\"node.test\".credentials.usernameFile={name}"),
        format!("origin.registries.\"node.test\".credentials.passwordFile={password}"),
    ]);
    for (name, endpoint) in [
        ("registry.test", origin),
        ("node.test", origin),
        ("gone.test", "http://127.0.0.1:1"),
    ] {
        settings.push(format!("origin.registries.\"{name}\".endpoint={endpoint}"));
    }
    settings
}

/// A collector of traces that reads all and answers nothing but that it has room.
async fn collector() -> (String, Arc<Mutex<Vec<u8>>>, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    // HTTP/2 (RFC 9113): SETTINGS with the largest window, and as much for the connection.
    let room = [
        &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff][..],
        &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0],
    ]
    .concat();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&room).await;
            let mut part = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut part).await {
                all.lock().unwrap().extend_from_slice(&part[..count]);
            }
        }
    });
    (address, heard, task)
}

/// All files below a directory, with what they hold.
fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// A registry with a private repository behind each way of asking, whose blobs lie behind signed addresses.
fn registry() -> (Origin, Vec<String>) {
    let origin = Origin::new();
    let mut paths = Vec::new();
    let access = [
        ("open", Access::Anonymous),
        ("bearer", Access::Bearer { public: false }),
        ("public", Access::Bearer { public: true }),
        ("basic", Access::Basic),
    ];
    origin.add_user("canary-user", "canary-password");
    for (seed, (repository, access)) in (1..).zip(access) {
        let digest = origin.add_blob(repository, Content::generated(seed, 700_000));
        origin.set_access(repository, access);
        origin.allow(repository, "canary-user");
        paths.push(format!("/v2/{repository}/blobs/{digest}"));
        paths.push(format!("/v2/{repository}/manifests/{digest}"));
        let presigned = RedirectTo::Presigned {
            host: None,
            valid: Duration::from_secs(60),
        };
        origin.inject(
            Match::digest(&digest).get(),
            When::Always,
            Fault::Redirect(presigned),
        );
    }
    let life = Duration::from_secs(300);
    origin.add_token("canary-token", Some("canary-user"), &["bearer", "public"], life);
    (origin, paths)
}

/// What the registry itself made up: tokens, and signatures of addresses.
fn made_by(origin: &Origin) -> Vec<String> {
    let tokens = origin.tokens().into_iter().map(|token| token.value);
    let log = origin.log();
    let signatures = log.iter().filter(|request| request.path.starts_with("/storage/"));
    let signatures = signatures.filter_map(|request| {
        let query = request.query.as_deref()?;
        query.split('&').find_map(|pair| pair.strip_prefix("sig="))
    });
    tokens.chain(signatures.map(str::to_owned)).collect()
}

/// Secrets in all that a client of the mirror can say; the statuses of the answers.
async fn whisper_to_the_mirror(mirror: SocketAddr, paths: &[String]) -> Vec<u16> {
    let basic = format!("Basic {BASIC}");
    let mut statuses = Vec::new();
    for path in paths {
        for registry in ["registry.test", "node.test", "gone.test"] {
            for authorization in ["Bearer canary-token", &basic, "Canary canary-scheme", ""] {
                let target = format!("{path}?ns={registry}&X-Amz-Signature=canary-query");
                let headers = [
                    ("authorization", authorization),
                    ("cookie", "session=canary-cookie"),
                    ("proxy-authorization", "Basic canary-proxy"),
                ];
                let headers = if authorization.is_empty() {
                    &headers[1..]
                } else {
                    &headers[..]
                };
                statuses.push(get(mirror, &target, headers).await.unwrap().status);
            }
        }
    }
    statuses
}

/// The same to the forward proxy, which knows one user; the statuses of the answers.
async fn whisper_to_the_forward_proxy(forward: SocketAddr, origin: &str, paths: &[String]) -> Vec<u16> {
    // anybody:canary-forward, anybody:canary-wrong
    let users = [
        "Basic YW55Ym9keTpjYW5hcnktZm9yd2FyZA==",
        "Basic YW55Ym9keTpjYW5hcnktd3Jvbmc=",
    ];
    let mut statuses = Vec::new();
    for path in paths {
        for user in users {
            let headers = [
                ("proxy-authorization", user),
                ("authorization", "Bearer canary-token"),
                ("cookie", "session=canary-cookie"),
            ];
            let target = format!("{origin}{path}?X-Amz-Signature=canary-query");
            statuses.push(get(forward, &target, &headers).await.unwrap().status);
        }
    }
    statuses
}

/// Fails if a secret is in what came out.
fn search(secrets: &[String], out: &[(String, Vec<u8>)]) {
    for secret in secrets {
        for (name, bytes) in out {
            let at = bytes
                .windows(secret.len())
                .position(|part| part == secret.as_bytes());
            let around = at.map(|at| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 60).min(bytes.len())])
            });
            assert!(around.is_none(), "{secret} in {name}: {around:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_comes_out() {
    let (dir, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (origin, paths) = registry();
    let running = origin.spawn_on_loopback().await.unwrap();
    let (collector, spans, collecting) = collector().await;
    let mut own: Vec<String> = ["listen", "admin.listen"]
        .map(|key| format!("{key}=127.0.0.1:0"))
        .into();
    own.push(format!("traces.otlpEndpoint=http://{collector}"));
    let scheduler = Role::start("scheduler", dir.path(), &own).await;
    let grpc = scheduler.at("listen").to_string();
    let settings = settings_of_proxy(dir.path(), secrets.path(), &running.url(), &grpc, &collector);
    let proxy = Role::start("proxy", dir.path(), &settings).await;
    let statuses = whisper_to_the_mirror(proxy.at("mirror"), &paths).await;
    assert!(statuses.contains(&200) && statuses.contains(&401), "{statuses:?}");
    let statuses = whisper_to_the_forward_proxy(proxy.at("forward"), &running.url(), &paths).await;
    assert!(statuses.contains(&407) && statuses.len() > 10, "{statuses:?}");
    let mut out = Vec::new();
    proxy.pages(&["/debug/pulls", "/role"], &mut out).await;
    scheduler.pages(&[], &mut out).await;
    for question in ["tasks", "hosts"] {
        let said = Command::new(env!("CARGO_BIN_EXE_darter"))
            .args(["scheduler", question, "--json", "--address", &grpc])
            .output()
            .unwrap();
        assert!(said.status.success(), "{question}");
        out.push((question.to_owned(), said.stdout));
    }
    proxy.stop();
    scheduler.stop();
    collecting.abort();
    out.push(("traces".to_owned(), spans.lock().unwrap().clone()));
    files(dir.path(), &mut out);
    let made = made_by(&origin);
    assert!(
        made.iter().any(|secret| secret != "canary-token"),
        "no token and no signature"
    );
    let log = String::from_utf8_lossy(&fs::read(dir.path().join("proxy.log")).unwrap()).into_owned();
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "the log is not at its most talkative"
    );
    let encoded = ["YW55Ym9keTpjYW5hcnk", BASIC, "canary"].map(str::to_owned);
    search(&encoded, &out);
    search(&made, &out);
}

#[tokio::test]
async fn no_memory_is_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["listen", "admin.listen"].map(|key| format!("{key}=127.0.0.1:0"));
    let mut role = Role::start("scheduler", dir.path(), &settings).await;
    let pid = role.child.id();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let words: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
    kill_process(Pid::from_child(&role.child), Signal::ABORT).unwrap();
    let status = role.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped());
}
