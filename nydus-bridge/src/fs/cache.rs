//! Proved chunks on this machine's disk, named by their digests: they outlive a mount, and are shared by all images that
//! have them.
//!
//! They are in *packs* (`packs`): files to which one process appends, and which are never changed otherwise. What an
//! earlier or another process wrote is believed only after its digest was worked out once more, by whoever wants it
//! ([`Cache::recall`]). The total of all packs is bounded: when it is reached, the packs that were not used for longest go.
//! A disk that fails or is full means that less is kept, never that a read fails.
//!
//! What must hold: bytes that were handed out as proved stay what they are, whatever other processes do. So nothing is
//! written over, and a pack is removed by its name alone.

mod packs;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::packs::{Pack, Packs, Record};
use super::chunk::Chunk;
use super::error::FsError;

/// Most chunks that are known at once: what is beyond is not kept. A few tens of MiB of memory.
const CHUNKS_MAX: usize = 256 * 1024;

/// A cache folder that is open. All images of a process that use the same one share this: each for itself would have all
/// packs open, and a table of all chunks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CacheFolder {
    path: PathBuf,
    cache: Arc<Cache>,
}

impl CacheFolder {
    /// Opens a folder, which is there, with room for `bytes_max` of chunks. Reads a few files.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self, FsError> {
        let cache = Cache::new(path, bytes_max);
        Ok(Self {
            path: path.to_owned(),
            cache: Arc::new(cache.map_err(|error| FsError::local("cannot keep chunks on disk", &error))?),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cache(&self) -> Arc<Cache> {
        Arc::clone(&self.cache)
    }

    /// Whether an image, or another clone, uses it besides this one.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.cache) > 1
    }

    /// Looks what other processes added and removed, and makes room: to be done every minute or so, also when nothing is
    /// read. Takes its time.
    pub fn tidy(&self) {
        self.cache.tidy();
    }
}

/// Chunks on disk.
#[derive(Debug)]
pub(super) struct Cache {
    packs: Packs,
    bytes_max: u64,
    chunks: RwLock<HashMap<[u8; 32], Held>>,
}

#[derive(Debug)]
struct Held {
    pack: Arc<Pack>,
    at: u64,
    length: u32,
    /// This process has seen that the bytes are right.
    proved: bool,
    /// Nobody has asked for it yet.
    ahead: AtomicBool,
}

/// What came of reading a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not here, or nobody has proved it yet.
    Nothing,
    /// The bytes are there.
    Bytes,
    /// So they are, and it is the first time that a chunk is read that was fetched before anybody wanted it.
    Ahead,
}

impl Cache {
    /// Room for `bytes_max` of chunks in `folder`, with what is there already.
    pub(super) fn new(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let cache = Self {
            packs: Packs::new(folder, bytes_max)?,
            bytes_max,
            chunks: RwLock::default(),
        };
        cache.tidy();
        Ok(cache)
    }

    fn chunks(&self) -> RwLockReadGuard<'_, HashMap<[u8; 32], Held>> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, HashMap<[u8; 32], Held>> {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a chunk is, if it is here.
    fn find(&self, chunk: &Chunk, proved: bool) -> Option<(Arc<Pack>, u64, bool)> {
        let chunks = self.chunks();
        let held = chunks.get(&chunk.digest)?;
        let fits = u64::from(held.length) == chunk.plain.len() && (held.proved || !proved);
        let ahead = fits && proved && held.ahead.load(Ordering::Relaxed);
        let first = ahead && held.ahead.swap(false, Ordering::Relaxed);
        fits.then(|| (Arc::clone(&held.pack), held.at, first))
    }

    /// Fills `buffer` with the bytes of a chunk from `skip` on, if they are here and proved.
    pub(super) fn read(&self, chunk: &Chunk, skip: u64, buffer: &mut [u8]) -> Found {
        let end = skip.saturating_add(buffer.len() as u64);
        match self.find(chunk, true).filter(|_| end <= chunk.plain.len()) {
            Some((pack, at, first)) if pack.read(at.saturating_add(skip), buffer) => {
                if first {
                    Found::Ahead
                } else {
                    Found::Bytes
                }
            }
            _ => Found::Nothing,
        }
    }

