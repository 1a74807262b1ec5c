//! A content in order, over as many requests as it takes.
//!
//! [`Reading`] goes on where the last byte came, whenever it is asked again after a failure. A small content is one
//! request. Of a large one the first segment is asked for alone, so that the first byte comes as soon as ever and a
//! registry that ignores `Range` just goes on; then, while [`Pace`] finds that it helps, some segments are read ahead,
//! each over a connection of its own into memory that was set aside for it. They use what nobody else needs: without a
//! free connection or free memory the rest comes over one.
//!
//! What must hold: bytes come in order and, as long as the registry heeds `Range`, once; all are of one version, as far
//! as the registry tells versions apart; nothing is read ahead of a failure to be told; there is no task behind it,
//! whatever is dropped stops.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use darter_types::{ContentKind, OriginLocator};
use http::StatusCode;
use tokio::time::Instant;

use crate::config::LargeBlobsConfig;
use crate::credentials::Credentials;
use crate::error::OriginError;
use crate::fetch::{SKIP_BYTES_MAX, Wanted};
use crate::origins::Origins;
use crate::pace::Pace;
use crate::registry::Permits;
use crate::segment::{Opening, Segment};
use crate::version::Version;

const NOT_SATISFIABLE: StatusCode = StatusCode::RANGE_NOT_SATISFIABLE;
/// Answers with another entity tag after which a content counts as changed. Fewer may be of a version that passes, or of
/// another replica, and the next answer comes right; none of them is ever taken.
const OTHER_TAGS_MAX: u32 = 4;

/// A content that is being read. Dropping it ends its requests.
pub struct Reading {
    origins: Origins,
    locator: OriginLocator,
    /// Bytes of the whole content, once they are known.
    length: Option<u64>,
    /// The first byte that was asked for.
    start: u64,
    /// The next byte that is handed out.
    next: u64,
    /// Behind the last one; `None` is the content's end, wherever that is.
    end: Option<u64>,
    /// In order and without gaps; the first one is read.
    segments: VecDeque<Segment>,
    pace: Pace,
    /// What the registry calls the bytes that came, of this reading or of one before it.
    version: Version,
    /// Answers that called them otherwise.
    other_tags: u32,
    /// Should the registry ignore `Range` in the middle, it is read from the start once more; once.
    may_restart: bool,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("locator", &self.locator)
            .field("next", &self.next)
            .field("end", &self.end)
            .field("segments", &self.segments.len())
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

impl Reading {
    pub(crate) fn new(
        origins: Origins,
        locator: OriginLocator,
        start: u64,
        end: Option<u64>,
        length: Option<u64>,
    ) -> Self {
        let large = origins.large_blobs();
        // Of a content whose length is not known yet the first answer tells it.
        let left = end.or(length).map_or(u64::MAX, |end| end.saturating_sub(start));
        let several = large.connections_per_blob > 1
            && locator.kind == ContentKind::Blob
            && left >= large.length_min.as_u64();
        Self {
            pace: if several {
                Pace::First { since: None }
            } else {
                Pace::One
            },
            origins,
            locator,
            length,
            start,
            next: start,
            end: end.or(length),
            segments: VecDeque::new(),
            version: Version::default(),
            other_tags: 0,
            may_restart: true,
        }
    }

    /// The same, as a part of what `version` was handed out of before.
    #[must_use]
    pub fn of_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Waits for the answer that the next byte comes with: the content's length in bytes, as the registry has it. Asks
    /// where nothing is asked, with these credentials. Cancel safe.
    ///
    /// # Errors
    /// Any [`OriginError`] of the request.
    pub async fn open(&mut self, credentials: &Credentials) -> Result<u64, OriginError> {
        poll_fn(|cx| {
            let told = ready!(self.poll_open(cx, credentials))?;
            Poll::Ready(Ok(told.or(self.length).unwrap_or_default()))
        })
        .await
    }

    /// The next bytes, `None` behind the last one. After an error, the next call asks again from where it broke. Cancel
    /// safe.
    ///
    /// # Errors
    /// Any [`OriginError`] of a request, [`Cut`](OriginError::Cut) and [`Silent`](OriginError::Silent) of a body.
    pub async fn next(&mut self, credentials: &Credentials) -> Result<Option<Bytes>, OriginError> {
        poll_fn(|cx| self.poll_next(cx, credentials)).await
    }

