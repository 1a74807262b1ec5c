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
    /// Again and again it gave other bytes than those that it began with, by their entity tag.
    #[error("the registry {registry} changed the content while it was read")]
    Changed {
        /// The registry.
        registry: String,
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

impl OriginError {
    /// The status that it answered, where that is the failure.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it refused the credentials (401, 403): another caller's may do.
    pub fn is_credential(&self) -> bool {
        matches!(
            self.status(),
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        )
    }

    /// Whether it says that it does not have what was asked (404).
    pub fn is_absent(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Whether the same request may do better later. The requests of this crate have been retried already where no
    /// byte had come, so that this is for what goes on in the middle of a content.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_passing(*status),
            Self::RateLimited { .. } | Self::Unreachable { .. } | Self::Cut { .. } | Self::Silent { .. } => {
                true
            }
            Self::Unusable { .. } | Self::Changed { .. } | Self::NotAllowed { .. } => false,
        }
    }
}

/// Whether a status speaks of the moment rather than of the request.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}
