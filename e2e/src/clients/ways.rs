//! Which way the bytes of a pull took, and whether all of them arrived.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::image::{Descriptor, Image};

/// Body bytes by the way that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Through the proxy: what its registry sent.
    pub origin: u64,
    /// Past it.
    pub direct: u64,
}

impl Ways {
    /// What was sent since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            origin: self.origin - before.origin,
            direct: self.direct - before.direct,
        }
    }

    /// Everything took the way through the proxy.
    ///
    /// # Errors
    /// Unless the contents came through the proxy, from its registry, and nothing past it.
    pub fn ensure_through(self, image: &Image) -> Result<()> {
        ensure!(self.direct == 0, "{} bytes went past the proxy", self.direct);
        ensure!(
            self.origin >= image.bytes(),
            "the proxy fetched {} bytes of {}",
            self.origin,
            image.bytes()
        );
        Ok(())
    }

    /// Nothing was sent by a registry.
    ///
    /// # Errors
    /// Unless everything came from the proxy's store.
    pub fn ensure_none(self) -> Result<()> {
        let none = Self { origin: 0, direct: 0 };
        ensure!(self == none, "{self:?} was sent for what the proxy holds");
        Ok(())
    }
}

/// Checks that an OCI layout on disk holds the image whole: every content, by size and digest of its file.
///
/// # Errors
/// Naming the first content that is missing or differs.
pub fn verify_layout(layout: &Path, image: &Image) -> Result<()> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let index = std::fs::read(layout.join("index.json")).context("there is no index")?;
    let index: Index = serde_json::from_slice(&index)?;
    ensure!(
        index
            .manifests
            .iter()
            .any(|found| found.digest == image.manifest.digest),
        "the layout holds another manifest"
    );
    for content in image.contents() {
        content.verify_file(&layout.join("blobs/sha256").join(content.hex()?))?;
    }
    Ok(())
}
