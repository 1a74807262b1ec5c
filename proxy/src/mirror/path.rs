//! Which registry and which endpoint a request is for: five ways to name the registry, one grammar.
//!
//! Pure. What comes out has passed the grammars of `darter_types`; what does not match is refused here, so
//! that no other module ever sees a raw path. Nothing here decides whether a caller may read.
//!
//! The upstream is, in this order: the `ns` query parameter (containerd), the header `X-Darter-Registry` or
//! `X-Dragonfly-Registry` (nydusd), a registry host as the first part of the name or before `/v2` (podman,
//! `BuildKit`, Docker), a whole URL behind a prefix (overlaybd), the configured default.

use std::fmt;

use darter_types::{Digest, ManifestReference, RegistryName, Repository};
use http::HeaderMap;
use thiserror::Error;

mod decode;
#[cfg(test)]
mod tests;

use decode::{decode, parameters};

/// Headers that may name the upstream, for clients that cannot send `ns`.
pub const REGISTRY_HEADERS: [&str; 2] = ["x-darter-registry", "x-dragonfly-registry"];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: whether somebody speaks the distribution specification here.
    Ping,
    /// An endpoint of a repository.
    Endpoint(Target),
}

/// An endpoint of a repository at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The registry, as image names have it.
    pub registry: RegistryName,
    /// The repository there.
    pub repository: Repository,
    /// What of it.
    pub endpoint: Endpoint,
    /// How the client named the registry: links in answers must name it in the same way.
    pub via: Via,
    /// The query without `ns`, as it was sent.
    pub query: Option<String>,
}

/// The endpoints of the distribution specification that a mirror serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/<name>/manifests/<reference>`
    Manifest(ManifestReference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(Digest),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Digest),
    /// `/v2/<name>/tags/list`
    Tags,
}

/// How the client said which registry it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `?ns=docker.io`
    Query,
    /// `X-Darter-Registry: docker.io`
    Header,
    /// `/v2/docker.io/library/nginx/…`
    FirstPart,
    /// `/docker.io/v2/library/nginx/…`
    BeforeVersion,
    /// `/x/https://registry/v2/…`
    WholeUrl,
    /// Not at all.
    Default,
}

/// Why a path is not served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// No endpoint of the distribution specification has this path.
    #[error("there is no such endpoint here")]
    Unknown,
    /// Neither the request nor the configuration says which registry is meant.
    #[error(
        "which registry? name it by ?ns=, by the header X-Darter-Registry or as the first part of the path, \
         or set mirror.defaultRegistry"
    )]
    NoRegistry,
    /// The percent-encoding is broken, or hides what a path may not hold.
    #[error("the path or query is not properly encoded")]
    Encoding,
    /// A registry or repository name does not have the form that the specification gives.
    #[error("{0}")]
    Name(String),
    /// The digest does not parse.
    #[error("{0}")]
    Digest(String),
    /// The tag does not parse.
    #[error("{0}")]
    Tag(String),
}

/// Reads what a request asks for. `path` and `query` are as sent, without the `?`.
///
/// # Errors
/// See [`RouteError`]; nothing is guessed.
pub fn route(
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    default: Option<&RegistryName>,
) -> Result<Route, RouteError> {
    let (query_registry, rest_of_query) = namespace(query)?;
    let split = Split::of(path)?;
    let named = Named {
        query: query_registry,
        header: header_registry(headers)?,
        prefix: split.prefix,
    };
    if split.parts.is_empty() {
        return Ok(Route::Ping);
    }
    let (name, endpoint) = endpoint(&split.parts)?;
    let (registry, via, name) = upstream(named, name, default)?;
    let repository = name
        .join("/")
        .parse()
        .map_err(|error: darter_types::RepositoryError| RouteError::Name(error.to_string()))?;
    Ok(Route::Endpoint(Target {
        registry,
        repository,
        endpoint,
        via,
        query: rest_of_query,
    }))
}

