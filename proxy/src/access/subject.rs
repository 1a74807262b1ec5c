//! What a registry can be asked about: a content, or what a tag points to.

use darter_types::{ContentKind, OriginLocator, RegistryName, Repository};

use super::{ContentHead, TagQuery};

/// What a registry can be asked about.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Content(OriginLocator),
    Tag(TagQuery),
}

impl Subject {
    pub(super) fn place(&self) -> (&RegistryName, &Repository) {
        match self {
            Self::Content(content) => (&content.registry, &content.repository),
            Self::Tag(tag) => (&tag.registry, &tag.repository),
        }
    }

    pub(super) fn path(&self) -> String {
        match self {
            Self::Content(content) => format!("{}{}", content.registry, content.path()),
            Self::Tag(tag) => format!("{}/v2/{}/manifests/{}", tag.registry, tag.repository, tag.tag),
        }
    }

    pub(super) fn accept(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Content(_) => Vec::new(),
            Self::Tag(tag) => tag.accept.iter().map(|line| line.as_bytes().to_vec()).collect(),
        }
    }

    /// The content that the registry's answer is about.
    pub(super) fn content(&self, head: &ContentHead) -> OriginLocator {
        match self {
            Self::Content(content) => content.clone(),
            Self::Tag(tag) => OriginLocator {
                registry: tag.registry.clone(),
                repository: tag.repository.clone(),
                kind: ContentKind::Manifest,
                digest: head.digest,
            },
        }
    }
}
