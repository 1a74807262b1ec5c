//! The two names that a user gives: which registries, and which mirror. Both are checked here, once, so that
//! nothing else has to ask whether a name could leave its directory.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use url::Url;

use crate::Error;

/// DNS limits a name to 253 characters.
const NAME_LENGTH_MAX: usize = 253;

/// A registry whose pulls go through the proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Registry {
    /// Every registry that has no directory of its own: containerd's `_default`.
    Default,
    /// One registry, named as in an image's name: `docker.io`, `ghcr.io`, `registry:5000`.
    Named(Host),
}

/// A checked `host` or `host:port`: one path component, never `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(String);

impl Registry {
    /// The directories that containerd looks at below one root of `config_path`, in its order.
    pub(crate) fn directories(&self) -> Vec<String> {
        let name = match self {
            Self::Default => return vec!["_default".to_owned()],
            Self::Named(host) => host.0.as_str(),
        };
        // `host_port_` is containerd's spelling for file systems that know no colon; it comes first. It splits at
        // the last colon whatever that means, so an IPv6 address without a port is cut as well.
        match name.rsplit_once(':') {
            Some((host, port)) => vec![format!("{host}_{port}_"), name.to_owned()],
            None => vec![name.to_owned()],
        }
    }

    /// The registry's name, for clients that know no setting for all registries.
    pub(crate) fn name(&self) -> Result<&str, Error> {
        match self {
            Self::Named(host) => Ok(&host.0),
            Self::Default => Err(Error::InvalidRegistry {
                name: "_default".to_owned(),
                reason: "this client has no setting for all registries: name each",
            }),
        }
    }

    /// Whether this is Docker Hub, the one registry whose mirrors have settings of their own.
    pub(crate) fn is_docker_hub(&self) -> bool {
        matches!(self, Self::Named(host) if host.0 == "docker.io")
    }

    /// The origin to write as `server`, or `None` where containerd's own choice is the right one: for `_default`,
    /// and for local registries, which it may reach without TLS.
    pub(crate) fn origin(&self) -> Option<String> {
        let Self::Named(Host(name)) = self else {
            return None;
        };
        let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
        match host {
            "docker.io" => Some("https://registry-1.docker.io".to_owned()),
            "localhost" | "[::1]" => None,
            local if local.starts_with("127.") => None,
            _ => Some(format!("https://{name}")),
        }
    }
}

impl FromStr for Registry {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "_default" {
            return Ok(Self::Default);
        }
        match check_host(name) {
            Ok(()) => Ok(Self::Named(Host(name.to_owned()))),
            Err(reason) => Err(Error::InvalidRegistry {
                name: name.to_owned(),
                reason,
            }),
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("_default"),
            Self::Named(Host(name)) => f.write_str(name),
        }
    }
}

fn check_host(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_LENGTH_MAX {
        return Err("a name has 1 to 253 characters");
    }
    if name.contains("://") {
        return Err("a name has no scheme");
    }
    if name.contains('/') {
        return Err("a name has no path");
    }
    let (host, port) = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address
                .parse::<Ipv6Addr>()
                .map_err(|_| "the address in brackets is not IPv6")?;
            let port = match rest {
                "" => None,
                _ => Some(rest.strip_prefix(':').ok_or("after the address comes a port")?),
            };
            (None, port)
        }
        None => match name.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(name), None),
        },
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err("a port is a number from 1 to 65535");
        }
    }
    host.map_or(Ok(()), |host| host.split('.').try_for_each(check_label))
}

/// One label of a host name. An empty one is what `.` and `..` are made of.
fn check_label(label: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if label.is_empty() {
        return Err("a part between two dots is empty");
    }
    if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err("a host name has letters, digits, dots and inner hyphens only");
    }
    Ok(())
}

/// The address at which clients reach the proxy, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Mirror {
    /// The address as it is written to `hosts.toml` and `daemon.json`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the proxy is reached without TLS.
    pub(crate) fn is_http(&self) -> bool {
        self.0.starts_with("http://")
    }

    /// `host:port`, for clients whose settings have neither a scheme nor a place for a path.
    pub(crate) fn authority(&self) -> Result<&str, Error> {
        let rest = self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest);
        match rest.contains('/') {
            false => Ok(rest),
            true => Err(Error::InvalidMirror {
                url: self.0.clone(),
                reason: "this client takes a host and a port only, no path".to_owned(),
            }),
        }
    }

    /// Whether a key of a `hosts.toml` means this mirror: containerd takes a missing scheme as https, and adds
    /// `/v2` where it is not there.
    pub(crate) fn is_host_key(&self, key: &str) -> bool {
        let with_scheme = if key.starts_with("http") {
            key.to_owned()
        } else {
            format!("https://{key}")
        };
        Url::parse(&with_scheme).is_ok_and(|url| canonical(&url) == self.0)
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self("http://127.0.0.1:4001".to_owned())
    }
}

impl FromStr for Mirror {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::InvalidMirror {
            url: text.to_owned(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("the scheme must be http or https"));
        }
        if url.host().is_none() {
            return Err(refuse("it has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("containerd takes no user name there"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("containerd takes no query or fragment there"));
        }
        Ok(Self(canonical(&url)))
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn canonical(url: &Url) -> String {
    let text = url.as_str().trim_end_matches('/');
    text.strip_suffix("/v2")
        .unwrap_or(text)
        .trim_end_matches('/')
        .to_owned()
}

#[cfg(test)]
mod tests;
