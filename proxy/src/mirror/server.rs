//! One client connection: HTTP/1.1, and an end that the client can tell from a network failure.
//!
//! A body that breaks off must end by FIN: clients resume after that, and give up after a reset. The kernel
//! resets a connection that is closed with input unread, so what the client still sends is read and thrown away
//! for a moment first.

use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Mirror;

/// How long a connection may stay without a (whole) request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and how much, a client may go on sending after its connection was ended here.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a connection that wait for a slow client; a body's own chunk comes on top.
const BUFFER_BYTES: usize = 64 * 1024;

impl Mirror {
    /// Serves one connection until it ends. Dropping the future drops the connection.
    pub async fn serve_connection<I>(&self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| {
            let mirror = self.clone();
            async move { Ok::<_, Infallible>(mirror.answer(request).await) }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(io), service);
        if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
            // The client left, or a body was given up and logged where that happened.
            tracing::debug!(%error, "connection ended");
        }
        end(connection.into_parts().io.into_inner()).await;
    }
}

/// Ends a connection by FIN, never by RST.
async fn end<I: AsyncRead + AsyncWrite + Unpin>(mut io: I) {
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
