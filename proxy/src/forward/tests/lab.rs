//! A node with a forward proxy, a registry over TLS behind it, an authority for interception, and a client.

use std::fs::{Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use darter_origin::RegistryConfig;
use darter_service::net::{Network, Stream, TokioNetwork};
use darter_service::supervise::Tasks;
use darter_store::MemoryStore;
use darter_testkit::client::{RawConnection, Response};
use darter_testkit::origin::{Origin, RunningOrigin, TlsMode};
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::app::{Node, NodeParts, StartError, start};
use crate::config::Config;
use crate::sendfile::ZeroCopy;

/// A node with a forward proxy.
pub(super) struct Lab {
    pub(super) origin: Origin,
    pub(super) running: RunningOrigin,
    pub(super) node: Node,
    pub(super) metrics: Registry,
    pub(super) files: Files,
    stop: CancellationToken,
    tasks: Tasks,
}

/// Files that a configuration names.
pub(super) struct Files {
    dir: TempDir,
    /// The authority of the origin.
    pub(super) origin_ca: PathBuf,
    /// The authority for interception.
    pub(super) ca: PathBuf,
    pub(super) ca_key: PathBuf,
}

impl Files {
    fn new(running: &RunningOrigin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let files = Self {
            origin_ca: at("origin.pem"),
            ca: at("ca.pem"),
            ca_key: at("ca.key"),
            dir,
        };
        std::fs::write(&files.origin_ca, running.ca_pem.as_deref().unwrap_or_default()).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "interception");
        let key = KeyPair::generate().unwrap();
        std::fs::write(&files.ca, params.self_signed(&key).unwrap().pem()).unwrap();
        files.secret("ca.key", &key.serialize_pem());
        files
    }

    /// Writes a file that nobody else can read.
    pub(super) fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// Puts a node together; `edit` may change what it is told.
async fn node(
    config: Config,
    network: Arc<dyn Network>,
    metrics: &mut Registry,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Result<Node, StartError> {
    start(NodeParts {
        config,
        host: "node".parse().unwrap(),
        network,
        store: Arc::new(MemoryStore::new(1 << 30)),
        zero_copy: ZeroCopy::default(),
        registry: metrics,
        tasks: tasks.clone(),
        stop: stop.clone(),
        seed: 7,
        secret: [7; 32],
    })
    .await
}

pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.mirror.listen = "127.0.0.1:0".parse().unwrap();
    config.peer.listen = "127.0.0.1:0".parse().unwrap();
    config.forward.listen = Some("127.0.0.1:0".parse().unwrap());
    config.origin.retries = 0;
    config
}

/// A node that starts with this configuration, on this network.
pub(super) async fn start_with(
    config: Config,
    network: Arc<dyn Network>,
) -> Result<(Node, Tasks), StartError> {
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    let node = node(config, network, &mut Registry::default(), &tasks, &stop).await?;
    Ok((node, tasks))
}

impl Lab {
    /// The registry speaks TLS, and has an entry under `localhost:<port>`.
    pub(super) async fn new(edit: impl FnOnce(&mut Config, &Files, &RunningOrigin)) -> Self {
        let origin = Origin::new();
        let running = origin.spawn_on_loopback_tls(TlsMode::Valid).await.unwrap();
        Self::with(origin, running, edit).await
    }

    /// The same without TLS, with an entry under `127.0.0.1:<port>`.
    pub(super) async fn plain(edit: impl FnOnce(&mut Config, &Files, &RunningOrigin)) -> Self {
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        Self::with(origin, running, edit).await
    }

    async fn with(
        origin: Origin,
        running: RunningOrigin,
        edit: impl FnOnce(&mut Config, &Files, &RunningOrigin),
    ) -> Self {
        let files = Files::new(&running);
        let mut config = config();
        let secure = running.ca_pem.is_some();
        let entry = RegistryConfig {
            ca_file: secure.then(|| files.origin_ca.clone()),
            plain_http: !secure,
            ..RegistryConfig::default()
        };
        config.origin.registries.insert(authority(&running), entry);
        edit(&mut config, &files, &running);
        let (tasks, stop, mut metrics) = (Tasks::new(), CancellationToken::new(), Registry::default());
        let node = node(config, Arc::new(TokioNetwork), &mut metrics, &tasks, &stop)
            .await
            .unwrap();
        Self {
            origin,
            running,
            node,
            metrics,
            files,
            stop,
            tasks,
        }
    }

    /// The registry, as its clients name it.
    pub(super) fn authority(&self) -> String {
        authority(&self.running)
    }

    pub(super) fn proxy(&self) -> SocketAddr {
        self.node.forward_address.as_ref().unwrap().parse().unwrap()
    }

    /// A connection to the forward proxy.
    pub(super) async fn dial(&self) -> Stream {
        TokioNetwork.connect(&self.proxy().to_string()).await.unwrap()
    }

    /// Sends a whole request to the proxy and reads its answer.
    pub(super) async fn ask(&self, request: &str) -> Response {
        let mut connection = RawConnection::new(self.dial().await);
        connection.send(request.as_bytes()).await.unwrap();
        connection
            .read_response(request.starts_with("HEAD"))
            .await
            .unwrap()
    }

    /// A tunnel, or the status that refused it.
    pub(super) async fn tunnel(&self, authority: &str) -> Result<Stream, u16> {
        let mut stream = self.dial().await;
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let status = String::from_utf8(head).unwrap();
        match status.split(' ').nth(1).unwrap().parse().unwrap() {
            200 => Ok(stream),
            other => Err(other),
        }
    }

    /// TLS inside a tunnel to the registry, with only `ca` trusted.
    pub(super) async fn inside(&self, ca: &Path) -> std::io::Result<RawConnection<TlsStream<Stream>>> {
        let tunnel = self.tunnel(&self.authority()).await.unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&std::fs::read(ca)?).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tunnel).await?;
        Ok(RawConnection::new(tls))
    }

    /// One request in a tunnel that is looked into.
    pub(super) async fn ask_inside(&self, request: &str) -> Response {
        let mut connection = self.inside(&self.files.ca).await.unwrap();
        connection.send(request.as_bytes()).await.unwrap();
        connection
            .read_response(request.starts_with("HEAD"))
            .await
            .unwrap()
    }

    /// A GET as it is sent to the registry's own host.
    pub(super) fn get(&self, path: &str, headers: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
            self.authority()
        )
    }

    /// The value of a metric, by the start of its line.
    pub(super) fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
        assert!(self.tasks.running().is_empty());
    }
}

fn authority(running: &RunningOrigin) -> String {
    match running.ca_pem {
        Some(_) => format!("localhost:{}", running.addr.port()),
        None => running.host(),
    }
}

/// Lets the proxy end the TLS of the registry.
pub(super) fn intercept(config: &mut Config, files: &Files, _: &RunningOrigin) {
    config.forward.intercept.hosts = vec![crate::forward::HostPattern("localhost".into())];
    config.forward.intercept.ca_cert_file = Some(files.ca.clone());
    config.forward.intercept.ca_key_file = Some(files.ca_key.clone());
}
