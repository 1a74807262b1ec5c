//! A mirror whose contents are held in memory, before two registries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_origin::{OriginError, Origins, RegistriesConfig, RegistryConfig};
use darter_service::net::{Network as _, TokioNetwork};
use darter_service::supervise::Tasks;
use darter_testkit::client;
use darter_testkit::origin::{Origin, RunningOrigin};
use darter_types::{ByteRange, Digest, TaskId};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::super::*;
use crate::access::AccessConfig;
use crate::pull::PullRequest;
use crate::sendfile::ZeroCopy;

/// What goes wrong with a content's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The stream fails when this offset of the content is reached.
    FailsAt(u64),
    /// No byte ever comes.
    Stuck,
}

/// Contents in memory; what is not there is fetched from the registry, whole.
#[derive(Clone, Debug)]
pub(super) struct MemoryContents {
    pub(super) origins: Origins,
    pub(super) held: Arc<Mutex<BTreeMap<TaskId, (KnownContent, Bytes)>>>,
    pub(super) trouble: Arc<Mutex<BTreeMap<TaskId, Trouble>>>,
    /// Those that everybody may read.
    pub(super) public: Arc<Mutex<BTreeSet<TaskId>>>,
    /// The lengths that were known when they were opened last.
    pub(super) lengths: Arc<Mutex<BTreeMap<TaskId, Option<u64>>>>,
}

impl MemoryContents {
    async fn fetch(self, request: PullRequest) -> Result<(KnownContent, Bytes), PullError> {
        let task = request.task();
        if let Some(found) = self.held.lock().unwrap().get(&task) {
            return Ok(found.clone());
        }
        let failed = |error: OriginError| PullError::Origin(Arc::new(error));
        let locator = &request.locator;
        let mut fetch = self
            .origins
            .fetch(locator, 0, None, &request.credentials)
            .await
            .map_err(failed)?;
        let mut bytes = BytesMut::new();
        while let Some(part) = fetch.next().await.map_err(failed)? {
            bytes.extend_from_slice(&part);
        }
        let bytes = bytes.freeze();
        if Digest::of(locator.digest.algorithm(), &bytes) != locator.digest {
            return Err(PullError::WrongContent);
        }
        let known = KnownContent {
            length: bytes.len() as u64,
            media_type: fetch.media_type.clone(),
            origin: Some(request.locator),
        };
        if request.public {
            self.public.lock().unwrap().insert(task);
        }
        self.held
            .lock()
            .unwrap()
            .insert(task, (known.clone(), bytes.clone()));
        Ok((known, bytes))
    }
}

#[derive(Debug)]
struct MemoryContent {
    contents: MemoryContents,
    request: PullRequest,
}

impl Contents for MemoryContents {
    fn open(&self, request: PullRequest) -> Result<Arc<dyn OpenContent>, PullError> {
        let contents = self.clone();
        contents
            .lengths
            .lock()
            .unwrap()
            .insert(request.task(), request.length);
        Ok(Arc::new(MemoryContent { contents, request }))
    }

    fn holds(&self, task: TaskId) -> Option<KnownContent> {
        let stuck = self.trouble.lock().unwrap().contains_key(&task);
        let held = self.held.lock().unwrap();
        held.get(&task).filter(|_| !stuck).map(|(known, _)| known.clone())
    }

    fn source(&self, task: TaskId) -> Option<Source> {
        let held = self.held.lock().unwrap();
        held.get(&task).map(|(known, _)| Source {
            origin: known.origin.clone(),
            public: self.public.lock().unwrap().contains(&task),
        })
    }
}

impl OpenContent for MemoryContent {
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>> {
        let fetch = self.contents.clone().fetch(self.request.clone());
        Box::pin(async move { fetch.await.map(|(known, _)| known) })
    }

    fn awaits_origin(&self, _: Instant) -> bool {
        true
    }

