//! One client connection: HTTP/1.1, and an end that the client can tell from a network failure.
//!
//! A body that breaks off must end by FIN: clients resume after that, and give up after a reset. The kernel
//! resets a connection that is closed with input unread, so what the client still sends is read and thrown away
//! for a moment first.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use darter_service::http_server::Strict;
use darter_service::net::{Acceptor, Listener, PeerAddr, Stream, stall};
use darter_service::supervise::Tasks;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::{Mirror, MirrorConfig, Reply};
use crate::sendfile::ZeroCopy;

/// How long, and how much, a client may go on sending after its connection was ended here.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Connections that are told at one time that there are too many; further ones are closed without a word.
const REFUSALS_MAX: usize = 256;
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// How connections of one kind are accepted.
pub(crate) struct Accepting<'a> {
    /// Names their tasks.
    pub(crate) name: &'static str,
    /// At the same time; more are told 503 and closed.
    pub(crate) connections_max: usize,
    /// Told of each of those.
    pub(crate) refused: &'a (dyn Fn() + Sync),
    pub(crate) tasks: &'a Tasks,
    pub(crate) stop: CancellationToken,
}

/// Serves each connection of a listener in a task of its own, until `stop`.
pub(crate) async fn accept<F>(
    listener: Box<dyn Listener>,
    how: Accepting<'_>,
    serve: impl Fn(Stream, PeerAddr, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(how.connections_max.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut acceptor = Acceptor::new(how.name, listener);
    while let Some((stream, from)) = how.stop.run_until_cancelled(acceptor.accept()).await {
        if let Ok(slot) = Arc::clone(&room).try_acquire_owned() {
            let served = serve(stream, from, how.stop.clone());
            how.tasks.spawn(how.name, async move {
                let _slot = slot;
                served.await;
            });
            continue;
        }
        (how.refused)();
        if let Ok(slot) = Arc::clone(&refusals).try_acquire_owned() {
            how.tasks.spawn("refusal of a connection", async move {
                let _slot = slot;
                refuse(stream).await;
            });
        }
    }
}

/// Bounds of what a client says before it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    timeout: Duration,
    bytes_max: usize,
    count_max: usize,
}

impl Heads {
    pub(crate) fn of(config: &MirrorConfig) -> Self {
        Self {
            timeout: config.header_timeout.as_duration(),
            bytes_max: config.header_bytes_max.as_usize(),
            count_max: config.headers_max,
        }
    }
}

/// A connection whose requests are answered.
#[derive(Debug)]
pub(crate) struct Ended<I> {
    pub(crate) io: I,
    /// What the client had sent beyond its last request: after a CONNECT, the begin of what the tunnel carries.
    pub(crate) early: Bytes,
    /// The client left, a limit ended it, or a body was given up and logged where that happened. Nothing if the right ended
    /// by which an answer was being sent.
    pub(crate) error: Option<hyper::Error>,
}

/// Answers the requests of one connection. Gives the connection back when it is to be ended, or when a CONNECT was
/// answered by 200. Dropping the future drops the connection.
pub(crate) async fn answer_all<I, F>(
    io: I,
    client: &Client,
    heads: Heads,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) -> Ended<I>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Reply> + Send,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(client.clone());
        let answering = answer(request);
        Box::pin(async move { Ok::<_, Infallible>(answering.await) })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(heads.timeout)
        .max_buf_size(heads.bytes_max)
        .max_headers(heads.count_max)
        .serve_connection(Strict::new(TokioIo::new(io)), service);
    let mut stopping = Some(Box::pin(stop.cancelled_owned()));
    let ended = poll_fn(|cx| {
        if stopping
            .as_mut()
            .is_some_and(|stop| stop.as_mut().poll(cx).is_ready())
        {
            stopping = None;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match connection.poll_without_shutdown(cx) {
            Poll::Pending => client.poll_over(cx).map(Ok),
            ended => ended,
        }
    });
    let error = ended.await.err();
    if let Some(error) = &error {
        tracing::debug!(%error, "connection ended");
    }
    let parts = connection.into_parts();
    Ended {
        io: parts.io.into_inner().into_inner(),
        early: parts.read_buf,
        error,
    }
}

impl Mirror {
    /// Serves the connections of a listener until `stop`; then they finish the request that they are at.
    pub async fn serve(
        &self,
        listener: Box<dyn Listener>,
        tasks: &Tasks,
        zero_copy: ZeroCopy,
        stop: CancellationToken,
    ) {
        let MirrorConfig {
            connections_max,
            stall_timeout,
            ..
        } = self.inner.config;
        let how = Accepting {
            name: "mirror connection",
            connections_max,
            refused: &|| self.inner.metrics.connection_refused(),
            tasks,
            stop,
        };
        accept(listener, how, |stream, from, stop| {
            stall::bound(&stream, stall_timeout.as_duration());
            let client = Client::of(&stream, from);
            let (mirror, stream) = (self.clone(), zero_copy.wrap_stream(stream));
            async move { mirror.serve_connection(stream, client, stop).await }
        })
        .await;
    }

    /// Serves one connection until it ends, or until its request is answered once `stop` is there. Dropping the
    /// future drops the connection.
    pub(super) async fn serve_connection<I>(&self, io: I, client: Client, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = answer_all(io, &client, self.heads(), stop, |request| {
            let mirror = self.clone();
            async move { mirror.answer(request).await }
        })
        .await;
        if let Some(error) = &ended.error {
            self.inner.metrics.connection_failed(error);
        }
        end(ended.io).await;
    }
}

/// Says 503 rather than nothing: a client that hears nothing waits, one that hears 503 goes to its next host.
async fn refuse(mut stream: Stream) {
    // A client that left needs no answer.
    _ = timeout(LINGER, stream.write_all(REFUSAL)).await;
    end(stream).await;
}

/// Ends a connection by FIN, never by RST.
pub(crate) async fn end<I: AsyncRead + AsyncWrite + Unpin>(mut io: I) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    let drain = async {
        while let Ok(count @ 1..) = io.read(&mut rest).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    // Whoever sends on and on is reset in the end.
    _ = timeout(LINGER, drain).await;
}
