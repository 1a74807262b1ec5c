//! The body of an answer: read as it comes, with a bound on silence, and the connection given back at its end.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_service::limit::Pacer;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::dial::Target;
use crate::error::OriginError;
use crate::link::Link;
use crate::registry::{Permits, Registry, Talk};

/// A body that is being read. Dropping it closes the connection, unless the end was reached.
pub(crate) struct AnswerBody {
    incoming: Incoming,
    registry: Arc<Registry>,
    target: Target,
    /// None once the end was reached.
    link: Option<Link>,
    permits: Option<Permits>,
    talk: Option<Talk>,
    received: u64,
    pacer: Pacer,
    silence: Duration,
    /// Runs while nothing comes.
    alarm: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.link.is_none();
        f.debug_struct("AnswerBody")
            .field("received", &self.received)
            .field("ended", &ended)
            .finish_non_exhaustive()
    }
}

impl AnswerBody {
    pub(crate) fn new(
        incoming: Incoming,
        link: Link,
        registry: Arc<Registry>,
        target: Target,
        silence: Duration,
    ) -> Self {
        let mut body = Self {
            incoming,
            pacer: registry.pacer(),
            talk: Some(registry.talk()),
            registry,
            target,
            link: Some(link),
            permits: None,
            received: 0,
            silence,
            alarm: None,
            armed: false,
        };
        body.end_if_known();
        body
    }

    /// Keeps the right to the request for as long as the body is read.
    pub(crate) fn hold(&mut self, permits: Permits) {
        self.permits = self.link.is_some().then_some(permits);
    }

    /// Bytes that came so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Where the length is known the end is, too, before anybody asks for more.
    fn end_if_known(&mut self) {
        if self.incoming.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(link) = self.link.take() {
            self.registry.keep(self.target.clone(), link);
        }
        self.permits = None;
        self.talk = None;
    }

    /// The next bytes, never none of them; `None` at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        loop {
            let Some(link) = &mut self.link else {
                return Poll::Ready(Ok(None));
            };
            ready!(self.pacer.poll_ready(cx));
            let incoming = &mut self.incoming;
            match link.poll_with(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx)) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.armed = false;
                    let bytes = frame.into_data().unwrap_or_default();
                    self.received += bytes.len() as u64;
                    self.registry.metrics.bytes.inc_by(bytes.len() as u64);
                    self.pacer.came(bytes.len() as u64);
                    self.end_if_known();
                    if !bytes.is_empty() {
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    let registry = self.registry.name.to_string();
                    return Poll::Ready(Err(OriginError::Cut {
                        registry,
                        received: self.received,
                    }));
                }
                Poll::Ready(None) => self.end(),
                Poll::Pending => {
                    ready!(self.poll_alarm(cx));
                    let (registry, waited) = (self.registry.name.to_string(), self.silence);
                    return Poll::Ready(Err(OriginError::Silent { registry, waited }));
                }
            }
        }
    }

    /// Ready when nothing came for too long. The alarm is set only when there is something to wait for.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.silence;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !self.armed {
            alarm.as_mut().reset(deadline);
            self.armed = true;
        }
        alarm.as_mut().poll(cx)
    }

    /// All of it, up to `max` bytes; the flag says whether that was all.
    pub(crate) async fn collect(&mut self, max: usize) -> Result<(Bytes, bool), OriginError> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            let room = max - all.len();
            all.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
            if bytes.len() > room {
                return Ok((all.freeze(), false));
            }
        }
        Ok((all.freeze(), true))
    }
}

/// A body that is passed on. It ends with an error when it breaks, is silent, or is longer than this crate passes on.
#[derive(Debug)]
pub struct RelayBody(Kind);

#[derive(Debug)]
enum Kind {
    /// It is here.
    Whole(Bytes),
    /// It comes; so many bytes more may.
    Coming(Box<AnswerBody>, u64),
}

impl RelayBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(bytes))
    }

    pub(crate) fn coming(body: AnswerBody, bytes_max: u64) -> Self {
        Self(Kind::Coming(Box::new(body), bytes_max))
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = OriginError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OriginError>>> {
        let (body, left) = match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Coming(body, left) => (body, left),
        };
        let Some(bytes) = ready!(body.poll_next(cx)).transpose() else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(bytes.and_then(|bytes| {
            *left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| OriginError::Unusable {
                    registry: body.registry.name.to_string(),
                    reason: "the answer is longer than what is passed on".to_owned(),
                })?;
            Ok(Frame::data(bytes))
        })))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Coming(body, _) => body.link.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Coming(body, _) => body.incoming.size_hint(),
        }
    }
}
