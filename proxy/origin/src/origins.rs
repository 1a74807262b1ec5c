//! All registries, by name: the way in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_service::limit::Limiter;
use darter_service::net::Network;
use darter_types::{
    Algorithm, ContentKind, Digest, ManifestReference, OriginLocator, RegistryName, Repository,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustls::ClientConfig;
use url::Url;

use crate::body::RelayBody;
use crate::budget::Budget;
use crate::config::{OriginConfigError, RegistriesConfig, RegistrySettings, Settings};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Target};
use crate::error::OriginError;
use crate::exchange::{Answer, Ask, Exchange};
use crate::fetch::{self, Fetch, MANIFEST_BYTES_MAX, Wanted};
use crate::headers;
use crate::metrics::Metrics;
use crate::registry::{Permits, Registry};
use crate::tls::TlsConfigs;

mod head;
mod large;
mod reached;

pub use head::Head;
use head::{manifest_head, probe};

/// Registries that are known at the same time: clients choose the names.
const REGISTRIES_MAX: usize = 256;
/// Bytes of a content that are read into memory because nobody tells its length.
const UNTOLD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How registries that have no entry are counted: clients choose their names.
const OTHERS: &str = "other";
/// Bytes of an answer that is passed on.
const RELAY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What of a client's head is passed on to the registry.
const RELAYED_TO_REGISTRY: [HeaderName; 3] =
    [header::ACCEPT, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];
/// Ceilings of the random pauses before a retry: the first, and the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What a manifest may be, where the caller names nothing.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*";

/// The client of registries. Clones share everything; nothing is shared between two that were made by `new`.
#[derive(Clone, Debug)]
pub struct Origins {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) dialer: Dialer,
    tls: TlsConfigs,
    budget: Budget,
    metrics: Metrics,
    /// Of all registries together, and of all that the node receives.
    rates: [Limiter; 2],
    random: Mutex<SmallRng>,
    registries: Mutex<BTreeMap<RegistryName, Arc<Registry>>>,
}

impl Inner {
    /// A random pause before a retry; `retries` were made before ("full jitter").
    pub(crate) fn backoff(&self, retries: u32) -> Duration {
        let ceiling = BACKOFF_FIRST
            .saturating_mul(2u32.saturating_pow(retries))
            .min(BACKOFF_MAX);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.random_range(Duration::ZERO..=ceiling)
    }

    /// Whom to believe: what holds for a registry, else the system's authorities.
    pub(crate) fn tls_of(&self, registry: Option<&RegistrySettings>) -> Arc<ClientConfig> {
        registry.map_or_else(|| self.tls.system(), |settings| self.tls.of(settings))
    }

    fn registries(&self) -> MutexGuard<'_, BTreeMap<RegistryName, Arc<Registry>>> {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry of that name, if the configuration lets it be asked.
    fn registry(&self, name: &RegistryName) -> Result<Arc<Registry>, OriginError> {
        let mut registries = self.registries();
        for registry in registries.values() {
            registry.drop_old();
        }
        if let Some(registry) = registries.get(name) {
            return Ok(Arc::clone(registry));
        }
        let refused = |reason: String| OriginError::NotAllowed {
            registry: name.to_string(),
            reason,
        };
        let settings = self.settings.registry(name).map_err(|reason| {
            self.metrics.of(OTHERS).request("notAllowed");
            refused(reason)
        })?;
        let target = Target::of(&settings.endpoint).ok_or_else(|| refused("it has no host".to_owned()))?;
        if registries.len() >= REGISTRIES_MAX {
            registries.retain(|_, registry| registry.settings.configured || Arc::strong_count(registry) > 1);
        }
        if registries.len() >= REGISTRIES_MAX && !settings.configured {
            return Err(refused(
                "too many registries are asked at the same time; set allowOnlyConfigured".to_owned(),
            ));
        }
        let metrics = self.metrics.of(if settings.configured {
            name.as_str()
        } else {
            OTHERS
        });
        let tls = self.tls.of(&settings);
        let registry = Arc::new(Registry::new(
            name.clone(),
            settings,
            target,
            tls,
            metrics,
            &self.rates,
        ));
        registries.insert(name.clone(), Arc::clone(&registry));
        Ok(registry)
    }
}

