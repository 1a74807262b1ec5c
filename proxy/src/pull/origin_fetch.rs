//! Reading a run of pieces from the origin: write, hash, report each border.
//!
//! A broken connection is resumed at the byte where it broke, with the hash as it stood, so that a flaky origin costs
//! no byte twice. Over how many connections bytes come is the origin client's matter; here they come in order. What the
//! origin says about the length is compared with what is known before a byte is written.
//!
//! Out of order, where the state before the run is not known, each piece is hashed alone and reported with its sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_engine::{Event, FetchFailure, FetchId, OriginFailure};
use darter_origin::{OriginError, Origins, Reading, Version};
use darter_service::limit::Limiter;
use darter_store::{Pace, PieceStore, StoredTask};
use darter_types::{ByteRange, ChainState, OriginLocator, PieceHasher, PieceLayout, PieceRun};

use super::Shared;
use super::shared::Caller;
use crate::metrics::PullMetrics;

/// Times in a row that a broken answer is resumed without a byte of progress.
const RESUMES_MAX: u32 = 3;
/// How often a store that takes nothing more is asked again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// Pause before the first resume; doubled each time.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// One request to the origin.
#[derive(Debug)]
pub(super) struct OriginFetch {
    pub(super) fetch: FetchId,
    pub(super) run: PieceRun,
    /// State at the run's first border; `None` = out of order.
    pub(super) before: Option<ChainState>,
    /// The first piece that is not needed any more.
    pub(super) stop_at: Arc<AtomicU32>,
    /// Where nobody's credentials are tried once all callers were refused.
    pub(super) locator: OriginLocator,
    /// What the registry calls the bytes that came before.
    pub(super) version: Version,
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<dyn PieceStore>,
    pub(super) origins: Origins,
    pub(super) metrics: Arc<PullMetrics>,
    /// The rate of what nobody waits for.
    pub(super) background: Limiter,
}

/// What is asked of the origin, and for whom.
struct Question {
    caller: Caller,
    reading: Reading,
}

/// Where the walk stands.
struct Walk {
    hasher: PieceHasher,
    layout: PieceLayout,
    stored: Arc<dyn StoredTask>,
    end: u64,
    /// Bytes that came.
    read: u64,
}

impl OriginFetch {
    /// Runs to its end and reports it.
    pub(super) async fn run(self) {
        let (mut walk, span) = (None, tracing::Span::current());
        let failure = self.read(&mut walk).await.err();
        span.record("bytes", walk.map_or(0, |walk: Walk| walk.read));
        if let Some(failure) = &failure {
            span.record("failure", tracing::field::debug(failure));
        }
        let _ = self
            .shared
            .events
            .send(Event::FetchEnded {
                fetch: self.fetch,
                failure,
            })
            .await;
    }

    async fn read(&self, walk: &mut Option<Walk>) -> Result<(), FetchFailure> {
        let mut question = self.question(None);
        let mut resumes = 0;
        loop {
            let before = walk.as_ref().map(|walk| walk.hasher.offset());
            match self.read_once(&mut question, walk).await {
                Ok(()) => return Ok(()),
                Err(Broken::Final(failure)) => return Err(failure),
                Err(Broken::Origin(error)) => {
                    let progressed = walk.as_ref().map(|walk| walk.hasher.offset()) > before;
                    resumes = if progressed { 0 } else { resumes + 1 };
                    tracing::debug!(task = %self.locator.digest, %error, resumes, "the origin broke off");
                    let failure = classify(&error, walk.is_some());
                    if self.shared.origin_failed(error) {
                        question = self.question(Some(question));
                        continue;
                    }
                    if failure != OriginFailure::Transient || resumes >= RESUMES_MAX {
                        return Err(FetchFailure::Origin(failure));
                    }
                    tokio::time::sleep(RESUME_PAUSE * 2u32.pow(resumes)).await;
                }
            }
        }
    }

    /// For the caller whose turn it is, from where the last one got to: the run, where the length is known, else all of the
    /// content.
    fn question(&self, last: Option<Question>) -> Question {
        let caller = self.shared.caller();
        let caller = caller.unwrap_or_else(|| Caller::nobody(&self.locator));
        let from = match last {
            Some(last) if last.caller.locator.is_beside(&caller.locator) => {
                let reading = last.reading;
                return Question { caller, reading };
            }
            last => last.map(|last| last.reading.offset()),
        };
        let layout = self.shared.availability.facts().map(|facts| facts.layout);
        let run = layout.map(|layout| layout.run_range(self.run));
        let start = from.or(run.map(|run| run.start)).unwrap_or(0);
        let (end, length) = (run.map(|run| run.end), layout.map(PieceLayout::length));
        let reading = self.origins.read(&caller.locator, start, end, length);
        let reading = reading.of_version(self.version.clone());
        Question { caller, reading }
    }

