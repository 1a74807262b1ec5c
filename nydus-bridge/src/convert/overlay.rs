//! Layers laid over each other, as the image specification says.
//!
//! What must hold: a whiteout hides what lies below it, and nothing of its own layer, in whatever order they are listed; of
//! whiteouts themselves nothing is seen; a folder is laid over a folder, and anything else replaces what was there, with all
//! that was in it; a folder that a layer does not list stays what it was.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nydus_builder::Tree;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Lays the folder `upper`, whose path is `path`, over the folder `lower`. `implied` has the folders that its layer does
/// not list.
pub(super) fn lay(lower: &mut Tree, mut upper: Tree, path: &Path, implied: &BTreeSet<PathBuf>) {
    let children = std::mem::take(&mut upper.children);
    if !implied.contains(path) {
        lower.node = upper.node;
    }
    for child in &children {
        hide(lower, child.name());
    }
    for mut child in children.into_iter().filter(|child| !is_whiteout(child)) {
        let found = lower.get_child_idx(child.name());
        let below = found.and_then(|index| lower.children.get_mut(index));
        match below {
            Some(below) if is_folder(below) && is_folder(&child) => {
                let path = path.join(OsStr::from_bytes(child.name()));
                lay(below, child, &path, implied);
            }
            Some(below) => {
                reveal(&mut child);
                *below = child;
            }
            None => {
                reveal(&mut child);
                lower.insert_child(child);
            }
        }
    }
}

/// What a tree shows that lies over nothing.
pub(super) fn reveal(tree: &mut Tree) {
    if !is_folder(tree) {
        tree.children.clear();
    }
    tree.children.retain(|child| !is_whiteout(child));
    tree.children.iter_mut().for_each(reveal);
}

fn is_folder(tree: &Tree) -> bool {
    tree.borrow_mut_node().is_dir()
}

fn is_whiteout(tree: &Tree) -> bool {
    tree.name().starts_with(WHITEOUT)
}

fn hide(lower: &mut Tree, name: &[u8]) {
    if name == OPAQUE {
        lower.children.clear();
    } else if let Some(hidden) = name.strip_prefix(WHITEOUT)
        && let Some(index) = lower.get_child_idx(hidden)
    {
        lower.children.remove(index);
    }
}
