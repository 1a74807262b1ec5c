//! One mirror over HTTP/1.1: connections that are kept, answers that are bounded, patience that ends.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_service::net::{Address, Network as _, Stream, TokioNetwork};
use darter_service::supervise::Tasks;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::BlobError;

/// Requests that are out at once. Each has a connection of its own.
const REQUESTS_MAX: usize = 16;
/// First wait before the same is asked again; doubled each time.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// Longest wait before the same is asked again.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of a refusal that are told.
const SAID_MAX: usize = 200;

type Connection = SendRequest<Empty<Bytes>>;

/// How long a mirror may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// Between two parts of an answer, and before its first one: a cold piece comes from far away.
    pub silence: Duration,
    /// For everything together, with all attempts.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            total: Duration::from_secs(30),
        }
    }
}

/// A client of one mirror.
#[derive(Debug)]
pub struct Client {
    address: Address,
    patience: Patience,
    tasks: Tasks,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    /// An answer longer than this is wrong.
    pub(super) bytes_max: u64,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Client {
    /// A client of the mirror at `address`; its connections are owned by `tasks`.
    pub fn new(address: Address, patience: Patience, tasks: Tasks) -> Self {
        Self {
            address,
            patience,
            tasks,
            permits: Semaphore::new(REQUESTS_MAX),
            idle: Mutex::default(),
        }
    }

    /// Asks until there is an answer that `look` is content with, or patience ends.
    pub(super) async fn ask<T>(
        &self,
        question: &Question,
        look: impl Fn(Answer) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        let deadline = Instant::now() + self.patience.total;
        let mut wait = WAIT_MIN;
        loop {
            let asked = async { self.once(question).await.and_then(&look) };
            let error = match timeout(deadline.saturating_duration_since(Instant::now()), asked).await {
                Ok(Ok(good)) => return Ok(good),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.silent(self.patience.total)),
            };
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::debug!(path = question.path, %error, "the mirror is asked again");
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// What is at a path: whole, or an error.
    pub(crate) async fn get(&self, path: &str, bytes_max: u64) -> Result<Bytes, BlobError> {
        let question = Question {
            path: path.to_owned(),
            headers: HeaderMap::new(),
            bytes_max,
        };
        let look = |answer: Answer| match answer.status {
            StatusCode::OK => Ok(answer.body),
            _ => Err(refused(&question, &answer)),
        };
        self.ask(&question, look).await
    }

    /// Asks once. A kept connection may have been closed meanwhile: then a new one counts as the same attempt.
    async fn once(&self, question: &Question) -> Result<Answer, BlobError> {
        let _permit = self.permits.acquire().await;
        if let Some(mut connection) = self.take_idle() {
            match self.exchange(&mut connection, question).await {
                Err(BlobError::Unreachable { .. }) => {}
                other => return self.keep(connection, other),
            }
        }
        let mut connection = self.connect().await?;
        let answer = self.exchange(&mut connection, question).await;
        self.keep(connection, answer)
    }

    /// Keeps a connection whose answer was read to its end.
    fn keep(&self, connection: Connection, answer: Result<Answer, BlobError>) -> Result<Answer, BlobError> {
        if answer.is_ok() && !connection.is_closed() {
            self.idle().push(connection);
        }
        answer
    }

    /// No more than there were requests at once.
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> Result<Connection, BlobError> {
        let connecting = async {
            let stream = match &self.address {
                Address::Tcp(authority) => TokioNetwork.connect(authority).await?,
                Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            };
            let hands = http1::handshake(TokioIo::new(stream)).await;
            hands.map_err(std::io::Error::other)
        };
        let (sender, connection) = timeout(self.patience.connect, connecting)
            .await
            .map_err(|_| self.silent(self.patience.connect))?
            .map_err(|error| self.unreachable(&error))?;
        self.tasks.spawn("connection to the mirror", async move {
            // Its user sees the error on the request.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(&self, connection: &mut Connection, question: &Question) -> Result<Answer, BlobError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = question
            .path
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(question, error.to_string()))?;
        *request.headers_mut() = question.headers.clone();
        request
            .headers_mut()
            .insert(header::HOST, http::HeaderValue::from_static("mirror"));
        let sent = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let answer = timeout(self.patience.silence, sent)
            .await
            .map_err(|_| self.silent(self.patience.silence))?
            .map_err(|error| self.unreachable(&error))?;
        let (parts, body) = answer.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: self.collect(body, question).await?,
        })
    }

    async fn collect(&self, mut body: Incoming, question: &Question) -> Result<Bytes, BlobError> {
        // What is told may be wrong: it is bounded, and what is too long is noticed below.
        let told = body.size_hint().exact().unwrap_or(0).min(question.bytes_max);
        let mut collected = BytesMut::with_capacity(usize::try_from(told).unwrap_or(0));
        loop {
            let frame = timeout(self.patience.silence, body.frame())
                .await
                .map_err(|_| self.silent(self.patience.silence))?;
            let Some(frame) = frame else {
                return Ok(collected.freeze());
            };
            let frame = frame.map_err(|error| self.unreachable(&error))?;
            collected.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            if collected.len() as u64 > question.bytes_max {
                let reason = format!("it is longer than {} bytes", question.bytes_max);
                return Err(wrong(question, reason));
            }
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> BlobError {
        BlobError::Unreachable {
            address: self.address.to_string(),
            reason: error.to_string().into(),
        }
    }

    fn silent(&self, silence: Duration) -> BlobError {
        BlobError::Silent {
            address: self.address.to_string(),
            silence,
        }
    }
}

/// An answer that is not what was asked for.
pub(super) fn wrong(question: &Question, reason: String) -> BlobError {
    BlobError::Wrong {
        what: question.path.as_str().into(),
        reason: reason.into(),
    }
}

/// An answer with a status that is none of success.
pub(super) fn refused(question: &Question, answer: &Answer) -> BlobError {
    let said = String::from_utf8_lossy(&answer.body);
    BlobError::Refused {
        status: answer.status.as_u16(),
        what: question.path.as_str().into(),
        said: said.chars().take(SAID_MAX).collect::<String>().into(),
    }
}
