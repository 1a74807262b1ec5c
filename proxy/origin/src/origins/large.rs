//! Contents in order over many requests, and what a reading may take for that.

use darter_types::{OriginLocator, RegistryName};

use super::Origins;
use crate::budget::Reservation;
use crate::config::LargeBlobsConfig;
use crate::reading::Reading;
use crate::registry::Permits;

impl Origins {
    /// The bytes of a content from `start` on, up to `end` where one is given, in order, over as many requests as it takes.
    /// `length` is the content's, in bytes, where the caller knows it. Asks nobody yet.
    pub fn read(
        &self,
        locator: &OriginLocator,
        start: u64,
        end: Option<u64>,
        length: Option<u64>,
    ) -> Reading {
        Reading::new(self.clone(), locator.clone(), start, end, length)
    }

    /// What large blobs may cost.
    pub(crate) fn large_blobs(&self) -> &LargeBlobsConfig {
        &self.inner.settings.large_blobs
    }

    /// Room in memory for `bytes` that come before their turn, if there is some.
    pub(crate) fn room_ahead(&self, bytes: u64) -> Option<Reservation> {
        self.inner.budget.reserve(bytes)
    }

    /// The right to a request that runs ahead, if one is free.
    pub(crate) fn admit_ahead(&self, name: &RegistryName) -> Option<Permits> {
        let registry = self.inner.registry(name).ok()?;
        let permits = registry.admit_ahead()?;
        registry.metrics.ahead.inc();
        Some(permits)
    }
}
