//! What is asked of a pull, and how it can fail.

use darter_origin::{Credentials, OriginError};
use darter_types::{OriginLocator, RegistryName, Repository, TaskId};
use thiserror::Error;

use crate::mirror::Source;

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
    /// Whether the registry was asked about this very content in this repository: a manifest that names it opens nothing
    /// that came in confidence from another one.
    pub asked: bool,
    /// Whether all of it is wanted, rather than the ranges that are read.
    pub whole: bool,
    /// Whether somebody waits for it. What can wait makes room for all that cannot.
    pub urgent: bool,
    /// Whether who reads checks each part, so that it may have what nothing proves yet, whatever [`super::Release`] says.
    pub checks: bool,
}

impl PullRequest {
    /// By which right the content is read.
    pub fn right(&self) -> Right {
        Right {
            registry: self.locator.registry.clone(),
            repository: self.locator.repository.clone(),
            asked: self.asked,
        }
    }

    /// Where it would come from.
    pub(super) fn source(&self) -> Source {
        Source {
            origin: Some(self.locator.clone()),
            public: self.public,
        }
    }

    /// The task that it is about.
    pub fn task(&self) -> TaskId {
        self.locator.digest.into()
    }
}

/// A right to read contents of a repository, as nodes tell it each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The registry that gave it.
    pub registry: RegistryName,
    /// What it gave it for.
    pub repository: Repository,
    /// Whether it was asked about this very content, not about a manifest that names it.
    pub asked: bool,
}

impl Right {
    /// Whether it is for the repository of this content.
    pub(crate) fn is_for(&self, content: &OriginLocator) -> bool {
        self.registry == content.registry && self.repository == content.repository
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
    /// It came in confidence from elsewhere, and the caller's registry has not shown yet that it has it.
    #[error("this content is being given in confidence by another registry or repository; ask again later")]
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
