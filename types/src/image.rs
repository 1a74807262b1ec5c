//! Names of registries, repositories and tags, by the grammar of the OCI distribution specification
//! (`spec.md`, "Pulling manifests").
//!
//! They become paths and cache keys, so what does not match the grammar is refused here, once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Digest;

/// Why a text is not a registry, repository or tag name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} {text:?} does not have the form that the OCI distribution specification gives")]
pub struct RepositoryError {
    what: &'static str,
    text: String,
}

impl RepositoryError {
    fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            text: text.chars().take(128).collect(),
        }
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = RepositoryError;

            fn from_str(text: &str) -> Result<Self, RepositoryError> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(RepositoryError::new($what, text)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = RepositoryError;

            fn try_from(text: String) -> Result<Self, RepositoryError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype!(
    /// A registry as image names have it: a host name or address, lowercase, with an optional port.
    RegistryName, "registry", is_registry
);
text_newtype!(
    /// A repository: components of `[a-z0-9]+([._-]+[a-z0-9]+)*` joined by `/`, 255 bytes at most.
    Repository, "repository", is_repository
);
text_newtype!(
    /// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    Tag, "tag", is_tag
);

fn is_registry(text: &str) -> bool {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = text
        .split_once(':')
        .map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_repository_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_repository_component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut seen_word = false;
    for byte in part.bytes() {
        if word(byte) {
            if !seen_word && !separator.is_empty() || !is_separator(&separator) {
                return false;
            }
            separator.clear();
            seen_word = true;
        } else if b"._-".contains(&byte) {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    seen_word && separator.is_empty()
}

fn is_separator(text: &str) -> bool {
    matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// What names a manifest within its repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManifestReference {
    /// By name: what it means may change.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

impl FromStr for ManifestReference {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        if text.contains(':') {
            return text
                .parse()
                .map(Self::Digest)
                .map_err(|_| RepositoryError::new("reference", text));
        }
        text.parse().map(Self::Tag)
    }
}

impl fmt::Display for ManifestReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} was refused");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn registries() {
        check::<RegistryName>(
            &[
                "docker.io",
                "localhost",
                "127.0.0.1:5000",
                "registry.test:443",
                "[::1]:5000",
                "[fe80::1]",
                "a-b.c",
            ],
            &[
                "",
                "Docker.io",
                "a b",
                "../x",
                "a/b",
                "host:",
                "host:0",
                "host:99999",
                "host:+80",
                "-a.b",
                "a..b",
                "[::1",
                "[x]:1",
                "user@host",
                "a:1:2",
            ],
        );
    }

    #[test]
    fn repositories() {
        check::<Repository>(
            &["library/nginx", "a", "a/b/c/d", "a.b", "a__b", "a---b", "a_b.c-d"],
            &[
                "", "/a", "a/", "a//b", "A", "..", "../a", "a/../b", ".a", "a.", "a..b", "a___b", "a._b",
                "_a", "-a", "a b", "a%2f", "a\0",
            ],
        );
    }

    #[test]
    fn tags_and_references() {
        check::<Tag>(
            &["latest", "1.0", "_x", "A-b_c.d"],
            &["", ".x", "-x", "a/b", "a b", "..", &"a".repeat(129)],
        );
        check::<ManifestReference>(&["latest"], &["md5:00", "sha256:zz", "sha256:", ":"]);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_holds_a_path_step(text in ".{0,40}") {
            if let Ok(repository) = text.parse::<Repository>() {
                prop_assert!(repository.as_str().split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
            }
            let _ = text.parse::<RegistryName>();
            let _ = text.parse::<Tag>();
            let _ = text.parse::<ManifestReference>();
        }
    }
}
