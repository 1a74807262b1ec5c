//! A byte range of a content as a stream, in order, as its bytes are proved.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_types::ByteRange;

use super::PullError;
use super::availability::{Availability, Readable};
use super::readers::Registration;
use crate::metrics::PullMetrics;

/// Longest slice handed out at once, in bytes: bounds how long one connection keeps a core.
const SLICE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads one range. Dropping it tells the pull that nobody waits here any more.
#[derive(Debug)]
pub struct Reader {
    offset: u64,
    range: ByteRange,
    availability: Arc<Availability>,
    /// `None` for a content that is complete: nobody needs to know who reads it.
    registration: Option<Registration>,
    metrics: Arc<PullMetrics>,
    patience: Duration,
    failed: bool,
}

impl Reader {
    pub(crate) fn new(
        range: ByteRange,
        availability: Arc<Availability>,
        registration: Option<Registration>,
        metrics: Arc<PullMetrics>,
        patience: Duration,
    ) -> Self {
        Self {
            offset: range.start,
            range,
            availability,
            registration,
            metrics,
            patience,
            failed: false,
        }
    }

    /// Bytes that it will still give.
    pub fn remaining(&self) -> u64 {
        self.range.end - self.offset
    }

    /// The next bytes; `None` behind the last one. After an error it gives nothing more. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, PullError>> {
        if self.failed || self.offset >= self.range.end {
            return None;
        }
        let next = self.wait().await;
        self.failed = next.is_err();
        if let Ok(bytes) = &next {
            let given = ByteRange::new(self.offset, self.offset + bytes.len() as u64);
            self.offset = given.end;
            for (from, bytes) in self.availability.sources(given) {
                self.metrics.served(from, bytes);
            }
            if let Some(registration) = &self.registration {
                registration.moved(self.offset);
            }
        }
        Some(next)
    }

    async fn wait(&self) -> Result<Bytes, PullError> {
        let mut changes = self.availability.watch();
        loop {
            changes.mark_seen();
            match self.availability.readable(self.offset, self.range) {
                Readable::Bytes(stored, range) => {
                    let range = ByteRange::new(range.start, range.end.min(range.start + SLICE_BYTES_MAX));
                    return stored
                        .read(range)
                        .map_err(|error| PullError::Store(error.to_string()));
                }
                Readable::Failed(error) => return Err(error),
                Readable::NotYet => {}
            }
            if tokio::time::timeout(self.patience, changes.changed())
                .await
                .is_err()
            {
                return Err(PullError::Stalled(self.patience));
            }
        }
    }
}
