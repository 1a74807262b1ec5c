//! The HTTP front of a node: a read-only mirror of registries, by distribution-spec v1.1.
//!
//! Start at [`Mirror::answer`]: it finds the endpoint ([`path`]), asks [`crate::access`] whether the caller may read,
//! and answers from [`Contents`]. `blob` and `manifest` are one file an endpoint; `passthrough` has those that are
//! the registry's own. It downloads nothing itself, and speaks to registries only by [`crate::access::Upstream`].
//!
//! What must hold: no answer depends on what is cached but in its speed; headers within a second or a 503; a body
//! is exactly what its headers say, or the connection ends by FIN.

mod blob;
mod body;
pub(crate) mod client;
mod config;
mod content;
mod giveup;
mod local_user;
pub mod manifest;
mod memory;
mod metrics;
mod passthrough;
pub mod path;
mod possession;
pub mod range;
pub mod reply;
mod room;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use darter_origin::{ContentAddress, OriginError};
use darter_service::http_server::hygiene;
use darter_service::trace_context;
use darter_types::{OriginLocator, RegistryName};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::access::{Access, Asker, Permit, Proof, Upstream, Verdict, verdict};
use crate::journal::{Entry, Journal};
use crate::pull::PullError;

use body::Held;
use client::Client;
use giveup::Streams;
use memory::Memory;
use path::{Endpoint, Route, Target};
use reply::Code;
use room::Room;

pub use config::MirrorConfig;
pub(crate) use config::is_local;
pub use content::{ContentStream, Contents, KnownContent, OpenContent, Source};
pub use metrics::MirrorMetrics;
pub use reply::{BodyError, Reply, ReplyBody};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// On `/v2/` alone: the number of this life of this node, by which it knows its own answers.
pub(crate) const INSTANCE: &str = "darter-instance";
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// The mirror of one node. Clones share everything.
#[derive(Clone, Debug)]
pub struct Mirror {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: MirrorConfig,
    contents: Arc<dyn Contents>,
    access: Access,
    upstream: Arc<dyn Upstream>,
    streams: Streams,
    memory: Memory,
    room: Room,
    requests: Arc<Semaphore>,
    metrics: MirrorMetrics,
    instance: HeaderValue,
    journal: Journal,
}

/// One request, as the endpoints see it.
#[derive(Debug)]
struct Ask {
    method: Method,
    headers: HeaderMap,
    target: Target,
    /// Where the client was told to ask, where that is no path of the specification.
    address: Option<Arc<ContentAddress>>,
    arrived: Instant,
    /// Over which connection it came; `None` where there is none.
    client: Option<Client>,
}

/// A content that was found without reading a path of the mirror's own.
#[derive(Debug)]
struct Found {
    target: Target,
    address: Option<Arc<ContentAddress>>,
}

impl Ask {
    fn asker(&self) -> Asker<'_> {
        Asker {
            authorization: self.headers.get(AUTHORIZATION),
            client: self.client.as_ref(),
        }
    }

    fn origin_error(&self, problem: &OriginError) -> Reply {
        reply::origin_error(problem, self.absent())
    }

    fn pull_error(&self, problem: &PullError) -> Reply {
        reply::pull_error(problem, self.absent())
    }

    /// The code that says that the registry does not have what was asked for.
    fn absent(&self) -> Code {
        match self.target.endpoint {
            Endpoint::Manifest(_) => Code::ManifestUnknown,
            Endpoint::Blob(_) => Code::BlobUnknown,
            Endpoint::Referrers(_) | Endpoint::Tags => Code::NameUnknown,
        }
    }

    fn text(&self, name: HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        // Neither Range nor If-Range is a list over several lines; what is ambiguous is ignored.
        values.next().is_none().then_some(first)?.to_str().ok()
    }
}

