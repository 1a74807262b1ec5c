//! What a program sees of a tree, for comparison.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::image::sha256_of_file;

/// Every name with all that is said of it and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<PathBuf, String>,
}

/// Reads a whole tree.
///
/// # Errors
/// When something of it cannot be read.
pub fn tree_of(root: &Path) -> Result<Tree> {
    let mut entries = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(root)?.to_owned();
            entries.insert(name, seen(&path)?);
            if entry.file_type()?.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(Tree { entries })
}

fn seen(path: &Path) -> Result<String> {
    let metadata = std::fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        format!("{} {}", metadata.size(), sha256_of_file(path)?)
    } else if kind.is_symlink() {
        format!("{:?}", std::fs::read_link(path)?)
    } else {
        String::new()
    };
    Ok(format!(
        "{:o} {}:{} {} {} {content}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.rdev(),
        metadata.mtime(),
    ))
}

impl Tree {
    /// How many names there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Compares it with what it should be.
    ///
    /// # Errors
    /// At the first difference.
    pub fn ensure_equal(&self, expected: &Self) -> Result<()> {
        for (path, wanted) in &expected.entries {
            let found = self.entries.get(path);
            if found != Some(wanted) {
                bail!("{} is {found:?}, not {wanted}", path.display());
            }
        }
        if let Some(more) = self
            .entries
            .keys()
            .find(|path| !expected.entries.contains_key(*path))
        {
            bail!("{} should not be there", more.display());
        }
        Ok(())
    }
}
