//! The body of a content's answer: exactly the promised bytes, or a short body and the end of the connection.
//!
//! Parts are opened one after the other, so that a body holds back no more than one reader's window.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use darter_types::ByteRange;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::access::Standing;
use crate::journal::Entry;

use super::content::{ContentStream, OpenContent};
use super::giveup::Running;
use super::metrics::MirrorMetrics;
use super::reply::{BodyError, ReplyBody};

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// These bytes: what stands between ranges.
    Text(Bytes),
    /// These bytes of the content.
    Range(ByteRange),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(range) => range.len(),
        }
    }
}

/// How many bytes the parts make.
pub(super) fn length_of(parts: &[Part]) -> u64 {
    parts.iter().map(Part::len).sum()
}

/// The body. An error is its last frame; before it, what was handed out is flushed.
pub(super) struct ContentBody {
    content: Arc<dyn OpenContent>,
    parts: VecDeque<Part>,
    reader: Option<(ContentStream, u64)>,
    left: u64,
    running: Running,
    /// Until when it may be read; `None` where anybody may.
    standing: Option<Arc<Standing>>,
    failed: Option<BodyError>,
    ended: bool,
}

impl fmt::Debug for ContentBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl ContentBody {
    pub(super) fn new(content: Arc<dyn OpenContent>, parts: Vec<Part>, running: Running) -> Self {
        Self {
            content,
            left: length_of(&parts),
            parts: parts.into(),
            reader: None,
            running,
            standing: None,
            failed: None,
            ended: false,
        }
    }

    /// The same, which ends when the right to read it does.
    pub(super) fn by(mut self, standing: Option<Arc<Standing>>) -> Self {
        self.standing = standing;
        self
    }

    /// A body that promises its length and ends before the first byte.
    pub(super) fn ended(mut self) -> Self {
        self.ended = true;
        self
    }

    /// Why it fails before anything was sent, if that is known by now; the answer can still be another one then.
    pub(super) fn early_failure(&mut self, cx: &mut Context<'_>) -> Option<BodyError> {
        if let Some(Part::Range(range)) = self.parts.front().cloned() {
            self.parts.pop_front();
            let mut reader = self.content.read(range);
            let first = reader.as_mut().poll_next(cx);
            let rest: ContentStream = match first {
                Poll::Ready(Some(Err(error))) => return Some(error.into()),
                Poll::Ready(Some(Ok(bytes))) => {
                    let first = futures_util::stream::iter([Ok(bytes)]);
                    Box::pin(futures_util::StreamExt::chain(first, reader))
                }
                Poll::Ready(None) => Box::pin(futures_util::stream::empty()),
                Poll::Pending => reader,
            };
            self.reader = Some((rest, range.len()));
        }
        None
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some((reader, wanted)) = &mut self.reader {
                match ready!(reader.as_mut().poll_next(cx)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) if bytes.len() as u64 <= *wanted => {
                        *wanted -= bytes.len() as u64;
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    Some(Ok(_)) => return Poll::Ready(Some(Err(BodyError::Short { missing: 0 }))),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None if *wanted > 0 => {
                        let missing = self.left;
                        return Poll::Ready(Some(Err(BodyError::Short { missing })));
                    }
                    None => self.reader = None,
                }
                continue;
            }
            match self.parts.pop_front() {
                Some(Part::Text(text)) => return Poll::Ready(Some(Ok(text))),
                Some(Part::Range(range)) => self.reader = Some((self.content.read(range), range.len())),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Remembers why it ends, and comes back once what was handed out had its chance to be flushed.
    fn fail(
        &mut self,
        error: BodyError,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.ended {
            tracing::warn!(task = %self.running.task(), %error, missing_bytes = self.left, "body given up, the client is handed over");
            self.running.give_up();
        }
        self.reader = None;
        self.parts.clear();
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Body for ContentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if this.ended {
            return this.fail(BodyError::GivenUp, cx);
        }
        if this
            .standing
            .as_ref()
            .is_some_and(|standing| standing.poll_over(cx).is_ready())
        {
            // It is this client's matter: others may go on, and what it asks next is answered by the registry.
            this.ended = true;
            return this.fail(BodyError::Refused, cx);
        }
        match ready!(this.poll_bytes(cx)) {
            Some(Ok(bytes)) => {
                this.left = this.left.saturating_sub(bytes.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => this.fail(error, cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.failed.is_none() && !self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that keeps its request counted while it is being sent, and tells when its first byte goes.
#[derive(Debug)]
pub(super) struct Held {
    body: ReplyBody,
    _slot: OwnedSemaphorePermit,
    /// Whom to tell, and when the request came; `None` once that was done.
    first_byte: Option<(MirrorMetrics, Instant)>,
    entry: Option<Entry>,
}

impl Held {
    pub(super) fn new(
        body: ReplyBody,
        slot: OwnedSemaphorePermit,
        first_byte: Option<(MirrorMetrics, Instant)>,
        entry: Option<Entry>,
    ) -> Self {
        Self {
            body,
            _slot: slot,
            first_byte,
            entry,
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let bytes = data.map_or(0, Bytes::len);
        if let Some(entry) = &mut this.entry {
            entry.sent(bytes as u64);
        }
        if bytes > 0
            && let Some((metrics, arrived)) = this.first_byte.take()
        {
            metrics.first_byte(arrived.elapsed());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
