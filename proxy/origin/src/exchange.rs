//! One thing asked of a registry, until there is an answer: retries, the anonymous token, redirects, connections.
//!
//! From outside in: [`Exchange::run`] repeats, `attempt` (in `authorize`) gets a token where one is wanted, `follow` goes where it is
//! sent, `once` makes one request on one connection, `judge` sorts answers into good ones and errors.
//!
//! What must hold: credentials go to the registry's own address and nowhere else, and not there either once somebody
//! else has sent us back; no secure address leads to an insecure one; nothing is repeated after a byte of a body.

mod authorize;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_service::trace_context::{self, TRACEPARENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, response};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument as _;
use tracing::field::Empty;
use url::{Position, Url};

use crate::body::AnswerBody;
use crate::credentials::Credentials;
use crate::dial::{DialError, Target};
use crate::error::{OriginError, is_passing};
use crate::headers;
use crate::link::{Link, NoBody};
use crate::origins::Inner;
use crate::registry::{Permits, Registry};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Bytes that are kept of an error's body.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Pause that is waited for within a request; a longer one is the caller's matter.
const PAUSE_WAITED_MAX: Duration = Duration::from_secs(5);
/// The pause after a 429 that names none.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);
const USER_AGENT: &str = concat!("darter/", env!("CARGO_PKG_VERSION"));

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Without `Authorization` and `Host`.
    pub(crate) headers: HeaderMap,
    /// For which an anonymous token may be fetched; `None` where the bare answer is wanted.
    pub(crate) repository: Option<String>,
    /// Whether it may run long.
    pub(crate) blob: bool,
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
}

/// Why one attempt gave nothing.
#[derive(Debug)]
struct Failure {
    error: OriginError,
    /// Whether another attempt may do better.
    retry: bool,
    /// Whether it was the registry itself that answered.
    home: bool,
}

impl Failure {
    fn last(error: OriginError) -> Self {
        Self {
            error,
            retry: false,
            home: false,
        }
    }

    fn passing(error: OriginError) -> Self {
        Self {
            error,
            retry: true,
            home: false,
        }
    }

    /// Whether the registry itself wants credentials; its head.
    fn challenge(&self) -> Option<&HeaderMap> {
        match &self.error {
            OriginError::Status {
                status: StatusCode::UNAUTHORIZED,
                headers,
                ..
            } if self.home => Some(headers),
            _ => None,
        }
    }
}

/// One registry being asked.
#[derive(Clone, Copy)]
pub(crate) struct Exchange<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) registry: &'a Arc<Registry>,
}

