//! Which registries may be asked, where they stand, and how long they are waited for.
//!
//! [`RegistriesConfig`] is what an operator writes; [`Settings`] is the same after every rule has been checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use darter_service::config::{ByteSize, Period};
use darter_types::RegistryName;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::login::{CredentialsConfig, Share};
use crate::names::{AddressRange, NamePattern};

mod large;

pub use large::LargeBlobsConfig;

/// The key of what holds for all registries that are not written down by name.
const ALL: &str = "*";
const CONNECTIONS_MAX_DEFAULT: usize = 20;
const CONNECTIONS_MAX_LIMIT: usize = 1000;
const RETRIES_LIMIT: u32 = 10;

/// How registries are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistriesConfig {
    /// One entry for each registry that needs one, under its name as images have it (`docker.io`,
    /// `registry.example.com:5000`); the entry `*` holds for all others. Empty by default: most registries need none.
    /// A registry that is written down may stand at a private address; others must be public.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Refuses every registry that has no entry of its own. `false` by default, so that pulls work with no
    /// configuration; set it where clients are not trusted to choose. This and `allowed` are about what this node fetches: where
    /// clients of the forward proxy may go is said by its rules.
    pub allow_only_configured: bool,
    /// Registries that may be asked besides those that have an entry: names, or `*.example.com` for all below a domain.
    /// Empty by default: all, unless `allowOnlyConfigured` is set.
    pub allowed: Vec<NamePattern>,
    /// Addresses that are never connected to, whatever name leads there and whatever has an entry: `10.0.0.0/8`. Empty by
    /// default; link-local addresses, those of metadata services and, but for registries with an entry, private ones are
    /// refused in any case.
    pub denied_ranges: Vec<AddressRange>,
    /// Most bytes a second that registries send, all of them together; at least 64 KiB. No limit by default.
    pub bytes_per_second_max: Option<ByteSize>,
    /// For a connection with its TLS handshake, over all addresses of a name. 5 s by default.
    pub connect_timeout: Period,
    /// From a request to the head of its answer. 30 s by default: some registries look for long.
    pub header_timeout: Period,
    /// Between two parts of a body; the request then counts as broken and the rest is asked for. 4 s by default: clients
    /// are to see no gap of 5 s.
    pub silence_timeout: Period,
    /// How often a request is repeated that failed before a byte of its body came, with a random pause before each. 3 by
    /// default, at most 10; 0 leaves it to the client.
    pub retries: u32,
    /// Large blobs over several connections.
    pub large_blobs: LargeBlobsConfig,
}

impl Default for RegistriesConfig {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            allow_only_configured: false,
            allowed: Vec::new(),
            denied_ranges: Vec::new(),
            bytes_per_second_max: None,
            connect_timeout: Period::from(Duration::from_secs(5)),
            header_timeout: Period::from(Duration::from_secs(30)),
            silence_timeout: Period::from(Duration::from_secs(4)),
            retries: 3,
            large_blobs: LargeBlobsConfig::default(),
        }
    }
}

/// How one registry is reached. There is no way to skip the verification of certificates: name the authority instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Its address, for example `https://registry.internal:5000`, with a path where it has one before `/v2`. By default
    /// `https://<name>`, and `https://registry-1.docker.io` for `docker.io`. Not for `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Speaks http without TLS where `endpoint` is not given. `false` by default; anybody on the way can then read what
    /// is pulled, and tokens. Not for `*`.
    pub plain_http: bool,
    /// A PEM file with certificates of authorities that are trusted for this registry, its token realm and its
    /// redirects, besides the system's. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Requests that run at one time; more wait. A quarter is kept free of blobs, so that a tag is resolved while layers
    /// load. 20 by default, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<usize>,
    /// Most bytes a second that it sends; at least 64 KiB. No limit by default. Under `*`: for each of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second_max: Option<ByteSize>,
    /// This node's own credentials, for clients that bring none. None by default. Not for `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsConfig>,
}

/// With less, a body would count as silent.
const RATE_MIN: ByteSize = ByteSize::kib(64);

fn check_rate(at: &str, rate: Option<ByteSize>, problems: &mut Vec<String>) {
    if rate.is_some_and(|rate| rate < RATE_MIN) {
        problems.push(format!(
            "{at}.bytesPerSecondMax: must be at least {RATE_MIN}, or absent for no limit"
        ));
    }
}

