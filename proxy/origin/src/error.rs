//! Why a registry did not give what was asked.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use thiserror::Error;

/// Why a registry did not give what was asked.
#[derive(Clone, Debug, Error)]
pub enum OriginError {
    /// It answered with an error: relayed to the client as it is, where the status is 401, 403 or 404.
    #[error("the registry {registry} answered {status}")]
    Status {
        /// The registry, as image names have it.
        registry: String,
        /// Its status.
        status: StatusCode,
        /// `WWW-Authenticate`, `Content-Type` and the like, already filtered for relaying.
        headers: HeaderMap,
        /// The start of its body, at most 64 KiB.
        body: Bytes,
    },
    /// It wants us to wait (429 or 503 with `Retry-After`).
    #[error("the registry {registry} wants no request for {retry_after:?}")]
    RateLimited {
        /// The registry.
        registry: String,
        /// How long.
        retry_after: Duration,
    },
    /// No connection, TLS failed, or the connection broke before an answer.
    #[error("the registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What happened, with what to do where that is known.
        reason: String,
    },
    /// The body ended or broke before its length.
    #[error("the registry {registry} broke off after {received} bytes")]
    Cut {
        /// The registry.
        registry: String,
        /// Bytes of this answer that came.
        received: u64,
    },
    /// No byte came for the allowed time.
    #[error("the registry {registry} sent nothing for {waited:?}")]
    Silent {
        /// The registry.
        registry: String,
        /// How long.
        waited: Duration,
    },
    /// The answer contradicts itself or an earlier one: other length, other range, other content type.
    #[error("the registry {registry} gave an answer that cannot be used: {reason}")]
    Unusable {
        /// The registry.
        registry: String,
        /// What was wrong.
        reason: String,
    },
    /// The configuration does not allow this registry.
    #[error("the registry {registry} is not allowed here: {reason}")]
    NotAllowed {
        /// The registry.
        registry: String,
        /// Which rule, and how to change it.
        reason: String,
    },
}
