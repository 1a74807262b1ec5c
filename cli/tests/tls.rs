//! A cluster whose members have certificates: one origin fetch for two nodes, and no start with files that are wrong.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, start};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::sendfile::ZeroCopy;
use darter_scheduler::app::App;
use darter_scheduler::config::Config as SchedulerConfig;
use darter_service::net::{Network, TokioNetwork};
use darter_service::supervise::{Supervisor, Tasks};
use darter_service::tls::TlsConfig;
use darter_store::{DiskOptions, DiskStore};
use darter_testkit::authority::{Authority, NodeFiles};
use darter_testkit::client::{End, get};
use darter_testkit::content::Content;
use darter_testkit::origin::Origin;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

fn section(files: NodeFiles) -> TlsConfig {
    TlsConfig {
        cert_file: Some(files.cert_file),
        key_file: Some(files.key_file),
        ca_file: Some(files.ca_file),
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
        let mut config = Config {
            role,
            tls: section(self.authority.node(host).unwrap()),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_certificates_fetches_a_blob_once() {
    let (dir, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let authority = Authority::new(dir.path()).unwrap();
    let files = section(authority.node("127.0.0.1").unwrap());
    let (address, supervisor) = scheduler(files, &stop).await;
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let content = Content::generated(1, 3_000_001);
    let digest = origin.add_blob("team/app", content.clone());
    let cluster = Cluster {
        authority,
        origin: running.url(),
        scheduler: address,
        dir,
        tasks: Tasks::new(),
        stop: stop.clone(),
    };
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
    stop.cancel();
    cluster.tasks.shut_down(Duration::from_secs(5)).await;
    supervisor.run(Duration::from_secs(5)).await;
}

fn refused(role: &str, dir: &Path, settings: &[String]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    command.args([role, "run", "--set", "admin.listen=127.0.0.1:0"]);
    if role == "proxy" {
        let store = format!("store.dir={}", dir.join("store").display());
        command.args(["--set", "host=here", "--set", &store]);
    }
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.env_clear().output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn files_that_are_wrong_are_no_reason_to_run_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::new(dir.path()).unwrap().expired("here").unwrap();
    for role in ["proxy", "scheduler"] {
        let cert = format!("tls.certFile={}", files.cert_file.display());
        let (code, text) = refused(role, dir.path(), std::slice::from_ref(&cert));
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains("tls.keyFile: is missing"), "{text}");
        let all = [
            cert,
            format!("tls.keyFile={}", files.key_file.display()),
            format!("tls.caFile={}", files.ca_file.display()),
        ];
        let (code, text) = refused(role, dir.path(), &all);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("darter: tls: ") && text.contains("expired"),
            "{text}"
        );
    }
}
