//! A part of a content on its way: asked for, flowing, or broken off and to be asked for again.
//!
//! A segment is read in its turn, straight from its connection, or ahead of it, into memory that was set aside for it.
//! What must hold: it never keeps more than its own bytes, and a byte that came is not asked for again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::budget::Reservation;
use crate::error::OriginError;
use crate::fetch::Fetch;

/// Bytes that are handed out at once of what came ahead.
const SLICE_BYTES_MAX: usize = 256 * 1024;
/// Requests for one segment that may fail ahead of its turn; then it waits for that.
const FAILURES_AHEAD_MAX: u32 = 2;

/// A request on its way to its answer.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Fetch, OriginError>> + Send>>;

enum State {
    /// Not asked for, or broken off.
    Idle,
    Opening {
        opening: Opening,
        ahead: bool,
    },
    Flowing(Box<Fetch>),
}

/// One segment.
pub(crate) struct Segment {
    start: u64,
    /// The next byte that the registry is to send.
    at: u64,
    end: u64,
    state: State,
    /// Came ahead, and was not handed out.
    arrived: BytesMut,
    failures: u32,
    _room: Option<Reservation>,
}

impl Segment {
    /// Nothing is asked yet. Without room it can be read in its turn alone.
    pub(crate) fn new(start: u64, end: u64, room: Option<Reservation>) -> Self {
        Self {
            start,
            at: start,
            end,
            state: State::Idle,
            arrived: BytesMut::new(),
            failures: 0,
            _room: room,
        }
    }

    /// The bytes that are still to be asked for, if none are.
    pub(crate) fn lacks(&self) -> Option<(u64, u64)> {
        let idle = matches!(self.state, State::Idle) && self.arrived.is_empty() && self.at < self.end;
        idle.then_some((self.at, self.end))
    }

    /// The same ahead of its turn, whatever came already, unless that failed too often.
    pub(crate) fn lacks_ahead(&self) -> Option<(u64, u64)> {
        let idle = matches!(self.state, State::Idle) && self.at < self.end;
        (idle && self.failures < FAILURES_AHEAD_MAX).then_some((self.at, self.end))
    }

    /// Asks in its turn, or ahead of it.
    pub(crate) fn ask(&mut self, opening: Opening, ahead: bool) {
        self.state = State::Opening { opening, ahead };
    }

    /// Whether the answer to a request that was made ahead of its turn has not come: such a request is tried once, so
    /// that its failure says little.
    pub(crate) fn awaits_ahead(&self) -> bool {
        matches!(self.state, State::Opening { ahead: true, .. })
    }

    /// Takes the answer back: it does not fit.
    pub(crate) fn close(&mut self) {
        self.state = State::Idle;
        self.failures += 1;
    }

    pub(crate) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Nothing behind `end` is needed any more, but for what has come already.
    pub(crate) fn shorten(&mut self, end: u64) {
        self.end = self.end.min(end.max(self.at));
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of it, those that were handed out included.
    pub(crate) fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Whether all of it came and was handed out.
    pub(crate) fn is_over(&self) -> bool {
        self.at >= self.end && self.arrived.is_empty()
    }

    /// Whether bytes of it wait in memory.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Waits for the answer to its request; gives it once, and then `None`.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<&Fetch>, OriginError>> {
        let State::Opening { opening, .. } = &mut self.state else {
            return Poll::Ready(Ok(None));
        };
        match ready!(opening.as_mut().poll(cx)) {
            Ok(fetch) => self.state = State::Flowing(Box::new(fetch)),
            Err(error) => {
                self.close();
                return Poll::Ready(Err(error));
            }
        }
        match &self.state {
            State::Flowing(fetch) => Poll::Ready(Ok(Some(fetch))),
            State::Idle | State::Opening { .. } => Poll::Ready(Ok(None)),
        }
    }

    /// The next bytes, in its turn, once it was answered. `None` when it is over.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        if !self.arrived.is_empty() {
            let length = self.arrived.len().min(SLICE_BYTES_MAX);
            return Poll::Ready(Ok(Some(self.arrived.split_to(length).freeze())));
        }
        self.poll_flow(cx)
    }

    /// Lets bytes arrive ahead of its turn.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        if self.arrived.capacity() == 0 {
            let lacking = usize::try_from(self.end - self.at).unwrap_or(0);
            self.arrived.reserve(lacking);
        }
        loop {
            match self.poll_flow(cx) {
                Poll::Ready(Ok(Some(bytes))) => self.arrived.extend_from_slice(&bytes),
                Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => return,
            }
        }
    }

    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        let State::Flowing(fetch) = &mut self.state else {
            return Poll::Ready(Ok(None));
        };
        let next = ready!(fetch.poll_next(cx));
        match next {
            Ok(Some(bytes)) => {
                self.at += bytes.len() as u64;
                Poll::Ready(Ok(Some(bytes)))
            }
            Ok(None) if self.at >= self.end => {
                self.state = State::Idle;
                Poll::Ready(Ok(None))
            }
            Ok(None) => {
                // Less than was asked for.
                let error = fetch.cut();
                self.close();
                Poll::Ready(Err(error))
            }
            Err(error) => {
                self.close();
                Poll::Ready(Err(error))
            }
        }
    }
}
