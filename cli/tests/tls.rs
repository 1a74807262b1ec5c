//! A cluster whose members have certificates: one origin fetch for two nodes, and no start with files that are wrong.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::forward::{RuleAction, RuleConfig};
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
use darter_testkit::origin::{Access, Fault, Match, Origin, RedirectTo, RunningOrigin, When};
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
        self.node_with(host, role, |_| ()).await
    }

    async fn node_with(&self, host: &str, role: NodeRole, edit: impl FnOnce(&mut Config)) -> Node {
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
        edit(&mut config);
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
            secret: [7; 32],
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
    let address = app.address().to_owned();
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

/// Each client has a signature of its own, which its node shows to the CDN for one byte; the content comes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_finds_at_a_cdn_is_fetched_once_for_two_nodes() {
    let running = Running::new().await;
    let (cluster, origin, cdn) = (&running.cluster, &running.origin, &running._origin);
    let content = Content::generated(1, 3_000_001);
    let digest = origin.add_blob("a", content.clone());
    let blob = format!("/v2/a/blobs/{digest}");
    let redirect = Fault::Redirect(RedirectTo::Presigned {
        host: None,
        valid: Duration::from_secs(600),
    });
    origin.inject(Match::path(&blob), When::Always, redirect);
    let mut urls = Vec::new();
    for _ in 0..2 {
        let answer = get(cdn.addr, &blob, &[]).await.unwrap();
        urls.push(format!(
            "http://{}{}",
            cdn.host(),
            answer.header("location").unwrap()
        ));
    }
    origin.reset_counters();
    let shares = |config: &mut Config| {
        config.forward.listen = Some("127.0.0.1:0".parse().unwrap());
        config.forward.rules = vec![RuleConfig {
            url: format!("^http://{}/storage/(?<digest>sha256:[0-9a-f]{{64}})", cdn.host()),
            action: RuleAction::P2p,
            ignore_query: vec!["sig".into()],
            ..RuleConfig::default()
        }];
        let entry = serde_json::json!({ "plainHttp": true });
        let entry = serde_json::from_value(entry).unwrap();
        config.origin.registries.insert(cdn.host(), entry);
    };
    for (host, url) in ["127.0.0.2", "127.0.0.3"].into_iter().zip(&urls) {
        let node = cluster.node_with(host, NodeRole::Peer, shares).await;
        let proxy = node.forward_address.as_ref().unwrap().parse().unwrap();
        let answer = get(proxy, url, &[]).await.unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert!(answer.body == content.read(0..content.len()), "wrong bytes");
    }
    assert_eq!(origin.bytes_sent_for(&digest), content.len() + 2);
    running.end().await;
}

