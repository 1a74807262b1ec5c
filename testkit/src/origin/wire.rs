//! The layer between HTTP and the socket: it counts the payload bytes that were really written, and it
//! ends a connection at an exact byte.
//!
//! Both need to know when HTTP's own buffer is empty, which only the I/O object sees: HTTP flushes it
//! after the last buffered byte. What must hold: a body that asked for an end arrives whole up to there.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Origin;
use super::fault::CutBy;

/// How a connection is to end, asked for by the answer that runs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Cut(CutBy),
    Raw(Bytes),
}

/// What the answers of one connection tell the layer below.
#[derive(Debug)]
pub(super) struct Control {
    origin: Origin,
    source: Option<IpAddr>,
    state: Mutex<ControlState>,
}

#[derive(Debug, Default)]
struct ControlState {
    ending: Option<Ending>,
    answers: VecDeque<Answer>,
}

/// An answer on its way out: first its head up to the empty line, then `left` bytes of body.
#[derive(Debug)]
struct Answer {
    digest: Option<String>,
    empty_line: usize,
    left: u64,
}

impl Control {
    pub(super) fn new(origin: Origin, source: Option<IpAddr>) -> Self {
        Self {
            origin,
            source,
            state: Mutex::default(),
        }
    }

    /// Ends the connection as soon as everything that was handed over is written.
    pub(super) fn end(&self, ending: Ending) {
        self.state().ending.get_or_insert(ending);
    }

    pub(super) fn take_ending(&self) -> Option<Ending> {
        self.state().ending.take()
    }

    /// An answer follows with `body` bytes of body, which count for `digest`, or not at all.
    pub(super) fn expect_answer(&self, digest: Option<String>, body: u64) {
        self.state().answers.push_back(Answer {
            digest,
            empty_line: 0,
            left: body,
        });
    }

    fn ending_asked(&self) -> bool {
        self.state().ending.is_some()
    }

    fn state(&self) -> MutexGuard<'_, ControlState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, bytes: &[u8]) {
        let mut payload = Vec::new();
        self.state().meter(bytes, &mut payload);
        for (digest, count) in payload {
            self.origin.state().ledger.sent(self.source, digest, count);
        }
    }
}

impl ControlState {
    /// Splits what was written into heads and bodies.
    fn meter(&mut self, mut bytes: &[u8], payload: &mut Vec<(String, u64)>) {
        while let Some(answer) = self.answers.front_mut().filter(|_| !bytes.is_empty()) {
            bytes = answer.skip_head(bytes);
            if !answer.head_is_out() {
                return;
            }
            let body = answer.left.min(bytes.len() as u64);
            if let Some(digest) = answer.digest.as_ref().filter(|_| body > 0) {
                payload.push((digest.clone(), body));
            }
            answer.left -= body;
            bytes = bytes.get(crate::content::to_usize(body)..).unwrap_or_default();
            if answer.left == 0 {
                self.answers.pop_front();
            }
        }
    }
}

impl Answer {
    const EMPTY_LINE: [u8; 4] = *b"\r\n\r\n";

    fn head_is_out(&self) -> bool {
        self.empty_line == Self::EMPTY_LINE.len()
    }

    fn skip_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        for (index, byte) in bytes.iter().enumerate() {
            match Self::EMPTY_LINE.get(self.empty_line) {
                None => return bytes.get(index..).unwrap_or_default(),
                Some(wanted) if wanted == byte => self.empty_line += 1,
                Some(_) => self.empty_line = usize::from(*byte == b'\r'),
            }
        }
        &[]
    }
}

/// The I/O object that HTTP gets.
#[derive(Debug)]
pub(super) struct Wire<I> {
    pub(super) io: I,
    control: Arc<Control>,
}

impl<I> Wire<I> {
    pub(super) fn new(io: I, control: Arc<Control>) -> Self {
        Self { io, control }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.control.written(bytes.get(..count).unwrap_or(bytes));
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            this.control.written(part);
            left -= part.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// HTTP flushes when its buffer is empty: the moment to end the connection, if one was asked for.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        if this.control.ending_asked() {
            return Poll::Ready(Err(io::Error::other("a fault ends this connection here")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
