//! Where a content comes from.

use serde::{Deserialize, Serialize};

use crate::{Digest, RegistryName, Repository};

/// Under which endpoint of the distribution specification a content is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContentKind {
    /// `/v2/<name>/blobs/<digest>`
    Blob,
    /// `/v2/<name>/manifests/<digest>`
    Manifest,
}

/// What a node needs to fetch a content from its registry, but for credentials, which never travel with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OriginLocator {
    /// The registry as the image's name has it, for example `docker.io`; each node's own configuration
    /// says under which address it is reached.
    pub registry: RegistryName,
    /// The repository that the content was asked from.
    pub repository: Repository,
    /// Blob or manifest.
    pub kind: ContentKind,
    /// The digest of the content.
    pub digest: Digest,
}

impl OriginLocator {
    /// Whether both are of one repository: a right to read is given for a repository.
    pub fn is_beside(&self, other: &Self) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }

    /// The path at the registry, by the distribution specification.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            ContentKind::Blob => "blobs",
            ContentKind::Manifest => "manifests",
        };
        format!("/v2/{}/{kind}/{}", self.repository, self.digest)
    }
}
