//! The registry itself: what a conversion reads past the mirror, and what it pushes.
//!
//! The protocol (uploads, tokens, redirects) is `oci-client`'s. What must hold: plain HTTP only where it was asked for;
//! whatever is pushed ends in a time that its length allows; no credential is ever part of an error.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use darter_service::net::BoxFuture;
use darter_types::{ByteRange, Digest, ManifestReference, RegistryName, Repository};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::HeaderValue;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::error::ConvertError;
use super::manifest::{self, Content};
use super::progress::LayerProgress;
use crate::blob::{BlobError, BlobSource};
use crate::image::ImageName;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For an answer whose length is nothing.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// The slowest line that is waited for.
const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Most manifests that a fallback index of referrers is read with.
const REFERRERS_MAX: usize = 4096;
/// Most images of an index that are looked at.
const PLATFORMS_MAX: usize = 16;

/// How a registry is reached.
#[derive(Default)]
pub struct Access {
    /// Without TLS.
    pub plain: bool,
    /// An authority to believe, besides the system's: PEM.
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
    client: Client,
    auth: RegistryAuth,
    registry: RegistryName,
    repository: Repository,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({}/{})", self.registry, self.repository)
    }
}

impl Registry {
    /// The repository of an image's name.
    ///
    /// # Errors
    /// The authority is no certificate, or the system has no authorities to believe.
    pub fn new(name: &ImageName, access: Access) -> Result<Self, ConvertError> {
        // The first provider that is installed serves the whole process; another one would do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra_root_certificates = access
            .authority
            .map(|data| Certificate {
                encoding: CertificateEncoding::Pem,
                data,
            })
            .into_iter()
            .collect();
        let config = ClientConfig {
            protocol: if access.plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_TIME),
            extra_root_certificates,
            user_agent: concat!("darter/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| ConvertError::Registry {
            registry: name.registry.to_string(),
            reason: words(&error),
        })?;
        let auth = access.login.map_or(RegistryAuth::Anonymous, |(user, password)| {
            RegistryAuth::Basic(user, password)
        });
        Ok(Self {
            client,
            auth,
            registry: name.registry.clone(),
            repository: name.repository.clone(),
        })
    }

    fn reference(&self, reference: &ManifestReference) -> Reference {
        let (registry, repository) = (self.registry.to_string(), self.repository.to_string());
        match reference {
            ManifestReference::Tag(tag) => Reference::with_tag(registry, repository, tag.to_string()),
            ManifestReference::Digest(digest) => {
                Reference::with_digest(registry, repository, digest.to_string())
            }
        }
    }

    fn repository(&self) -> Reference {
        Reference::with_tag(
            self.registry.to_string(),
            self.repository.to_string(),
            "latest".to_owned(),
        )
    }

    /// Asks for the right to do something; later questions have it.
    async fn log_in(&self, operation: RegistryOperation) -> Result<(), OciDistributionError> {
        self.client
            .auth(&self.repository(), &self.auth, operation)
            .await
            .map(drop)
    }

    /// Reads a manifest.
    pub(super) async fn manifest(&self, reference: &ManifestReference) -> Result<Bytes, BlobError> {
        let types = [
            manifest::INDEX,
            manifest::MANIFEST,
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ];
        let name = self.reference(reference);
        let asked = async {
            self.log_in(RegistryOperation::Pull).await?;
            self.client.pull_manifest_raw(&name, &self.auth, &types).await
        };
        match timeout(ANSWER_TIME, asked).await {
            Ok(answer) => Ok(answer.map_err(|error| self.unreadable(&error))?.0),
            Err(_) => Err(self.silent(ANSWER_TIME)),
        }
    }

    /// The manifest of an image that was made as the mark says: what a name stands for, or one of an index.
    pub(super) async fn made_before(&self, reference: &ManifestReference, mark: &str) -> Option<Vec<u8>> {
        let found = self.manifest(reference).await.ok()?;
        if manifest::is_marked(&found, mark) {
            return Some(found.to_vec());
        }
        for digest in manifest::nydus_images(&found).iter().take(PLATFORMS_MAX) {
            let found = self.manifest(&ManifestReference::Digest(*digest)).await.ok()?;
            if manifest::is_marked(&found, mark) {
                return Some(found.to_vec());
            }
        }
        None
    }

    async fn range(&self, blob: &Digest, range: ByteRange) -> Result<Bytes, BlobError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let patience = patience(range.len());
        let asked = async {
            let descriptor = OciDescriptor {
                digest: blob.to_string(),
                ..OciDescriptor::default()
            };
            let answer = self
                .client
                .pull_blob_stream_partial(&self.repository(), &descriptor, range.start, Some(range.len()))
                .await
                .map_err(|error| self.unreadable(&error))?;
            let (answer, skipped) = match answer {
                BlobResponse::Partial(answer) => (answer, 0),
                BlobResponse::Full(answer) => (answer, range.start),
            };
            self.collect(blob, answer, skipped, range.len()).await
        };
        timeout(patience, asked)
            .await
            .map_err(|_| self.silent(patience))?
    }

    /// The bytes behind the first `skipped`, of an answer that may be longer.
    async fn collect(
        &self,
        blob: &Digest,
        mut answer: SizedStream,
        mut skipped: u64,
        wanted: u64,
    ) -> Result<Bytes, BlobError> {
        let mut collected = BytesMut::new();
        while let Some(part) = answer.stream.next().await {
            let mut part = part.map_err(|error| BlobError::Unreachable {
                address: self.registry.to_string(),
                reason: error.to_string().into(),
            })?;
            let over = usize::try_from(skipped).unwrap_or(usize::MAX).min(part.len());
            drop(part.split_to(over));
            skipped = skipped.saturating_sub(over as u64);
            collected.extend_from_slice(&part);
            if collected.len() as u64 >= wanted {
                collected.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                return Ok(collected.freeze());
            }
        }
        Err(BlobError::Wrong {
            what: blob.to_string().into(),
            reason: format!("{} bytes instead of {wanted}", collected.len()).into(),
        })
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
        let parts = ReaderStream::with_capacity(file, READ_BYTES)
            .inspect_ok(move |part| told.add(part.len() as u64))
            .map_err(OciDistributionError::from);
        self.push(content, parts).await
    }

    /// The same with bytes.
    pub(super) async fn push_bytes(&self, content: &Content, bytes: Vec<u8>) -> Result<u64, ConvertError> {
        if self.has(content).await? {
            return Ok(0);
        }
        let part = futures_util::stream::once(async { Ok(Bytes::from(bytes)) });
        self.push(content, part).await
    }

    async fn push(
        &self,
        content: &Content,
        parts: impl futures_util::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static,
    ) -> Result<u64, ConvertError> {
        let digest = content.digest.to_string();
        let (patience, name) = (patience(content.size), self.repository());
        let pushed = self
            .client
            .push_blob_stream(&name, parts, &digest, Some(content.size));
        self.taken(&digest, patience, pushed).await?;
        Ok(content.size)
    }

    async fn has(&self, content: &Content) -> Result<bool, ConvertError> {
        let (name, digest) = (self.repository(), content.digest.to_string());
        let asked = async {
            self.log_in(RegistryOperation::Push).await?;
            self.log_in(RegistryOperation::Pull).await?;
            self.client.blob_exists(&name, &digest).await
        };
        self.taken(&digest, ANSWER_TIME, asked).await
    }

    /// Puts a manifest or an index there, under a tag or its digest.
    pub(super) async fn push_manifest(
        &self,
        reference: &ManifestReference,
        media_type: &'static str,
        bytes: Vec<u8>,
    ) -> Result<(), ConvertError> {
        let name = self.reference(reference);
        let kind = HeaderValue::from_static(media_type);
        let pushed = self.client.push_manifest_raw(&name, bytes, kind);
        self.taken(&name.to_string(), ANSWER_TIME, pushed).await?;
        Ok(())
    }

    /// Makes sure that the registry finds `entry` among what refers to `subject`: a registry that does not look for itself
    /// has a list of them under a tag. There the newest comes first: clients look no further.
    pub(super) async fn refer(&self, subject: &Digest, entry: Value) -> Result<(), ConvertError> {
        let name = self.reference(&ManifestReference::Digest(*subject));
        let what = format!("the referrers of {subject}");
        let asked = self.client.pull_referrers(&name, None);
        let known = self.taken(&what, ANSWER_TIME, asked).await?;
        let mut manifests: Vec<Value> = known
            .manifests
            .iter()
            .take(REFERRERS_MAX)
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?;
        let digest = |entry: &Value| entry.get("digest").cloned();
        if manifests.iter().any(|other| digest(other) == digest(&entry)) {
            return Ok(());
        }
        manifests.insert(0, entry);
        let index = json!({ "schemaVersion": 2, "mediaType": manifest::INDEX, "manifests": manifests });
        let tag = subject.to_string().replace(':', "-");
        let tag = tag.parse().map_err(|_| ConvertError::Manifest(what))?;
        self.push_manifest(&tag, manifest::INDEX, index.to_string().into_bytes())
            .await
    }

    async fn taken<T>(
        &self,
        what: &str,
        patience: Duration,
        pushed: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T, ConvertError> {
        let reason = match timeout(patience, pushed).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => words(&error),
            Err(_) => format!("it was not done in {patience:?}"),
        };
        Err(ConvertError::Push {
            registry: self.registry.to_string(),
            what: what.to_owned(),
            reason,
        })
    }

    fn unreadable(&self, error: &OciDistributionError) -> BlobError {
        BlobError::Unreachable {
            address: self.registry.to_string(),
            reason: words(error).into(),
        }
    }

    fn silent(&self, silence: Duration) -> BlobError {
        BlobError::Silent {
            address: self.registry.to_string(),
            silence,
        }
    }
}

impl BlobSource for Registry {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(self.range(blob, range))
    }
}

/// How long so many bytes may take.
fn patience(bytes: u64) -> Duration {
    ANSWER_TIME + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
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
