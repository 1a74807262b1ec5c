//! The name of an image as people type it: Docker's short forms are filled up.

use std::fmt;
use std::str::FromStr;

/// Registry, repository, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) registry: String,
    pub(super) repository: String,
    /// A tag, or a digest.
    pub(super) reference: String,
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
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
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let reference = digest.or(tag).unwrap_or("latest").to_owned();
        if name.is_empty() || repository.is_empty() || reference.is_empty() {
            return Err("write it as in a pull: nginx, or registry.example:5000/team/app:1.2".to_owned());
        }
        let registry = match registry {
            "index.docker.io" => "docker.io",
            other => other,
        };
        let repository = match (registry, repository.contains('/')) {
            ("docker.io", false) => format!("library/{repository}"),
            _ => repository,
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            reference,
        })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}/{}{mark}{}", self.registry, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_filled_up() {
        for (typed, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("team/app", "docker.io/team/app:latest"),
            ("r.example:5000/a/b:c", "r.example:5000/a/b:c"),
            ("localhost/a", "localhost/a:latest"),
            ("ghcr.io/a/b:1@sha256:ab", "ghcr.io/a/b@sha256:ab"),
        ] {
            assert_eq!(typed.parse::<Image>().unwrap().to_string(), whole);
        }
        for wrong in ["", "nginx:", "r.example/"] {
            assert!(wrong.parse::<Image>().is_err(), "{wrong:?}");
        }
    }
}
