//! Chunks in the order of their blobs: what comes after a chunk that somebody reads.
//!
//! Worked out once, at the first read that goes beyond the bootstrap. Chunks that share units are not in it: units are
//! long enough by themselves.

use std::io;
use std::sync::Arc;

use nydus_storage::device::BlobChunkInfo;

use super::Tree;
use crate::fs::chunk::{Chunk, Packing};
use crate::fs::error::guarded;

/// Most chunks that are put in order; what comes behind is not read ahead.
pub(super) const CHUNKS_MAX: usize = 4 << 20;
/// Length of an entry in the sixth version's table of chunks.
pub(super) const TABLE_ENTRY_BYTES: u64 = 80;

/// Where a chunk is described: in a file, or in the table of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    blob: u32,
    start: u64,
    /// 0 is the table of all.
    ino: u64,
    number: u32,
}

/// All chunks that are units, in the order of their blobs.
#[derive(Debug, Default)]
pub(super) struct Order {
    places: Vec<Place>,
}

impl Tree {
    /// The chunks that come after `chunk` in its blob and end within `window` bytes of its beginning.
    pub(in crate::fs) fn following(&self, chunk: &Chunk, window: u64) -> Vec<Chunk> {
        if !self.is_single(chunk) {
            return Vec::new();
        }
        let order = self.order.get_or_init(|| self.sort());
        let places = &order.places;
        let first =
            places.partition_point(|place| (place.blob, place.start) <= (chunk.blob, chunk.packed.start));
        let end = chunk.packed.start.saturating_add(window);
        let near = |place: &&Place| place.blob == chunk.blob && place.start < end;
        let near = places.iter().skip(first).take_while(near);
        // Chunks are in order, so that the first one that is too long ends it.
        near.map_while(|place| self.at(*place))
            .take_while(|next| next.packed.end <= end)
            .collect()
    }

    fn is_single(&self, chunk: &Chunk) -> bool {
        let blob = usize::try_from(chunk.blob).ok().and_then(|n| self.blobs.get(n));
        blob.is_some_and(|blob| blob.packing == Packing::Single)
    }

    fn at(&self, place: Place) -> Option<Chunk> {
        let info = guarded(|| self.info(place.ino, place.number)).ok()?;
        guarded(|| Ok(self.chunk(&*info))).ok()?.ok()
    }

    fn info(&self, ino: u64, number: u32) -> io::Result<Arc<dyn BlobChunkInfo>> {
        match ino {
            0 => {
                let number = usize::try_from(number).map_err(io::Error::other)?;
                self.meta.superblock.get_chunk_info(number)
            }
            ino => self.meta.get_extended_inode(ino, false)?.get_chunk_info(number),
        }
    }

    /// A damaged table ends it early: then less is read ahead.
    fn sort(&self) -> Order {
        let mut places = Vec::new();
        if self.meta.meta.is_v6() {
            let count = self.meta.meta.chunk_table_size / TABLE_ENTRY_BYTES;
            self.collect(&mut places, 0, u32::try_from(count).unwrap_or(u32::MAX));
        } else {
            for ino in 1..=self.meta.get_max_ino() {
                let chunks = guarded(|| {
                    let inode = self.meta.get_inode(ino, false)?;
                    Ok(if inode.is_reg() {
                        inode.get_chunk_count()
                    } else {
                        0
                    })
                });
                self.collect(&mut places, ino, chunks.unwrap_or(0));
            }
        }
        places.sort_unstable();
        places.dedup_by_key(|place| (place.blob, place.start));
        Order { places }
    }

    fn collect(&self, places: &mut Vec<Place>, ino: u64, count: u32) {
        for number in 0..count {
            let place = Place {
                blob: 0,
                start: 0,
                ino,
                number,
            };
            let Some(chunk) = self.at(place).filter(|_| places.len() < CHUNKS_MAX) else {
                return;
            };
            if self.is_single(&chunk) {
                places.push(Place {
                    blob: chunk.blob,
                    start: chunk.packed.start,
                    ..place
                });
            }
        }
    }
}
