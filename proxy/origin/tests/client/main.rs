//! The client against a registry that misbehaves on demand: what comes back, and what the registry saw.
#![expect(clippy::unwrap_used, reason = "the helpers belong to the tests alone")]

use std::sync::Arc;
use std::time::Duration;

use darter_origin::{Credentials, Fetch, OriginError, Origins, RegistriesConfig, RegistryConfig};
use darter_service::net::TokioNetwork;
use darter_testkit::content::Content;
use darter_testkit::origin::{Origin, RunningOrigin};
use darter_types::{ContentKind, Digest, OriginLocator, RegistryName};
use http::{Method, StatusCode};

mod answers;
mod auth;
mod connections;
mod faults;
mod guard;
mod node;
mod ranges;
mod rates;
mod redirects;
mod several;
mod simulated;
mod tls;

const REPOSITORY: &str = "library/thing";
const LENGTH: u64 = 3_000_000;
const ANONYMOUS: Credentials = Credentials::Anonymous;

/// A registry with one blob, and a client that is allowed to ask it.
struct Bench {
    origin: Origin,
    running: RunningOrigin,
    origins: Origins,
    locator: OriginLocator,
    digest: String,
}

/// Impatient, so that silence is found out soon, but not on a busy machine.
fn impatient() -> RegistriesConfig {
    RegistriesConfig {
        connect_timeout: Duration::from_secs(5).into(),
        header_timeout: Duration::from_secs(3).into(),
        silence_timeout: Duration::from_secs(2).into(),
        ..RegistriesConfig::default()
    }
}

fn plain() -> RegistryConfig {
    RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    }
}

fn origins(name: &str, entry: RegistryConfig, config: RegistriesConfig) -> Origins {
    let registries = [(name.to_owned(), entry)].into();
    Origins::new(
        &RegistriesConfig { registries, ..config },
        Arc::new(TokioNetwork),
        1,
    )
    .unwrap()
}

fn locator(registry: &str, kind: ContentKind, digest: &str) -> OriginLocator {
    OriginLocator {
        registry: registry.parse().unwrap(),
        repository: REPOSITORY.parse().unwrap(),
        kind,
        digest: digest.parse().unwrap(),
    }
}

fn blob() -> Content {
    Content::generated(7, LENGTH)
}

impl Bench {
    async fn new() -> Self {
        Self::with(plain(), impatient()).await
    }

    async fn with(entry: RegistryConfig, config: RegistriesConfig) -> Self {
        let origin = Origin::new();
        let digest = origin.add_blob(REPOSITORY, blob());
        let running = origin.spawn_on_loopback().await.unwrap();
        Self {
            origins: origins(&running.host(), entry, config),
            locator: locator(&running.host(), ContentKind::Blob, &digest),
            origin,
            running,
            digest,
        }
    }

    fn registry(&self) -> RegistryName {
        self.locator.registry.clone()
    }

    fn manifest(&self, digest: &str) -> OriginLocator {
        locator(self.registry().as_str(), ContentKind::Manifest, digest)
    }

    async fn fetch(&self) -> Result<Fetch, OriginError> {
        self.origins.fetch(&self.locator, 0, None, &ANONYMOUS).await
    }

    /// The whole content, in one request.
    async fn read(&self) -> Result<Vec<u8>, OriginError> {
        drain(&mut self.fetch().await?).await.1
    }

    async fn fails(&self) -> OriginError {
        self.read().await.unwrap_err()
    }

    fn gets(&self) -> u64 {
        self.origin.requests_for(&Method::GET, &self.digest)
    }
}

/// Reads to the end or the error; also how much came.
async fn drain(fetch: &mut Fetch) -> (usize, Result<Vec<u8>, OriginError>) {
    let mut all = Vec::new();
    loop {
        match fetch.next().await {
            Ok(Some(bytes)) => {
                assert!(!bytes.is_empty());
                all.extend_from_slice(&bytes);
            }
            Ok(None) => return (all.len(), Ok(all)),
            Err(error) => return (all.len(), Err(error)),
        }
    }
}

fn right(bytes: &[u8]) {
    assert!(bytes == blob().read(0..LENGTH), "{} wrong bytes", bytes.len());
}

fn status(error: &OriginError) -> u16 {
    error.status().map_or(0, |status: StatusCode| status.as_u16())
}

fn is_unusable(error: &OriginError, part: &str) {
    assert!(
        matches!(error, OriginError::Unusable { reason, .. } if reason.contains(part)),
        "{part:?} is not in {error:?}"
    );
    assert!(!error.may_retry());
}
