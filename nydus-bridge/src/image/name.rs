//! The name of an image as people type it: Docker's short forms are filled up.

use std::fmt;
use std::str::FromStr;

use darter_types::{ManifestReference, RegistryName, Repository};
use thiserror::Error;

/// Registry, repository, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The registry.
    pub registry: RegistryName,
    /// The repository.
    pub repository: Repository,
    /// A tag, or a digest.
    pub reference: ManifestReference,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{name:?} is no image: {reason}; write it as in a pull: nginx, or registry.example:5000/team/app:1.2"
)]
pub struct ImageNameError {
    name: String,
    reason: String,
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let wrong = |error: &dyn fmt::Display| ImageNameError {
            name: text.chars().take(128).collect(),
            reason: error.to_string(),
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon behind the last slash begins a tag; one before it a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        let repository = match (registry, repository.contains('/')) {
            ("docker.io", false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        Ok(Self {
            registry: registry.parse().map_err(|error| wrong(&error))?,
            repository: repository.parse().map_err(|error| wrong(&error))?,
            reference: digest
                .or(tag)
                .unwrap_or("latest")
                .parse()
                .map_err(|error| wrong(&error))?,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reference {
            ManifestReference::Tag(_) => ':',
            ManifestReference::Digest(_) => '@',
        };
        write!(f, "{}/{}{mark}{}", self.registry, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_filled_up() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (typed, whole) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("index.docker.io/nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("r.example:5000/a/b:c", "r.example:5000/a/b:c".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            (
                &format!("ghcr.io/a/b:1@{digest}"),
                format!("ghcr.io/a/b@{digest}"),
            ),
        ] {
            assert_eq!(typed.parse::<ImageName>().unwrap().to_string(), whole);
        }
        for wrong in ["", "nginx:", "r.example/", "a b", "nginx@sha256:12", "../x"] {
            assert!(wrong.parse::<ImageName>().is_err(), "{wrong:?}");
        }
    }
}
