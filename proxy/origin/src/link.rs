//! One HTTP/1.1 connection, driven by whoever uses it: there is no task behind it that could outlive its user.
//!
//! hyper parts a connection into a handle and a driver that moves the bytes; a [`Link`] keeps both and polls the driver
//! along with each thing that waits for it. A link that nobody polls reads nothing, which is the back-pressure.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use darter_service::net::Stream;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

/// Bytes that hyper may buffer of one connection; a head must fit.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// The body of every request: none.
pub(crate) type NoBody = Empty<Bytes>;

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One connection.
pub(crate) struct Link {
    sender: SendRequest<NoBody>,
    /// None once the connection has ended.
    driver: Option<Driver>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("open", &self.driver.is_some())
            .finish()
    }
}

impl Link {
    /// Begins HTTP on a connection.
    pub(crate) async fn new(stream: Stream) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(connection)),
        })
    }

    /// Sends a request and waits for the head of its answer. When dropped in between, the link must be dropped as well.
    pub(crate) async fn exchange(&mut self, request: Request<NoBody>) -> hyper::Result<Response<Incoming>> {
        let mut answer = pin!(self.sender.send_request(request));
        let driver = &mut self.driver;
        std::future::poll_fn(|cx| drive(driver, cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// Polls what depends on this link.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        drive(&mut self.driver, cx, wanted)
    }

    /// Whether it can take another request right now.
    pub(crate) fn is_free(&mut self) -> bool {
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let ready = drive(driver, &mut cx, |cx| sender.poll_ready(cx));
        matches!(ready, Poll::Ready(Ok(()))) && driver.is_some() && !self.sender.is_closed()
    }
}

/// Polls `wanted`, and the driver that brings it on.
fn drive<T>(
    driver: &mut Option<Driver>,
    cx: &mut Context<'_>,
    mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if let Poll::Ready(done) = wanted(cx) {
        return Poll::Ready(done);
    }
    if let Some(running) = driver
        && running.as_mut().poll(cx).is_ready()
    {
        // What it had to say, it has said to those who wait.
        *driver = None;
    }
    wanted(cx)
}
