//! One repository as the mirror shows it: manifests, and blobs by ranges.

use std::sync::Arc;

use bytes::Bytes;
use darter_service::net::BoxFuture;
use darter_types::{ByteRange, Digest, ManifestReference, RegistryName, Repository};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::watch;

use super::client::{Answer, Client, Question, refused, wrong};
use super::{BlobError, BlobSource};

/// Longest manifest: what registries accept at most.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest refusal that is read.
const REFUSAL_BYTES_MAX: u64 = 64 * 1024;
/// Tells the mirror that a request can wait.
const PRIORITY: &str = "x-darter-priority";
/// Tells the mirror that what comes is checked here, so that it waits for no proof of the whole blob.
const RELEASE: &str = "x-darter-release";
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A repository at the mirror. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    client: Arc<Client>,
    registry: RegistryName,
    repository: Repository,
    credential: Credential,
}

/// What a caller shows to the registry, through the mirror: the value of `Authorization`, which may change at any time. All
/// clones are one.
#[derive(Clone, Debug)]
pub struct Credential(Arc<watch::Sender<Shows>>);

#[derive(Debug, Default)]
struct Shows {
    value: Option<HeaderValue>,
    /// It is being asked for.
    expected: bool,
}

impl Default for Credential {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Shows::default())))
    }
}

impl Credential {
    /// Requests have this from here on.
    pub fn set(&self, value: Option<HeaderValue>) {
        self.0.send_replace(Shows {
            value,
            expected: false,
        });
    }

    /// Whether there is one.
    pub(crate) fn is_known(&self) -> bool {
        self.0.borrow().value.is_some()
    }

    /// It will come in a moment: requests wait for [`Self::set`] or [`Self::settle`], which must follow.
    pub(crate) fn expect(&self) {
        self.0.send_modify(|shows| shows.expected = true);
    }

    /// What is there is all that there will be.
    pub(crate) fn settle(&self) {
        self.0.send_modify(|shows| shows.expected = false);
    }

    async fn get(&self) -> Option<HeaderValue> {
        let mut shows = self.0.subscribe();
        // The other end is this value's own.
        let settled = shows.wait_for(|shows| !shows.expected).await;
        settled.ok().and_then(|shows| shows.value.clone())
    }
}

impl Mirror {
    /// The repository `repository` of `registry`, asked for through `client`.
    pub fn new(client: Arc<Client>, registry: RegistryName, repository: Repository) -> Self {
        Self {
            client,
            registry,
            repository,
            credential: Credential::default(),
        }
    }

    /// Shows the caller's own credential.
    #[must_use]
    pub fn with_credential(self, credential: Credential) -> Self {
        Self { credential, ..self }
    }

    /// The bytes of a manifest or an index.
    ///
    /// # Errors
    /// The mirror cannot be asked, or refuses.
    pub async fn manifest(&self, reference: &ManifestReference) -> Result<Bytes, BlobError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let question = Question {
            path: self.path("manifests", reference),
            headers,
            bytes_max: MANIFEST_BYTES_MAX,
        };
        let look = |answer: Answer| match answer.status {
            StatusCode::OK => Ok(answer.body),
            _ => Err(refused(&question, &answer)),
        };
        self.client.ask(&question, look).await
    }

    /// The index of what refers to a manifest, if the registry knows: by its list, or by a tag, which older ones use.
    ///
    /// # Errors
    /// The mirror cannot be asked, or refuses.
    pub async fn referrers(&self, subject: &Digest) -> Result<Option<Bytes>, BlobError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let tag = subject.to_string().replace(':', "-");
        for path in [self.path("referrers", subject), self.path("manifests", tag)] {
            let question = Question {
                path,
                headers: headers.clone(),
                bytes_max: MANIFEST_BYTES_MAX,
            };
            let look = |answer: Answer| match answer.status {
                StatusCode::OK => Ok(Some(answer.body)),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(refused(&question, &answer)),
            };
            if let Some(listed) = self.client.ask(&question, look).await? {
                return Ok(Some(listed));
            }
        }
        Ok(None)
    }

    fn path(&self, endpoint: &str, reference: impl std::fmt::Display) -> String {
        let Self {
            registry, repository, ..
        } = self;
        format!("/v2/{repository}/{endpoint}/{reference}?ns={registry}")
    }

    async fn range(&self, blob: &Digest, range: ByteRange, background: bool) -> Result<Bytes, BlobError> {
        let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Ok(Bytes::new());
        };
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from(format!("bytes={}-{last}", range.start));
        headers.extend(value.into_iter().map(|value| (header::RANGE, value)));
        headers.insert(RELEASE, HeaderValue::from_static("linked"));
        if background {
            headers.insert(PRIORITY, HeaderValue::from_static("background"));
        }
        let credential = self.credential.get().await;
        headers.extend(credential.map(|value| (header::AUTHORIZATION, value)));
        let question = Question {
            path: self.path("blobs", blob),
            headers,
            bytes_max: range.len().max(REFUSAL_BYTES_MAX),
        };
        self.client
            .ask(&question, |answer| check(&question, answer, range))
            .await
    }
}

impl BlobSource for Mirror {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(self.range(blob, range, false))
    }

    fn read_in_background<'a>(
        &'a self,
        blob: &'a Digest,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(self.range(blob, range, true))
    }
}

/// The answer must be the range that was asked for, whole. One without ranges will do if it begins there.
fn check(question: &Question, answer: Answer, range: ByteRange) -> Result<Bytes, BlobError> {
    match answer.status {
        StatusCode::PARTIAL_CONTENT if start(&answer.headers) == Some(range.start) => {}
        StatusCode::PARTIAL_CONTENT => {
            return Err(wrong(question, "it is another range".to_owned()));
        }
        StatusCode::OK if range.start == 0 => {}
        StatusCode::OK => return Err(wrong(question, "the mirror serves no ranges".to_owned())),
        _ => return Err(refused(question, &answer)),
    }
    if answer.body.len() as u64 != range.len() {
        let reason = format!("{} bytes instead of {}", answer.body.len(), range.len());
        return Err(wrong(question, reason));
    }
    Ok(answer.body)
}

/// Where the range begins that `Content-Range` names.
fn start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