/// The blob or the manifest that a path at its own registry is about, where it is about one: what the forward proxy
/// serves as the mirror does. Nothing in the path or the query names another registry here.
pub fn content_at(registry: &str, path: &str) -> Option<Target> {
    let behind = path.strip_prefix("/v2/")?;
    let parts = behind
        .split('/')
        .map(decode)
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let (name, endpoint) = endpoint(&parts).ok()?;
    matches!(endpoint, Endpoint::Blob(_) | Endpoint::Manifest(_)).then_some(())?;
    Some(Target {
        registry: self::registry(registry).ok()?,
        repository: name.join("/").parse().ok()?,
        endpoint,
        via: Via::Default,
        query: None,
    })
}

/// The path around `/v2/`: what came before, decoded parts behind.
struct Split {
    prefix: Option<(RegistryName, Via)>,
    parts: Vec<String>,
}

impl Split {
    fn of(path: &str) -> Result<Self, RouteError> {
        let path = path.strip_prefix('/').ok_or(RouteError::Unknown)?;
        if let Some(behind) = behind_version(path) {
            return Self::new(None, behind);
        }
        let (prefix, rest) = path.split_once('/').ok_or(RouteError::Unknown)?;
        let url = rest
            .strip_prefix("https://")
            .or_else(|| rest.strip_prefix("http://"));
        let (host, rest, via) = match url {
            Some(url) => {
                let (host, rest) = url.split_once('/').ok_or(RouteError::Unknown)?;
                (host, rest, Via::WholeUrl)
            }
            None => (prefix, rest, Via::BeforeVersion),
        };
        let behind = behind_version(rest).ok_or(RouteError::Unknown)?;
        Self::new(Some((registry(&decode(host)?)?, via)), behind)
    }

    fn new(prefix: Option<(RegistryName, Via)>, behind: &str) -> Result<Self, RouteError> {
        let parts = match behind {
            "" => Vec::new(),
            behind => behind.split('/').map(decode).collect::<Result<_, _>>()?,
        };
        Ok(Self { prefix, parts })
    }
}

fn behind_version(path: &str) -> Option<&str> {
    match path {
        "v2" => Some(""),
        path => path.strip_prefix("v2/"),
    }
}

/// Cuts the endpoint off the end; what is left is the name.
fn endpoint(parts: &[String]) -> Result<(&[String], Endpoint), RouteError> {
    let [name @ .., kind, last] = parts else {
        return Err(RouteError::Unknown);
    };
    let digest = || {
        last.parse()
            .map_err(|error: darter_types::DigestError| RouteError::Digest(error.to_string()))
    };
    let endpoint = match (kind.as_str(), last.as_str()) {
        ("manifests", reference) if reference.contains(':') => {
            Endpoint::Manifest(ManifestReference::Digest(digest()?))
        }
        ("manifests", tag) => tag
            .parse()
            .map(|tag| Endpoint::Manifest(ManifestReference::Tag(tag)))
            .map_err(|error: darter_types::RepositoryError| RouteError::Tag(error.to_string()))?,
        ("blobs", _) => Endpoint::Blob(digest()?),
        ("referrers", _) => Endpoint::Referrers(digest()?),
        ("tags", "list") => Endpoint::Tags,
        _ => return Err(RouteError::Unknown),
    };
    Ok((name, endpoint))
}

/// The places where a request can name its registry.
struct Named {
    query: Option<RegistryName>,
    header: Option<RegistryName>,
    prefix: Option<(RegistryName, Via)>,
}

fn upstream<'a>(
    named: Named,
    name: &'a [String],
    default: Option<&RegistryName>,
) -> Result<(RegistryName, Via, &'a [String]), RouteError> {
    let first = first_part(name);
    let said = named
        .query
        .map(|registry| (registry, Via::Query))
        .or_else(|| named.header.map(|registry| (registry, Via::Header)));
    if let Some((registry, via)) = said {
        // BuildKit sends both; a first part that is not this registry belongs to the repository's name.
        let repeated = first.is_some_and(|(first, _)| canonical(&with_port(first)) == registry.as_str());
        let name = first.filter(|_| repeated).map_or(name, |(_, rest)| rest);
        return Ok((registry, via, name));
    }
    if let Some((registry, via)) = named.prefix {
        return Ok((registry, via, name));
    }
    if let Some((first, rest)) = first {
        return Ok((registry(&with_port(first))?, Via::FirstPart, rest));
    }
    default
        .map(|registry| (registry.clone(), Via::Default, name))
        .ok_or(RouteError::NoRegistry)
}

