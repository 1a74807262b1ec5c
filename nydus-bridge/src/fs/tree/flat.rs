//! Blobs as flat files: each chunk where it is in the unpacked blob, zeros between them. What the kernel's EROFS reads
//! beneath a bootstrap of the sixth version.

use darter_types::ByteRange;

use super::Tree;
use super::extents::{extent, hole};
use super::order::{CHUNKS_MAX, TABLE_ENTRY_BYTES};
use crate::fs::chunk::{Chunk, Extent};
use crate::fs::error::{FsError, guarded};

/// The kernel's pages; flat files end with one.
const PAGE_BYTES: u64 = 4096;
/// Longest file that any kernel takes.
const FLAT_BYTES_MAX: u64 = 1 << 62;

/// Where chunks are in the unpacked blobs: blob, start, number in the bootstrap's table, in this order.
pub(super) type Places = Result<Vec<(u32, u64, u32)>, FsError>;

impl Tree {
    /// The lengths of the blobs as flat files, in the order in which the bootstrap names devices; nothing if the kernel
    /// would not show the image as this crate does.
    pub(in crate::fs) fn flat_lengths(&self) -> Option<Vec<u64>> {
        let meta = &self.meta.meta;
        // Without recorded owners all is the mounting user's, which the kernel does not know. Without a table of chunks
        // nothing says where they are in a blob.
        let flat = meta.is_v6() && self.owner.is_none() && self.table_length() <= CHUNKS_MAX;
        let chunks = self.infos.is_empty() || self.table_length() > 0;
        if !flat || !chunks {
            return None;
        }
        let lengths = self.infos.iter().map(|info| {
            let length = info.uncompressed_size().checked_next_multiple_of(PAGE_BYTES)?;
            (length <= FLAT_BYTES_MAX).then_some(length)
        });
        lengths.collect()
    }

    fn table_length(&self) -> usize {
        usize::try_from(self.meta.meta.chunk_table_size / TABLE_ENTRY_BYTES).unwrap_or(usize::MAX)
    }

    /// What the bytes `range` of a flat file are made of, in order and without gaps.
    pub(in crate::fs) fn flat_extents(&self, blob: u32, range: ByteRange) -> Result<Vec<Extent>, FsError> {
        let places = self
            .flat
            .get_or_init(|| self.places())
            .as_ref()
            .map_err(FsError::clone)?;
        // The chunk that holds the first byte begins there or before.
        let first = places.partition_point(|place| (place.0, place.1) <= (blob, range.start));
        let mut extents = Vec::new();
        let mut at = range.start;
        for (of, start, number) in places.iter().skip(first.saturating_sub(1)) {
            if (*of, *start) >= (blob, range.end) {
                break;
            }
            let chunk = self.table_chunk(*number)?;
            let part = range.intersect(ByteRange::new(chunk.plain.start.max(at), chunk.plain.end));
            if *of != blob || part.is_empty() {
                continue;
            }
            if part.start > at {
                extents.push(hole(part.start - at));
            }
            extents.push(extent(chunk, *start, part)?);
            at = part.end;
        }
        if at < range.end {
            extents.push(hole(range.end - at));
        }
        Ok(extents)
    }

    fn table_chunk(&self, number: u32) -> Result<Chunk, FsError> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let info = guarded(|| self.meta.superblock.get_chunk_info(number))?;
        guarded(|| Ok(self.chunk(&*info)))?
    }

    /// The whole table, once. One that is damaged anywhere is of no use: zeros would stand where bytes should.
    fn places(&self) -> Places {
        let count = u32::try_from(self.table_length()).unwrap_or(u32::MAX);
        let mut places = Vec::with_capacity(self.table_length().min(CHUNKS_MAX));
        for number in 0..count {
            let chunk = self.table_chunk(number)?;
            places.push((chunk.blob, chunk.plain.start, number));
        }
        places.sort_unstable();
        places.dedup_by_key(|place| (place.0, place.1));
        Ok(places)
    }
}