    async fn read_once(&self, question: &mut Question, walk: &mut Option<Walk>) -> Result<(), Broken> {
        let Question { caller, reading } = question;
        let credentials = &caller.credentials;
        let length = reading.open(credentials).await?;
        self.shared.origin_answered(caller);
        if walk.is_none() {
            *walk = Some(self.begin(length, reading.offset()).await?);
        }
        let Some(walk) = walk.as_mut() else { return Ok(()) };
        if length != walk.layout.length() || reading.offset() != walk.hasher.offset() {
            return Err(Broken::Final(FetchFailure::Origin(OriginFailure::WrongContent)));
        }
        while walk.hasher.offset() < self.end(walk) {
            reading.shorten(self.end(walk));
            let Some(bytes) = reading.next(credentials).await? else {
                return Err(Broken::Final(FetchFailure::Origin(OriginFailure::WrongContent)));
            };
            self.take(walk, bytes).await?;
        }
        if walk.layout.length() == 0 {
            self.border(walk).await;
        }
        Ok(())
    }

    /// Waits until the store is ready for a content of the length that the origin told.
    async fn begin(&self, length: u64, start: u64) -> Result<Walk, Broken> {
        let _ = self.shared.events.send(Event::LengthKnown(length)).await;
        let (stored, layout) = self
            .shared
            .stored()
            .await
            .map_err(|_| Broken::Final(FetchFailure::Store))?;
        let end = layout.run_range(self.run).end;
        Ok(Walk {
            hasher: match self.before {
                Some(before) => PieceHasher::resume(before, start),
                None => PieceHasher::alone(start),
            },
            layout,
            stored,
            end,
            read: 0,
        })
    }

    /// Behind the last byte that is needed.
    fn end(&self, walk: &Walk) -> u64 {
        let stop = walk
            .layout
            .piece_range(self.stop_at.load(Ordering::Relaxed))
            .start;
        walk.end.min(stop)
    }

    /// Writes and hashes bytes, piece by piece.
    async fn take(&self, walk: &mut Walk, mut bytes: Bytes) -> Result<(), Broken> {
        self.metrics.origin_bytes(bytes.len());
        walk.read += bytes.len() as u64;
        self.shared
            .yield_to_readers(&self.background, bytes.len() as u64)
            .await;
        while !bytes.is_empty() {
            let offset = walk.hasher.offset();
            let piece = walk.layout.piece_range(walk.layout.piece_at(offset));
            let here = ByteRange::new(offset, piece.end.min(self.end(walk)));
            if here.is_empty() {
                break;
            }
            let part = bytes.split_to(bytes.len().min(usize::try_from(here.len()).unwrap_or(usize::MAX)));
            self.room(walk, part.len()).await?;
            walk.stored.write(offset, &part).map_err(|error| {
                tracing::debug!(task = %self.locator.digest, %error, "store refused bytes");
                self.leave_store(walk)
            })?;
            let offset = offset + part.len() as u64;
            let _ = self
                .shared
                .events
                .send(Event::OriginBytes {
                    fetch: self.fetch,
                    offset,
                })
                .await;
            walk.hasher.update(&part);
            if offset == piece.end {
                self.border(walk).await;
                if self.before.is_none() {
                    walk.hasher = PieceHasher::alone(offset);
                }
            }
        }
        Ok(())
    }

    /// Waits until the store takes so many bytes, unless a reader would wait for a disk that is too slow: it goes on past it.
    async fn room(&self, walk: &Walk, bytes: usize) -> Result<(), Broken> {
        loop {
            match self.store.pace(bytes as u64) {
                Pace::Ready => return Ok(()),
                Pace::TooSlow if self.shared.readers.count() > 0 => {
                    self.metrics.store_too_slow();
                    return Err(self.leave_store(walk));
                }
                Pace::Waits | Pace::TooSlow => tokio::time::sleep(ROOM_PAUSE).await,
            }
        }
    }

    /// Readers go on past the store, from the byte where this stands if all before it is hashed.
    fn leave_store(&self, walk: &Walk) -> Broken {
        if self.before.is_some() {
            self.shared.set_frontier(walk.hasher.clone());
        }
        Broken::Final(FetchFailure::Store)
    }

    /// Reports the piece that ends here.
    async fn border(&self, walk: &Walk) {
        let piece = walk.layout.piece_at(walk.hasher.offset().saturating_sub(1));
        let fetch = self.fetch;
        let event = match walk.hasher.state() {
            _ if self.before.is_none() => Event::OriginPiece {
                fetch,
                piece,
                sum: walk.hasher.clone().digest(),
            },
            _ if piece == walk.layout.last_piece() => Event::OriginLast {
                fetch,
                digest: walk.hasher.clone().digest(),
            },
            Some(state) => Event::OriginBorder { fetch, piece, state },
            None => return,
        };
        let _ = self.shared.events.send(event).await;
    }
}

enum Broken {
    /// The connection or the answer; resuming may help.
    Origin(OriginError),
    /// Nothing helps.
    Final(FetchFailure),
}

impl From<OriginError> for Broken {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

/// What broke off in the middle is resumed; what was refused before a byte came has been tried again already.
fn classify(error: &OriginError, begun: bool) -> OriginFailure {
    match error {
        _ if error.is_credential() => OriginFailure::Refused,
        _ if error.is_absent() => OriginFailure::Absent,
        OriginError::Changed { .. } => OriginFailure::WrongContent,
        OriginError::Cut { .. } | OriginError::Silent { .. } => OriginFailure::Transient,
        // An answer that does not fit the ones before it.
        OriginError::Unusable { .. } if begun => OriginFailure::Transient,
        _ => OriginFailure::Exhausted,
    }
}
