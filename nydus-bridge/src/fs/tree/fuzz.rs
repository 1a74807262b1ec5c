//! The body of the fuzz target for bootstraps.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use darter_types::ByteRange;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Kind, Tree};
use crate::fs::ROOT;
use crate::fs::chunk::{CHUNK_BYTES_MAX, Extent};

/// Most files of an input that are looked at: directories may contain themselves.
const FILES_MAX: usize = 100;
const READ_BYTES: u64 = 1 << 20;

/// Asks a bootstrap of any bytes whatever a mount would ask: there is an answer or an error to each, and what a read is made
/// of is as long as what was asked for. Panics of the Nydus crates are errors here: whoever fuzzes must let them pass.
///
/// # Panics
/// If that does not hold.
pub fn fuzz_bootstrap(data: &[u8]) {
    let Ok(memory) = memfd_create("bootstrap", MemfdFlags::CLOEXEC) else {
        return;
    };
    let mut file = File::from(memory);
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if file.write_all(data).is_err() {
        return;
    }
    let Ok(tree) = Tree::open(&path) else { return };
    let _ = tree.prefetch_table();
    for (blob, length) in tree.flat_lengths().unwrap_or_default().into_iter().enumerate() {
        for start in [0, length / 2] {
            let range = ByteRange::new(start, start.saturating_add(READ_BYTES));
            let blob = u32::try_from(blob).unwrap_or(u32::MAX);
            let extents = tree.flat_extents(blob, range);
            assert!(extents.is_err() || extents.is_ok_and(|extents| check(&extents) == range.len()));
        }
    }
    let (mut seen, mut next) = (HashSet::from([ROOT]), vec![ROOT]);
    while let Some(ino) = next.pop() {
        let _ = (tree.link(ino), tree.xattrs(ino));
        let Ok(found) = tree.attributes(ino) else { continue };
        for start in [0, found.size / 2, found.size.saturating_sub(1)] {
            let range = ByteRange::new(start, start.saturating_add(READ_BYTES));
            let whole = range.intersect(ByteRange::new(0, found.size)).len();
            let extents = tree.extents(ino, range);
            assert!(extents.is_err() || extents.is_ok_and(|extents| check(&extents) == whole));
        }
        if found.kind == Kind::Directory {
            let _ = tree.entries(ino, 0, |entry| {
                if seen.len() < FILES_MAX && seen.insert(entry.attributes.ino) {
                    next.push(entry.attributes.ino);
                }
                seen.len() < FILES_MAX
            });
        }
    }
}

/// The length of a read, if it is made of what can be.
fn check(extents: &[Extent]) -> u64 {
    let lengths = extents.iter().map(|extent| {
        if let Some(chunk) = extent.chunk {
            let end = u64::from(extent.skip) + u64::from(extent.length);
            assert!(end <= chunk.plain.len() && chunk.plain.len() <= CHUNK_BYTES_MAX);
        }
        u64::from(extent.length)
    });
    lengths.sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bootstrap_has_answers_or_errors() {
        darter_testkit::fuzz::check("nydus_bootstrap", super::fuzz_bootstrap);
    }
}
