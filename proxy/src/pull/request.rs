//! What is asked of a pull, and how it can fail.

use darter_origin::{Credentials, OriginError};
use darter_types::{OriginLocator, TaskId};
use thiserror::Error;

/// A content that somebody wants to read.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// Where it may be fetched.
    pub locator: OriginLocator,
    /// Its length in bytes, where a manifest or an answer of the origin told it.
    pub length: Option<u64>,
    /// Its media type, where that is known (manifests are served with it).
    pub media_type: Option<String>,
    /// On whose behalf the origin is asked.
    pub credentials: Credentials,
    /// Whether the origin gives it to anybody: only then do other nodes take part.
    pub public: bool,
    /// Whether the registry showed that it has what the store holds of another one: only then does its right open that.
    pub vouched: bool,
}

impl PullRequest {
    /// The task that it is about.
    pub fn task(&self) -> TaskId {
        self.locator.digest.into()
    }
}

/// Why a content cannot be read (on).
#[derive(Clone, Debug, Error)]
pub enum PullError {
    /// The origin's own answer: refused, absent, or not to be reached.
    #[error("{0}")]
    Origin(#[from] std::sync::Arc<OriginError>),
    /// The bytes are not what the digest says, wherever they came from.
    #[error("the origin's content does not match its digest")]
    WrongContent,
    /// The node takes no more work of this kind for now.
    #[error("too many pulls are running ({limit})")]
    Busy {
        /// The limit that binds.
        limit: usize,
    },
    /// Another registry is giving it in confidence, and this one has not shown yet that it has it.
    #[error("another registry gives this content to those that it knows; ask again later")]
    Elsewhere,
    /// The range lies beyond the content.
    #[error("the content has {length} bytes")]
    Range {
        /// Its length in bytes.
        length: u64,
    },
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(String),
    /// Nothing came for too long.
    #[error("no byte came for {0:?}")]
    Stalled(std::time::Duration),
    /// The proxy stops.
    #[error("the proxy is stopping")]
    Stopping,
}
