//! How a pull ends, and what is left to do when others were wrong about its content.

use std::sync::Arc;

use darter_engine::Failure;
use darter_origin::OriginError;

use super::Driver;
use crate::metrics::Unverified;
use crate::pull::PullError;

/// The epoch of no lease.
const NO_LEASE: u64 = 0;

impl Driver {
    /// The registry's failure, if it changed the content: then its bytes were never compared with the digest.
    pub(super) fn changed(&self) -> Option<Arc<OriginError>> {
        let error = self.shared.origin_error()?;
        matches!(*error, OriginError::Changed { .. }).then_some(error)
    }

    /// The whole does not end in its digest.
    fn wrong_content(&mut self, failure: Failure) -> PullError {
        self.env.metrics.unverified(Unverified::Chain);
        if self.is_shared() {
            // Under a lease this was said already, and says nothing more.
            self.end_lease(NO_LEASE, Some(failure));
        }
        PullError::WrongContent
    }

    /// A chain of others was wrong, and the pull goes on without them.
    pub(super) fn origin_only(&mut self) {
        let task = self.request.task();
        tracing::warn!(%task, "a chain of other nodes does not end in the digest; the content is fetched from the registry alone");
        self.env.disbelieve(task);
        self.wrong_content(Failure::WrongContent);
        // What others are told to do for it would be for nothing.
        self.wanted_at = None;
        self.env.scheduling.unwant(task);
    }

    pub(super) fn proved(&mut self) {
        if let Some(stored) = &self.stored {
            stored.record_proved();
        }
        self.env.forget_version(self.request.task());
        self.end(Ok(()));
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        let error = match failure {
            Failure::WrongContent => {
                self.env.distrust(self.request.task());
                match self.changed() {
                    Some(error) => PullError::Origin(error),
                    None => self.wrong_content(failure),
                }
            }
            Failure::Store => PullError::Store("the store could not take the bytes".to_owned()),
            Failure::Refused | Failure::Absent | Failure::Unavailable => self
                .shared
                .origin_error()
                .map_or(PullError::Stalled(std::time::Duration::ZERO), PullError::Origin),
        };
        self.end(Err(error));
    }
}
