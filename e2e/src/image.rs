//! Real images, built once from Debian and PyPI packages and kept in `target/e2e-cache`.
//!
//! [`prepare`] gives a registry's directory that already holds every image of a [`Set`]; tests serve it
//! read-only, so that no test pushes. The cache's key is the recipe: a changed recipe is another directory.
//! Layers are deterministic tars: two recipes that name the same layer share it by digest.

mod build;
mod recipe;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use recipe::Set;

/// A content of an image: digest and length in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
}

impl Descriptor {
    /// The digest's hexadecimal digits, by which content stores name files.
    ///
    /// # Errors
    /// When the digest is of another algorithm.
    pub fn hex(&self) -> Result<&str> {
        self.digest.strip_prefix("sha256:").context("not a sha256 digest")
    }

    /// Compares a file with it, by length and digest.
    ///
    /// # Errors
    /// When the file is missing or is another content.
    pub fn verify_file(&self, path: &Path) -> Result<()> {
        let size = std::fs::metadata(path)
            .with_context(|| format!("{} is missing", self.digest))?
            .len();
        ensure!(
            size == self.size,
            "{} has {size} bytes, not {}",
            self.digest,
            self.size
        );
        let found = sha256_of_file(path)?;
        ensure!(found == self.digest, "{} holds {found}", self.digest);
        Ok(())
    }
}

/// One image as it stands in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Repository, as `e2e/mid`.
    pub repository: String,
    /// Tag, as `gzip`.
    pub tag: String,
    /// The manifest that the tag names.
    pub manifest: Descriptor,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A set of images and the registry directory that holds them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fixtures {
    /// What `docker-registry` serves.
    #[serde(skip)]
    pub store: PathBuf,
    images: Vec<Image>,
}

impl Fixtures {
    /// The image `e2e/NAME:TAG`.
    ///
    /// # Errors
    /// When the set has no such image.
    pub fn image(&self, name: &str, tag: &str) -> Result<&Image> {
        let repository = format!("e2e/{name}");
        let found = self
            .images
            .iter()
            .find(|image| image.repository == repository && image.tag == tag);
        found.with_context(|| format!("the set has no image {repository}:{tag}"))
    }

    /// Every image of the set.
    pub fn images(&self) -> &[Image] {
        &self.images
    }
}

impl Image {
    /// The name that containerd is given.
    pub fn reference(&self) -> String {
        format!("{}/{}:{}", crate::containerd::REGISTRY, self.repository, self.tag)
    }

    /// Manifest, configuration and layers.
    pub fn contents(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.manifest, &self.config].into_iter().chain(&self.layers)
    }

    /// Bytes of all contents: what one node must receive.
    pub fn bytes(&self) -> u64 {
        self.contents().map(|content| content.size).sum()
    }

    /// Bytes of the contents that `other` does not have.
    pub fn bytes_beyond(&self, other: &Image) -> u64 {
        let shared = |content: &&Descriptor| !other.contents().any(|held| held.digest == content.digest);
        self.contents().filter(shared).map(|content| content.size).sum()
    }
}

/// Builds the set if the cache does not have it, telling on standard error how it goes.
///
/// # Errors
/// When a package cannot be downloaded or a tool fails; the next call starts again.
pub fn prepare(set: Set) -> Result<Fixtures> {
    let cache = cache_folder();
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let folder = cache.join(set.key());
    let _lock = crate::tools::lock(&cache.join(format!("{}.lock", set.name())))?;
    let list = folder.join("images.json");
    if !list.exists() {
        build::build(set, &cache, &folder)?;
    }
    let text = std::fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let fixtures: Fixtures = serde_json::from_slice(&text)?;
    ensure!(
        !fixtures.images.is_empty(),
        "{} names no image; remove it",
        list.display()
    );
    Ok(Fixtures {
        store: folder.join("registry"),
        ..fixtures
    })
}

/// `$DARTER_E2E_CACHE`, or `e2e-cache` beside the build's own files.
pub(crate) fn cache_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("DARTER_E2E_CACHE") {
        return PathBuf::from(folder);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join("e2e-cache")
}

/// `sha256:` and the digits, of a file's content.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        match buffer.get(..count) {
            Some(read) if !read.is_empty() => hash.update(read),
            _ => return Ok(format!("sha256:{}", hex(&hash.finalize()))),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(digit: char, size: u64) -> Descriptor {
        Descriptor {
            digest: format!("sha256:{digit}"),
            size,
        }
    }

    fn image(layers: &[Descriptor], config: Descriptor, manifest: Descriptor) -> Image {
        let (repository, tag) = ("e2e/x".to_owned(), "gzip".to_owned());
        Image {
            repository,
            tag,
            manifest,
            config,
            layers: layers.to_vec(),
        }
    }

    #[test]
    fn bytes_beyond_counts_what_is_not_shared() {
        let first = image(
            &[content('a', 100), content('b', 50)],
            content('c', 3),
            content('d', 2),
        );
        let second = image(
            &[content('a', 100), content('e', 7)],
            content('f', 4),
            content('g', 1),
        );
        assert_eq!(first.bytes(), 155);
        assert_eq!(second.bytes_beyond(&first), 12);
        assert_eq!(first.bytes_beyond(&first), 0);
    }

    #[test]
    fn a_file_has_its_digest() {
        let path = std::env::temp_dir().join(format!("darter-e2e-unit-digest-{}", std::process::id()));
        std::fs::write(&path, "abc").unwrap();
        let digest = sha256_of_file(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            digest,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
