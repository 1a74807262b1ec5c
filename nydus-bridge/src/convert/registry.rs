//! The registry itself: what a conversion reads past the mirror, and what it pushes.
//!
//! `transport` asks, `login` has what is shown. What must hold: plain HTTP only where it was asked for; whatever goes on is
//! waited for as long as it moves, and no longer; no credential is ever part of an error; what others have put into an index
//! stays there, and nothing but a 404 means that there is no index.

mod login;
mod transport;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_types::{Digest, ManifestReference, PieceHasher, RegistryName};
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use reqwest::{Body, Method, Response, StatusCode};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use self::login::Right;
use self::transport::{ANSWER_TIME, Fault, Question, Transport, collect, part};
use super::error::ConvertError;
use super::manifest::{self, Content};
use super::original::Layer;
use super::progress::LayerProgress;
use crate::image::ImageName;

/// The slowest registry that is waited for, when it looks through what was sent.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest manifest or index; registries take no longer ones.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most images of an index that are looked at.
const PLATFORMS_MAX: usize = 16;
/// How often a layer is begun, or gone on with.
const FETCHES_MAX: u32 = 5;
const FETCH_PAUSE: Duration = Duration::from_millis(500);
/// By this a registry says that it lists referrers by itself.
const SUBJECT: &str = "oci-subject";

/// How a registry is reached.
#[derive(Default)]
pub struct Access {
    /// Without TLS.
    pub plain: bool,
    /// Authorities to believe, besides the system's: PEM.
    pub authority: Option<Vec<u8>>,
    /// User and password, where the registry wants one.
    pub login: Option<(String, String)>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

/// A repository of a registry.
pub struct Registry {
    transport: Box<Transport>,
    registry: RegistryName,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({}/{})", self.registry, self.transport.repository)
    }
}

impl Registry {
    /// The repository of an image's name.
    ///
    /// # Errors
    /// The authority is no certificate, or the system has no authorities to believe.
    pub fn new(name: &ImageName, access: Access) -> Result<Self, ConvertError> {
        Ok(Self {
            transport: Box::new(Transport::new(&name.registry, &name.repository, access)?),
            registry: name.registry.clone(),
        })
    }

    fn unread(&self, what: impl ToString, fault: &Fault) -> ConvertError {
        ConvertError::Read {
            registry: self.registry.to_string(),
            what: what.to_string(),
            reason: words(fault),
        }
    }

    fn untaken(&self, what: impl ToString, fault: &Fault) -> ConvertError {
        ConvertError::Push {
            registry: self.registry.to_string(),
            what: what.to_string(),
            reason: words(fault),
        }
    }