/// Why the registries' configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OriginConfigError {
    /// These values are wrong, each with its path.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// A file of certificates cannot be used.
    #[error("{path}: {reason}")]
    CaFile {
        /// The path of the key.
        path: String,
        /// What is wrong with which file.
        reason: String,
    },
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl RegistriesConfig {
    /// All that is wrong with it; each text starts with the path of the key, below `at`.
    pub fn problems(&self, at: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let times = [
            ("connectTimeout", self.connect_timeout),
            ("headerTimeout", self.header_timeout),
            ("silenceTimeout", self.silence_timeout),
        ];
        for (key, time) in times {
            if Duration::from(time).is_zero() {
                problems.push(format!(
                    "{at}.{key}: nothing answers in no time; write for example 5s"
                ));
            }
        }
        if self.retries > RETRIES_LIMIT {
            problems.push(format!(
                "{at}.retries: {} is more than {RETRIES_LIMIT}",
                self.retries
            ));
        }
        self.large_blobs
            .problems(&format!("{at}.largeBlobs"), &mut problems);
        check_rate(at, self.bytes_per_second_max, &mut problems);
        for (name, registry) in &self.registries {
            registry.problems(&format!("{at}.registries[{name:?}]"), name, &mut problems);
        }
        problems
    }
}

impl RegistryConfig {
    fn problems(&self, at: &str, name: &str, problems: &mut Vec<String>) {
        if name == ALL {
            if self.endpoint.is_some() || self.plain_http {
                problems.push(format!(
                    "{at}: endpoint and plainHttp are for one registry; write its name instead of *"
                ));
            }
            if self.credentials.is_some() {
                problems.push(format!(
                    "{at}.credentials: they are for one registry; write its name instead of *"
                ));
            }
        } else {
            match name.parse::<RegistryName>() {
                Ok(name) => problems.extend(
                    self.url(&name)
                        .err()
                        .map(|reason| format!("{at}.endpoint: {reason}")),
                ),
                Err(error) => problems.push(format!("{at}: {error}")),
            }
        }
        check_rate(at, self.bytes_per_second_max, problems);
        if let Some(credentials) = &self.credentials {
            credentials.problems(&format!("{at}.credentials"), problems);
        }
        if let Some(max) = self.connections_max
            && !(1..=CONNECTIONS_MAX_LIMIT).contains(&max)
        {
            problems.push(format!(
                "{at}.connectionsMax: {max} is not within 1 to {CONNECTIONS_MAX_LIMIT}"
            ));
        }
    }

    /// Where the registry stands.
    fn url(&self, name: &RegistryName) -> Result<Url, String> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let Some(endpoint) = &self.endpoint else {
            let host = match name.as_str() {
                "docker.io" | "index.docker.io" => "registry-1.docker.io",
                other => other,
            };
            return Url::parse(&format!("{scheme}://{host}/")).map_err(|error| format!("{host}: {error}"));
        };
        let url = Url::parse(endpoint)
            .map_err(|error| format!("{endpoint:?}: {error}; write https://host:port"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("{endpoint:?} begins with neither https:// nor http://"));
        }
        if self.plain_http && url.scheme() == "https" {
            return Err(format!("{endpoint:?} is https, but plainHttp is set; remove one"));
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err("it may have a scheme, a host, a port and a path, nothing else".to_owned());
        }
        Ok(url)
    }
}

/// Where and how one registry is reached, checked.
#[derive(Clone, Debug)]
pub(crate) struct RegistrySettings {
    pub(crate) endpoint: Url,
    /// Whether an operator wrote it down.
    pub(crate) configured: bool,
    /// Under which key of the configuration its authorities stand, if it has some.
    pub(crate) ca_key: Option<String>,
    pub(crate) connections_max: usize,
    pub(crate) bytes_per_second_max: Option<ByteSize>,
    pub(crate) credentials: Option<CredentialsConfig>,
}

/// The configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    config: RegistriesConfig,
    /// Users of this machine who may use the node's own credentials, by registry.
    lent: BTreeMap<String, BTreeSet<u32>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) large_blobs: LargeBlobsConfig,
}

