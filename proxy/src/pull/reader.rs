//! A byte range of a content as a stream, in order, as its bytes are proved.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_types::ByteRange;
use tokio::time::{Instant, sleep_until};

use super::availability::Readable;
use super::changes::Changes;
use super::quiet::Quiet;
use super::readers::{Manner, Registration};
use super::{PullError, Release, Shared};
use crate::metrics::PullMetrics;

/// Longest slice handed out at once, in bytes: bounds how long one connection keeps a core.
const SLICE_BYTES_MAX: u64 = 1024 * 1024;

/// How long one that can wait lets others go first before it is fetched for all the same, behind them.
const YIELDS_MAX: Duration = Duration::from_secs(5);

/// Reads one range. Dropping it tells the pull that nobody waits here any more.
#[derive(Debug)]
pub struct Reader {
    offset: u64,
    range: ByteRange,
    shared: Arc<Shared>,
    /// `None` for a content that is complete, since nobody needs to know who reads it, and as long as others go first.
    registration: Option<Registration>,
    metrics: Arc<PullMetrics>,
    patience: Duration,
    place: Place,
    /// Others do not go first any more.
    begun: bool,
    failed: bool,
}

/// Where a reader stands among all of this node.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) manner: Manner,
    /// When it gets bytes.
    pub(super) release: Release,
    pub(super) quiet: Quiet,
}

impl Reader {
    pub(super) fn new(
        range: ByteRange,
        shared: &Arc<Shared>,
        metrics: Arc<PullMetrics>,
        patience: Duration,
        place: Place,
    ) -> Self {
        Self {
            offset: range.start,
            range,
            registration: place
                .manner
                .urgent
                .then(|| shared.register(range, place.manner))
                .flatten(),
            shared: Arc::clone(shared),
            metrics,
            patience,
            begun: place.manner.urgent,
            place,
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
            for (from, bytes) in self.shared.availability.sources(given) {
                self.metrics.served(from, bytes);
            }
            if let Some(registration) = &self.registration {
                registration.moved(self.offset);
            }
        }
        Some(next)
    }

    async fn wait(&mut self) -> Result<Bytes, PullError> {
        let shared = Arc::clone(&self.shared);
        let availability = &shared.availability;
        let mut changes = availability.watch();
        let mut waits = None;
        let began = Instant::now();
        let parts = self.place.manner.checks || self.place.release == Release::Linked;
        loop {
            changes.mark_seen();
            match availability.readable(self.offset, self.range, parts) {
                Readable::Bytes(stored, range) => {
                    let range = ByteRange::new(range.start, range.end.min(range.start + SLICE_BYTES_MAX));
                    return stored
                        .read(range)
                        .map_err(|error| PullError::Store(error.to_string()));
                }
                Readable::Failed(error) => return Err(error),
                Readable::NotYet => {}
            }
            if self.place.manner.urgent {
                waits.get_or_insert_with(|| self.place.quiet.disturb());
            } else if !self.begun {
                self.begin(began, &mut changes).await;
                continue;
            }
            let news = changes.changed();
            if tokio::time::timeout(self.patience, news).await.is_err() {
                return Err(PullError::Stalled(self.patience));
            }
        }
    }

    /// Lets others go first for a while, then signs in and stays: what is on its way would come twice. Bytes may come without it.
    async fn begin(&mut self, began: Instant, changes: &mut Changes) {
        tokio::select! {
            () = changes.changed() => return,
            () = self.place.quiet.settles() => {}
            () = sleep_until(began + YIELDS_MAX) => {}
        }
        self.begun = true;
        let rest = ByteRange::new(self.offset, self.range.end);
        self.registration = self.shared.register(rest, self.place.manner);
    }
}
