//! Ranged reads of blobs by digest: all that a mount needs from the rest of the world.
//!
//! [`Mirror`] asks the node's mirror, [`Folder`] reads files. Neither checks digests: a range has none. Who reads chunks
//! does ([`crate::fs`]).

mod client;
mod folder;
mod mirror;
mod whole;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_service::net::BoxFuture;
use darter_types::{ByteRange, Digest};
use thiserror::Error;

pub use client::{Client, Patience};
pub use folder::Folder;
pub use mirror::{Credential, Mirror};
pub(crate) use whole::{WholeError, fetch};

/// Where blobs come from.
pub trait BlobSource: Send + Sync + Debug + 'static {
    /// The bytes `range` of a blob: all of them, or an error. Cancel safe.
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>>;

    /// The same, and whoever has to choose should serve others first.
    fn read_in_background<'a>(
        &'a self,
        blob: &'a Digest,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        self.read(blob, range)
    }
}

/// Why bytes of a blob cannot be had. Cheap to clone: one request may have many readers.
#[derive(Clone, Debug, Error)]
pub enum BlobError {
    /// Nobody listens there, or the connection broke.
    #[error("no answer from the mirror at {address}: {reason}; does the proxy run?")]
    Unreachable {
        /// The mirror's address.
        address: String,
        /// What the system says.
        reason: Arc<str>,
    },
    /// It answers, but not in time.
    #[error("the mirror at {address} was silent for {silence:?}")]
    Silent {
        /// The mirror's address.
        address: String,
        /// How long.
        silence: Duration,
    },
    /// It refuses.
    #[error("the mirror answers {status} for {what}: {said}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: Arc<str>,
        /// The beginning of its answer.
        said: Arc<str>,
    },
    /// It answers with something else than what was asked for.
    #[error("the mirror's answer for {what} is wrong: {reason}")]
    Wrong {
        /// What was asked for.
        what: Arc<str>,
        /// What is wrong.
        reason: Arc<str>,
    },
    /// A file cannot be read.
    #[error("cannot read bytes {range} of {path}: {error}")]
    File {
        /// Which.
        path: Arc<str>,
        /// Which bytes.
        range: ByteRange,
        /// Why.
        error: Arc<std::io::Error>,
    },
}

impl BlobError {
    /// Whether the same question may be answered better in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Wrong { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::File { .. } => false,
        }
    }
}