impl Mirror {
    /// A mirror that serves `contents` to whom `access` allows it.
    pub fn new(
        config: MirrorConfig,
        contents: Arc<dyn Contents>,
        access: Access,
        upstream: Arc<dyn Upstream>,
        metrics: MirrorMetrics,
        instance: u64,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                streams: Streams::new(config.hand_over.as_duration()),
                memory: Memory::new(config.tags_max, config.lengths_max),
                room: metrics.room(config.buffer_bytes_max.as_usize()),
                requests: Arc::new(Semaphore::new(config.requests_max.min(Semaphore::MAX_PERMITS))),
                contents,
                access,
                upstream,
                metrics,
                instance: HeaderValue::from(instance),
                journal: Journal::new(),
                config,
            }),
        }
    }

    /// The same, which writes its requests into a journal. To be called before it is shared.
    pub fn recording(mut self, journal: Journal) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.journal = journal;
        }
        self
    }

    /// Answers one request. Dropping the future, or the body that it gives, ends the work for it.
    pub async fn answer<B: Body>(&self, request: Request<B>) -> Reply {
        let arrived = Instant::now();
        let wordy = !request.body().is_end_stream();
        let (parts, _) = request.into_parts();
        let reply = self.within_limits(parts, arrived, None).await;
        // A body that nobody wanted is not waited for.
        if wordy { reply::close_after(reply) } else { reply }
    }

    /// Answers one request for a content that [`path::content_at`] found.
    pub(crate) async fn answer_content(&self, parts: http::request::Parts, target: Target) -> Reply {
        let found = Found {
            target,
            address: None,
        };
        self.within_limits(parts, Instant::now(), Some(found)).await
    }

    /// Answers one request for a blob that lies at an address of the client's own.
    pub(crate) async fn answer_address(
        &self,
        parts: http::request::Parts,
        target: Target,
        address: ContentAddress,
    ) -> Reply {
        let address = Some(Arc::new(address));
        let found = Found { target, address };
        self.within_limits(parts, Instant::now(), Some(found)).await
    }

    async fn within_limits(
        &self,
        parts: http::request::Parts,
        arrived: Instant,
        found: Option<Found>,
    ) -> Reply {
        let head = parts.method == Method::HEAD;
        let (label, reply) = match Arc::clone(&self.inner.requests).try_acquire_owned() {
            Err(_) => (
                "busy",
                reply::busy("this mirror answers as many requests as it may"),
            ),
            Ok(slot) => {
                let (label, reply, entry) = match found {
                    Some(found) => self.endpoint(parts, arrived, found).await,
                    None => self.route(parts, arrived).await,
                };
                if let Some(entry) = &entry {
                    entry.answered(reply.status().as_u16());
                }
                // Errors are no contents.
                let content = reply.status().is_success() && label != "ping";
                let first_byte = content.then(|| (self.inner.metrics.clone(), arrived));
                let hold = |body| Held::new(body, slot, first_byte, entry).boxed_unsync();
                (label, reply.map(hold))
            }
        };
        let mut reply = if head { reply::without_body(reply) } else { reply };
        reply::set(&mut reply, API_VERSION, HeaderValue::from_static("registry/2.0"));
        self.inner
            .metrics
            .answered(label, reply.status(), arrived.elapsed());
        reply
    }

    async fn route(
        &self,
        parts: http::request::Parts,
        arrived: Instant,
    ) -> (&'static str, Reply, Option<Entry>) {
        if let Err(problem) = hygiene::check_final(&parts) {
            let refused = reply::error(StatusCode::BAD_REQUEST, Code::Unsupported, problem);
            return ("other", reply::close_after(refused), None);
        }
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return ("other", reply::read_only(), None);
        }
        let default = self.inner.config.default_registry.as_ref();
        let (path, query) = (parts.uri.path(), parts.uri.query());
        let local = parts.extensions.get().is_some_and(Client::is_local);
        let route = if self.inner.config.takes_registry_headers(local) {
            path::route(path, query, &parts.headers, default)
        } else {
            path::route(path, query, &HeaderMap::new(), default)
        };
        let target = match route {
            Ok(Route::Ping) => return ("ping", self.ping(), None),
            Ok(Route::Endpoint(target)) => target,
            Err(problem) => return ("other", reply::route_error(&problem), None),
        };
        let found = Found {
            target,
            address: None,
        };
        self.endpoint(parts, arrived, found).await
    }

    async fn endpoint(
        &self,
        parts: http::request::Parts,
        arrived: Instant,
        Found { target, address }: Found,
    ) -> (&'static str, Reply, Option<Entry>) {
        let label = target.endpoint.label();
        let entry = self.inner.journal.request(
            target.registry.as_str(),
            target.repository.as_str(),
            target.endpoint.to_string(),
            parts.method == Method::HEAD,
            arrived,
        );
        let span = entry.span();
        trace_context::adopt(&span, &parts.headers);
        let ask = Ask {
            method: parts.method,
            headers: parts.headers,
            target,
            address,
            arrived,
            client: parts.extensions.get().cloned(),
        };
        let answer = async {
            match ask.target.endpoint.clone() {
                Endpoint::Blob(digest) => self.blob(&ask, digest).await,
                Endpoint::Manifest(reference) => self.manifest(&ask, reference).await,
                Endpoint::Referrers(_) | Endpoint::Tags => self.pass_through(&ask).await,
            }
        };
        let answer = answer.instrument(span).await;
        let mut reply = answer.unwrap_or_else(|refusal| *refusal);
        reply::set_text(&mut reply, NAMESPACE, ask.target.registry.as_str());
        (label, reply, Some(entry))
    }
}

