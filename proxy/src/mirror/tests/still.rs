//! Nodes before a registry on pipes in memory, where a test may stop the clock: time passes only while nobody can do
//! anything, so that a deadline is kept or broken to the millisecond, on any machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use darter_origin::{Origins, RegistriesConfig, RegistryConfig};
use darter_service::net::{Address, BoxFuture, Listener, Network, PeerAddr, Stream};
use darter_service::supervise::Tasks;
use darter_testkit::client::{RawConnection, Response};
use darter_testkit::origin::Origin;
use darter_types::TaskId;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::super::client::Client;
use super::super::*;
use super::lab::MemoryContents;
use crate::access::AccessConfig;

const REGISTRY: &str = "registry.test";
/// What one direction of a connection holds.
const PIPE_BYTES: usize = 64 * 1024;

/// Every address leads to one registry.
#[derive(Debug)]
struct Pipes {
    origin: Origin,
    tasks: Tasks,
}

impl Network for Pipes {
    fn bind<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let origin = self.origin.clone();
        self.tasks
            .spawn("registry", async move { origin.serve_connection(far).await });
        Box::pin(async { Ok(Stream::Other(Box::new(near))) })
    }

    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Ok(vec!["203.0.113.1:80".parse().unwrap()]) })
    }
}

/// A registry and what its nodes hold in common, as if they had it from each other.
pub(super) struct Still {
    pub(super) origin: Origin,
    held: Arc<Mutex<BTreeMap<TaskId, (KnownContent, Bytes)>>>,
    /// Those that everybody may read.
    public: Arc<Mutex<BTreeSet<TaskId>>>,
    tasks: Tasks,
}

/// A node with its own memory of who may read what.
pub(super) struct StillNode {
    mirror: Mirror,
    tasks: Tasks,
}

impl Still {
    pub(super) fn new() -> Self {
        Self {
            origin: Origin::new(),
            held: Arc::default(),
            public: Arc::default(),
            tasks: Tasks::new(),
        }
    }

    /// A node with all settings as they are by default.
    pub(super) fn node(&self) -> StillNode {
        let plain = RegistryConfig {
            plain_http: true,
            ..RegistryConfig::default()
        };
        let config = RegistriesConfig {
            registries: [(REGISTRY.to_owned(), plain)].into(),
            ..RegistriesConfig::default()
        };
        let pipes = Pipes {
            origin: self.origin.clone(),
            tasks: self.tasks.clone(),
        };
        let origins = Origins::new(&config, Arc::new(pipes), 1).unwrap();
        let contents = MemoryContents {
            origins: origins.clone(),
            held: Arc::clone(&self.held),
            trouble: Arc::default(),
            public: Arc::clone(&self.public),
            lengths: Arc::default(),
        };
        let upstream: Arc<dyn Upstream> = Arc::new(origins);
        let access = Access::new(Arc::clone(&upstream), AccessConfig::default(), [1; 32]);
        let metrics = MirrorMetrics::register(&mut Registry::default());
        let config = MirrorConfig::default();
        StillNode {
            mirror: Mirror::new(config, Arc::new(contents), access, upstream, metrics, 7),
            tasks: self.tasks.clone(),
        }
    }
}

impl StillNode {
    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let mirror = self.mirror.clone();
        self.tasks.spawn("connection", async move {
            let far = Stream::Other(Box::new(far));
            let client = Client::of(&far, PeerAddr::Unix { uid: None });
            mirror
                .serve_connection(far, client, CancellationToken::new())
                .await;
        });
        let mut connection = RawConnection::new(near);
        let target = format!("{target}?ns={REGISTRY}");
        let asking = connection.request(method, "mirror", &target, headers);
        asking.await.unwrap();
        connection.read_response(method == "HEAD").await.unwrap()
    }

    pub(super) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.ask("GET", target, headers).await
    }

    pub(super) async fn head(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.ask("HEAD", target, headers).await
    }
}