impl Origins {
    /// Reads the authorities' certificates, and asks nobody yet. `seed` is where the pauses before retries come from.
    ///
    /// # Errors
    /// All that is wrong in the configuration, or the file of certificates that cannot be used.
    pub fn new(
        config: &RegistriesConfig,
        network: Arc<dyn Network>,
        seed: u64,
    ) -> Result<Self, OriginConfigError> {
        Self::with_metrics(config, network, seed, Metrics::default(), Limiter::unlimited())
    }

    /// The same, counting into `metrics`; `node` is the rate of all that the node receives.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_metrics(
        config: &RegistriesConfig,
        network: Arc<dyn Network>,
        seed: u64,
        metrics: Metrics,
        node: Limiter,
    ) -> Result<Self, OriginConfigError> {
        let settings = Settings::new(config)?;
        let all = Limiter::of(config.bytes_per_second_max, metrics.all_delayed_bytes());
        Ok(Self {
            inner: Arc::new(Inner {
                tls: TlsConfigs::new(&settings)?,
                dialer: Dialer::new(network, settings.connect_timeout, settings.denied_ranges()),
                budget: Budget::new(settings.large_blobs.read_ahead_max, metrics.ahead_gauge()),
                settings,
                metrics,
                rates: [all, node],
                random: Mutex::new(SmallRng::seed_from_u64(seed)),
                registries: Mutex::default(),
            }),
        })
    }

    /// What the registry says about a content. Safe to drop.
    ///
    /// # Errors
    /// Any [`OriginError`]; [`Unusable`](OriginError::Unusable) also where the head contradicts the digest.
    pub async fn head(
        &self,
        locator: &OriginLocator,
        credentials: &Credentials,
    ) -> Result<Head, OriginError> {
        let registry = self.inner.registry(&locator.registry)?;
        let exchange = Exchange {
            inner: &self.inner,
            registry: &registry,
        };
        if let Credentials::Address(_) = credentials {
            return probe(&exchange, locator, credentials).await;
        }
        let mut ask = content(&registry, Method::HEAD, locator, credentials);
        let answer = match exchange.run(&ask, credentials).await {
            Err(error) if error.status() == Some(StatusCode::METHOD_NOT_ALLOWED) => {
                // The head of GET says the same; the body is left where it is.
                ask.method = Method::GET;
                exchange.run(&ask, credentials).await?
            }
            other => other?,
        };
        let head = Head::of(&answer.headers);
        fetch::fits(locator, &answer.headers)
            .and_then(|()| fetch::manifest_fits(locator.kind, head.length.unwrap_or(0)))
            .map_err(|reason| exchange.unusable(reason))?;
        Ok(head)
    }

    /// The bytes of a content from `start` on, up to, not including, `end` where one is given. One request: the caller
    /// goes on from where it breaks. Safe to drop.
    ///
    /// # Errors
    /// Any [`OriginError`]; [`Unusable`](OriginError::Unusable) where the answer does not fit the request.
    pub async fn fetch(
        &self,
        locator: &OriginLocator,
        start: u64,
        end: Option<u64>,
        credentials: &Credentials,
    ) -> Result<Fetch, OriginError> {
        self.get(Wanted::exactly(locator, start, end), credentials, None)
            .await
    }

    /// One request for what is wanted, with a right to it where the caller has one already.
    pub(crate) async fn get(
        &self,
        wanted: Wanted<'_>,
        credentials: &Credentials,
        permits: Option<Permits>,
    ) -> Result<Fetch, OriginError> {
        let registry = self.inner.registry(&wanted.locator.registry)?;
        let exchange = Exchange {
            inner: &self.inner,
            registry: &registry,
        };
        if wanted.end.is_some_and(|end| end <= wanted.start) {
            return Err(exchange.unusable("no byte of a content was asked"));
        }
        let mut ask = content(&registry, Method::GET, wanted.locator, credentials);
        if let Some(range) = headers::range_value(wanted.start, wanted.end) {
            ask.headers.insert(header::RANGE, range);
        }
        let answer = match permits {
            Some(permits) => exchange.run_with(&ask, credentials, permits).await?,
            None => exchange.run(&ask, credentials).await?,
        };
        if wanted.length.is_none()
            && wanted.start == 0
            && wanted.useful.is_none()
            && fetch::is_untold(&answer)
        {
            return self.untold(&exchange, ask, wanted, credentials, answer).await;
        }
        Fetch::new(wanted, answer).map_err(|reason| exchange.unusable(reason))
    }

    /// A content whose length neither the registry nor the caller tells. A small one is read to know it; a larger one is
    /// asked for once more, by a range, whose answer tells the length.
    async fn untold(
        &self,
        exchange: &Exchange<'_>,
        mut ask: Ask,
        wanted: Wanted<'_>,
        credentials: &Credentials,
        mut answer: Answer,
    ) -> Result<Fetch, OriginError> {
        let locator = wanted.locator;
        fetch::fits(locator, &answer.headers).map_err(|reason| exchange.unusable(reason))?;
        if let Some(room) = self.room_ahead(UNTOLD_BYTES_MAX as u64) {
            let (bytes, all) = answer.body.collect(UNTOLD_BYTES_MAX).await?;
            if all {
                return fetch::manifest_fits(locator.kind, bytes.len() as u64)
                    .map(|()| Fetch::here(locator, &answer.headers, bytes, room))
                    .map_err(|reason| exchange.unusable(reason));
            }
        }
        drop(answer);
        ask.headers
            .insert(header::RANGE, HeaderValue::from_static("bytes=0-"));
        let answer = exchange.run(&ask, credentials).await?;
        Fetch::new(
            Wanted {
                ranged: true,
                ..wanted
            },
            answer,
        )
        .map_err(|reason| exchange.unusable(reason))
    }

    /// What a tag (or a digest) names: by HEAD, and by GET where HEAD does not tell. Safe to drop.
    ///
    /// # Errors
    /// Any [`OriginError`]; [`Unusable`](OriginError::Unusable) where the answer is no manifest.
    pub async fn resolve(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        reference: &ManifestReference,
        accept: &[HeaderValue],
        credentials: &Credentials,
    ) -> Result<Head, OriginError> {
        let registry = self.inner.registry(registry)?;
        let exchange = Exchange {
            inner: &self.inner,
            registry: &registry,
        };
        let path = format!("/v2/{repository}/manifests/{reference}");
        let mut ask = ask(&registry, Method::HEAD, &path, Some(repository.to_string()));
        for value in accept {
            ask.headers.append(header::ACCEPT, value.clone());
        }
        if accept.is_empty() {
            ask.headers
                .insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        }
        let head = match exchange.run(&ask, credentials).await {
            Ok(answer) => manifest_head(&answer),
            Err(error) if error.status() == Some(StatusCode::METHOD_NOT_ALLOWED) => None,
            Err(error) => return Err(error),
        };
        let head = match head {
            Some(head) => head,
            None => {
                ask.method = Method::GET;
                let answer = exchange.run(&ask, credentials).await?;
                read_manifest(answer, &exchange).await?
            }
        };
        match (reference, &head.digest) {
            (ManifestReference::Digest(wanted), Some(got))
                if wanted.algorithm() == got.algorithm() && wanted != got =>
            {
                Err(exchange.unusable(format!("it has {got} under the digest {wanted}")))
            }
            _ => fetch::manifest_fits(ContentKind::Manifest, head.length.unwrap_or(0))
                .map(|()| head)
                .map_err(|reason| exchange.unusable(reason)),
        }
    }

    /// Anything else below `/v2/` (tags, referrers, the ping) by GET or HEAD, passed through: its status, what of its
    /// head may be passed on, and its body, 16 MiB at most. Redirects are followed, and an anonymous caller gets a token,
    /// but for the ping, whose challenge tells clients what to bring. Safe to drop.
    ///
    /// # Errors
    /// No answer, a wish for fewer requests, or a 5xx after the retries. Other statuses are answers.
    pub async fn relay(
        &self,
        registry: &RegistryName,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        credentials: &Credentials,
    ) -> Result<http::Response<RelayBody>, OriginError> {
        let registry = self.inner.registry(registry)?;
        let exchange = Exchange {
            inner: &self.inner,
            registry: &registry,
        };
        if method != Method::GET && method != Method::HEAD {
            return Err(exchange.unusable(format!("{method} is not passed on")));
        }
        let mut ask = ask(&registry, method, path_and_query, repository_of(path_and_query));
        if !is_plain(path_and_query) || !ask.url.as_str().ends_with(path_and_query) {
            return Err(exchange.unusable("what was asked is not a path below /v2/"));
        }
        for name in RELAYED_TO_REGISTRY {
            for value in headers.get_all(&name) {
                ask.headers.append(name.clone(), value.clone());
            }
        }
        match exchange.run(&ask, credentials).await {
            Ok(answer) => {
                let body = RelayBody::coming(answer.body, RELAY_BYTES_MAX);
                Ok(response(answer.status, headers::relayed(&answer.headers), body))
            }
            Err(OriginError::Status {
                status,
                headers,
                body,
                ..
            }) if !status.is_server_error() => Ok(response(status, headers, RelayBody::whole(body))),
            Err(error) => Err(error),
        }
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: RelayBody) -> http::Response<RelayBody> {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A request below the registry's endpoint.
fn ask(registry: &Registry, method: Method, path_and_query: &str, repository: Option<String>) -> Ask {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let mut url: Url = registry.settings.endpoint.clone();
    let before = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{before}{path}"));
    url.set_query(query);
    Ask {
        method,
        url,
        headers: HeaderMap::new(),
        repository,
        blob: false,
    }
}

/// A request for a content.
fn content(registry: &Registry, method: Method, locator: &OriginLocator, credentials: &Credentials) -> Ask {
    let blob = locator.kind == ContentKind::Blob && method == Method::GET;
    let accept = match locator.kind {
        ContentKind::Blob => "*/*",
        ContentKind::Manifest => MANIFEST_TYPES,
    };
    let mut ask = ask(
        registry,
        method,
        &locator.path(),
        Some(locator.repository.to_string()),
    );
    ask.headers
        .insert(header::ACCEPT, HeaderValue::from_static(accept));
    if let Credentials::Address(address) = credentials {
        ask.url = address.url.clone();
    }
    Ask { blob, ..ask }
}

/// Whether a path and query can be passed on as they are: below `/v2/`, with no step upwards however written.
fn is_plain(path_and_query: &str) -> bool {
    let path = path_and_query
        .split('?')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let upwards = |part: &str| matches!(part.replace("%2e", ".").as_str(), "." | "..");
    path.starts_with("/v2/")
        && !path.split(['/', '\\']).any(upwards)
        && !path.contains("%2f")
        && !path.contains("%5c")
}

/// The repository that a path is about: all between `/v2/` and the last two parts.
fn repository_of(path_and_query: &str) -> Option<String> {
    let path = path_and_query.split('?').next()?.strip_prefix("/v2/")?;
    let (name, _) = path.rsplit_once('/')?.0.rsplit_once('/')?;
    name.parse::<Repository>().ok().map(String::from)
}

/// Reads a manifest for its digest.
async fn read_manifest(mut answer: Answer, exchange: &Exchange<'_>) -> Result<Head, OriginError> {
    if headers::is_encoded(&answer.headers) || headers::is_html(&answer.headers) {
        return Err(
            exchange.unusable("it sends no manifest where one was asked; is there a portal in between?")
        );
    }
    let max = usize::try_from(MANIFEST_BYTES_MAX).unwrap_or(usize::MAX);
    let (bytes, whole): (Bytes, bool) = answer.body.collect(max).await?;
    if !whole {
        return Err(exchange.unusable(format!("a manifest is longer than {MANIFEST_BYTES_MAX} bytes")));
    }
    let length = bytes.len() as u64;
    let told = Head::of(&answer.headers);
    if told.length.is_some_and(|told| told != length) {
        return Err(OriginError::Cut {
            registry: exchange.registry.name.to_string(),
            received: length,
        });
    }
    let algorithm = told.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = Digest::of(algorithm, &bytes);
    if told.digest.as_ref().is_some_and(|told| *told != digest) {
        return Err(exchange.unusable(format!("the manifest's digest is {digest}, not what it says")));
    }
    Ok(Head {
        digest: Some(digest),
        length: Some(length),
        ..told
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_passed_on() {
        for good in [
            "/v2/",
            "/v2/a/tags/list?n=5&last=..",
            "/v2/a/b/referrers/sha256:00?artifactType=x%2Fy",
        ] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/v2",
            "/v1/a",
            "/v2/../x",
            "/v2/a/%2e%2E/b",
            "/v2/./a",
            "/v2/a%2fb",
            "/v2/a\\..\\b",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn repositories_are_found_in_paths() {
        assert_eq!(repository_of("/v2/a/b/tags/list?n=1").as_deref(), Some("a/b"));
        assert_eq!(repository_of("/v2/a/referrers/sha256:00").as_deref(), Some("a"));
        assert_eq!(repository_of("/v2/"), None);
        assert_eq!(repository_of("/v2/tags/list"), None);
    }
}
