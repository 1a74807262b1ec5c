//! The seam between the mirror and what holds contents: the pulls of a node, or a test's own memory.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use darter_types::{ByteRange, OriginLocator, TaskId};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::pull::{PullError, PullRequest};

/// The bytes of a range, in order; exactly its length unless the last item is an error. Dropping it tells the
/// pull that nobody waits here any more.
pub type ContentStream = Pin<Box<dyn Stream<Item = Result<Bytes, PullError>> + Send>>;

/// What is known of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownContent {
    /// Its length in bytes.
    pub length: u64,
    /// Its media type, where the origin told one.
    pub media_type: Option<String>,
    /// Where its bytes were fetched from.
    pub origin: Option<OriginLocator>,
}

/// Where what is here of a content came from, be it the whole, a part, or still on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The place; unknown for what was stored without.
    pub origin: Option<OriginLocator>,
    /// Whether its registry gives it to anybody.
    pub public: bool,
}

/// Whatever opens contents. Implemented by the node's pulls.
pub trait Contents: Debug + Send + Sync + 'static {
    /// Starts to read a content, or joins those who do. Cheap: nothing is fetched before somebody asks for bytes
    /// or facts.
    ///
    /// # Errors
    /// If the node takes no more work or stops.
    fn open(&self, request: PullRequest) -> Result<Arc<dyn OpenContent>, PullError>;

    /// What is known of a content of which the store holds every byte, proved.
    fn holds(&self, task: TaskId) -> Option<KnownContent>;

    /// Where what is here of a content came from; `None` if nothing is.
    fn source(&self, task: TaskId) -> Option<Source>;

    /// Resolves when no reader waits for bytes.
    fn quiet(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// One content that somebody reads.
pub trait OpenContent: Debug + Send + Sync {
    /// Resolves as soon as the length is known.
    fn known(&self) -> BoxFuture<'_, Result<KnownContent, PullError>>;

    /// Whether the origin, or a node that has the content, was reached since then and owes an answer: then patience costs a
    /// client nothing that it would not have to spend at the origin itself.
    fn awaits_origin(&self, since: Instant) -> bool;

    /// The bytes of a range. Nothing is read ahead of it by more than the pull's own window.
    fn read(&self, range: ByteRange) -> ContentStream;
}
