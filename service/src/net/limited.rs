//! Connections of a server that are counted: a further one is closed at once, so that nobody holds all descriptors.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::transport::server::Connected;

use super::accept::{Acceptor, Seldom};
use super::{ConnectInfo, Listener, Stream};

/// Accepts no more connections at a time than its limit.
#[derive(Debug)]
pub(super) struct LimitedAcceptor {
    acceptor: Acceptor,
    room: Arc<Semaphore>,
    connections_max: usize,
    refusals: Seldom,
}

/// One of them; its place is free again when it is dropped.
#[derive(Debug)]
pub struct Limited {
    stream: Stream,
    _place: OwnedSemaphorePermit,
}

impl LimitedAcceptor {
    pub(super) fn new(name: &'static str, listener: Box<dyn Listener>, connections_max: usize) -> Self {
        Self {
            acceptor: Acceptor::new(name, listener),
            room: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            connections_max,
            refusals: Seldom::default(),
        }
    }

    /// The next connection that there is room for. Cancel safe.
    pub(super) async fn accept(&mut self) -> (Stream, OwnedSemaphorePermit) {
        loop {
            let (stream, _) = self.acceptor.accept().await;
            if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
                return (stream, place);
            }
            drop(stream);
            if let Some(unsaid) = self.refusals.note(Instant::now()) {
                tracing::warn!(
                    connections_max = self.connections_max,
                    unsaid,
                    "connections are closed because there are too many"
                );
            }
        }
    }
}

impl Limited {
    pub(super) fn new(stream: Stream, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            _place: place,
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connected for Limited {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Limited {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network as _, TokioNetwork};
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn one_too_many_is_closed_and_a_free_place_is_given_again() {
        let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut acceptor = LimitedAcceptor::new("test", listener, 2);
        let _first = TokioNetwork.connect(&address).await.unwrap();
        let (one, place) = acceptor.accept().await;
        let _second = TokioNetwork.connect(&address).await.unwrap();
        let _two = acceptor.accept().await;
        let mut third = TokioNetwork.connect(&address).await.unwrap();
        let mut byte = [0];
        // Accepting is what closes it.
        let closed = tokio::select! {
            read = third.read(&mut byte) => read,
            _ = acceptor.accept() => panic!("there was no room"),
        };
        assert!(matches!(closed, Ok(0) | Err(_)));
        drop((one, place));
        let _fourth = TokioNetwork.connect(&address).await.unwrap();
        let _again = acceptor.accept().await;
    }
}
