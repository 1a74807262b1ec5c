//! What a program sees of a tree, for comparison.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use crate::image::sha256_of_file;

/// Names and values of a file's extended attributes have at most so many bytes in Linux.
const ATTRIBUTES_MAX: usize = 64 << 10;

/// Every name with all that is said of it and the digest of its content. Folders are without their number of links, which
/// depends on who shows them.
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
    let links = if kind.is_dir() { 0 } else { metadata.nlink() };
    Ok(format!(
        "{:o} {}:{} {} {} {links} {} {content}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.rdev(),
        metadata.mtime(),
        attributes(path)?,
    ))
}

/// The extended attributes, each as `NAME=VALUE`, in order.
fn attributes(path: &Path) -> Result<String> {
    let mut buffer = vec![0; ATTRIBUTES_MAX];
    let listed = match llistxattr(path, &mut buffer[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error).with_context(|| format!("the attributes of {}", path.display())),
    };
    let names = buffer.get(..listed).unwrap_or_default().to_vec();
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = lgetxattr(path, name, &mut buffer[..])
            .with_context(|| format!("{} of {}", name.escape_ascii(), path.display()))?;
        let value = buffer.get(..length).unwrap_or_default();
        all.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    }
    all.sort();
    Ok(all.join(","))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Trees that differ in one thing are told apart.
    #[test]
    fn links_and_attributes_are_seen() {
        let folder = crate::scratch::memory(1 << 20).map_or_else(std::env::temp_dir, Path::to_owned);
        let root = folder.join(format!("darter-e2e-unit-{}-tree", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("a"), "a").unwrap();
        let plain = tree_of(&root).unwrap();
        std::fs::hard_link(root.join("a"), root.with_extension("link")).unwrap();
        assert!(tree_of(&root).unwrap().ensure_equal(&plain).is_err());
        std::fs::remove_file(root.with_extension("link")).unwrap();
        tree_of(&root).unwrap().ensure_equal(&plain).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("a"), "trusted.darter", b"1", flags).unwrap();
        assert!(tree_of(&root).unwrap().ensure_equal(&plain).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
