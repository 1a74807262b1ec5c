//! A cluster whose members have certificates: one origin fetch for two nodes, and no start with files that are wrong.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::sendfile::ZeroCopy;
use darter_scheduler::app::App;
use darter_scheduler::config::Config as SchedulerConfig;
use darter_service::net::{Network, TokioNetwork};
use darter_service::supervise::{Supervisor, Tasks};
use darter_service::tls::{CertificateRole, TlsConfig};
use darter_store::{DiskOptions, DiskStore};
use darter_testkit::authority::{Authority, NodeFiles};
use darter_testkit::client::{End, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Origin, RunningOrigin};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn section(files: NodeFiles) -> TlsConfig {
    TlsConfig {
        cert_file: Some(files.cert_file),
        key_file: Some(files.key_file),
        ca_file: Some(files.ca_file),
        ..TlsConfig::default()
    }
}

/// What the members of the cluster share.
struct Cluster {
    authority: Authority,
    origin: String,
    scheduler: String,
    dir: tempfile::TempDir,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Cluster {
    /// A node whose name is an address of loopback, so that others find it without a name server.
    async fn node(&self, host: &str, role: NodeRole) -> Node {
        let options = DiskOptions {
            dir: self.dir.path().join(host),
            quota_bytes: u64::MAX,
            free_floor_bytes: 0,
        };
        let (store, _) = DiskStore::open(options).unwrap();
        let roles: &[&str] = match role {
            NodeRole::Peer => &[],
            NodeRole::Seed => &[CertificateRole::Seed.uri()],
        };
        let mut config = Config {
            role,
            tls: section(self.authority.node_as(host, roles).unwrap()),
            ..Config::default()
        };
        config.mirror.listen = "127.0.0.1:0".parse().unwrap();
        config.peer.listen = format!("{host}:0").parse().unwrap();
        config.scheduler.addresses = vec![self.scheduler.clone()];
        let registry = serde_json::json!({ "endpoint": self.origin });
        config.origin.registries.insert(
            "registry.test".to_owned(),
            serde_json::from_value(registry).unwrap(),
        );
        let parts = NodeParts {
            config,
            host: host.parse().unwrap(),
            network: Arc::new(TokioNetwork),
            zero_copy: ZeroCopy::new(Some(store.mappings())),
            store: Arc::new(store),
            registry: &mut Registry::default(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            seed: 7,
        };
        let node = start(parts).await.unwrap();
        let up = async {
            while node.scheduling.up_count() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let up = tokio::time::timeout(Duration::from_secs(20), up).await;
        up.expect("no stream to the scheduler");
        node
    }
}

impl Cluster {
    fn questions_need_a_certificate(&self) {
        let ask = |more: &[&std::ffi::OsStr]| {
            Command::new(env!("CARGO_BIN_EXE_darter"))
                .args(["scheduler", "hosts", "--address", &self.scheduler])
                .args(more)
                .env_clear()
                .output()
                .unwrap()
        };
        let plain = ask(&[]);
        assert_eq!(plain.status.code(), Some(1));
        assert!(plain.stdout.is_empty());
        let files = self.authority.node("operator").unwrap();
        let answer = ask(&[
            "--cert-file".as_ref(),
            files.cert_file.as_os_str(),
            "--key-file".as_ref(),
            files.key_file.as_os_str(),
            "--ca-file".as_ref(),
            files.ca_file.as_os_str(),
        ]);
        let text = String::from_utf8(answer.stdout).unwrap();
        assert!(text.contains("127.0.0.2") && text.contains("127.0.0.3"), "{text}");
    }
}

async fn scheduler(tls: TlsConfig, stop: &CancellationToken) -> (String, Supervisor) {
    let config = SchedulerConfig {
        listen: "127.0.0.1:0".into(),
        tls,
        ..SchedulerConfig::default()
    };
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let app = App::bind(&config, &network, &mut Registry::default(), 1, 1)
        .await
        .unwrap();
    let address = app.local_addr().unwrap().to_string();
    let mut supervisor = Supervisor::new(stop.clone());
    app.add_to(&mut supervisor, stop);
    (address, supervisor)
}

/// A scheduler, and what its nodes need. Ends with [`Running::end`].
struct Running {
    cluster: Cluster,
    origin: Origin,
    supervisor: Supervisor,
    _origin: RunningOrigin,
}

impl Running {
    async fn new() -> Self {
        let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let authority = Authority::new(dir.path()).unwrap();
        let files = section(
            authority
                .node_as("127.0.0.1", &[CertificateRole::Scheduler.uri()])
                .unwrap(),
        );
        let (address, supervisor) = scheduler(files, &stop).await;
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let cluster = Cluster {
            authority,
            origin: running.url(),
            scheduler: address,
            dir,
            tasks: Tasks::new(),
            stop,
        };
        Self {
            cluster,
            origin,
            supervisor,
            _origin: running,
        }
    }

    async fn end(self) {
        self.cluster.stop.cancel();
        self.cluster.tasks.shut_down(Duration::from_secs(5)).await;
        self.supervisor.run(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_certificates_fetches_a_blob_once() {
    let running = Running::new().await;
    let (cluster, origin) = (&running.cluster, &running.origin);
    let content = Content::generated(1, 3_000_001);
    let digest = origin.add_blob("team/app", content.clone());
    let nodes = [
        cluster.node("127.0.0.2", NodeRole::Seed).await,
        cluster.node("127.0.0.3", NodeRole::Peer).await,
    ];
    for node in &nodes {
        let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
        let answer = get(node.mirror_address.parse().unwrap(), &target, &[])
            .await
            .unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == content.read(0..content.len()), "wrong bytes");
    }
    assert_eq!(
        origin.bytes_sent_for(&digest),
        content.len(),
        "the second node did not get it from the first"
    );
    cluster.questions_need_a_certificate();
    running.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_content_is_fetched_once_and_read_by_those_who_may() {
    let running = Running::new().await;
    let (cluster, origin) = (&running.cluster, &running.origin);
    let content = Content::generated(1, 3_000_001);
    let digest = origin.add_blob("secret", content.clone());
    origin.set_access("secret", Access::Bearer { public: false });
    origin.allow("secret", "alice");
    for user in ["alice", "bob"] {
        origin.add_user(user, "pw");
        origin.add_token(
            &format!("{user}-token"),
            Some(user),
            &["secret"],
            Duration::from_secs(300),
        );
    }
    let target = format!("/v2/secret/blobs/{digest}?ns=registry.test");
    let alice = [("authorization", "Bearer alice-token")];
    // The seed has no credential: it neither fetches nor stands in the way.
    let _seed = cluster.node("127.0.0.2", NodeRole::Seed).await;
    for host in ["127.0.0.3", "127.0.0.4"] {
        let node = cluster.node(host, NodeRole::Peer).await;
        let mirror = node.mirror_address.parse().unwrap();
        let answer = get(mirror, &target, &alice).await.unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == content.read(0..content.len()), "wrong bytes");
        let bob = [("authorization", "Bearer bob-token")];
        for (headers, status) in [(&[][..], 401), (&bob[..], 403)] {
            let refused = get(mirror, &target, headers).await.unwrap();
            assert_eq!(refused.status, status, "{host}");
        }
    }
    assert_eq!(
        origin.bytes_sent_for(&digest),
        content.len(),
        "the second node did not get it from the first"
    );
    running.end().await;
}

/// A role that is to be refused, as a process, and the address that it must never listen on.
struct Attempt {
    child: Child,
    listen: SocketAddr,
}

impl Attempt {
    fn start(role: &str, dir: &Path, settings: &[String]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args([role, "run", "--set", "admin.listen=127.0.0.1:0"]);
        let key = if role == "proxy" { "peer.listen" } else { "listen" };
        command.args(["--set", &format!("{key}={listen}")]);
        if role == "proxy" {
            let store = format!("store.dir={}", dir.join("store").display());
            command.args(["--set", "host=127.0.0.1", "--set", &store]);
            command.args(["--set", "mirror.listen=127.0.0.1:0"]);
        }
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env_clear().stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        Self { child, listen }
    }

    /// How it ended, and what it said. Five seconds are the contract's.
    fn end(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            assert!(TcpStream::connect(self.listen).is_err(), "the port is open");
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > Duration::from_secs(5) {
                self.child.kill().unwrap();
                panic!("it runs");
            }
        };
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (status.code(), text)
    }
}

fn settings(files: &NodeFiles) -> Vec<String> {
    vec![
        format!("tls.certFile={}", files.cert_file.display()),
        format!("tls.keyFile={}", files.key_file.display()),
        format!("tls.caFile={}", files.ca_file.display()),
    ]
}

#[test]
fn files_that_are_wrong_are_no_reason_to_run_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path(), tempfile::tempdir().unwrap());
    let authority = Authority::new(path).unwrap();
    let good = authority
        .node_as("127.0.0.1", &["darter://role/seed", "darter://role/scheduler"])
        .unwrap();
    let stranger = Authority::new(other.path()).unwrap().node("127.0.0.1").unwrap();
    let peer = authority.node("127.0.0.7").unwrap();
    let expired = authority.expired("127.0.0.1").unwrap();
    let with = |change: &dyn Fn(&mut NodeFiles)| {
        let mut files = good.clone();
        change(&mut files);
        settings(&files)
    };
    let mut revoked = settings(&good);
    revoked.push("tls.revokedFile=/nonexistent".into());
    let cases = [
        (settings(&good)[..1].to_vec(), 64, "tls.keyFile: is missing"),
        (settings(&expired), 1, "expired"),
        (
            with(&|files| files.cert_file = path.join("nothing")),
            1,
            "cannot be read",
        ),
        // Root may read everything, but not a directory as a file.
        (
            with(&|files| files.key_file = path.to_owned()),
            1,
            "cannot be read",
        ),
        (
            with(&|files| files.key_file = peer.key_file.clone()),
            1,
            "127.0.0.1.pem",
        ),
        (
            with(&|files| files.ca_file = stranger.ca_file.clone()),
            1,
            "not signed by the CA",
        ),
        (
            with(&|files| files.ca_file = files.key_file.clone()),
            1,
            "there is no certificate",
        ),
        (revoked, 1, "/nonexistent: cannot be read"),
    ];
    for role in ["proxy", "scheduler"] {
        for (settings, status, reason) in &cases {
            let (code, text) = Attempt::start(role, path, settings).end();
            assert_eq!(code, Some(*status), "{role}, {reason}: {text}");
            assert!(text.contains(reason), "{role}, {reason}: {text}");
        }
    }
    // A certificate is for a name and a role.
    let (code, text) = Attempt::start("scheduler", path, &settings(&peer)).end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("darter://role/scheduler"), "{text}");
    let (code, text) = Attempt::start("proxy", path, &settings(&peer)).end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is not for this node"), "{text}");
}
