//! What earlier answers told and later ones may use: what tags pointed to, and the lengths of contents.
//!
//! Nothing here gives a right to read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use darter_types::{Digest, OriginLocator, RegistryName, Repository, Tag};
use tokio::time::Instant;

use crate::access::{ContentHead, Recent, TagQuery};

type TagKey = (RegistryName, Repository, Tag, Vec<Vec<u8>>);

/// Bounded; what was used longest ago is forgotten.
#[derive(Debug)]
pub(super) struct Memory {
    tags: Mutex<Recent<TagKey, (ContentHead, Instant)>>,
    lengths: Mutex<Recent<OriginLocator, u64>>,
    /// Lengths that a registry told and no manifest vouches for.
    told: Mutex<Recent<OriginLocator, u64>>,
    sources: Mutex<Recent<(RegistryName, Digest), ()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    pub(super) fn new(tags_max: usize, lengths_max: usize) -> Self {
        Self {
            tags: Mutex::new(Recent::new(tags_max)),
            lengths: Mutex::new(Recent::new(lengths_max)),
            told: Mutex::new(Recent::new(lengths_max)),
            sources: Mutex::new(Recent::new(lengths_max)),
        }
    }

    /// Tags and lengths that are kept.
    pub(super) fn kept(&self) -> [usize; 2] {
        [lock(&self.tags).len(), lock(&self.lengths).len()]
    }

    /// What a tag pointed to, and when the registry said so.
    pub(super) fn tag(&self, query: &TagQuery) -> Option<(ContentHead, Instant)> {
        lock(&self.tags).get(&tag_key(query)).cloned()
    }

    pub(super) fn remember_tag(&self, query: TagQuery, head: ContentHead) {
        lock(&self.tags).insert(tag_key(&query), (head, Instant::now()));
    }

    /// Whether this registry showed that it has the content.
    pub(super) fn is_source(&self, content: &OriginLocator) -> bool {
        let key = (content.registry.clone(), content.digest);
        lock(&self.sources).get(&key).is_some()
    }

    pub(super) fn remember_source(&self, content: &OriginLocator) {
        lock(&self.sources).insert((content.registry.clone(), content.digest), ());
    }

    /// The length that a manifest of the same repository gives a content, else the one that its registry told.
    pub(super) fn length(&self, content: &OriginLocator) -> Option<u64> {
        let named = lock(&self.lengths).get(content).copied();
        named.or_else(|| lock(&self.told).get(content).copied())
    }

    /// A registry told a length by HEAD.
    pub(super) fn remember_told(&self, content: &OriginLocator, length: u64) {
        lock(&self.told).insert(content.clone(), length);
    }

    /// The content broke off: the registry may have told a wrong length.
    pub(super) fn forget_told(&self, content: &OriginLocator) {
        lock(&self.told).remove(content);
    }

    pub(super) fn remember_lengths(&self, contents: &[(OriginLocator, u64)]) {
        let mut lengths = lock(&self.lengths);
        for (content, length) in contents {
            lengths.insert(content.clone(), *length);
        }
    }
}

fn tag_key(query: &TagQuery) -> TagKey {
    (
        query.registry.clone(),
        query.repository.clone(),
        query.tag.clone(),
        query.accept.iter().map(|line| line.as_bytes().to_vec()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::{Algorithm, ContentKind};

    #[test]
    fn what_a_manifest_says_counts_more_than_what_a_registry_told_and_stays() {
        let memory = Memory::new(1, 2);
        let content = OriginLocator {
            registry: "registry.test".parse().unwrap(),
            repository: "a".parse().unwrap(),
            kind: ContentKind::Blob,
            digest: Digest::of(Algorithm::Sha256, b"content"),
        };
        assert_eq!(memory.length(&content), None);
        memory.remember_told(&content, 17);
        assert_eq!(memory.length(&content), Some(17));
        memory.forget_told(&content);
        assert_eq!(memory.length(&content), None);
        memory.remember_told(&content, 17);
        memory.remember_lengths(&[(content.clone(), 7)]);
        memory.forget_told(&content);
        assert_eq!(memory.length(&content), Some(7));
    }
}
