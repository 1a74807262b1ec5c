//! nydusd's configuration, in its first form (`device`) and its second one (`version: 2`): where blobs come from, and where
//! they are kept. Pure.
//!
//! The format is somebody else's and grows. So whatever is not used is passed over; keys that were never heard of are named,
//! for whoever reads the log.

use std::path::PathBuf;

use darter_service::net::Address;
use darter_types::{RegistryName, Repository};
use http::HeaderValue;
use serde_json::{Map, Value};
use thiserror::Error;

/// Longest configuration. It holds certificates at most.
pub(super) const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Unknown keys that are named.
const UNKNOWN_MAX: usize = 32;
/// The name under which Docker Hub's registry answers.
const DOCKER_HUB: [&str; 3] = [
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

/// This machine, for itself.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

const TOP: &[&str] = &[
    "device",
    "mode",
    "digest_validate",
    "iostats_files",
    "enable_xattr",
    "access_pattern",
    "latest_read_files",
    "amplify_io",
    "fs_prefetch",
    "warmup",
    "id_mapping",
    "type",
    "id",
    "domain_id",
    "version",
    "backend",
    "cache",
    "rafs",
    "overlay",
    "internal",
    "external_backends",
    "config",
];
const DEVICE: &[&str] = &["id", "backend", "cache"];
const BACKEND: &[&str] = &[
    "type",
    "config",
    "registry",
    "localfs",
    "oss",
    "s3",
    "http-proxy",
    "localdisk",
];
const REGISTRY: &[&str] = &[
    "host",
    "repo",
    "scheme",
    "auth",
    "registry_token",
    "skip_verify",
    "ca_cert_files",
    "blob_url_scheme",
    "blob_redirected_host",
    "proxy",
    "timeout",
    "connect_timeout",
    "retry_limit",
    "readahead",
    "readahead_sec",
    "mirrors",
    "disable_passthrough",
    "dragonfly_scheduler_endpoint",
];
const LOCALFS: &[&str] = &["dir", "blob_file", "alt_dirs", "readahead", "readahead_sec"];

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is no JSON.
    #[error("the configuration cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than any that makes sense.
    #[error("the configuration has more than {CONFIG_BYTES_MAX} bytes")]
    TooLong,
    /// Something is missing or makes no sense.
    #[error("{0} is missing in the configuration, or is not what it should be")]
    Key(&'static str),
    /// Blobs are in a place that cannot be read.
    #[error("blobs from {0:?} cannot be read: only the backends registry and localfs are known")]
    Backend(String),
}

/// What is used of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where blobs come from.
    pub backend: Backend,
    /// Where they are kept.
    pub work_dir: Option<PathBuf>,
    /// The name that its user has for the mount.
    pub id: Option<String>,
    /// What is to be fetched before anybody reads it.
    pub prefetch: Early,
    /// Keys that were never heard of, with their places.
    pub unknown: Vec<String>,
}

/// What is to be fetched before anybody reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// What the image's own table names.
    pub table: bool,
    /// Everything.
    pub all: bool,
}

/// Where blobs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A registry, through the node's mirror.
    Registry(Registry),
    /// A folder.
    Folder(PathBuf),
}

/// A repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The registry, as image names have it.
    pub host: RegistryName,
    /// The repository.
    pub repository: Repository,
    /// The caller's credential, as a request has it.
    pub authorization: Option<HeaderValue>,
    /// The mirror, if the configuration names it as its proxy.
    pub mirror: Option<Address>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is no JSON, lacks something, or names a backend that is not known.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLong);
        }
        let whole: Value = serde_json::from_slice(text)?;
        let whole = whole
            .as_object()
            .ok_or(ConfigError::Key("the outermost object"))?;
        let mut unknown = Vec::new();
        note("", whole, TOP, &mut unknown);
        // In the second form what was in `device` stands outermost.
        let device = match whole.get("device") {
            Some(device) => {
                let device = device.as_object().ok_or(ConfigError::Key("device"))?;
                note("device.", device, DEVICE, &mut unknown);
                device
            }
            None => whole,
        };
        let backend = object(device, "backend").ok_or(ConfigError::Key("backend"))?;
        Ok(Self {
            backend: backend_of(backend, &mut unknown)?,
            prefetch: early(whole),
            work_dir: work_dir(device),
            id: text_of(device, "id").map(str::to_owned),
            unknown,
        })
    }
}