    /// Whether a chunk is here, proved or not.
    pub(super) fn has(&self, chunk: &Chunk) -> bool {
        self.find(chunk, false).is_some()
    }

    /// The bytes of a chunk that is here, once they are proved: `prove` says whether they are right. Takes its time.
    pub(super) fn recall(&self, chunk: &Chunk, prove: impl FnOnce(&[u8]) -> bool) -> Option<Vec<u8>> {
        let (pack, at, _) = self.find(chunk, false)?;
        let mut bytes = vec![0; usize::try_from(chunk.plain.len()).ok()?];
        let right = pack.read(at, &mut bytes) && prove(&bytes);
        let mut chunks = self.change();
        // It may be another one by now.
        let held = chunks.get_mut(&chunk.digest);
        let same = held.filter(|held| Arc::ptr_eq(&held.pack, &pack) && held.at == at);
        match same {
            Some(held) if right => held.proved = true,
            Some(_) => drop(chunks.remove(&chunk.digest)),
            None => {}
        }
        right.then_some(bytes)
    }

    /// Keeps the bytes of a chunk, which are proved. `ahead`: nobody has asked for it.
    pub(super) fn keep(&self, chunk: &Chunk, bytes: &[u8], ahead: bool) {
        let length = bytes.len() as u64;
        if length > self.bytes_max || self.find(chunk, true).is_some() {
            return;
        }
        if self.packs.is_full(length) {
            self.tidy();
        }
        let record = match self.packs.append(&chunk.digest, bytes) {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a chunk is not kept");
                return;
            }
        };
        self.put(record, true, ahead);
    }

    fn put(&self, record: Record, proved: bool, ahead: bool) {
        let mut chunks = self.change();
        if chunks.len() >= CHUNKS_MAX && !chunks.contains_key(&record.digest) {
            return;
        }
        let held = Held {
            pack: record.pack,
            at: record.at,
            length: record.length,
            proved,
            ahead: AtomicBool::new(ahead),
        };
        if proved {
            chunks.insert(record.digest, held);
        } else {
            chunks.entry(record.digest).or_insert(held);
        }
    }

    /// Looks what other processes added and removed, and makes room. To be done at times, even if nothing is read.
    pub(super) fn tidy(&self) {
        match self.packs.tidy() {
            Ok(new) => {
                self.change().retain(|_, held| !held.pack.is_gone());
                for record in new {
                    self.put(record, false, false);
                }
            }
            Err(error) => tracing::debug!(%error, "the cache cannot be looked through"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::ByteRange;

    const CHUNK: u64 = 64 * 1024;

    fn chunk(number: u64) -> Chunk {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        Chunk {
            blob: 0,
            index: 0,
            packed: ByteRange::new(0, 1),
            plain: ByteRange::new(number * CHUNK, (number + 1) * CHUNK),
            compressed: true,
            digest,
        }
    }

    fn bytes(number: u64) -> Vec<u8> {
        vec![u8::try_from(number % 250).unwrap() + 1; 64 * 1024]
    }

    fn on_disk(dir: &Path) -> u64 {
        let entries = std::fs::read_dir(dir.join("chunks")).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }

    fn reads(cache: &Cache, number: u64) -> bool {
        let mut buffer = [0; 10];
        let found = cache.read(&chunk(number), 7, &mut buffer) != Found::Nothing;
        assert!(!found || buffer[..] == bytes(number)[..10]);
        found
    }

    #[test]
    fn parts_of_chunks_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(cache.read(&chunk(2), 5, &mut buffer), Found::Nothing);
        cache.keep(&chunk(2), &bytes(2), false);
        assert_eq!(cache.read(&chunk(2), CHUNK - 10, &mut buffer), Found::Bytes);
        assert_eq!(buffer, [3; 10]);
        assert_eq!(cache.read(&chunk(2), CHUNK - 9, &mut buffer), Found::Nothing);
        cache.keep(&chunk(3), &bytes(3), true);
        assert_eq!(cache.read(&chunk(3), 0, &mut buffer), Found::Ahead);
        assert_eq!(cache.read(&chunk(3), 0, &mut buffer), Found::Bytes);
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 8 * CHUNK).unwrap();
        for number in 0..30 {
            cache.keep(&chunk(number), &bytes(number), false);
            assert!(reads(&cache, 0), "at {number}");
            assert!(reads(&cache, number), "at {number}");
            assert!(on_disk(dir.path()) <= 8 * CHUNK + 8 * 64, "at {number}");
        }
        assert!((0..30).filter(|number| reads(&cache, *number)).count() >= 5);
        let none = Cache::new(dir.path(), 0).unwrap();
        none.keep(&chunk(99), &bytes(99), false);
        assert!(!none.has(&chunk(99)));
        assert_eq!(on_disk(dir.path()), 0);
    }

    #[test]
    fn a_later_process_proves_what_it_finds() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cache::new(dir.path(), 1 << 20).unwrap();
        (0..5).for_each(|number| first.keep(&chunk(number), &bytes(number), false));
        let second = Cache::new(dir.path(), 1 << 20).unwrap();
        assert!(second.has(&chunk(3)));
        assert!(!reads(&second, 3), "not before it is proved");
        assert_eq!(
            second.recall(&chunk(3), |found| found == bytes(3)).unwrap(),
            bytes(3)
        );
        assert!(reads(&second, 3));
        assert!(second.recall(&chunk(4), |_| false).is_none());
        assert!(!second.has(&chunk(4)), "wrong bytes are forgotten");
        // What comes later is found as well, and both can write.
        second.keep(&chunk(4), &bytes(4), false);
        first.keep(&chunk(5), &bytes(5), false);
        second.tidy();
        assert!(reads(&second, 4) && second.has(&chunk(5)));
        first.tidy();
        assert!(reads(&first, 4));
    }

    #[test]
    fn an_index_without_its_pack_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20).unwrap();
        cache.keep(&chunk(1), &bytes(1), false);
        let left = dir.path().join("chunks/left.index");
        std::fs::write(&left, [0; 44]).unwrap();
        cache.tidy();
        assert!(!left.exists());
        assert_eq!(std::fs::read_dir(dir.path().join("chunks")).unwrap().count(), 2);
    }

    #[test]
    fn what_another_process_removes_is_read_until_it_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cache::new(dir.path(), 8 * CHUNK).unwrap();
        (0..4).for_each(|number| first.keep(&chunk(number), &bytes(number), false));
        let second = Cache::new(dir.path(), 2 * CHUNK).unwrap();
        assert!(on_disk(dir.path()) <= 2 * CHUNK + 512);
        assert!((0..4).all(|number| reads(&first, number)));
        first.tidy();
        assert!((0..4).filter(|number| reads(&first, *number)).count() <= 2);
        first.keep(&chunk(7), &bytes(7), false);
        assert!(reads(&first, 7));
        drop(second);
    }

    #[test]
    fn an_index_that_was_torn_or_lies_is_no_matter() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cache::new(dir.path(), 1 << 20).unwrap();
        first.keep(&chunk(1), &bytes(1), false);
        drop(first);
        for entry in std::fs::read_dir(dir.path().join("chunks")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "index") {
                let mut index = std::fs::read(&path).unwrap();
                let mut wrong = index.clone();
                wrong[0] = 9;
                wrong[32..40].fill(0xff);
                index.extend(wrong);
                index.extend([1, 2, 3]);
                std::fs::write(&path, index).unwrap();
            }
        }
        let second = Cache::new(dir.path(), 1 << 20).unwrap();
        assert!(second.recall(&chunk(1), |found| found == bytes(1)).is_some());
        second.keep(&chunk(2), &bytes(2), false);
        let third = Cache::new(dir.path(), 1 << 20).unwrap();
        assert!(third.recall(&chunk(2), |found| found == bytes(2)).is_some());
        assert!(third.recall(&chunk(9), |_| true).is_none());
    }
}
