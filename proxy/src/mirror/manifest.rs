//! `/v2/<name>/manifests/<reference>`: byte for byte what the registry has.
//!
//! By digest a manifest is a content like a blob, shared between nodes. A tag is asked of its registry each time,
//! by a HEAD that carries the client's own `Accept`. What a manifest names is remembered: its sizes make blobs
//! start without a question, and the right to read it covers them.

mod document;

use std::sync::Arc;

use bytes::Bytes;
use darter_origin::OriginError;
use darter_types::{ByteRange, ContentKind, Digest, ManifestReference, OriginLocator, Tag};
use futures_util::StreamExt as _;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, WARNING};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;

use crate::access::{ContentHead, Permit, TagQuery, Verdict, verdict};
use crate::pull::PullError;

use super::blob::etag;
use super::reply::{self, Code};
use super::room::Whole;
use super::{Answer, Ask, CONTENT_DIGEST, KnownContent, Mirror, OpenContent, Reply, refuse};

pub use document::{Document, DocumentError, fuzz_document};

// An ambiguous manifest that is not here yet is the one thing in which HEAD and GET differ: HEAD repeats what the registry
// says of it, GET reads it and refuses.

/// Longest manifest that is served, as in the distribution specification's advice and in containerd.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Mirror {
    /// Answers GET and HEAD of a manifest.
    pub(super) async fn manifest(&self, ask: &Ask, reference: ManifestReference) -> Answer {
        match reference {
            ManifestReference::Digest(digest) => {
                let content = locator(ask, digest);
                let held = self.inner.contents.holds(digest.into());
                let permit = self.permit(ask, &content, held.as_ref()).await?;
                self.serve_manifest(ask, &content, permit, held).await
            }
            ManifestReference::Tag(tag) => self.tag(ask, tag).await,
        }
    }

    async fn tag(&self, ask: &Ask, tag: Tag) -> Answer {
        let query = TagQuery {
            registry: ask.target.registry.clone(),
            repository: ask.target.repository.clone(),
            tag,
            accept: ask.headers.get_all(ACCEPT).iter().cloned().collect(),
        };
        let known = self.inner.memory.tag(&query);
        let young = known
            .as_ref()
            .filter(|(_, when)| when.elapsed() < self.inner.config.tag_ttl.as_duration());
        if let Some((head, _)) = young {
            return self.serve_known_tag(ask, head.clone()).await;
        }
        let held = known
            .as_ref()
            .and_then(|(head, _)| self.inner.contents.holds(head.digest.into()));
        let resolve = self.inner.access.resolve(query.clone(), ask.asker());
        let patience = self.patience(held.as_ref());
        let problem = match self.in_time(ask, &query.registry, patience, resolve).await {
            Ok(permit) => return self.serve_tag(ask, query, permit).await,
            Err(problem) => problem,
        };
        match known.filter(|_| self.inner.config.serve_stale_tags && verdict(&problem) == Verdict::CannotTell)
        {
            Some((head, _)) => self.serve_stale_tag(ask, head, &problem).await,
            None => Err(refuse(ask.origin_error(&problem))),
        }
    }

    async fn serve_tag(&self, ask: &Ask, query: TagQuery, permit: Permit) -> Answer {
        let Some(head) = permit.head.clone() else {
            return Err(refuse(invalid("the registry did not say what the tag points to")));
        };
        let content = locator(ask, head.digest);
        let held = self.inner.contents.holds(head.digest.into());
        let reply = self.serve_manifest(ask, &content, permit, held).await?;
        self.inner.memory.remember_tag(query, head);
        Ok(reply)
    }

    async fn serve_known_tag(&self, ask: &Ask, head: ContentHead) -> Answer {
        let content = locator(ask, head.digest);
        let held = self.inner.contents.holds(head.digest.into());
        let mut permit = self.permit(ask, &content, held.as_ref()).await?;
        permit.head.get_or_insert(head);
        self.serve_manifest(ask, &content, permit, held).await
    }

    /// The registry cannot be asked: what the tag pointed to when it could, if everybody may read that.
    async fn serve_stale_tag(&self, ask: &Ask, head: ContentHead, problem: &Arc<OriginError>) -> Answer {
        let content = locator(ask, head.digest);
        let held = self.inner.contents.holds(head.digest.into());
        let proof = self.proof(ask, &content, held.as_ref());
        let Some(mut permit) = self
            .inner
            .access
            .usable_while_unreachable(&content, ask.asker(), proof)
        else {
            return Err(refuse(ask.origin_error(problem)));
        };
        permit.head.get_or_insert(head);
        let mut reply = self.serve_manifest(ask, &content, permit, held).await?;
        tracing::warn!(registry = %content.registry, error = %problem, "stale tag served");
        self.inner.metrics.stale_tag();
        reply::set(
            &mut reply,
            WARNING,
            HeaderValue::from_static("110 - \"Response is Stale\""),
        );
        Ok(reply)
    }

    async fn serve_manifest(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        permit: Permit,
        held: Option<KnownContent>,
    ) -> Answer {
        self.vouch(ask, content, &permit, held.as_ref()).await?;
        let told = permit.head.as_ref().and_then(|head| head.media_type.clone());
        let told = told.or_else(|| held.as_ref().and_then(|held| held.media_type.clone()));
        let length = held.as_ref().map(|held| held.length);
        let told_length = permit.head.as_ref().and_then(|head| head.length);
        if let Some(length) = told_length {
            // Clients ask by a tag's HEAD first, and by the digest then: the right outlasts the answer that told it.
            self.inner.memory.remember_told(content, length);
        }
        let length = length
            .or(told_length)
            .or_else(|| self.inner.memory.length(content));
        if length.is_some_and(|length| length > MANIFEST_BYTES_MAX) {
            return Err(refuse(invalid("the manifest is longer than 4 MiB")));
        }
        // The registry's word is enough for HEAD, and costs no request. What is here is looked at, so that HEAD does not
        // promise what GET refuses.
        if ask.method == Method::HEAD
            && held.is_none()
            && let (Some(media_type), Some(length)) =
                (told.as_deref().filter(|told| is_manifest_type(told)), length)
        {
            return Ok(head(content.digest, media_type, length));
        }
        let open = self.open(ask, content, &permit, length, held.is_some())?;
        let read = self.read_manifest(ask, open).await;
        if read.is_err() {
            self.inner.memory.forget_told(content);
        }
        let (bytes, known_type) = read?;
        let document = Document::parse(&bytes).map_err(|problem| refuse(invalid(&problem.to_string())))?;
        let told = told.or(known_type).filter(|told| is_manifest_type(told));
        let media_type = told.unwrap_or_else(|| document.media_type());
        self.remember(content, &permit, &document);
        let mut reply = head(content.digest, &media_type, bytes.len() as u64);
        *reply.body_mut() = Whole(bytes).boxed_unsync();
        Ok(reply)
    }

    /// The whole manifest. Every byte of it is proved before the first is sent.
    async fn read_manifest(
        &self,
        ask: &Ask,
        open: Arc<dyn OpenContent>,
    ) -> Result<(Bytes, Option<String>), Box<Reply>> {
        let known = self.known(ask, &*open).await?;
        if known.length > MANIFEST_BYTES_MAX {
            return Err(refuse(invalid("the manifest is longer than 4 MiB")));
        }
        let length = usize::try_from(known.length).unwrap_or(usize::MAX);
        let mut bytes = self
            .inner
            .room
            .collect(length)
            .map_err(|full| refuse(full.reply()))?;
        let mut stream = open.read(ByteRange::new(0, known.length));
        let read = async {
            while let Some(part) = stream.next().await {
                bytes.push(&part?).map_err(|_| PullError::WrongContent)?;
            }
            Ok::<_, PullError>(bytes.freeze())
        };
        let deadline = ask.arrived + self.inner.config.slow_origin_deadline.as_duration();
        let bytes = match timeout_at(deadline, read).await {
            Ok(read) => read.map_err(|problem| refuse(ask.pull_error(&problem)))?,
            Err(_) => {
                return Err(refuse(ask.pull_error(&PullError::Stalled(ask.arrived.elapsed()))));
            }
        };
        if bytes.len() as u64 != known.length {
            return Err(refuse(invalid("the manifest ended early")));
        }
        Ok((bytes, known.media_type))
    }

    fn remember(&self, content: &OriginLocator, permit: &Permit, document: &Document) {
        let children: Vec<(OriginLocator, u64)> = document.children(content).collect();
        self.inner.memory.remember_lengths(&children);
        self.inner
            .access
            .cover(permit, children.into_iter().map(|(child, _)| child));
    }
}

fn locator(ask: &Ask, digest: Digest) -> OriginLocator {
    OriginLocator {
        registry: ask.target.registry.clone(),
        repository: ask.target.repository.clone(),
        kind: ContentKind::Manifest,
        digest,
    }
}

/// Whether a registry's `Content-Type` can be that of a manifest: pages of a captive portal are not.
fn is_manifest_type(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("application/vnd.") && (essence.ends_with("+json") || essence.ends_with("+prettyjws"))
}

fn head(digest: Digest, media_type: &str, length: u64) -> Reply {
    let mut reply = Reply::new(reply::whole(Bytes::new()));
    reply::set_text(&mut reply, CONTENT_TYPE, media_type);
    reply::set(&mut reply, CONTENT_LENGTH, HeaderValue::from(length));
    reply::set_text(&mut reply, ETAG, &etag(digest));
    reply::set_text(&mut reply, CONTENT_DIGEST, &digest.to_string());
    reply
}

fn invalid(message: &str) -> Reply {
    reply::error(StatusCode::BAD_GATEWAY, Code::ManifestInvalid, message)
}