impl Mirror {
    /// How much of each kind is remembered of earlier answers.
    pub(crate) fn remembered(&self) -> [(&'static str, usize); 4] {
        let [tags, lengths] = self.inner.memory.kept();
        let [grants, refusals] = self.inner.access.kept();
        [
            ("tags", tags),
            ("lengths", lengths),
            ("grants", grants),
            ("refusals", refusals),
        ]
    }

    /// How long and large the head of a request may be.
    pub(crate) fn heads(&self) -> server::Heads {
        server::Heads::of(&self.inner.config)
    }

    /// Somebody speaks the distribution specification here, and it is this node.
    fn ping(&self) -> Reply {
        let mut reply = reply::bytes(StatusCode::OK, "application/json", "{}");
        reply::set(
            &mut reply,
            HeaderName::from_static(INSTANCE),
            self.inner.instance.clone(),
        );
        reply
    }
}

/// What an endpoint answers; an error is an answer as well, boxed because it is rarely one.
type Answer = Result<Reply, Box<Reply>>;

fn refuse(reply: Reply) -> Box<Reply> {
    Box::new(reply)
}

impl Mirror {
    /// Which proof the caller's right needs, given where what is here came from. Whoever may write to a repository can
    /// push a manifest that names anything: it opens what the registry gave for another repository to anybody, and nothing
    /// that it gave in confidence.
    fn proof(&self, ask: &Ask, content: &OriginLocator, held: Option<&KnownContent>) -> Proof {
        if ask.address.is_some() {
            return match held.is_some_and(|held| self.must_show(ask, content, held)) {
                true => Proof::Itself,
                false => Proof::Named,
            };
        }
        let source = self.inner.contents.source(content.digest.into());
        let confided = source.is_some_and(|source| {
            let beside = source.origin.is_some_and(|origin| origin.is_beside(content));
            !source.public && !beside
        });
        if confided || self.is_foreign(content, held) {
            Proof::Itself
        } else {
            Proof::Named
        }
    }

    /// Whether who says yes must show that it has what is here. Anybody may put something else at an address that names its
    /// digest: only the very place is the same.
    fn must_show(&self, ask: &Ask, content: &OriginLocator, held: &KnownContent) -> bool {
        match ask.address {
            Some(_) => held.origin.as_ref() != Some(content),
            None => self.is_foreign(content, Some(held)),
        }
    }