    fn read(&self, range: ByteRange) -> ContentStream {
        let trouble = self
            .contents
            .trouble
            .lock()
            .unwrap()
            .get(&self.request.task())
            .copied();
        let fetch = self.contents.clone().fetch(self.request.clone());
        let failed = || Err(PullError::Stalled(Duration::from_secs(10)));
        let stream = futures_util::stream::once(async move {
            let bytes = match (fetch.await, trouble) {
                (_, Some(Trouble::Stuck)) => std::future::pending().await,
                (Err(error), _) => return vec![Err(error)],
                (Ok((_, bytes)), trouble) => bytes.slice(range.indices()).slice(
                    ..match trouble {
                        Some(Trouble::FailsAt(at)) => {
                            ByteRange::new(range.start, at.min(range.end)).indices().len()
                        }
                        _ => ByteRange::new(0, range.len()).indices().len(),
                    },
                ),
            };
            let mut parts: Vec<Result<Bytes, PullError>> = (0..bytes.len())
                .step_by(100_000)
                .map(|at| Ok(bytes.slice(at..bytes.len().min(at + 100_000))))
                .collect();
            if (bytes.len() as u64) < range.len() {
                parts.push(failed());
            }
            parts
        });
        Box::pin(stream.flat_map(futures_util::stream::iter))
    }
}

/// The real client of registries, without retries: tests count requests.
fn origins_at(hosts: &[String]) -> Origins {
    let plain = RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    };
    let config = RegistriesConfig {
        registries: hosts.iter().map(|host| (host.clone(), plain.clone())).collect(),
        retries: 0,
        ..RegistriesConfig::default()
    };
    Origins::new(&config, Arc::new(TokioNetwork), 1).unwrap()
}

/// Registries with faults and a mirror before them.
pub(super) struct Lab {
    pub(super) origin: Origin,
    pub(super) running: RunningOrigin,
    /// A second registry.
    pub(super) other: Origin,
    pub(super) other_running: RunningOrigin,
    pub(super) mirror: SocketAddr,
    pub(super) contents: MemoryContents,
    pub(super) metrics: Registry,
    _tasks: Tasks,
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::with(MirrorConfig::default()).await
    }

    pub(super) async fn with(config: MirrorConfig) -> Self {
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let other = Origin::new();
        let other_running = other.spawn_on_loopback().await.unwrap();
        let origins = origins_at(&[running.host(), other_running.host()]);
        let contents = MemoryContents {
            origins: origins.clone(),
            held: Arc::default(),
            trouble: Arc::default(),
            public: Arc::default(),
            lengths: Arc::default(),
        };
        let upstream: Arc<dyn Upstream> = Arc::new(origins);
        let access = Access::new(Arc::clone(&upstream), AccessConfig::default(), [1; 32]);
        let mut metrics = Registry::default();
        let counters = MirrorMetrics::register(&mut metrics);
        let mirror = Mirror::new(config, Arc::new(contents.clone()), access, upstream, counters, 7);
        let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let connections = tasks.clone();
        tasks.spawn("mirror", async move {
            mirror
                .serve(
                    listener,
                    &connections,
                    ZeroCopy::default(),
                    CancellationToken::new(),
                )
                .await;
        });
        Self {
            origin,
            running,
            other,
            other_running,
            mirror: addr,
            contents,
            metrics,
            _tasks: tasks,
        }
    }

    /// `target` with `ns`, as containerd asks.
    pub(super) fn target(&self, target: &str) -> String {
        let separator = if target.contains('?') { '&' } else { '?' };
        format!("{target}{separator}ns={}", self.running.host())
    }

    pub(super) async fn get(&self, target: &str, headers: &[(&str, &str)]) -> client::Response {
        client::get(self.mirror, &self.target(target), headers)
            .await
            .unwrap()
    }

    pub(super) async fn head(&self, target: &str, headers: &[(&str, &str)]) -> client::Response {
        client::head(self.mirror, &self.target(target), headers)
            .await
            .unwrap()
    }

    /// The blob is not here any more.
    pub(super) fn forget(&self, digest: &str) {
        let task = digest.parse::<Digest>().unwrap().into();
        self.contents.held.lock().unwrap().remove(&task);
    }

    pub(super) fn trouble(&self, digest: &str, trouble: Option<Trouble>) {
        let task = digest.parse::<Digest>().unwrap().into();
        let mut troubles = self.contents.trouble.lock().unwrap();
        match trouble {
            Some(trouble) => troubles.insert(task, trouble),
            None => troubles.remove(&task),
        };
    }
}

/// All headers but `Date`, and those that tell the body.
pub(super) fn headers_of(answer: &client::Response) -> Vec<(String, String)> {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| name != "date")
        .cloned()
        .collect();
    headers.sort();
    headers
}