/// Whom the credentials of each registry are for; an error names those that this machine does not know.
fn lent(config: &RegistriesConfig) -> Result<BTreeMap<String, BTreeSet<u32>>, Vec<String>> {
    let (mut lent, mut problems) = (BTreeMap::<_, BTreeSet<_>>::new(), Vec::new());
    for (name, registry) in &config.registries {
        let shared = registry.credentials.as_ref();
        let shared = shared.filter(|credentials| credentials.share == Some(Share::Node));
        for (at, user) in shared.iter().flat_map(|shared| shared.users.iter().enumerate()) {
            match user.id() {
                Ok(id) => _ = lent.entry(name.clone()).or_default().insert(id),
                Err(reason) => problems.push(format!(
                    "origin.registries[{name:?}].credentials.users.{at}: {reason}"
                )),
            }
        }
    }
    if problems.is_empty() {
        Ok(lent)
    } else {
        Err(problems)
    }
}

impl Settings {
    pub(crate) fn new(config: &RegistriesConfig) -> Result<Self, OriginConfigError> {
        let problems = config.problems("origin");
        if !problems.is_empty() {
            return Err(OriginConfigError::Invalid(problems));
        }
        Ok(Self {
            lent: lent(config).map_err(OriginConfigError::Invalid)?,
            config: config.clone(),
            connect_timeout: config.connect_timeout.into(),
            header_timeout: config.header_timeout.into(),
            silence_timeout: config.silence_timeout.into(),
            retries: config.retries,
            large_blobs: config.large_blobs.clone(),
        })
    }

    /// The files of authorities, with the key of the entry that names each.
    pub(crate) fn ca_files(&self) -> impl Iterator<Item = (&String, &PathBuf)> {
        let entries = self.config.registries.iter();
        entries.filter_map(|(name, registry)| Some((name, registry.ca_file.as_ref()?)))
    }

    /// The users of this machine who may use the node's own credentials for a registry, where it has some.
    pub(crate) fn lent_to(&self, name: &RegistryName) -> Option<&BTreeSet<u32>> {
        self.lent.get(name.as_str())
    }

    /// Why a registry without an entry is not asked, if it is not.
    fn refuses(&self, name: &RegistryName) -> Option<&'static str> {
        let allowed = &self.config.allowed;
        match (allowed.is_empty(), self.config.allow_only_configured) {
            (true, false) => None,
            (true, true) => Some("it has no entry below `registries`, and allowOnlyConfigured is set"),
            (false, _) if allowed.iter().any(|pattern| pattern.matches(name)) => None,
            (false, _) => Some("it has no entry below `registries` and is not among `allowed`"),
        }
    }

    /// Addresses that are never connected to.
    pub(crate) fn denied_ranges(&self) -> &[AddressRange] {
        &self.config.denied_ranges
    }

    /// How a registry is reached that this node may ask; an error says why it may not.
    pub(crate) fn registry(&self, name: &RegistryName) -> Result<RegistrySettings, String> {
        let known = self.config.registries.contains_key(name.as_str());
        match self.refuses(name).filter(|_| !known) {
            Some(reason) => Err(reason.to_owned()),
            None => self.reached(name),
        }
    }

    /// How a host of that name is reached, be it one that is fetched from or one that a client goes to by itself.
    pub(crate) fn reached(&self, name: &RegistryName) -> Result<RegistrySettings, String> {
        let entry = self.config.registries.get(name.as_str());
        let common = self.config.registries.get(ALL);
        let own = entry.cloned().unwrap_or_default();
        let ca_key = [(name.as_str(), entry), (ALL, common)]
            .into_iter()
            .find_map(|(key, entry)| entry?.ca_file.as_ref().map(|_| key.to_owned()));
        let rate = |registry: &RegistryConfig| registry.bytes_per_second_max;
        let credentials = own.credentials.clone();
        let common_max = common.and_then(|common| common.connections_max);
        Ok(RegistrySettings {
            endpoint: own.url(name)?,
            configured: entry.is_some(),
            ca_key,
            bytes_per_second_max: rate(&own).or_else(|| common.and_then(rate)),
            connections_max: own
                .connections_max
                .or(common_max)
                .unwrap_or(CONNECTIONS_MAX_DEFAULT),
            credentials,
        })
    }
}

#[cfg(test)]
mod tests;
