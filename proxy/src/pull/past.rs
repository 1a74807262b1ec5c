//! Reading past the store: when the disk is full, broken or too slow, a client gets its bytes from the registry all the same.
//!
//! A reader of the whole gets it by one request, from where the registry's bytes went into the store last, or from the first
//! byte on; it is hashed as it comes, so that the last piece is given away only when the digest is right. A reader of a part
//! gets just that as the registry sends it, by one request but for large parts: no digest proves a part. Nothing is kept or
//! shown to other nodes, and each reader reads for itself: it is what keeps pulls going, not what makes them fast.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_origin::{Fetch, OriginError, Reading, Version};
use darter_types::{ByteRange, PieceHasher, PieceLayout};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Env, PullError, PullRequest};
use crate::metrics::BytesFrom;
use crate::mirror::{ContentStream, KnownContent};

/// Contents that are read so at the same time: each may hold its last piece in memory.
pub(super) const PAST_MAX: usize = 32;
/// Times in a row that a broken answer is resumed without a byte of progress.
const RESUMES_MAX: u32 = 3;
/// Pause before the first resume; doubled each time.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// What the registry says of a content that the store does not take.
pub(super) async fn known(env: &Env, request: &PullRequest) -> Result<KnownContent, PullError> {
    let known = |length, media_type| KnownContent {
        length,
        media_type,
        origin: Some(request.locator.clone()),
    };
    if let Some(length) = request.length {
        return Ok(known(length, request.media_type.clone()));
    }
    let head = env.origins.head(&request.locator, &request.credentials);
    let head = head.await.map_err(failed)?;
    if let Some(length) = head.length {
        return Ok(known(length, head.media_type));
    }
    // It tells no length by HEAD. The answer to GET does, and what comes behind its head is left.
    let fetch = env.origins.fetch(&request.locator, 0, None, &request.credentials);
    let fetch = fetch.await.map_err(failed)?;
    Ok(known(fetch.length, fetch.media_type.clone()))
}

/// The rest of what somebody reads, `rest` of `range`. What lies before `from`, where that is given, was hashed already.
pub(super) fn read(
    env: Arc<Env>,
    request: PullRequest,
    from: Option<PieceHasher>,
    range: ByteRange,
    rest: ByteRange,
) -> ContentStream {
    let to_the_end = request.length.map_or(request.whole, |length| range.end >= length);
    let all = range.start == 0 && to_the_end;
    match all {
        true => read_whole(env, request, from, rest),
        false => read_part(env, request, rest),
    }
}