    /// Whether the whole that is here came from a registry that does not vouch for this one, which did not show either
    /// that it has it.
    fn is_foreign(&self, content: &OriginLocator, held: Option<&KnownContent>) -> bool {
        let origin = held.and_then(|held| held.origin.as_ref());
        let trust = self.inner.access.config();
        !self.inner.memory.is_source(content)
            && origin.is_some_and(|origin| !trust.trust_each_other(&origin.registry, &content.registry))
    }

    /// The right to read a content; a refusal is the answer to send.
    async fn permit(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        held: Option<&KnownContent>,
    ) -> Result<Permit, Box<Reply>> {
        if let Some(address) = &ask.address {
            let check = self.inner.access.check_address(content, address);
            let answer = self.in_time(ask, &content.registry, self.patience(held), check);
            return answer.await.map_err(|problem| refuse(ask.origin_error(&problem)));
        }
        let proof = self.proof(ask, content, held);
        let permit = self.permit_by(ask, content, held, proof).await?;
        // While the registry was asked, somebody else's pull of it may have begun.
        if proof == Proof::Named
            && !permit.is_about(content)
            && self.proof(ask, content, held) == Proof::Itself
        {
            return self.permit_by(ask, content, held, Proof::Itself).await;
        }
        Ok(permit)
    }

    async fn permit_by(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        held: Option<&KnownContent>,
        proof: Proof,
    ) -> Result<Permit, Box<Reply>> {
        let access = &self.inner.access;
        let check = access.check(content, ask.asker(), proof);
        let problem = match self
            .in_time(ask, &content.registry, self.patience(held), check)
            .await
        {
            Ok(permit) => return Ok(permit),
            Err(problem) => problem,
        };
        // The question may have been cut off by its deadline.
        let usable = match verdict(&problem) {
            Verdict::CannotTell => access.usable_while_unreachable(content, ask.asker(), proof),
            _ => None,
        };
        usable.ok_or_else(|| refuse(ask.origin_error(&problem)))
    }

    /// How long the registry may take, if it can be reached. Where the content is here, the client is better served by
    /// its next host than by waiting; where it is not, the registry is needed in any case.
    fn patience(&self, held: Option<&KnownContent>) -> Duration {
        match held {
            Some(_) => self.inner.config.first_byte_deadline.as_duration(),
            None => self.inner.config.slow_origin_deadline.as_duration(),
        }
    }

    /// A question to a registry, with the time that is left for it since the request arrived. A registry that takes no
    /// connection has no longer than any other answer: `patience` is for one that was reached and thinks.
    async fn in_time<T>(
        &self,
        ask: &Ask,
        registry: &RegistryName,
        patience: Duration,
        question: impl Future<Output = Result<T, Arc<OriginError>>>,
    ) -> Result<T, Arc<OriginError>> {
        let mut question = pin!(question);
        let first = patience.min(self.inner.config.first_byte_deadline.as_duration());
        let mut waited = first;
        let mut answer = timeout_at(ask.arrived + first, &mut question).await;
        if answer.is_err() && first < patience && self.inner.upstream.is_answering(registry, ask.arrived) {
            waited = patience;
            answer = timeout_at(ask.arrived + patience, question).await;
        }
        answer.unwrap_or_else(|_| {
            Err(Arc::new(OriginError::Silent {
                registry: registry.to_string(),
                waited,
            }))
        })
    }

    /// What is known of an open content, as soon as it is; waits longer while its registry owes an answer.
    async fn known(&self, ask: &Ask, content: &dyn OpenContent) -> Result<KnownContent, Box<Reply>> {
        let config = &self.inner.config;
        let mut known = content.known();
        let failed = |problem: PullError| refuse(ask.pull_error(&problem));
        if let Ok(known) =
            timeout_at(ask.arrived + config.first_byte_deadline.as_duration(), &mut known).await
        {
            return known.map_err(failed);
        }
        if content.awaits_origin(ask.arrived)
            && let Ok(known) = timeout_at(
                ask.arrived + config.slow_origin_deadline.as_duration(),
                &mut known,
            )
            .await
        {
            return known.map_err(failed);
        }
        Err(failed(PullError::Stalled(ask.arrived.elapsed())))
    }
}
