//! The body of an answer: reads its content piece by piece and misbehaves as its flow says.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tokio::time::Sleep;

use super::Running;
use super::fault::CutBy;
use super::wire::{Control, Ending};
use crate::content::Content;

/// One frame carries at most so much.
const FRAME_BYTES_MAX: u64 = 64 * 1024;
/// A dripping body sends about so many frames a second.
const DRIP_FRAMES_PER_SECOND: u64 = 20;

/// How the bytes of a body leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) bytes_per_second: Option<u64>,
    pub(super) cut: Option<(u64, CutBy)>,
    pub(super) stall: Option<u64>,
    /// Offsets in the content whose bits are flipped.
    pub(super) flips: Vec<u64>,
}

/// A part of a content on its way to the client.
#[derive(Debug)]
pub(super) struct FaultyBody {
    pub(super) content: Content,
    /// What is left to send.
    pub(super) slice: Range<u64>,
    pub(super) flow: Flow,
    pub(super) sent: u64,
    pub(super) pause: Option<Pin<Box<Sleep>>>,
    pub(super) control: Arc<Control>,
    /// Counts the request as running until the body is dropped.
    pub(super) _running: Running,
}

impl FaultyBody {
    fn next_length(&self) -> u64 {
        let left = self.slice.end - self.slice.start;
        let to_mark = |mark: u64| mark.checked_sub(self.sent).unwrap_or(left);
        let cut = self.flow.cut.map_or(left, |(at, _)| to_mark(at));
        let stall = self.flow.stall.map_or(left, to_mark);
        let drip = self
            .flow
            .bytes_per_second
            .map_or(left, |rate| (rate / DRIP_FRAMES_PER_SECOND).max(1));
        left.min(cut).min(stall).min(drip).min(FRAME_BYTES_MAX)
    }

    fn next_bytes(&mut self) -> Bytes {
        let start = self.slice.start;
        let mut bytes = self.content.read(start..start + self.next_length());
        let end = start + bytes.len() as u64;
        for at in self.flow.flips.iter().filter(|at| (start..end).contains(at)) {
            let mut changed = BytesMut::from(bytes);
            if let Some(byte) = changed.get_mut(crate::content::to_usize(at - start)) {
                *byte = !*byte;
            }
            bytes = changed.freeze();
        }
        self.slice.start = end;
        self.sent += bytes.len() as u64;
        if let Some(rate) = self.flow.bytes_per_second {
            let pause = Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / rate.max(1));
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        bytes
    }

    /// Whether the body stops here for ever.
    fn stops_here(&self) -> bool {
        if let Some((_, by)) = self.flow.cut.filter(|(at, _)| *at == self.sent) {
            self.control.end(Ending::Cut(by));
            return true;
        }
        self.flow.stall == Some(self.sent)
    }
}

impl Body for FaultyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if this.slice.is_empty() {
            return Poll::Ready(None);
        }
        if this.stops_here() {
            // HTTP flushes what it has when a body is pending; the wire ends the connection then.
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(this.next_bytes()))))
    }

    fn is_end_stream(&self) -> bool {
        self.slice.is_empty()
    }
}