impl Exchange<'_> {
    fn name(&self) -> String {
        self.registry.name.to_string()
    }

    /// An answer that contradicts itself or what was asked.
    pub(crate) fn unusable(&self, reason: impl Into<String>) -> OriginError {
        OriginError::Unusable {
            registry: self.name(),
            reason: reason.into(),
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> OriginError {
        OriginError::Unreachable {
            registry: self.name(),
            reason: reason.into(),
        }
    }

    /// Asks, repeatedly if need be. Safe to drop at any point.
    pub(crate) async fn run(&self, ask: &Ask, credentials: &Credentials) -> Result<Answer, OriginError> {
        let permits = self.registry.admit(ask.blob).await;
        self.run_with(ask, credentials, permits).await
    }

    /// The same with a right to the request that is there already.
    pub(crate) async fn run_with(
        &self,
        ask: &Ask,
        credentials: &Credentials,
        permits: Permits,
    ) -> Result<Answer, OriginError> {
        let span = tracing::info_span!(
            "origin exchange",
            registry = %self.registry.name,
            method = %ask.method,
            // Without the query, which may be a signature.
            path = ask.url.path(),
            status = Empty,
            error = Empty,
        );
        let attempts = self.attempts(ask, credentials, permits);
        let answer = attempts.instrument(span.clone()).await;
        match &answer {
            Ok(answer) => span.record("status", answer.status.as_u16()),
            Err(error) => span.record("error", error.to_string()),
        };
        answer
    }

    /// Asks until there is an answer, or no use in asking again.
    async fn attempts(
        &self,
        ask: &Ask,
        credentials: &Credentials,
        permits: Permits,
    ) -> Result<Answer, OriginError> {
        let (mut retries, retries_max) = match permits.is_ahead() {
            true => (0, 0),
            false => (0, self.inner.settings.retries),
        };
        loop {
            self.obey_pause().await?;
            match self.attempt(ask, credentials).await {
                Ok(mut answer) => {
                    answer.body.hold(permits);
                    return Ok(answer);
                }
                Err(failure) if failure.retry && retries < retries_max => {
                    let pause = self.inner.backoff(retries);
                    tracing::debug!(registry = %self.registry.name, error = %failure.error, ?pause, "asking again");
                    retries += 1;
                    self.registry.metrics.retries.inc();
                    sleep(pause).await;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Waits while the registry wants a pause, unless it is a long one.
    async fn obey_pause(&self) -> Result<(), OriginError> {
        while let Some(left) = self.registry.pause_left() {
            if left > PAUSE_WAITED_MAX {
                return Err(OriginError::RateLimited {
                    registry: self.name(),
                    retry_after: left,
                });
            }
            sleep(left).await;
        }
        Ok(())
    }

    /// Goes where the answers send. `authorization` is for `home` alone.
    async fn follow(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
        home: &Target,
    ) -> Result<Answer, Failure> {
        let mut url = ask.url.clone();
        let mut passed = Vec::new();
        let (at, mut home) = (home, true);
        loop {
            let target = Target::of(&url)
                .ok_or_else(|| Failure::last(self.unusable("it leads to no http address")))?;
            home &= target == *at;
            let mut answer = self
                .once(&target, &url, ask, authorization.filter(|_| home))
                .await?;
            if !is_redirect(answer.status) {
                return self.judge(answer, home, !passed.is_empty()).await;
            }
            let next = self.destination(&url, &answer.headers).map_err(Failure::last)?;
            // Short bodies are read, so that the connection serves the next request.
            let _ = timeout(
                self.inner.settings.silence_timeout,
                answer.body.collect(ERROR_BYTES_MAX),
            )
            .await;
            passed.push(url);
            if passed.len() > REDIRECTS_MAX || passed.contains(&next) {
                return Err(Failure::last(
                    self.unusable("it redirects in a circle, or too often"),
                ));
            }
            url = next;
        }
    }

    /// Where a redirect leads.
    fn destination(&self, from: &Url, headers: &HeaderMap) -> Result<Url, OriginError> {
        let location = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let mut to = location
            .and_then(|location| from.join(location).ok())
            .ok_or_else(|| self.unusable("it redirects without saying where to"))?;
        to.set_fragment(None);
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(self.unusable(format!("it redirects from https to {}", to.scheme())));
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(self.unusable("it redirects to an address with a password in it"));
        }
        Ok(to)
    }

    /// One request. A connection that was idle may have been closed while the request was on its way: then a new one.
    async fn once(
        &self,
        target: &Target,
        url: &Url,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        if let Some(link) = self.registry.take_idle(target) {
            let answer = self.send(link, target, url, ask, authorization).await;
            if !matches!(
                answer,
                Err(Failure {
                    error: OriginError::Unreachable { .. },
                    ..
                })
            ) {
                return answer;
            }
        }
        let purpose = self.registry.purpose(target);
        let dialed = self
            .inner
            .dialer
            .connect(target, purpose, &self.registry.tls)
            .await;
        let (stream, nearness) = dialed.map_err(|error| {
            self.registry.metrics.request(error.code());
            self.dial_failure(error)
        })?;
        self.registry.seen_at(target, nearness);
        let link = Link::new(stream)
            .await
            .map_err(|error| Failure::passing(self.broken(&error)))?;
        self.send(link, target, url, ask, authorization).await
    }

    fn dial_failure(&self, error: DialError) -> Failure {
        match error {
            DialError::Forbidden(reason) => Failure::last(OriginError::NotAllowed {
                registry: self.name(),
                reason,
            }),
            DialError::Final(reason) => Failure::last(self.unreachable(reason)),
            DialError::Passing(reason) => Failure::passing(self.unreachable(reason)),
        }
    }

    async fn send(
        &self,
        mut link: Link,
        target: &Target,
        url: &Url,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let request = request(target, url, ask, authorization).map_err(|error| {
            Failure::last(self.unusable(format!("no request can be made of its address: {error}")))
        })?;
        let (started, _talk) = (Instant::now(), self.registry.talk());
        let response = match timeout(self.inner.settings.header_timeout, link.exchange(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.registry.metrics.request("unreachable");
                return Err(Failure {
                    retry: !error.is_parse(),
                    error: self.broken(&error),
                    home: false,
                });
            }
            Err(_) => {
                self.registry.metrics.request("silent");
                return Err(Failure::last(self.silent()));
            }
        };
        let (response::Parts { status, headers, .. }, incoming) = response.into_parts();
        self.registry.metrics.head(status, started.elapsed());
        let silence = self.inner.settings.silence_timeout;
        let body = AnswerBody::new(incoming, link, Arc::clone(self.registry), target.clone(), silence);
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn silent(&self) -> OriginError {
        OriginError::Silent {
            registry: self.name(),
            waited: self.inner.settings.header_timeout,
        }
    }

    fn broken(&self, error: &hyper::Error) -> OriginError {
        if error.is_parse() {
            return self.unusable(format!("it does not speak HTTP/1.1 as it should: {error}"));
        }
        let cause = std::error::Error::source(error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        self.unreachable(format!("the connection broke before an answer: {error}{cause}"))
    }

    /// Sorts an answer that is no redirect.
    async fn judge(&self, mut answer: Answer, home: bool, redirected: bool) -> Result<Answer, Failure> {
        let status = answer.status;
        if status.is_success() {
            return Ok(answer);
        }
        let collected = timeout(
            self.inner.settings.silence_timeout,
            answer.body.collect(ERROR_BYTES_MAX),
        )
        .await;
        let body = collected
            .ok()
            .and_then(Result::ok)
            .map_or_else(Bytes::new, |(body, _)| body);
        let asked = headers::retry_after(&answer.headers);
        let limited = match status {
            StatusCode::TOO_MANY_REQUESTS => Some(asked.unwrap_or(PAUSE_DEFAULT)),
            StatusCode::SERVICE_UNAVAILABLE => asked,
            _ => None,
        };
        if let Some(retry_after) = limited {
            self.registry.pause(retry_after);
            return Err(Failure::passing(OriginError::RateLimited {
                registry: self.name(),
                retry_after,
            }));
        }
        if redirected && !home && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // A signature that ran out: the registry gives another one. It says nothing about the caller.
            let reason = format!("the address that it redirected to answered {status}");
            return Err(Failure::passing(self.unusable(reason)));
        }
        let headers = headers::relayed(&answer.headers);
        let error = OriginError::Status {
            registry: self.name(),
            status,
            headers,
            body,
        };
        Err(Failure {
            error,
            retry: is_passing(status),
            home,
        })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

fn request(
    target: &Target,
    url: &Url,
    ask: &Ask,
    authorization: Option<&HeaderValue>,
) -> Result<Request<NoBody>, http::Error> {
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(path)
        .body(NoBody::new())?;
    let headers = request.headers_mut();
    *headers = ask.headers.clone();
    headers.insert(header::HOST, HeaderValue::try_from(target.host_header())?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(trace) = trace_context::current() {
        headers.insert(TRACEPARENT, trace);
    }
    if let Some(authorization) = authorization {
        let mut value = authorization.clone();
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}