/// The first part of a name and the rest, if it looks like a host as image references have it.
fn first_part(name: &[String]) -> Option<(&str, &[String])> {
    let (first, rest) = name.split_first()?;
    let host = first.contains(['.', ':']) || with_port(first).split(':').next() == Some("localhost");
    (host && !rest.is_empty()).then_some((first.as_str(), rest))
}

/// A host as the first part of a repository's name. Such a name holds no colon (distribution-spec v1.1, "Pulling
/// manifests"), so clients that check it cannot write a port; a host's name holds no underscore, so one may stand for
/// the colon.
fn with_port(first: &str) -> String {
    match first.rsplit_once('_') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}:{port}")
        }
        _ => first.to_owned(),
    }
}

fn namespace(query: Option<&str>) -> Result<(Option<RegistryName>, Option<String>), RouteError> {
    let mut found = None;
    let mut rest = Vec::new();
    for (key, value, raw) in parameters(query.unwrap_or_default()) {
        if key != "ns" {
            rest.push(raw);
            continue;
        }
        let named = registry(&decode(value)?)?;
        if found.get_or_insert_with(|| named.clone()) != &named {
            return Err(RouteError::Name(
                "ns is given twice, with different values".to_owned(),
            ));
        }
    }
    Ok((found, (!rest.is_empty()).then(|| rest.join("&"))))
}

fn header_registry(headers: &HeaderMap) -> Result<Option<RegistryName>, RouteError> {
    let mut values = REGISTRY_HEADERS.iter().filter_map(|name| headers.get(*name));
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| RouteError::Encoding)?;
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    registry(host.trim_end_matches('/')).map(Some)
}

fn registry(text: &str) -> Result<RegistryName, RouteError> {
    canonical(text)
        .parse()
        .map_err(|error: darter_types::RepositoryError| RouteError::Name(error.to_string()))
}

/// Host names are compared without case (RFC 3986 section 3.2.2), and Docker Hub has three of them.
fn canonical(text: &str) -> String {
    match text.to_ascii_lowercase() {
        hub if hub == "index.docker.io" || hub == "registry-1.docker.io" => "docker.io".to_owned(),
        other => other,
    }
}

impl Endpoint {
    /// Its name in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "manifest",
            Self::Blob(_) => "blob",
            Self::Referrers(_) => "referrers",
            Self::Tags => "tags",
        }
    }
}

impl fmt::Display for Endpoint {
    /// The end of its path at the registry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(reference) => write!(f, "manifests/{reference}"),
            Self::Blob(digest) => write!(f, "blobs/{digest}"),
            Self::Referrers(digest) => write!(f, "referrers/{digest}"),
            Self::Tags => f.write_str("tags/list"),
        }
    }
}

/// The body of a fuzz target: any bytes as path and query. What parses must read back as the same target.
///
/// # Panics
/// If what was accepted is not found again under its own canonical path.
pub fn fuzz_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text
        .split_once('?')
        .map_or((&*text, None), |(path, query)| (path, Some(query)));
    let default = "registry.test".parse().ok();
    let Ok(Route::Endpoint(target)) = route(path, query, &HeaderMap::new(), default.as_ref()) else {
        return;
    };
    // A first part that is the registry's own name says the registry once more, also beside `ns`.
    if target.repository.as_str().split('/').next() == Some(&*target.registry.to_string()) {
        return;
    }
    let again = format!("/v2/{}/{}", target.repository, target.endpoint);
    let asked = format!("ns={}", target.registry);
    match route(&again, Some(&asked), &HeaderMap::new(), None) {
        Ok(Route::Endpoint(found)) => assert!(
            found.repository == target.repository && found.endpoint == target.endpoint,
            "{text:?} was read as {target:?}, which reads back as {found:?}"
        ),
        other => panic!("{text:?} was read as {target:?}, which reads back as {other:?}"),
    }
}