    fn question(&self, method: Method, place: &str, right: Right) -> Result<Question, Fault> {
        Ok(Question {
            method,
            url: self.transport.url(place)?,
            right,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    /// Reads a manifest.
    pub(super) async fn manifest(&self, reference: &ManifestReference) -> Result<Bytes, ConvertError> {
        let read = self.read_manifest(reference, Right::Pull).await;
        let found = match read {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(none)) => self.transport.refused(none).await,
            Err(fault) => fault,
        };
        Err(self.unread(reference, &found))
    }

    /// What a name stands for at the moment, that is to get another meaning. None: nothing.
    pub(super) async fn existing(
        &self,
        reference: &ManifestReference,
    ) -> Result<Option<Bytes>, ConvertError> {
        let read = self.read_manifest(reference, Right::Push).await;
        let found = read.map_err(|fault| self.unread(reference, &fault))?;
        Ok(found.ok())
    }

    /// A manifest, or the answer that there is none.
    async fn read_manifest(
        &self,
        reference: &ManifestReference,
        right: Right,
    ) -> Result<Result<Bytes, Response>, Fault> {
        let mut question = self.question(Method::GET, &format!("manifests/{reference}"), right)?;
        for kind in [
            manifest::INDEX,
            manifest::MANIFEST,
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ] {
            question
                .headers
                .append(header::ACCEPT, HeaderValue::from_static(kind));
        }
        let answer = self.transport.ask(&question).await?;
        match answer.status() {
            StatusCode::OK => Ok(Ok(collect(answer, MANIFEST_BYTES_MAX).await?)),
            StatusCode::NOT_FOUND => Ok(Err(answer)),
            _ => Err(self.transport.refused(answer).await),
        }
    }

    /// The manifest of an image that was made as the mark says: what a name stands for, or one of an index.
    pub(super) async fn made_before(
        &self,
        reference: &ManifestReference,
        mark: &str,
    ) -> Result<Option<Vec<u8>>, ConvertError> {
        let Some(found) = self.existing(reference).await? else {
            return Ok(None);
        };
        if manifest::is_marked(&found, mark) {
            return Ok(Some(found.to_vec()));
        }
        for digest in manifest::nydus_images(&found).iter().take(PLATFORMS_MAX) {
            let found = self.existing(&ManifestReference::Digest(*digest)).await?;
            if let Some(found) = found.filter(|found| manifest::is_marked(found, mark)) {
                return Ok(Some(found.to_vec()));
            }
        }
        Ok(None)
    }

    /// A short blob.
    pub(super) async fn bytes(&self, blob: &Digest, size: u64) -> Result<Bytes, ConvertError> {
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        let read = async {
            let question = self.question(Method::GET, &format!("blobs/{blob}"), Right::Pull)?;
            let answer = self.transport.ask(&question).await?;
            match answer.status() {
                StatusCode::OK => collect(answer, most).await,
                _ => Err(self.transport.refused(answer).await),
            }
        };
        read.await.map_err(|fault: Fault| self.unread(blob, &fault))
    }

    /// A layer in a file without a name, at its beginning, proved. It is asked for in one piece, and from where it broke.
    pub(super) async fn fetch(
        &self,
        layer: &Layer,
        folder: &Path,
        told: &LayerProgress,
    ) -> Result<File, ConvertError> {
        let mut fetched = Fetched {
            file: tempfile::tempfile_in(folder)?,
            hasher: PieceHasher::start(layer.digest.algorithm()),
            length: 0,
        };
        let mut left = FETCHES_MAX;
        while fetched.length < layer.size {
            left -= 1;
            match self.go_on(layer, &mut fetched, told).await {
                Ok(()) => {}
                Err(fault) if left > 0 && fault.is_passing() => {
                    tracing::info!(layer = %layer.digest, at = fetched.length, %fault, "it is asked for again");
                    tokio::time::sleep(FETCH_PAUSE).await;
                }
                Err(fault) => return Err(self.unread(layer.digest, &fault)),
            }
        }
        let (wanted, found) = (layer.digest, fetched.hasher.digest());
        if found != wanted {
            return Err(ConvertError::Digest { wanted, found });
        }
        fetched.file.rewind()?;
        Ok(fetched.file)
    }

    /// Adds what is missing. A registry that knows no ranges sends again what is there.
    async fn go_on(&self, layer: &Layer, fetched: &mut Fetched, told: &LayerProgress) -> Result<(), Fault> {
        let place = format!("blobs/{}", layer.digest);
        let mut question = self.question(Method::GET, &place, Right::Pull)?;
        let start = fetched.length;
        if start > 0 {
            let range = format!("bytes={start}-{}", layer.size - 1);
            let range = HeaderValue::try_from(range).map_err(|error| Fault::Failed(words(&error)))?;
            question.headers.insert(header::RANGE, range);
        }
        let mut answer = self.transport.ask(&question).await?;
        let mut known = match answer.status() {
            StatusCode::OK => start,
            StatusCode::PARTIAL_CONTENT if begins_at(&answer, start) => 0,
            StatusCode::PARTIAL_CONTENT => {
                return Err(Fault::Failed(
                    "it sends another range than was asked for".to_owned(),
                ));
            }
            _ => return Err(self.transport.refused(answer).await),
        };
        while fetched.length < layer.size {
            let Some(mut part) = part(&mut answer).await? else {
                let (length, size) = (fetched.length, layer.size);
                return Err(Fault::Failed(format!("it ends after {length} of {size} bytes")));
            };
            let skipped = known.min(part.len() as u64);
            known -= skipped;
            drop(part.split_to(usize::try_from(skipped).unwrap_or(part.len())));
            let most = usize::try_from(layer.size - fetched.length).unwrap_or(usize::MAX);
            part.truncate(most);
            fetched.take(&part)?;
            told.add(part.len() as u64);
        }
        Ok(())
    }

    /// Puts a file there, unless it is there. Gives how many bytes were sent.
    pub(super) async fn push_file(
        &self,
        content: &Content,
        path: &Path,
        told: &LayerProgress,
    ) -> Result<u64, ConvertError> {
        told.expect(content.size);
        if self.has(content).await? {
            return Ok(0);
        }
        let (file, told) = (tokio::fs::File::open(path).await?, told.clone());
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let parts = ReaderStream::with_capacity(file, READ_BYTES).inspect_ok(move |part| {
            told.add(part.len() as u64);
            counted.fetch_add(part.len() as u64, Ordering::Relaxed);
        });
        self.push(content, Body::wrap_stream(parts), &sent).await
    }

    /// The same with bytes.
    pub(super) async fn push_bytes(&self, content: &Content, bytes: Vec<u8>) -> Result<u64, ConvertError> {
        if self.has(content).await? {
            return Ok(0);
        }
        let sent = AtomicU64::new(content.size);
        self.push(content, Body::from(bytes), &sent).await
    }

    async fn push(&self, content: &Content, body: Body, sent: &AtomicU64) -> Result<u64, ConvertError> {
        let digest = content.digest.to_string();
        let pushed = async {
            let question = self.question(Method::POST, "blobs/uploads/", Right::Push)?;
            let answer = self.transport.ask(&question).await?;
            if answer.status() != StatusCode::ACCEPTED {
                return Err(self.transport.refused(answer).await);
            }
            let mut url = self.transport.location(&answer)?;
            url.query_pairs_mut().append_pair("digest", &digest);
            let shown = self.transport.shown(&url, Right::Push).await;
            let mut request = self.transport.http.put(url).body(body);
            request = request.header(header::CONTENT_TYPE, "application/octet-stream");
            request = request.header(header::CONTENT_LENGTH, content.size);
            if let Some(shown) = shown {
                request = request.header(header::AUTHORIZATION, shown);
            }
            let answer = while_it_moves(sent, content.size, request.send()).await?;
            match answer.status() {
                StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(content.size),
                _ => Err(self.transport.refused(answer).await),
            }
        };
        pushed.await.map_err(|fault| self.untaken(&digest, &fault))
    }

    async fn has(&self, content: &Content) -> Result<bool, ConvertError> {
        let asked = async {
            let place = format!("blobs/{}", content.digest);
            let question = self.question(Method::HEAD, &place, Right::Push)?;
            let answer = self.transport.ask(&question).await?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(self.transport.refused(answer).await),
            }
        };
        asked
            .await
            .map_err(|fault: Fault| self.untaken(content.digest, &fault))
    }

    /// Puts a manifest or an index there, under a tag or its digest. Whether the registry lists it by itself among what
    /// refers to its subject.
    pub(super) async fn push_manifest(
        &self,
        reference: &ManifestReference,
        media_type: &'static str,
        bytes: Vec<u8>,
    ) -> Result<bool, ConvertError> {
        let pushed = async {
            if bytes.len() > MANIFEST_BYTES_MAX {
                let length = bytes.len();
                return Err(Fault::Failed(format!(
                    "it has {length} bytes, and registries take {MANIFEST_BYTES_MAX}"
                )));
            }
            let mut question = self.question(Method::PUT, &format!("manifests/{reference}"), Right::Push)?;
            let kind = HeaderValue::from_static(media_type);
            question.headers.insert(header::CONTENT_TYPE, kind);
            question.body = bytes.into();
            let answer = self.transport.ask(&question).await?;
            match answer.status() {
                StatusCode::CREATED | StatusCode::OK => Ok(answer.headers().contains_key(SUBJECT)),
                _ => Err(self.transport.refused(answer).await),
            }
        };
        pushed.await.map_err(|fault| self.untaken(reference, &fault))
    }

    /// Puts `entry` into the list of what refers to `subject`, which a registry that does not look for itself has under a
    /// tag. There the newest comes first: clients look no further. All else in the list stays as it is.
    pub(super) async fn refer(&self, subject: &Digest, entry: Value) -> Result<(), ConvertError> {
        let tag = subject.to_string().replace(':', "-");
        let tag = tag
            .parse()
            .map_err(|_| ConvertError::Manifest(format!("no tag can be made of {subject}")))?;
        let known = self.existing(&tag).await?;
        let Some(list) = manifest::referrers(known.as_deref(), entry)? else {
            return Ok(());
        };
        self.push_manifest(&tag, manifest::INDEX, list).await.map(drop)
    }
}

/// A layer, as far as it is there.
struct Fetched {
    file: File,
    hasher: PieceHasher,
    length: u64,
}

impl Fetched {
    fn take(&mut self, part: &[u8]) -> Result<(), Fault> {
        self.hasher.update(part);
        self.file.write_all(part)?;
        self.length += part.len() as u64;
        Ok(())
    }
}

fn begins_at(answer: &Response, start: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok()?.strip_prefix("bytes "));
    range.and_then(|range| range.split_once('-')?.0.trim().parse().ok()) == Some(start)
}

/// Waits for an answer to what is being sent, as long as more of it is sent; and afterwards as long as a registry may take
/// to look through it.
async fn while_it_moves(
    sent: &AtomicU64,
    all: u64,
    work: impl Future<Output = Result<Response, reqwest::Error>>,
) -> Result<Response, Fault> {
    let mut work = std::pin::pin!(work);
    let mut before = None;
    loop {
        let now = sent.load(Ordering::Relaxed);
        let patience = if now >= all {
            ANSWER_TIME + Duration::from_secs(all / BYTES_PER_SECOND_MIN)
        } else {
            ANSWER_TIME
        };
        if before == Some(now) {
            return Err(Fault::Silent(patience));
        }
        if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
            return Ok(done?);
        }
        before = Some(now);
    }
}

/// An error with what is behind it.
fn words(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = error.source();
    }
    said
}
