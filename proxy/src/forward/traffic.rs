//! Connections whose bytes are counted, and what ends those on which nothing moves any more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::metrics::ForwardMetrics;

/// A connection to a host, counted.
#[derive(Debug)]
pub(super) struct Counted<I> {
    io: I,
    moved: Arc<AtomicU64>,
    metrics: ForwardMetrics,
}

/// Sees whether bytes move on a connection.
#[derive(Debug)]
pub(super) struct Watch(Arc<AtomicU64>);

impl<I> Counted<I> {
    pub(super) fn new(io: I, metrics: ForwardMetrics) -> (Self, Watch) {
        let moved = Arc::new(AtomicU64::new(0));
        let watch = Watch(Arc::clone(&moved));
        (Self { io, moved, metrics }, watch)
    }
}

impl Watch {
    /// Resolves when no byte moved for `time`; it may take up to twice as long.
    pub(super) async fn silence(&self, time: Duration) {
        loop {
            let before = self.0.load(Ordering::Relaxed);
            sleep(time).await;
            if self.0.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            self.moved.fetch_add(count as u64, Ordering::Relaxed);
            self.metrics.received(count);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> Counted<I> {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count @ 1..)) = written {
            self.moved.fetch_add(count as u64, Ordering::Relaxed);
            self.metrics.sent(count);
        }
        written
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection of which some bytes were read already: they come first.
#[derive(Debug)]
pub(super) struct Resumed<I> {
    early: Bytes,
    io: I,
}

impl<I> Resumed<I> {
    pub(super) fn new(early: Bytes, io: I) -> Self {
        Self { early, io }
    }

    pub(super) fn into_inner(self) -> I {
        self.io
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Resumed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.early.len().min(buf.remaining());
        buf.put_slice(self.early.get(..count).unwrap_or_default());
        self.early.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Resumed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_was_read_early_comes_first() {
        let (mut here, there) = duplex(64);
        let mut resumed = Resumed::new(Bytes::from_static(b"abc"), there);
        here.write_all(b"def").await.unwrap();
        drop(here);
        let mut small = [0; 2];
        resumed.read_exact(&mut small).await.unwrap();
        assert_eq!(&small, b"ab");
        let mut rest = Vec::new();
        resumed.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"cdef");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_and_bytes_put_it_off() {
        let (mut here, there) = duplex(64);
        let (mut counted, watch) = Counted::new(there, ForwardMetrics::default());
        let silence = Duration::from_secs(10);
        let started = tokio::time::Instant::now();
        let chatter = async {
            for _ in 0..5 {
                sleep(Duration::from_secs(8)).await;
                here.write_all(b"x").await.unwrap();
                counted.read_u8().await.unwrap();
                counted.write_all(b"y").await.unwrap();
            }
        };
        tokio::join!(chatter, watch.silence(silence));
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_secs(50) && waited <= Duration::from_secs(60),
            "{waited:?}"
        );
    }
}