/// Lets a user read a repository, by a token that is named after him.
fn reader(origin: &Origin, user: &str, repository: &str) {
    origin.set_access(repository, Access::Bearer { public: false });
    origin.add_user(user, "pw");
    origin.allow(repository, user);
    let life = Duration::from_secs(300);
    origin.add_token(&format!("{user}-token"), Some(user), &[repository], life);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_opens_no_other_repositorys_content_on_another_node_either() {
    let running = Running::new().await;
    let (cluster, origin) = (&running.cluster, &running.origin);
    let content = Content::generated(1, 3_000_001);
    let digest = origin.add_blob("secret", content.clone());
    reader(origin, "alice", "secret");
    reader(origin, "bob", "own");
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":3000001}},"layers":[{{"digest":"{digest}","size":3000001}}]}}"#
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = origin.add_manifest("own", None, media_type, text);
    let alice = [("authorization", "Bearer alice-token")];
    let bob = [("authorization", "Bearer bob-token")];
    let ask = async |node: &Node, path: String, who: &[(&str, &str)]| {
        let target = format!("{path}?ns=registry.test");
        get(node.mirror_address.parse().unwrap(), &target, who)
            .await
            .unwrap()
    };
    let first = cluster.node("127.0.0.2", NodeRole::Peer).await;
    let answer = ask(&first, format!("/v2/secret/blobs/{digest}"), &alice).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));

    let second = cluster.node("127.0.0.3", NodeRole::Peer).await;
    let named = format!("/v2/own/manifests/{manifest}");
    assert_eq!(ask(&second, named.clone(), &bob).await.status, 200);
    let stolen = ask(&second, format!("/v2/own/blobs/{digest}"), &bob).await;
    // The manifest tells a length, so headers may have gone before the registry said no.
    let nothing = stolen.status != 200 || stolen.body.is_empty();
    assert!(nothing, "bytes of it were given away: {stolen:?}");

    // It is in his repository by now: he may have it, and from the node that has it.
    origin.add_blob("own", content.clone());
    let third = cluster.node("127.0.0.4", NodeRole::Peer).await;
    assert_eq!(ask(&third, named, &bob).await.status, 200);
    let answer = ask(&third, format!("/v2/own/blobs/{digest}"), &bob).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == content.read(0..content.len()), "wrong bytes");
    let path = format!("/v2/own/blobs/{digest}");
    assert!(
        origin.requests(&http::Method::HEAD, &path) > 0,
        "nobody asked about the content itself"
    );
    assert_eq!(
        origin.bytes_sent_for(&digest),
        content.len(),
        "the third node did not get it from the first"
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

/// A process and all that it runs.
fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: u32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |link: std::path::PathBuf| {
        let text = link.to_string_lossy().into_owned();
        Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    links.filter_map(inode).collect()
}

/// An address as the kernel writes it: words of 32 bits in the order of this machine, and a port.
fn address(text: &str) -> SocketAddr {
    let (host, port) = text.split_once(':').unwrap();
    let word = |at: usize| u32::from_str_radix(&host[at..at + 8], 16).unwrap().to_ne_bytes();
    let bytes: Vec<u8> = (0..host.len()).step_by(8).flat_map(word).collect();
    let ip: IpAddr = match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(bytes) => bytes.into(),
        Err(_) => <[u8; 4]>::try_from(bytes.as_slice()).unwrap().into(),
    };
    SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).unwrap())
}

/// Where a process, and those that it runs, listen by TCP.
fn listeners(pid: u32) -> Vec<SocketAddr> {
    let own: Vec<String> = family(pid).into_iter().flat_map(sockets).collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    let listening = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // sl, local, remote, state (0A listens), …, inode
        let ours = fields[3] == "0A" && own.iter().any(|inode| inode == fields[9]);
        ours.then(|| address(fields[1]))
    });
    listening.collect()
}

/// The first byte that comes back for what is said in plain; `None` when the connection ends without one.
fn first_byte(port: u16, said: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(said).unwrap();
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => Some(byte[0]),
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("port {port} neither answers nor ends: {error}"),
    }
}

#[test]
fn with_certificates_nothing_is_said_in_plain_but_on_loopback() {
    /// The kind of a TLS record that ends a connection (RFC 8446 section 5.1).
    const ALERT: u8 = 21;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path()).unwrap();
    let files = authority
        .node_as("127.0.0.1", &["darter://role/seed", "darter://role/scheduler"])
        .unwrap();
    for role in ["proxy", "scheduler"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command.args([role, "run", "--set", "admin.listen=127.0.0.1:0"]);
        let more = match role {
            "proxy" => vec![
                "host=127.0.0.1".to_owned(),
                format!("store.dir={}", dir.path().join("store").display()),
                "mirror.listen=127.0.0.1:0".to_owned(),
                "peer.listen=0.0.0.0:0".to_owned(),
            ],
            _ => vec!["listen=0.0.0.0:0".to_owned()],
        };
        for setting in settings(&files).iter().chain(&more) {
            command.args(["--set", setting]);
        }
        let mut child = command.env_clear().stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = log.any(|line| line.unwrap().contains(&format!("{role} is ready")));
        assert!(ready, "{role} ended");
        let all = listeners(child.id());
        let open: Vec<u16> = all
            .iter()
            .filter(|listener| !listener.ip().is_loopback())
            .map(SocketAddr::port)
            .collect();
        for port in &open {
            for said in [
                &b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..],
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            ] {
                let byte = first_byte(*port, said);
                assert!(
                    byte.is_none_or(|byte| byte == ALERT),
                    "{role} at {port}: {byte:?}"
                );
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(open.len(), 1, "{role} listens at {all:?}");
        assert!(all.len() > 1, "{role} listens at {all:?}");
    }
}
