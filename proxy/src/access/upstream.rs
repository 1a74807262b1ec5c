//! What access and mirror ask of registries: a seam, so that both can be tested against a registry in memory.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use darter_origin::{Credentials, OriginError};
use darter_types::{ByteRange, Digest, OriginLocator, RegistryName, Repository, Tag};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Response};
use tokio::time::Instant;

use crate::mirror::ReplyBody;

/// What a registry says of a content by HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentHead {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes, where the registry told.
    pub length: Option<u64>,
    /// Its media type.
    pub media_type: Option<String>,
}

/// A tag, and in which forms its manifest is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagQuery {
    /// The registry.
    pub registry: RegistryName,
    /// The repository.
    pub repository: Repository,
    /// The tag.
    pub tag: Tag,
    /// All lines of the client's `Accept`, in their order.
    pub accept: Vec<HeaderValue>,
}

/// What a registry says, or why not.
pub type HeadResult = Result<ContentHead, Arc<OriginError>>;

/// The registries.
pub trait Upstream: Debug + Send + Sync + 'static {
    /// Whether a caller of this registry that brings no credentials reads with this node's own. `user` tells which user of
    /// this machine that is.
    fn lends(&self, _registry: &RegistryName, _user: &dyn Fn() -> Option<u32>) -> bool {
        false
    }

    /// Whether the registry was reached since then, so that what it is asked may be answered yet.
    fn is_answering(&self, registry: &RegistryName, since: Instant) -> bool;

    /// Asks for a content by HEAD.
    fn head(&self, locator: OriginLocator, credentials: Credentials) -> BoxFuture<'static, HeadResult>;

    /// Asks for what a tag points to, by HEAD.
    fn resolve(&self, tag: TagQuery, credentials: Credentials) -> BoxFuture<'static, HeadResult>;

    /// Reads a part of a content, exactly as long as asked.
    fn sample(
        &self,
        content: OriginLocator,
        range: ByteRange,
        credentials: Credentials,
    ) -> BoxFuture<'static, Result<Bytes, Arc<OriginError>>>;

    /// Passes a request on, and the answer back as it comes.
    fn relay(&self, request: Relayed) -> BoxFuture<'static, Result<Response<ReplyBody>, Arc<OriginError>>>;
}

/// A request to pass on.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// The registry.
    pub registry: RegistryName,
    /// GET or HEAD.
    pub method: Method,
    /// The path at the registry, with the query.
    pub path_and_query: String,
    /// The client's headers that matter to the registry.
    pub headers: HeaderMap,
    /// On whose behalf.
    pub credentials: Credentials,
}
