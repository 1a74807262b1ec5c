//! A connection whose other end must go on taking what it asked for.
//!
//! What is written and not taken holds whatever the answer holds: a slot, memory, a file. The system's own bound
//! (`crate::net::stall`) lets go of ends that take nothing; one that takes a few bytes now and then, and whatever the
//! transport is, is bound here: by how long the socket may have no room for the next byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Sleep, sleep};

/// A connection that fails with `TimedOut` once its other end has left what is written for it for too long.
#[derive(Debug)]
pub(super) struct Unread<I> {
    io: I,
    max: Duration,
    /// Runs while the socket has no room.
    waiting: Option<Pin<Box<Sleep>>>,
    stalled: Counter,
}

impl<I> Unread<I> {
    pub(super) fn new(io: I, max: Duration, stalled: Counter) -> Self {
        Self {
            io,
            max,
            waiting: None,
            stalled,
        }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = written {
            self.waiting = None;
            // Or the system was faster.
            if matches!(&written, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
                self.stalled.inc();
            }
            return Poll::Ready(written);
        }
        let max = self.max;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(max)));
        ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.stalled.inc();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: Read + Unpin> Read for Unread<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Write + Unpin> Write for Unread<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watched(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watched(cx, shut)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watched(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    async fn write(io: &mut Unread<TokioIo<tokio::io::DuplexStream>>, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_left_and_who_takes_something_is_not() {
        let (mut there, here) = duplex(10);
        let stalled = Counter::default();
        let max = Duration::from_secs(10);
        let mut io = Unread::new(TokioIo::new(here), max, stalled.clone());
        let began = Instant::now();
        let slow = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                there.read_exact(&mut [0; 10]).await.unwrap();
            }
        };
        let writer = async {
            for _ in 0..6 {
                assert_eq!(write(&mut io, &[0; 10]).await.unwrap(), 10);
            }
        };
        tokio::join!(slow, writer);
        assert_eq!((began.elapsed().as_secs(), stalled.get()), (40, 0));
        let error = write(&mut io, &[0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!((began.elapsed().as_secs(), stalled.get()), (50, 1));
    }
}