/// Reads a backend alone, as nydus-snapshotter tells it.
pub(super) fn backend(text: &[u8]) -> Result<Backend, ConfigError> {
    // What is wrong with it may quote a secret.
    let whole: Map<String, Value> =
        serde_json::from_slice(text).map_err(|_| ConfigError::Key("the backend"))?;
    backend_of(&whole, &mut Vec::new())
}

fn backend_of(backend: &Map<String, Value>, unknown: &mut Vec<String>) -> Result<Backend, ConfigError> {
    note("backend.", backend, BACKEND, unknown);
    let kind = text_of(backend, "type").ok_or(ConfigError::Key("backend.type"))?;
    let inner = object(backend, "config").or_else(|| object(backend, kind));
    let inner = inner.ok_or(ConfigError::Key("backend.config"))?;
    match kind {
        "registry" => {
            note("backend.registry.", inner, REGISTRY, unknown);
            Ok(Backend::Registry(registry(inner)?))
        }
        "localfs" => {
            note("backend.localfs.", inner, LOCALFS, unknown);
            let folder = text_of(inner, "dir").ok_or(ConfigError::Key("the backend's dir"))?;
            Ok(Backend::Folder(folder.into()))
        }
        other => Err(ConfigError::Backend(other.chars().take(64).collect())),
    }
}

/// `fs_prefetch` of the first form, `rafs.prefetch` of the second one.
fn early(whole: &Map<String, Value>) -> Early {
    let second = || object(object(whole, "rafs")?, "prefetch");
    let Some(said) = object(whole, "fs_prefetch").or_else(second) else {
        return Early::default();
    };
    let says = |key: &str| said.get(key).and_then(Value::as_bool).unwrap_or(false);
    let table = says("enable");
    Early {
        table,
        all: table && says("prefetch_all"),
    }
}

fn object<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Map<String, Value>> {
    map.get(key)?.as_object()
}

/// A text; an empty one is as good as none.
fn text_of<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn note(place: &str, map: &Map<String, Value>, known: &[&str], unknown: &mut Vec<String>) {
    let strange = map.keys().filter(|key| !known.contains(&key.as_str()));
    let room = UNKNOWN_MAX.saturating_sub(unknown.len());
    unknown.extend(strange.take(room).map(|key| {
        let key: String = key.chars().take(64).collect();
        format!("{place}{key}")
    }));
}

fn work_dir(device: &Map<String, Value>) -> Option<PathBuf> {
    let cache = object(device, "cache")?;
    let inner = ["config", "filecache", "blobcache", "fscache"];
    let inner = inner.into_iter().find_map(|key| object(cache, key))?;
    Some(text_of(inner, "work_dir")?.into())
}

fn registry(inner: &Map<String, Value>) -> Result<Registry, ConfigError> {
    let host = text_of(inner, "host").ok_or(ConfigError::Key("the registry's host"))?;
    let host = if DOCKER_HUB.contains(&host) {
        "docker.io"
    } else {
        host
    };
    let repository = text_of(inner, "repo").ok_or(ConfigError::Key("the registry's repo"))?;
    let authorization = match (text_of(inner, "auth"), text_of(inner, "registry_token")) {
        (Some(auth), _) => Some(basic(auth).ok_or(ConfigError::Key("the registry's auth"))?),
        (None, Some(token)) => {
            Some(header("Bearer", token).ok_or(ConfigError::Key("the registry's registry_token"))?)
        }
        (None, None) => None,
    };
    let proxy = object(inner, "proxy").and_then(|proxy| text_of(proxy, "url"));
    Ok(Registry {
        host: host
            .parse()
            .map_err(|_| ConfigError::Key("the registry's host"))?,
        repository: repository
            .parse()
            .map_err(|_| ConfigError::Key("the registry's repo"))?,
        authorization,
        mirror: proxy.and_then(mirror),
    })
}

/// A user and a password, already encoded, as a request has them.
pub(super) fn basic(auth: &str) -> Option<HeaderValue> {
    header("Basic", auth)
}

fn header(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("{scheme} {value}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The node's mirror, where nydusd would have its proxy: on this machine. Another proxy is none of ours.
fn mirror(url: &str) -> Option<Address> {
    if url.starts_with("unix:") {
        return url.replacen("unix://", "unix:", 1).parse().ok();
    }
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, _) = authority.rsplit_once(':')?;
    if !LOOPBACK.contains(&host) {
        return None;
    }
    authority.parse().ok()
}

/// Any bytes: read, or refused; nothing else.
pub fn fuzz_config(data: &[u8]) {
    if let Ok(config) = Config::parse(data) {
        assert!(config.unknown.len() <= UNKNOWN_MAX);
    }
}

#[cfg(test)]
mod tests;
