//! The chunks that are to be fetched in the background, in order, found as they are needed.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::path::{Component, Path};
use std::sync::Arc;

use darter_types::ByteRange;

use super::Prefetch;
use crate::fs::ROOT;
use crate::fs::chunk::{Chunk, Extent};
use crate::fs::record::Seen;
use crate::fs::tree::{Kind, Tree};

/// Most directories that are walked through: those of a damaged image may contain themselves.
const DIRECTORIES_MAX: usize = 1 << 20;
/// Most chunks of a piece.
const PIECE_CHUNKS_MAX: usize = 512;
/// Bytes of a file that are looked up at once.
const STEP_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy, Debug)]
enum Item {
    Seen(Seen),
    /// A file, or a directory with all that is in it.
    Node(u64),
    /// The rest of a file.
    File {
        ino: u64,
        from: u64,
        size: u64,
    },
}

/// What is left to be done.
#[derive(Debug)]
pub(super) struct Plan {
    tree: Arc<Tree>,
    items: VecDeque<Item>,
    walked: HashSet<u64>,
}

impl Plan {
    pub(super) fn new(tree: Arc<Tree>, wanted: &Prefetch) -> Self {
        let mut items: VecDeque<Item> = wanted.seen.iter().copied().map(Item::Seen).collect();
        if wanted.table {
            items.extend(tree.prefetch_table().into_iter().map(Item::Node));
        }
        for path in &wanted.paths {
            match find(&tree, path) {
                Some(ino) => items.push_back(Item::Node(ino)),
                None => {
                    tracing::warn!(path = %path.display(), "the image has no such file to be prefetched");
                }
            }
        }
        if wanted.all {
            items.push_back(Item::Node(ROOT));
        }
        Self {
            tree,
            items,
            walked: HashSet::new(),
        }
    }

    /// Chunks of about so many bytes. Empty when all is done.
    pub(super) fn next_piece(&mut self, bytes: u64) -> Vec<Chunk> {
        let (mut piece, mut length) = (Vec::<Chunk>::new(), 0);
        while length < bytes && piece.len() < PIECE_CHUNKS_MAX {
            let Some(item) = self.items.pop_front() else { break };
            for chunk in self.look(item).into_iter().filter_map(|extent| extent.chunk) {
                if piece.last().is_none_or(|last| last.key() != chunk.key()) {
                    length += chunk.plain.len();
                    piece.push(chunk);
                }
            }
        }
        piece
    }

    /// What an item is made of; the rest of it comes next. What is damaged is nothing.
    fn look(&mut self, item: Item) -> Vec<Extent> {
        let found = match item {
            Item::Seen(Seen::File { ino, offset }) => self
                .tree
                .extents(ino, ByteRange::new(offset, offset.saturating_add(1))),
            Item::Seen(Seen::Flat { blob, offset }) => {
                let range = ByteRange::new(offset, offset.saturating_add(1));
                self.tree.flat_extents(blob, range)
            }
            Item::Node(ino) => {
                self.expand(ino);
                return Vec::new();
            }
            Item::File { ino, from, size } => {
                let end = size.min(from.saturating_add(STEP_BYTES));
                if end < size {
                    self.items.push_front(Item::File { ino, from: end, size });
                }
                self.tree.extents(ino, ByteRange::new(from, end))
            }
        };
        found.unwrap_or_default()
    }

    fn expand(&mut self, ino: u64) {
        let Ok(found) = self.tree.attributes(ino) else {
            return;
        };
        match found.kind {
            Kind::File => self.items.push_front(Item::File {
                ino,
                from: 0,
                size: found.size,
            }),
            Kind::Directory if self.walked.len() < DIRECTORIES_MAX && self.walked.insert(ino) => {
                let mut children = Vec::new();
                let shown = self.tree.entries(ino, 0, |entry| {
                    if entry.name != "." && entry.name != ".." {
                        children.push(entry.attributes.ino);
                    }
                    true
                });
                if shown.is_ok() {
                    children
                        .into_iter()
                        .rev()
                        .for_each(|child| self.items.push_front(Item::Node(child)));
                }
            }
            _ => {}
        }
    }
}

/// The file at a path of the image. Links are not followed.
fn find(tree: &Tree, path: &Path) -> Option<u64> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    names.into_iter().try_fold(ROOT, |parent, name: &OsStr| {
        tree.lookup(parent, name).ok().map(|found| found.ino)
    })
}
