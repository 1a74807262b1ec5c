//! Questions to a registry over HTTP.
//!
//! What must hold: what is shown to the registry goes to the registry alone, and nothing goes on in the clear that began
//! with TLS; an address is never part of an error, because storage has signatures in its addresses; whatever is read has a
//! most, and nobody is waited for who is silent.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_types::{RegistryName, Repository};
use http::{HeaderMap, HeaderValue, header};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use thiserror::Error;
use tokio::time::timeout;

use super::Access;
use super::login::{Login, Right};
use super::words;
use crate::convert::error::ConvertError;

/// For an answer whose length is nothing, and between two parts of a longer one.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(120);
const CONNECT_TIME: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: usize = 5;
/// Longest refusal that is shown.
const SAID_CHARS_MAX: usize = 300;
const SAID_BYTES_MAX: usize = 16 * 1024;

/// Why a registry does not do what it is asked for.
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("it answers {status}: {said}")]
    Refused { status: StatusCode, said: String },
    #[error("it was silent for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Failed(String),
    #[error("cannot keep it on disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl Fault {
    /// Whether the same question may be answered better in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
            }
            Self::Silent(_) | Self::Failed(_) => true,
            Self::Disk(_) => false,
        }
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        Self::Failed(words(&error.without_url()))
    }
}

/// The connections to one registry.
pub(super) struct Transport {
    pub(super) http: Client,
    /// `https://registry.example/`
    pub(super) home: Url,
    pub(super) repository: Repository,
    pub(super) login: Login,
}

/// A question that can be asked twice.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) right: Right,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Transport {
    pub(super) fn new(
        registry: &RegistryName,
        repository: &Repository,
        access: Access,
    ) -> Result<Self, ConvertError> {
        let wrong = |reason: String| ConvertError::Registry {
            registry: registry.to_string(),
            reason,
        };
        // The first provider that is installed serves the whole process; another one would do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clear = access.plain;
        let mut client = Client::builder()
            .user_agent(concat!("darter/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .redirect(Policy::custom(move |attempt| redirect(attempt, clear)));
        if let Some(authority) = &access.authority {
            let believed = Certificate::from_pem_bundle(authority).map_err(|error| wrong(words(&error)))?;
            client = client.tls_certs_merge(believed);
        }
        let host = match registry.to_string().as_str() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            other => other.to_owned(),
        };
        let scheme = if clear { "http" } else { "https" };
        Ok(Self {
            http: client.build().map_err(|error| wrong(words(&error)))?,
            home: Url::parse(&format!("{scheme}://{host}/")).map_err(|error| wrong(words(&error)))?,
            repository: repository.clone(),
            login: Login::new(access.login),
        })
    }

    /// An address in the repository.
    pub(super) fn url(&self, place: &str) -> Result<Url, Fault> {
        let path = format!("/v2/{}/{place}", self.repository);
        self.home
            .join(&path)
            .map_err(|error| Fault::Failed(words(&error)))
    }

    /// Where an answer sends us on to.
    pub(super) fn location(&self, answer: &Response) -> Result<Url, Fault> {
        let location = answer.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| answer.url().join(location).ok());
        let url = url.ok_or_else(|| Fault::Failed("it does not say where to send it".to_owned()))?;
        if url.scheme() != "https" && self.home.scheme() == "https" {
            return Err(Fault::Failed(
                "it wants it sent to an address that is not https".to_owned(),
            ));
        }
        Ok(url)
    }

    /// Asks; where the registry wants to know who asks, once more. Storage that it leads to is told nothing, whatever that wants to
    /// know. The answer may have any other status.
    pub(super) async fn ask(&self, question: &Question) -> Result<Response, Fault> {
        let shown = self.shown(&question.url, question.right).await;
        let answer = self.once(question, shown.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || !is_same_place(answer.url(), &self.home) {
            return Ok(answer);
        }
        match self
            .log_in(answer.headers(), question.right, shown.as_ref())
            .await?
        {
            Some(pass) => self.once(question, Some(&pass)).await,
            None => Ok(answer),
        }
    }

    /// What a request to that address shows without being asked.
    pub(super) async fn shown(&self, url: &Url, right: Right) -> Option<HeaderValue> {
        if !is_same_place(url, &self.home) {
            return None;
        }
        self.login.known(right).await
    }

    async fn once(&self, question: &Question, shown: Option<&HeaderValue>) -> Result<Response, Fault> {
        let mut request = self.http.request(question.method.clone(), question.url.clone());
        request = request.headers(question.headers.clone());
        if question.method != Method::GET && question.method != Method::HEAD {
            request = request.body(question.body.clone());
        }
        if let Some(shown) = shown {
            request = request.header(header::AUTHORIZATION, shown.clone());
        }
        self.within(ANSWER_TIME, request.send()).await
    }

    pub(super) async fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, Fault> {
        let done = timeout(time, work).await.map_err(|_| Fault::Silent(time))?;
        Ok(done?)
    }
}

/// Storage elsewhere is followed to; credentials are not (`reqwest` leaves them out for another host or port).
fn redirect(attempt: Attempt<'_>, clear: bool) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("it leads from one address to the next");
    }
    if !clear && attempt.url().scheme() != "https" {
        return attempt.error("it leads to an address that is not https");
    }
    attempt.follow()
}

/// Whether two addresses are of the same server, spoken to in the same way.
pub(super) fn is_same_place(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// The next part of an answer.
pub(super) async fn part(answer: &mut Response) -> Result<Option<Bytes>, Fault> {
    let part = timeout(ANSWER_TIME, answer.chunk()).await;
    Ok(part.map_err(|_| Fault::Silent(ANSWER_TIME))??)
}

/// All of an answer.
pub(super) async fn collect(mut answer: Response, most: usize) -> Result<Bytes, Fault> {
    let mut all = BytesMut::new();
    while let Some(part) = part(&mut answer).await? {
        if all.len() + part.len() > most {
            return Err(Fault::Failed(format!("its answer has more than {most} bytes")));
        }
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}

impl Transport {
    /// The fault that an answer is, which should have been another one. What storage says is not repeated: there may be
    /// signatures in it.
    pub(super) async fn refused(&self, answer: Response) -> Fault {
        let status = answer.status();
        if !is_same_place(answer.url(), &self.home) {
            let said = "so says the storage that it leads to".to_owned();
            return Fault::Refused { status, said };
        }
        let body = collect(answer, SAID_BYTES_MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let printed = text.chars().filter(|letter| !letter.is_control());
        let mut said: String = printed.take(SAID_CHARS_MAX).collect();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            said.push_str("; is there a login for it in Docker's configuration (--docker-config)?");
        }
        Fault::Refused { status, said }
    }
}
