//! Proved chunks on this machine's disk: one sparse file a blob, each chunk at its place in the unpacked blob.
//!
//! The files have no names, so that they end with the process however it ends. The total is bounded: when it is reached,
//! the chunks that were not used for longest go, an eighth of the bound at once. A disk that fails or is full means that
//! less is kept, never that a read fails.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{FallocateFlags, fallocate};

use super::chunk::{Chunk, ChunkKey};

/// The part of the bound that is made free when it is reached.
const FREED: u64 = 8;

/// Chunks on disk.
#[derive(Debug)]
pub(super) struct Cache {
    files: Vec<File>,
    bytes_max: u64,
    uses: AtomicU64,
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<ChunkKey, Held>,
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    length: u64,
    /// A damaged bootstrap may describe several chunks at one place.
    digest: [u8; 32],
    /// When it was used last, counted in uses.
    used: AtomicU64,
}

impl Kept {
    fn find(&self, chunk: &Chunk) -> Option<&Held> {
        let held = self.chunks.get(&chunk.key());
        held.filter(|held| held.digest == chunk.digest)
    }
}

impl Cache {
    /// Room for `bytes_max` of chunks of `blobs` blobs, in files in `folder`.
    pub(super) fn new(folder: &Path, blobs: usize, bytes_max: u64) -> io::Result<Self> {
        let files: io::Result<_> = (0..blobs).map(|_| tempfile::tempfile_in(folder)).collect();
        Ok(Self {
            files: files?,
            bytes_max,
            uses: AtomicU64::new(0),
            kept: RwLock::default(),
        })
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, blob: u32) -> Option<&File> {
        self.files.get(usize::try_from(blob).ok()?)
    }

    fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Fills `buffer` with the bytes of a chunk from `skip` on, if they are here.
    pub(super) fn read(&self, chunk: &Chunk, skip: u64, buffer: &mut [u8]) -> bool {
        // Held while the file is read, so that the chunk does not go meanwhile.
        let kept = self.kept();
        let Some(held) = kept.find(chunk) else {
            return false;
        };
        held.used.store(self.tick(), Ordering::Relaxed);
        let inside = skip.saturating_add(buffer.len() as u64) <= held.length;
        let at = chunk.plain.start.saturating_add(skip);
        let read = |file: &File| file.read_exact_at(buffer, at).is_ok();
        inside && self.file(chunk.blob).is_some_and(read)
    }

    /// Whether a chunk is here.
    pub(super) fn has(&self, chunk: &Chunk) -> bool {
        self.kept().find(chunk).is_some()
    }

    /// Keeps the bytes of a chunk, which are proved. Two may keep the same chunk at once: the bytes are equal.
    pub(super) fn keep(&self, chunk: &Chunk, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let Some(file) = self.file(chunk.blob) else { return };
        if length > self.bytes_max {
            return;
        }
        if let Err(error) = file.write_all_at(bytes, chunk.plain.start) {
            tracing::debug!(%error, "a chunk is not kept");
            return;
        }
        let mut kept = self.change();
        let held = Held {
            length,
            digest: chunk.digest,
            used: AtomicU64::new(self.tick()),
        };
        let before = kept.chunks.insert(chunk.key(), held);
        kept.bytes += length;
        kept.bytes -= before.map_or(0, |before| before.length);
        if kept.bytes > self.bytes_max {
            self.free(&mut kept);
        }
    }

    /// Lets the chunks go that were not used for longest.
    fn free(&self, kept: &mut Kept) {
        let target = self.bytes_max - self.bytes_max / FREED;
        let mut oldest: Vec<_> = kept
            .chunks
            .iter()
            .map(|(key, held)| (held.used.load(Ordering::Relaxed), *key, held.length))
            .collect();
        oldest.sort_unstable();
        for (_, key, length) in oldest {
            if kept.bytes <= target {
                return;
            }
            kept.chunks.remove(&key);
            kept.bytes -= length;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Some(file) = self.file(key.blob) {
                // A file system without holes keeps the room: then the bound is one of chunks, not of disk.
                let _ = fallocate(file, flags, key.start, length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::ByteRange;
    use std::os::unix::fs::MetadataExt as _;

    const CHUNK: u64 = 64 * 1024;

    fn chunk(number: u64) -> Chunk {
        Chunk {
            blob: 0,
            index: 0,
            packed: ByteRange::new(0, 1),
            plain: ByteRange::new(number * CHUNK, (number + 1) * CHUNK),
            compressed: true,
            digest: [0; 32],
        }
    }

    fn bytes(number: u64) -> Vec<u8> {
        vec![u8::try_from(number).unwrap() + 1; 64 * 1024]
    }

    #[test]
    fn parts_of_chunks_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1, 1 << 20).unwrap();
        let mut buffer = [0; 10];
        assert!(!cache.read(&chunk(2), 5, &mut buffer));
        cache.keep(&chunk(2), &bytes(2));
        assert!(cache.read(&chunk(2), CHUNK - 10, &mut buffer));
        assert_eq!(buffer, [3; 10]);
        assert!(!cache.read(&chunk(2), CHUNK - 9, &mut buffer), "beyond the chunk");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no names");
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1, 8 * CHUNK).unwrap();
        let mut buffer = [0; 1];
        for number in 0..30 {
            cache.keep(&chunk(number), &bytes(number));
            assert!(cache.read(&chunk(0), 0, &mut buffer), "at {number}");
        }
        let kept = cache.kept();
        assert!(kept.bytes <= 8 * CHUNK);
        assert_eq!(
            kept.bytes,
            kept.chunks.values().map(|held| held.length).sum::<u64>()
        );
        let on_disk = cache.files[0].metadata().unwrap().blocks() * 512;
        assert!(on_disk <= 9 * CHUNK, "{on_disk}");
    }

    #[test]
    fn a_chunk_that_the_disk_refuses_is_not_here() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1, 1 << 20).unwrap();
        let far = Chunk {
            plain: ByteRange::new(u64::MAX - CHUNK, u64::MAX),
            ..chunk(0)
        };
        cache.keep(&far, &bytes(0));
        assert!(!cache.has(&far));
        let elsewhere = Chunk { blob: 7, ..chunk(0) };
        cache.keep(&elsewhere, &bytes(0));
        assert!(!cache.has(&elsewhere));
    }
}
