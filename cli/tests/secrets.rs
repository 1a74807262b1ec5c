//! Secrets go in by every door, then everything that comes out is searched for them: the log at its most talkative,
//! metrics, the admin port's pages, and every file of the store.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Fault, Match, Origin, RedirectTo, When};
use rustix::process::{Pid, Signal, kill_process};

/// `canary-user:canary-password`
const BASIC: &str = "Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBhc3N3b3Jk";

/// A proxy that logs all it can, killed when a test fails.
struct Proxy {
    child: Child,
    mirror: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    async fn start(dir: &Path, origin: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args(["proxy", "run", "--log", "trace", "--set", "host=here"]);
        command.args([
            "--set",
            "mirror.listen=127.0.0.1:0",
            "--set",
            "peer.listen=127.0.0.1:0",
        ]);
        command.args(["--set", "admin.listen=127.0.0.1:0"]);
        command.args(["--set", &format!("store.dir={}", dir.join("store").display())]);
        for (name, endpoint) in [("registry.test", origin), ("gone.test", "http://127.0.0.1:1")] {
            command.args([
                "--set",
                &format!("origin.registries.\"{name}\".endpoint={endpoint}"),
            ]);
        }
        let log = File::create(dir.join("log")).unwrap();
        let child = command
            .env_clear()
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (mirror, admin) = told(&dir.join("log")).await;
        Self { child, mirror, admin }
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the log says that the proxy listens.
async fn told(log: &Path) -> (SocketAddr, SocketAddr) {
    for _ in 0..3000 {
        let text = fs::read_to_string(log).unwrap();
        if let Some(line) = text.lines().find(|line| line.contains("proxy is ready")) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| line[name].as_str().unwrap().parse().unwrap();
            return (field("mirror"), field("admin"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not start: {}", fs::read_to_string(log).unwrap());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let (origin, paths) = registry();
    let running = origin.spawn_on_loopback().await.unwrap();
    let proxy = Proxy::start(dir.path(), &running.url()).await;
    let basic = format!("Basic {BASIC}");
    let mut statuses = Vec::new();
    for path in &paths {
        for registry in ["registry.test", "gone.test"] {
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
                statuses.push(get(proxy.mirror, &target, headers).await.unwrap().status);
            }
        }
    }
    assert!(statuses.contains(&200) && statuses.contains(&401), "{statuses:?}");
    let mut out = Vec::new();
    for page in ["/metrics", "/config", "/debug/tasks", "/readyz", "/livez"] {
        let body = get(proxy.admin, page, &[]).await.unwrap().body;
        out.push((page.to_owned(), body.to_vec()));
    }
    proxy.stop();
    files(dir.path(), &mut out);
    let made = made_by(&origin);
    assert!(
        made.iter().any(|secret| secret != "canary-token"),
        "no token and no signature"
    );
    let log = String::from_utf8_lossy(&fs::read(dir.path().join("log")).unwrap()).into_owned();
    assert!(
        log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
        "the log is not at its most talkative"
    );
    let secrets = ["canary", BASIC]
        .into_iter()
        .chain(made.iter().map(String::as_str));
    for secret in secrets {
        for (name, bytes) in &out {
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