    /// Where the next bytes stand in the content.
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// Nothing from `end` on is needed any more: what was asked for ahead of that stops.
    pub fn shorten(&mut self, end: u64) {
        if self.end.is_some_and(|known| known <= end) || end < self.next {
            return;
        }
        self.end = Some(end);
        self.segments.retain(|segment| segment.start() < end);
        self.segments.iter_mut().for_each(|segment| segment.shorten(end));
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        credentials: &Credentials,
    ) -> Poll<Result<Option<Bytes>, OriginError>> {
        while self.end.is_none_or(|end| self.next < end) {
            if let Some(other) = ready!(self.poll_open(cx, credentials))?
                && Some(other) != self.length
            {
                return Poll::Ready(Err(self.other_length(other)));
            }
            let Some(head) = self.segments.front_mut() else {
                continue;
            };
            match head.poll_next(cx) {
                Poll::Ready(Ok(Some(bytes))) => {
                    self.version.begun();
                    self.next += bytes.len() as u64;
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.poll_ahead(cx, credentials);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Waits until the first segment has been answered; the length that the answer told, if it came just now.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        credentials: &Credentials,
    ) -> Poll<Result<Option<u64>, OriginError>> {
        self.leave_ended();
        self.begin(credentials);
        let Some(head) = self.segments.front_mut() else {
            return Poll::Ready(Ok(None));
        };
        if head.has_arrived() {
            // The others would wait while what came ahead is worked on.
            self.poll_ahead(cx, credentials);
            return Poll::Ready(Ok(None));
        }
        let ahead = head.awaits_ahead();
        let Poll::Ready(answer) = head.poll_answer(cx) else {
            self.poll_ahead(cx, credentials);
            return Poll::Pending;
        };
        if ahead && answer.is_err() {
            // Its turn has come: it is asked for with all retries.
            return self.poll_open(cx, credentials);
        }
        let Some(fetch) = answer? else {
            return Poll::Ready(Ok(None));
        };
        let (length, end, whole) = (fetch.length, fetch.range.end, fetch.is_whole());
        if self.length.is_some_and(|known| known != length) {
            head.close();
            return Poll::Ready(Ok(Some(length)));
        }
        if !self.version.fits(fetch.etag()) {
            head.close();
            return Poll::Ready(Err(self.another_version()));
        }
        self.version.taken(fetch.etag());
        self.may_restart &= fetch.skips() <= SKIP_BYTES_MAX;
        if whole || head.end() > length {
            head.set_end(end);
        }
        let large = self.origins.large_blobs();
        if self.length.is_none() && length < large.length_min.as_u64() {
            self.pace = Pace::One;
        }
        if whole {
            // What was asked for ahead comes along.
            self.pace = Pace::One;
            self.segments.truncate(1);
        }
        self.length = Some(length);
        self.end = Some(self.end.unwrap_or(length));
        self.pace.flows(Instant::now());
        Poll::Ready(Ok(Some(length)))
    }

    fn other_length(&self, length: u64) -> OriginError {
        let known = self.length.unwrap_or_default();
        self.unusable(&format!("it has {length} bytes of a content that had {known}"))
    }

    fn another_version(&mut self) -> OriginError {
        self.other_tags += 1;
        if self.other_tags < OTHER_TAGS_MAX {
            return self.unusable("it calls the rest of a content by another entity tag");
        }
        OriginError::Changed {
            registry: self.locator.registry.to_string(),
        }
    }

    fn unusable(&self, reason: &str) -> OriginError {
        OriginError::Unusable {
            registry: self.locator.registry.to_string(),
            reason: reason.to_owned(),
        }
    }

    // === what is asked for ===

    /// Leaves the first segment if it is over.
    fn leave_ended(&mut self) {
        let large = self.large();
        let trial = large
            .segment_length
            .as_u64()
            .saturating_mul(large.connections_per_blob as u64);
        if let Some(over) = self.segments.pop_front_if(|head| head.is_over()) {
            self.pace.segment_ended(Instant::now(), over.length(), trial);
        }
    }

    /// Asks for the first segment if nobody did.
    fn begin(&mut self, credentials: &Credentials) {
        if self.segments.is_empty() {
            let end = self.end.unwrap_or(u64::MAX);
            let segment_length = match self.length {
                Some(_) => self.large().segment_length.as_u64(),
                // What is small is to come whole.
                None => self.large().length_min.as_u64() / 2,
            };
            let short = self.next.saturating_add(segment_length).min(end);
            match self.pace {
                Pace::First { .. } => self.segments.push_back(Segment::new(self.next, short, None)),
                Pace::One => self.segments.push_back(Segment::new(self.next, end, None)),
                Pace::Trial { .. } | Pace::Several => {
                    self.segments.push_back(Segment::new(self.next, short, None));
                    self.extend(credentials);
                }
            }
            if self.pace.runs_ahead() && self.segments.len() == 1 {
                // Nobody can run ahead: then there is no use in short requests.
                self.pace = Pace::One;
                self.segments.iter_mut().for_each(|segment| segment.set_end(end));
            }
        }
        if let Some((start, end)) = self.segments.front().and_then(Segment::lacks) {
            let opening = self.request(start, end, self.end, credentials, None);
            if let Some(head) = self.segments.front_mut() {
                head.ask(opening, false);
            }
        }
    }

    /// Asks for further segments while there is something left to ask for, and a connection and memory to spare.
    fn extend(&mut self, credentials: &Credentials) {
        let (connections, length) = (
            self.large().connections_per_blob,
            self.large().segment_length.as_u64(),
        );
        while self.pace.runs_ahead() && self.segments.len() < connections {
            let start = self.segments.back().map_or(self.next, Segment::end);
            let end = start.saturating_add(length).min(self.end.unwrap_or(start));
            if end <= start {
                return;
            }
            let Some(room) = self.origins.room_ahead(length) else {
                return;
            };
            let Some(permits) = self.origins.admit_ahead(&self.locator.registry) else {
                return;
            };
            let mut segment = Segment::new(start, end, Some(room));
            let opening = self.request(start, end, Some(end), credentials, Some(permits));
            segment.ask(opening, true);
            self.segments.push_back(segment);
        }
    }

    fn request(
        &self,
        start: u64,
        end: u64,
        useful: Option<u64>,
        credentials: &Credentials,
        permits: Option<Permits>,
    ) -> Opening {
        let (origins, locator) = (self.origins.clone(), self.locator.clone());
        let (credentials, length) = (credentials.clone(), self.length);
        // To the end of the content no end is named: some registries answer such requests from a cheaper place.
        let asked = Some(end).filter(|end| *end < u64::MAX && Some(*end) != length);
        let resumed = permits.is_none() && start > self.start && self.may_restart;
        let skip_max = if resumed { u64::MAX } else { SKIP_BYTES_MAX };
        Box::pin(async move {
            let wanted = Wanted {
                locator: &locator,
                start,
                end: asked,
                useful,
                skip_max,
                length,
                ranged: false,
            };
            match origins.get(wanted, &credentials, permits).await {
                // An empty content has no first byte, and this may be one.
                Err(error) if error.status() == Some(NOT_SATISFIABLE) && start == 0 && length.is_none() => {
                    let wanted = Wanted { end: None, ..wanted };
                    origins.get(wanted, &credentials, None).await
                }
                other => other,
            }
        })
    }

    fn large(&self) -> &LargeBlobsConfig {
        self.origins.large_blobs()
    }

    // === ahead ===

    /// Lets all segments behind the first one come on, and asks for more.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, credentials: &Credentials) {
        self.extend(credentials);
        for index in 1..self.segments.len() {
            self.resume_ahead(index, credentials);
            let Some(segment) = self.segments.get_mut(index) else {
                return;
            };
            match segment.poll_answer(cx) {
                Poll::Ready(Ok(Some(fetch)))
                    if Some(fetch.length) != self.length
                        || fetch.is_whole()
                        || !self.version.fits(fetch.etag()) =>
                {
                    // Its turn will tell what is the matter.
                    segment.close();
                    self.pace = Pace::One;
                }
                Poll::Ready(Ok(_)) => segment.poll_ahead(cx),
                // Perhaps it was one request too many.
                Poll::Ready(Err(OriginError::RateLimited { .. } | OriginError::Status { .. })) => {
                    self.pace = Pace::One;
                }
                Poll::Ready(Err(_)) | Poll::Pending => {}
            }
        }
    }

    /// Asks again for a segment that broke off ahead of its turn.
    fn resume_ahead(&mut self, index: usize, credentials: &Credentials) {
        if !self.pace.runs_ahead() {
            return;
        }
        let Some((start, end)) = self.segments.get(index).and_then(Segment::lacks_ahead) else {
            return;
        };
        let Some(permits) = self.origins.admit_ahead(&self.locator.registry) else {
            return;
        };
        let opening = self.request(start, end, Some(end), credentials, Some(permits));
        if let Some(segment) = self.segments.get_mut(index) {
            segment.ask(opening, true);
        }
    }
}