/// A part, from one request, or further ones for what is left where that breaks off.
fn read_part(env: Arc<Env>, request: PullRequest, range: ByteRange) -> ContentStream {
    let slot = Arc::clone(&env.past).try_acquire_owned().ok();
    let version = env.version(request.task());
    let reading = env
        .origins
        .read(&request.locator, range.start, Some(range.end), request.length);
    let part = Part {
        env,
        request,
        slot,
        reading: reading.of_version(version),
        resumes: 0,
    };
    Box::pin(stream::unfold(Some(part), |part| async move {
        let mut part = part?;
        match part.next().await {
            Ok(Some(bytes)) => {
                let metrics = &part.env.metrics;
                metrics.origin_bytes(bytes.len());
                metrics.served(BytesFrom::Origin, bytes.len() as u64);
                Some((Ok(bytes), Some(part)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

fn read_whole(
    env: Arc<Env>,
    request: PullRequest,
    from: Option<PieceHasher>,
    range: ByteRange,
) -> ContentStream {
    let slot = Arc::clone(&env.past).try_acquire_owned().ok();
    let version = env.version(request.task());
    let hasher = from.unwrap_or_else(|| PieceHasher::start(request.locator.digest.algorithm()));
    let walk = Walk {
        read: hasher.offset(),
        hasher: Some(hasher),
        env,
        request,
        range,
        slot,
        fetch: None,
        layout: None,
        version,
        tail: Vec::new(),
        wrong: false,
        resumes: 0,
    };
    Box::pin(stream::unfold(Some(walk), |walk| async move {
        let mut walk = walk?;
        match walk.next().await {
            Ok(Some(bytes)) => {
                let metrics = &walk.env.metrics;
                metrics.served(BytesFrom::Origin, bytes.len() as u64);
                Some((Ok(bytes), Some(walk)))
            }
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// Room for [`PAST_MAX`] readers.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PAST_MAX))
}

/// A reader of a part.
struct Part {
    env: Arc<Env>,
    request: PullRequest,
    slot: Option<OwnedSemaphorePermit>,
    reading: Reading,
    resumes: u32,
}

impl Part {
    async fn next(&mut self) -> Result<Option<Bytes>, PullError> {
        if self.slot.is_none() {
            return Err(PullError::Busy { limit: PAST_MAX });
        }
        loop {
            let error = match self.reading.next(&self.request.credentials).await {
                Ok(bytes) => {
                    self.resumes = 0;
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            if matches!(error, OriginError::Changed { .. }) {
                // Whichever is the right one: the next who asks gets all of it anew.
                self.env.distrust(self.request.task());
            }
            pause(&mut self.resumes, error).await?;
        }
    }
}

/// Where a reader of the whole stands.
struct Walk {
    env: Arc<Env>,
    request: PullRequest,
    range: ByteRange,
    slot: Option<OwnedSemaphorePermit>,
    fetch: Option<Fetch>,
    layout: Option<PieceLayout>,
    /// What the registry calls the bytes that came, here or before from the store.
    version: Version,
    /// Bytes that were read and hashed.
    read: u64,
    /// `None` once the digest was looked at.
    hasher: Option<PieceHasher>,
    /// What of the range lies in the last piece, until that is known to be right; then it is given away, last part first.
    tail: Vec<Bytes>,
    wrong: bool,
    resumes: u32,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Bytes>, PullError> {
        if self.slot.is_none() {
            return Err(PullError::Busy { limit: PAST_MAX });
        }
        loop {
            if self.wrong {
                return Err(PullError::WrongContent);
            }
            if self.hasher.is_none() {
                return Ok(self.tail.pop());
            }
            match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => self.broken(error).await?,
            }
        }
    }

    /// Reads on; gives what may be given away of it.
    async fn step(&mut self) -> Result<Option<Bytes>, OriginError> {
        if self.fetch.is_none() {
            self.begin().await?;
        }
        let (Some(fetch), Some(layout)) = (&mut self.fetch, self.layout) else {
            return Ok(None);
        };
        let Some(bytes) = fetch.next().await? else {
            self.end(layout);
            return Ok(None);
        };
        self.resumes = 0;
        self.env.metrics.origin_bytes(bytes.len());
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        let here = ByteRange::new(self.read, self.read + bytes.len() as u64);
        self.read = here.end;
        let part = |wanted: ByteRange| {
            let from = ByteRange::new(here.start, wanted.start.max(here.start))
                .indices()
                .len();
            bytes.slice(from..from + wanted.indices().len())
        };
        let border = last(layout).start;
        let late = here
            .intersect(self.range)
            .intersect(ByteRange::new(border, u64::MAX));
        if !late.is_empty() {
            self.tail.push(part(late));
        }
        let early = here.intersect(self.range).intersect(ByteRange::new(0, border));
        Ok((!early.is_empty()).then(|| part(early)))
    }

    async fn begin(&mut self) -> Result<(), OriginError> {
        let locator = &self.request.locator;
        let unusable = |reason: &str| OriginError::Unusable {
            registry: locator.registry.to_string(),
            reason: reason.to_owned(),
        };
        let fetch = self
            .env
            .origins
            .fetch(locator, self.read, None, &self.request.credentials);
        let fetch = fetch.await?;
        let layout = PieceLayout::of(fetch.length).map_err(|_| unusable("its content is too long"))?;
        let known = self.layout.map(PieceLayout::length).or(self.request.length);
        if known.is_some_and(|known| known != fetch.length) || fetch.range.start != self.read {
            return Err(unusable("its content has another length than before"));
        }
        if !fetch.goes_on(&self.version) {
            // Whichever is the right one: the next who asks gets all of it anew.
            self.env.distrust(self.request.task());
            return Err(OriginError::Changed {
                registry: locator.registry.to_string(),
            });
        }
        self.layout = Some(layout);
        self.fetch = Some(fetch);
        Ok(())
    }

    /// All was read: what was held back goes, or never goes.
    fn end(&mut self, layout: PieceLayout) {
        let digest = self.hasher.take().map(PieceHasher::digest);
        if self.read != layout.length() || digest != Some(self.request.locator.digest) {
            self.wrong = true;
        }
        self.env.forget_version(self.request.task());
        self.tail.reverse();
    }

    async fn broken(&mut self, error: OriginError) -> Result<(), PullError> {
        self.fetch = None;
        pause(&mut self.resumes, error).await
    }
}

/// Waits before what broke off is asked for again; the error where that is of no use.
async fn pause(resumes: &mut u32, error: OriginError) -> Result<(), PullError> {
    *resumes += 1;
    let passing = matches!(error, OriginError::Cut { .. } | OriginError::Silent { .. });
    if !passing || *resumes > RESUMES_MAX {
        return Err(failed(error));
    }
    tokio::time::sleep(RESUME_PAUSE * 2u32.pow(*resumes)).await;
    Ok(())
}

fn last(layout: PieceLayout) -> ByteRange {
    layout.piece_range(layout.last_piece())
}

fn failed(error: OriginError) -> PullError {
    PullError::Origin(Arc::new(error))
}
