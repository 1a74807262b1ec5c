//! Roles that know a manager and nothing else: they find each other through it, do what it says, and go on without it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::Origin;
use http::Method;
use serde_json::{Value, json};

use crate::role::{LONG, Role, address, free_address, start};

const BLOB_BYTES: u64 = 3_000_000;

/// A manager, with somebody signed in.
struct Manager {
    _running: Role,
    web: SocketAddr,
    roles: SocketAddr,
    cookie: String,
}

impl Manager {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args(["manager", "run", "--set"]);
        command.arg(format!(
            "database.file={}",
            dir.join("manager/manager.db").display()
        ));
        for listen in ["web", "roles", "admin"] {
            command.args(["--set", &format!("{listen}.listen=127.0.0.1:0")]);
        }
        let mut running = Role::start(command.stdout(Stdio::piped()), tempfile::tempdir().unwrap());
        let said = BufReader::new(running.child.stdout.take().unwrap());
        let ready = running.logged("manager is ready");
        running.read_on();
        let password = said.lines().nth(1).unwrap().unwrap();
        let mut manager = Self {
            _running: running,
            web: address(&ready, "listen"),
            roles: address(&ready, "roles"),
            cookie: String::new(),
        };
        let who = json!({ "name": "admin", "password": password.trim() });
        let (head, _) = manager.ask("POST", "session", Some(who));
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        cookie
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .clone_into(&mut manager.cookie);
        manager
    }

    /// The answer's head and body; it must be a good one.
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (String, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut stream = TcpStream::connect(self.web).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        write!(
            stream,
            "{method} /api/v1/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-darter-request: 1\r\ncookie: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.cookie,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    /// A join token, in a file of its owner alone.
    fn join_token(&self, dir: &Path) -> PathBuf {
        let (_, made) = self.ask("POST", "join-tokens", Some(json!({ "name": "all" })));
        let path = dir.join("join-token");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(made["secret"].as_str().unwrap().as_bytes())
            .unwrap();
        path
    }

    fn cluster(&self) -> String {
        let (_, clusters) = self.ask("GET", "clusters", None);
        clusters[0]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until as many members as there are nodes and schedulers run this version.
    async fn until_all_run(&self, cluster: &str, members: usize, version: u64) {
        until("all members run the version", async || {
            let (_, found) = self.ask("GET", &format!("clusters/{cluster}/members"), None);
            let found = found.as_array().unwrap();
            found.len() == members
                && found
                    .iter()
                    .all(|member| member["configuration"]["version"] == version && member["healthy"] == true)
        })
        .await;
    }
}

/// What a role needs to join, as settings.
fn joining(manager: &Manager, token: &Path, dir: &Path) -> Vec<String> {
    vec![
        format!("manager.addresses=[\"{}\"]", manager.roles),
        format!("manager.joinTokenFile={}", token.display()),
        format!("manager.dir={}", dir.display()),
        "admin.listen=127.0.0.1:0".to_owned(),
    ]
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// Waits until the scheduler has streams of as many hosts.
async fn until_hosts(scheduler: SocketAddr, hosts: usize) {
    let expected = format!("darter_scheduler_hosts {hosts}");
    until(&expected, async || {
        let metrics = get(scheduler, "/metrics", &[]).await.unwrap();
        String::from_utf8_lossy(&metrics.body)
            .lines()
            .any(|line| line == expected)
    })
    .await;
}

/// Pulls a new content on one node and then on the other: the registry sends it to the first alone.
async fn share(origin: &Origin, seed: u64, mirrors: [SocketAddr; 2]) {
    let digest = origin.add_blob("app", Content::generated(seed, BLOB_BYTES));
    let target = format!("/v2/app/blobs/{digest}?ns=registry.test");
    for mirror in mirrors {
        let answer = get(mirror, &target, &[]).await.unwrap();
        assert_eq!((answer.status, answer.body_digest()), (200, digest.clone()));
    }
    assert_eq!(origin.requests_for(&Method::GET, &digest), 1);
    assert_eq!(origin.bytes_sent_for(&digest), BLOB_BYTES);
}

#[tokio::test]
async fn they_find_each_other_do_what_they_are_told_and_outlive_it() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::new();
    let registry = origin.spawn_on_loopback().await.unwrap();
    let manager = Manager::start(dir.path());
    let token = manager.join_token(dir.path());
    let mut settings = joining(&manager, &token, &dir.path().join("scheduler"));
    let scheduler = free_address();
    settings.extend([format!("listen={scheduler}"), format!("advertise={scheduler}")]);
    let (_scheduler, said) = start("scheduler", &settings);
    let scheduler = address(&said, "admin");
    let node = |host: &str| {
        let mut settings = joining(&manager, &token, &dir.path().join(host));
        settings.extend([
            format!("host={host}"),
            "mirror.listen=127.0.0.1:0".to_owned(),
            format!("peer.listen={}", free_address()),
            format!("store.dir={}", dir.path().join(host).join("store").display()),
            "store.freeFloor=16MiB".to_owned(),
            format!("origin.registries.\"registry.test\".endpoint={}", registry.url()),
        ]);
        settings
    };
    let (_one, said) = start("proxy", &node("one"));
    let one = address(&said, "mirror");
    let settings = node("two");
    let (two, said) = start("proxy", &settings);
    until_hosts(scheduler, 2).await;
    share(&origin, 1, [one, address(&said, "mirror")]).await;

    let cluster = manager.cluster();
    manager.until_all_run(&cluster, 3, 0).await;
    let document = json!({ "proxy": { "store": { "quota": "1GiB" } } });
    let change = json!({ "replaces": 0, "comment": "less", "document": document });
    manager.ask("PUT", &format!("clusters/{cluster}/configuration"), Some(change));
    manager.until_all_run(&cluster, 3, 1).await;
    let quota = async |admin: SocketAddr| {
        let metrics = get(admin, "/metrics", &[]).await.unwrap();
        String::from_utf8_lossy(&metrics.body)
            .lines()
            .any(|line| line == format!("darter_proxy_store_quota_bytes {}", 1_u64 << 30))
    };
    assert!(quota(address(&said, "admin")).await);

    // The manager is dead; a node that starts again knows what it knew.
    drop(manager);
    drop(two);
    until_hosts(scheduler, 1).await;
    let (_two, said) = start("proxy", &settings);
    assert!(quota(address(&said, "admin")).await);
    until_hosts(scheduler, 2).await;
    share(&origin, 2, [one, address(&said, "mirror")]).await;
}
