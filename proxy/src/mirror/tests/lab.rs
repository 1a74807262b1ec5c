//! A mirror whose contents are held in memory, and a plain client of registries for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use darter_origin::{Credentials, OriginError};
use darter_service::net::{Network as _, TokioNetwork};
use darter_service::supervise::Tasks;
use darter_testkit::client;
use darter_testkit::origin::{Origin, RunningOrigin};
use darter_types::{ByteRange, Digest, OriginLocator, TaskId};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response, StatusCode};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::super::*;
use crate::access::{AccessConfig, ContentHead, HeadResult, Relayed, TagQuery};
use crate::pull::PullRequest;
use crate::sendfile::ZeroCopy;

/// Speaks to registries as plainly as tests need: HEAD, GET, anonymous tokens. Their names are their addresses.
#[derive(Clone, Debug)]
pub(super) struct PlainUpstream;

impl PlainUpstream {
    async fn ask(
        &self,
        registry: &RegistryName,
        method: &str,
        path: &str,
        accept: &[HeaderValue],
        credentials: &Credentials,
    ) -> Result<client::Response, Arc<OriginError>> {
        let authorization = match credentials {
            Credentials::Anonymous => None,
            Credentials::Caller(value) => Some(value.to_str().unwrap().to_owned()),
        };
        let answer = self
            .once(registry, method, path, accept, authorization.as_deref())
            .await?;
        let challenged = answer.status == 401
            && answer
                .header("www-authenticate")
                .is_some_and(|c| c.contains("Bearer"));
        if !challenged || authorization.is_some() {
            return Ok(answer);
        }
        let name = path.trim_start_matches("/v2/").split(['/']).next().unwrap();
        let target = format!("/token?service=darter-testkit&scope=repository:{name}:pull");
        let token = self.once(registry, "GET", &target, &[], None).await?;
        let token: serde_json::Value = serde_json::from_slice(&token.body).unwrap();
        let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
        self.once(registry, method, path, accept, Some(&bearer)).await
    }

    async fn once(
        &self,
        registry: &RegistryName,
        method: &str,
        path: &str,
        accept: &[HeaderValue],
        authorization: Option<&str>,
    ) -> Result<client::Response, Arc<OriginError>> {
        let addr: SocketAddr = registry.as_str().parse().unwrap();
        let mut headers: Vec<(&str, &str)> = accept
            .iter()
            .map(|line| ("accept", line.to_str().unwrap()))
            .collect();
        headers.extend(authorization.map(|value| ("authorization", value)));
        let answer = match method {
            "HEAD" => client::head(addr, path, &headers).await,
            _ => client::get(addr, path, &headers).await,
        };
        answer.map_err(|error| {
            Arc::new(OriginError::Unreachable {
                registry: registry.to_string(),
                reason: error.to_string(),
            })
        })
    }

    async fn head_of(
        &self,
        registry: &RegistryName,
        path: &str,
        accept: &[HeaderValue],
        digest: Option<Digest>,
        credentials: &Credentials,
    ) -> HeadResult {
        let answer = self.ask(registry, "HEAD", path, accept, credentials).await?;
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        let unusable = |reason: &str| {
            Arc::new(OriginError::Unusable {
                registry: registry.to_string(),
                reason: reason.to_owned(),
            })
        };
        let told = answer
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok());
        Ok(ContentHead {
            digest: digest.or(told).ok_or_else(|| unusable("no digest"))?,
            length: answer.content_length(),
            media_type: answer.header("content-type").map(str::to_owned),
        })
    }
}

fn refusal(answer: &client::Response) -> Arc<OriginError> {
    let headers: HeaderMap = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "www-authenticate" || name == "content-type")
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    Arc::new(OriginError::Status {
        registry: "r.test".to_owned(),
        status: StatusCode::from_u16(answer.status).unwrap(),
        headers,
        body: answer.body.clone(),
    })
}

impl Upstream for PlainUpstream {
    fn head(&self, content: OriginLocator, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let this = self.clone();
        Box::pin(async move {
            this.head_of(
                &content.registry,
                &content.path(),
                &[],
                Some(content.digest),
                &credentials,
            )
            .await
        })
    }

