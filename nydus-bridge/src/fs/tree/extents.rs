//! Which chunks hold which bytes of a file.

use std::io;
use std::sync::Arc;

use darter_types::ByteRange;
use nydus_rafs::metadata::direct_v5::DirectChunkInfoV5;
use nydus_rafs::metadata::{RafsInodeExt, direct_v6};
use nydus_storage::device::BlobChunkInfo;
use nydus_storage::device::v5::BlobV5ChunkInfo as _;

use super::Tree;
use crate::fs::chunk::{CHUNK_BYTES_MAX, Chunk, Extent, Packing};
use crate::fs::error::{FsError, guarded};

impl Tree {
    /// What the bytes `range` of a file are made of, in order and without gaps. What is behind the file's end is left out.
    pub(in crate::fs) fn extents(&self, ino: u64, range: ByteRange) -> Result<Vec<Extent>, FsError> {
        guarded(|| {
            let inode = self.inode(ino)?;
            if !inode.is_reg() {
                return Ok(Err(FsError::NotA("regular file")));
            }
            let range = range.intersect(ByteRange::new(0, inode.size()));
            if range.is_empty() {
                return Ok(Ok(Vec::new()));
            }
            Ok(
                match inode.as_any().downcast_ref::<direct_v6::OndiskInodeWrapper>() {
                    Some(inode) => self.extents_v6(inode, range),
                    None => self.extents_v5(ino, range),
                },
            )
        })?
    }

    /// All chunks but the last have the same length.
    fn extents_v6(
        &self,
        inode: &direct_v6::OndiskInodeWrapper,
        range: ByteRange,
    ) -> Result<Vec<Extent>, FsError> {
        let chunk_size = u64::from(self.meta.meta.chunk_size);
        let number = |offset: u64| offset.checked_div(chunk_size).and_then(|n| u32::try_from(n).ok());
        let (first, last) = (number(range.start), number(range.end - 1));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(FsError::damaged("a file has too many chunks"));
        };
        let mut extents = Vec::new();
        for number in first..=last {
            let info = inode.get_chunk_info(number).map_err(|error| damaged(&error))?;
            let chunk = self.chunk(&*info)?;
            let start = u64::from(number) * chunk_size;
            let part = range.intersect(ByteRange::new(start, start + chunk_size));
            extents.push(extent(chunk, start, part)?);
        }
        Ok(extents)
    }

    /// Chunks say themselves where they are in the file; between them are holes.
    fn extents_v5(&self, ino: u64, range: ByteRange) -> Result<Vec<Extent>, FsError> {
        let inode = self.meta.get_extended_inode(self.swap(ino), false);
        let inode = inode.map_err(|error| damaged(&error))?;
        let mut extents = Vec::new();
        let mut at = range.start;
        let mut number = last_before(&*inode, range.start)?;
        while at < range.end {
            let next = if number < inode.get_chunk_count() {
                Some(chunk_v5(&*inode, number)?)
            } else {
                None
            };
            let Some((start, info)) = next.filter(|(start, _)| *start < range.end) else {
                extents.push(hole(range.end - at));
                break;
            };
            let chunk = self.chunk(&*info)?;
            let part = range.intersect(ByteRange::new(
                start.max(at),
                start.saturating_add(chunk.plain.len()),
            ));
            number += 1;
            if part.is_empty() {
                continue;
            }
            if part.start > at {
                extents.push(hole(part.start - at));
            }
            extents.push(extent(chunk, start, part)?);
            at = part.end;
        }
        Ok(extents)
    }

    /// A chunk as the bootstrap describes it, if that makes sense.
    pub(super) fn chunk(&self, info: &dyn BlobChunkInfo) -> Result<Chunk, FsError> {
        let number = info.blob_index();
        let blob = usize::try_from(number).ok().and_then(|n| self.blobs.get(n));
        let blob = blob.ok_or_else(|| FsError::damaged(format!("a chunk is in blob {number}")))?;
        let packed = span(info.compressed_offset(), info.compressed_size());
        let plain = span(info.uncompressed_offset(), info.uncompressed_size());
        let inside = blob.length == 0 || packed.is_some_and(|packed| packed.end <= blob.length);
        let (Some(packed), Some(plain)) = (packed, plain) else {
            return Err(FsError::damaged("a chunk is too long"));
        };
        if plain.is_empty() || blob.packing == Packing::Single && !inside {
            return Err(FsError::damaged("a chunk is empty, or beyond its blob"));
        }
        Ok(Chunk {
            blob: number,
            index: info.id(),
            packed,
            plain,
            compressed: info.is_compressed(),
            digest: info.chunk_id().data,
        })
    }
}

fn span(start: u64, length: u32) -> Option<ByteRange> {
    let end = start.checked_add(u64::from(length))?;
    (u64::from(length) <= CHUNK_BYTES_MAX).then(|| ByteRange::new(start, end))
}

fn damaged(error: &io::Error) -> FsError {
    FsError::damaged(error.to_string())
}

/// The number of the last chunk that begins at `offset` or before it: chunks are in order.
fn last_before(inode: &dyn RafsInodeExt, offset: u64) -> Result<u32, FsError> {
    let (mut low, mut high) = (0, inode.get_chunk_count());
    while low < high {
        let middle = low + (high - low) / 2;
        if chunk_v5(inode, middle)?.0 <= offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.saturating_sub(1))
}

/// A chunk of a file of the fifth version, and where it is in the file.
fn chunk_v5(inode: &dyn RafsInodeExt, number: u32) -> Result<(u64, Arc<dyn BlobChunkInfo>), FsError> {
    let info = inode.get_chunk_info(number).map_err(|error| damaged(&error))?;
    let start = info
        .as_any()
        .downcast_ref::<DirectChunkInfoV5>()
        .map(|chunk| chunk.file_offset());
    match start {
        Some(start) => Ok((start, info)),
        None => Err(FsError::damaged("a chunk does not say where it is")),
    }
}

/// The part of a file that a chunk holds which begins at `start` of the file.
pub(super) fn extent(chunk: Chunk, start: u64, part: ByteRange) -> Result<Extent, FsError> {
    if part.end - start > chunk.plain.len() {
        return Err(FsError::damaged("a chunk is shorter than its part of the file"));
    }
    Ok(Extent {
        chunk: Some(chunk),
        // Both are below CHUNK_BYTES_MAX.
        skip: u32::try_from(part.start - start).unwrap_or(u32::MAX),
        length: u32::try_from(part.len()).unwrap_or(u32::MAX),
    })
}

/// Readers ask for some MiB at most.
pub(super) fn hole(length: u64) -> Extent {
    Extent {
        chunk: None,
        skip: 0,
        length: u32::try_from(length).unwrap_or(u32::MAX),
    }
}
