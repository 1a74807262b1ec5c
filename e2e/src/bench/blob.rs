//! Blobs that no machine could compress, laid out as a registry would serve them.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::containerd::REGISTRY;

/// Bytes made and hashed at once.
const CHUNK: u64 = 1 << 20;
/// The repository of all of them.
const REPOSITORY: &str = "bench/blobs";

/// One blob in a registry's directory.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// `sha256:` and 64 digits.
    pub(super) digest: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// The file that holds it.
    pub(super) file: PathBuf,
}

impl Blob {
    /// Makes one of `size` bytes under `root`, the same for the same `seed`.
    pub(super) fn make(root: &Path, size: u64, seed: u64) -> Result<Self> {
        let folder = root.join("v2").join(REPOSITORY).join("blobs");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let draft = folder.join(format!("draft-{seed}"));
        let create = File::create(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
        let mut writer = BufWriter::with_capacity(1 << 20, create);
        let mut hash = Sha256::new();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chunk = Vec::new();
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left.min(CHUNK))?;
            chunk.clear();
            while chunk.len() < length {
                chunk.extend_from_slice(&next(&mut state).to_le_bytes());
            }
            chunk.truncate(length);
            hash.update(&chunk);
            writer.write_all(&chunk)?;
            left -= u64::try_from(length)?;
        }
        writer.flush()?;
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{digest}");
        let file = folder.join(&digest);
        std::fs::rename(&draft, &file)?;
        Ok(Self { digest, size, file })
    }

    /// Its path at the registry.
    pub(super) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }

    /// Its path at a mirror.
    pub(super) fn mirror_path(&self) -> String {
        format!("{}?ns={REGISTRY}", self.path())
    }
}

/// `1GiB`, `512MiB`, `10KiB`: a size in a case's name.
pub(super) fn size_name(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// xorshift64*.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::sha256_of_file;

    #[test]
    fn a_blob_has_the_digest_that_it_is_named_by() {
        let root = std::env::temp_dir().join(format!("darter-bench-unit-{}", std::process::id()));
        let blob = Blob::make(&root, 2_000_003, 7).unwrap();
        let found = sha256_of_file(&blob.file).unwrap();
        let size = std::fs::metadata(&blob.file).unwrap().len();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!((found, size), (blob.digest.clone(), blob.size));
        assert!(blob.file.ends_with(blob.path().trim_start_matches('/')));
    }

    #[test]
    fn sizes_have_short_names() {
        assert_eq!(size_name(1 << 30), "1GiB");
        assert_eq!(size_name(128 << 20), "128MiB");
        assert_eq!(size_name(10 * 1024), "10KiB");
        assert_eq!(size_name(7), "7B");
    }
}