    fn resolve(&self, tag: TagQuery, credentials: Credentials) -> BoxFuture<'static, HeadResult> {
        let this = self.clone();
        Box::pin(async move {
            let path = format!("/v2/{}/manifests/{}", tag.repository, tag.tag);
            this.head_of(&tag.registry, &path, &tag.accept, None, &credentials)
                .await
        })
    }

    fn sample(
        &self,
        content: OriginLocator,
        range: ByteRange,
        credentials: Credentials,
    ) -> BoxFuture<'static, Result<Bytes, Arc<OriginError>>> {
        let this = self.clone();
        Box::pin(async move {
            let answer = this
                .ask(&content.registry, "GET", &content.path(), &[], &credentials)
                .await?;
            match answer.status {
                200 => Ok(answer.body.slice(
                    range.indices().start.min(answer.body.len())..range.indices().end.min(answer.body.len()),
                )),
                _ => Err(refusal(&answer)),
            }
        })
    }

    fn relay(&self, request: Relayed) -> BoxFuture<'static, Result<Response<ReplyBody>, Arc<OriginError>>> {
        let this = self.clone();
        Box::pin(async move {
            let (registry, path, credentials) =
                (request.registry, request.path_and_query, request.credentials);
            let answer = this
                .ask(&registry, request.method.as_str(), &path, &[], &credentials)
                .await?;
            let mut response = Response::new(reply::whole(answer.body.clone()));
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
            for (name, value) in &answer.headers {
                let name: HeaderName = name.parse().unwrap();
                response.headers_mut().append(name, value.parse().unwrap());
            }
            Ok(response)
        })
    }
}

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
    upstream: PlainUpstream,
    pub(super) held: Arc<Mutex<BTreeMap<TaskId, (KnownContent, Bytes)>>>,
    pub(super) trouble: Arc<Mutex<BTreeMap<TaskId, Trouble>>>,
}

impl MemoryContents {
    async fn fetch(self, request: PullRequest) -> Result<(KnownContent, Bytes), PullError> {
        let task = request.task();
        if let Some(found) = self.held.lock().unwrap().get(&task) {
            return Ok(found.clone());
        }
        let path = request.locator.path();
        let answer = self
            .upstream
            .ask(&request.locator.registry, "GET", &path, &[], &request.credentials)
            .await;
        let answer = answer.map_err(PullError::Origin)?;
        if answer.status != 200 {
            return Err(PullError::Origin(refusal(&answer)));
        }
        let digest = request.locator.digest;
        if Digest::of(digest.algorithm(), &answer.body) != digest {
            return Err(PullError::WrongContent);
        }
        let known = KnownContent {
            length: answer.body.len() as u64,
            media_type: answer.header("content-type").map(str::to_owned),
            origin: Some(request.locator),
        };
        self.held
            .lock()
            .unwrap()
            .insert(task, (known.clone(), answer.body.clone()));
        Ok((known, answer.body))
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
        Ok(Arc::new(MemoryContent { contents, request }))
    }

    fn holds(&self, task: TaskId) -> Option<KnownContent> {
        let stuck = self.trouble.lock().unwrap().contains_key(&task);
        let held = self.held.lock().unwrap();
        held.get(&task).filter(|_| !stuck).map(|(known, _)| known.clone())
    }
}

impl OpenContent for MemoryContent {
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>> {
        let fetch = self.contents.clone().fetch(self.request.clone());
        Box::pin(async move { fetch.await.map(|(known, _)| known) })
    }

    fn awaits_origin(&self) -> bool {
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

/// A registry with faults and a mirror before it.
pub(super) struct Lab {
    pub(super) origin: Origin,
    pub(super) running: RunningOrigin,
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
        let upstream = PlainUpstream;
        let contents = MemoryContents {
            upstream: upstream.clone(),
            held: Arc::default(),
            trouble: Arc::default(),
        };
        let upstream: Arc<dyn Upstream> = Arc::new(upstream);
        let access = Access::new(Arc::clone(&upstream), AccessConfig::default(), [1; 32]);
        let mut metrics = Registry::default();
        let counters = MirrorMetrics::register(&mut metrics);
        let mirror = Mirror::new(config, Arc::new(contents.clone()), access, upstream, counters);
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
