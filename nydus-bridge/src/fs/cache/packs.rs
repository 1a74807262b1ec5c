//! Packs: a file with chunks one behind the other, and beside it one that says which and where.
//!
//! A pack has one writer, which holds a lock on it; anybody may go on with one that is not full when its writer has gone.
//! Neither file is ever written over, and both may end torn: nothing here is believed without its digest.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, futimens};

/// The folder of the packs in the cache folder.
const FOLDER: &str = "chunks";
/// Packs that fill the bound: one is what is removed at once.
const PACKS: u64 = 64;
const PACK_BYTES_MIN: u64 = 64 * 1024;
/// The part of the bound that is made free when it is reached.
const FREED: u64 = 8;
/// Most packs that are looked at.
const PACKS_MAX: usize = 4096;
/// Digest, place, length.
const RECORD_BYTES: usize = 32 + 8 + 4;
/// Longest index that is read of one pack.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// A pack that is open. It can be read when its name is gone.
#[derive(Debug)]
pub(super) struct Pack {
    data: File,
    index: File,
    /// When it was used last, counted in uses of all packs; 0 is never.
    used: AtomicU64,
    uses: Arc<AtomicU64>,
    gone: AtomicBool,
    /// Where the next chunk goes, and the next record; of use to the writer alone.
    data_end: AtomicU64,
    index_end: AtomicU64,
}

impl Pack {
    /// Whether `buffer` could be filled from `at` on.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        self.used.store(now, Ordering::Relaxed);
        self.data.read_exact_at(buffer, at).is_ok()
    }

    /// Whether its name is gone: it takes up room until nobody has it open.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// A chunk in a pack.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) digest: [u8; 32],
    pub(super) pack: Arc<Pack>,
    pub(super) at: u64,
    pub(super) length: u32,
}

/// All packs of a cache folder.
#[derive(Debug)]
pub(super) struct Packs {
    folder: PathBuf,
    bytes_max: u64,
    pack_bytes: u64,
    state: Mutex<State>,
    /// Bytes of all packs, as far as this process knows.
    bytes: AtomicU64,
    uses: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<OsString, Known>,
    /// The one that this process writes.
    own: Option<OsString>,
}

#[derive(Debug)]
struct Known {
    pack: Arc<Pack>,
    /// Bytes of its index that were read.
    read: u64,
    /// The use that other processes were told of.
    told: u64,
}

/// A pack as the folder shows it.
#[derive(Debug)]
struct Listed {
    name: OsString,
    length: u64,
    used: u64,
    modified: SystemTime,
}

impl Packs {
    /// The packs in a cache folder, which is made if need be.
    pub(super) fn new(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let folder = folder.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self {
            folder,
            bytes_max,
            pack_bytes: (bytes_max / PACKS).max(PACK_BYTES_MIN),
            state: Mutex::default(),
            bytes: AtomicU64::new(0),
            uses: Arc::new(AtomicU64::new(1)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many bytes more are beyond the bound.
    pub(super) fn is_full(&self, more: u64) -> bool {
        self.bytes.load(Ordering::Relaxed).saturating_add(more) > self.bytes_max
    }

    /// Puts a chunk at the end of this process's pack; nowhere, if there is no room.
    pub(super) fn append(&self, digest: &[u8; 32], bytes: &[u8]) -> io::Result<Option<Record>> {
        let length = bytes.len() as u64;
        let (pack, at) = {
            let mut state = self.state();
            if self.is_full(length) {
                return Ok(None);
            }
            let pack = self.writable(&mut state)?;
            self.bytes.fetch_add(length, Ordering::Relaxed);
            let at = pack.data_end.fetch_add(length, Ordering::Relaxed);
            (pack, at)
        };
        pack.data.write_all_at(bytes, at)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend(digest);
        record.extend(at.to_le_bytes());
        record.extend(length.to_le_bytes());
        let place = pack.index_end.fetch_add(RECORD_BYTES as u64, Ordering::Relaxed);
        pack.index.write_all_at(&record, place)?;
        Ok(Some(Record {
            digest: *digest,
            pack,
            at,
            length,
        }))
    }

    /// The pack that this process writes: its own, or one that nobody goes on with, or a new one.
    fn writable(&self, state: &mut State) -> io::Result<Arc<Pack>> {
        let room = |pack: &Pack| !pack.is_gone() && pack.data_end.load(Ordering::Relaxed) < self.pack_bytes;
        let own = state.own.as_ref().and_then(|name| state.known.get(name));
        if let Some(known) = own.filter(|known| room(&known.pack)) {
            return Ok(Arc::clone(&known.pack));
        }
        for (name, known) in &state.known {
            let lock = || flock(&known.pack.data, FlockOperation::NonBlockingLockExclusive);
            if !room(&known.pack) || Some(name) == state.own.as_ref() || lock().is_err() {
                continue;
            }
            let (data, index) = (
                known.pack.data.metadata()?.len(),
                known.pack.index.metadata()?.len(),
            );
            let whole = index - index % RECORD_BYTES as u64;
            known.pack.data_end.store(data, Ordering::Relaxed);
            known.pack.index_end.store(whole, Ordering::Relaxed);
            state.own = Some(name.clone());
            return Ok(Arc::clone(&known.pack));
        }
        let data = tempfile::Builder::new()
            .suffix(".data")
            .tempfile_in(&self.folder)?;
        flock(data.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        let (data, path) = data.keep().map_err(|error| error.error)?;
        let pack = Arc::new(self.open(data, &path)?);
        let name = path.file_name().unwrap_or_default().to_owned();
        state.own = Some(name.clone());
        let known = Known {
            pack: Arc::clone(&pack),
            read: 0,
            told: 0,
        };
        state.known.insert(name, known);
        Ok(pack)
    }

    /// Looks at the folder: marks what is gone, removes what is too much. Gives what is new, which nobody has proved.
    pub(super) fn tidy(&self) -> io::Result<Vec<Record>> {
        let mut state = self.state();
        let mut listed = self.list(&mut state)?;
        state.known.retain(|name, known| {
            let there = listed.iter().any(|pack| pack.name == *name);
            known.pack.gone.store(!there, Ordering::Relaxed);
            there
        });
        let own = state.own.clone();
        let bound = self.bytes_max - self.bytes_max / FREED;
        let mut total: u64 = listed.iter().map(|pack| pack.length).sum();
        let too_much = total >= bound;
        // What was used or written last is at the end, and this process's own pack last of all.
        listed.sort_by_key(|pack| (Some(&pack.name) == own.as_ref(), pack.modified, pack.used));
        let mut kept = Vec::new();
        for pack in listed {
            let excess = too_much && (total > bound || self.bytes_max == 0) || kept.len() >= PACKS_MAX;
            if excess && self.remove(&mut state, &pack.name) {
                total -= pack.length;
            } else {
                kept.push(pack.name);
            }
        }
        self.bytes.store(total, Ordering::Relaxed);
        let mut new = Vec::new();
        for name in kept {
            // One that cannot be read is of no use, and goes in its turn.
            let _ = self.load(&mut state, name, &mut new);
        }
        Ok(new)
    }

    fn open(&self, data: File, path: &Path) -> io::Result<Pack> {
        let index = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.with_extension("index"))?;
        Ok(Pack {
            data_end: AtomicU64::new(data.metadata()?.len()),
            index_end: AtomicU64::new(index.metadata()?.len()),
            data,
            index,
            used: AtomicU64::new(0),
            uses: Arc::clone(&self.uses),
            gone: AtomicBool::new(false),
        })
    }

    fn list(&self, state: &mut State) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let path = self.folder.join(&name);
            if path.extension().is_none_or(|kind| kind != "data") {
                // A pack has its data before its index, and loses it before that: one alone is what a killed process left.
                let is_index = path.extension().is_some_and(|kind| kind == "index");
                if is_index && !path.with_extension("data").exists() {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            let known = state.known.get_mut(&name);
            let used = known
                .as_ref()
                .map_or(0, |known| known.pack.used.load(Ordering::Relaxed));
            if let Some(known) = known.filter(|known| known.told < used) {
                known.told = used;
                touch(&known.pack.data);
            }
            // Another process may have removed it meanwhile.
            let Ok(metadata) = path.metadata() else { continue };
            listed.push(Listed {
                name,
                length: metadata.len(),
                used,
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(listed)
    }

    /// Whether a pack has no name any more.
    fn remove(&self, state: &mut State, name: &OsString) -> bool {
        let path = self.folder.join(name);
        let removed = fs::remove_file(&path);
        // Without its data it is nothing.
        let _ = fs::remove_file(path.with_extension("index"));
        if let Some(known) = state.known.remove(name) {
            known.pack.gone.store(true, Ordering::Relaxed);
        }
        removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// What a pack's index says beyond what was read of it.
    fn load(&self, state: &mut State, name: OsString, new: &mut Vec<Record>) -> io::Result<()> {
        if !state.known.contains_key(&name) {
            let path = self.folder.join(&name);
            let data = File::options().read(true).write(true).open(&path)?;
            let pack = Arc::new(self.open(data, &path)?);
            state.known.insert(
                name.clone(),
                Known {
                    pack,
                    read: 0,
                    told: 0,
                },
            );
        }
        let Some(known) = state
            .known
            .get_mut(&name)
            .filter(|_| state.own.as_ref() != Some(&name))
        else {
            return Ok(());
        };
        let length = known.pack.index.metadata()?.len().min(INDEX_BYTES_MAX);
        let more = length.saturating_sub(known.read);
        let more = more - more % RECORD_BYTES as u64;
        let mut bytes = vec![0; usize::try_from(more).map_err(io::Error::other)?];
        known.pack.index.read_exact_at(&mut bytes, known.read)?;
        known.read += more;
        new.extend(
            bytes
                .chunks_exact(RECORD_BYTES)
                .filter_map(|record| parse(record, &known.pack)),
        );
        Ok(())
    }
}

fn parse(record: &[u8], pack: &Arc<Pack>) -> Option<Record> {
    let (digest, rest) = record.split_first_chunk::<32>()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    Some(Record {
        digest: *digest,
        pack: Arc::clone(pack),
        at: u64::from_le_bytes(*at),
        length: u32::from_le_bytes(rest.try_into().ok()?),
    })
}

/// Marks a pack as used now, for all processes.
fn touch(file: &File) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    // Then it goes a little early.
    let _ = futimens(
        file,
        &Timestamps {
            last_access: now,
            last_modification: now,
        },
    );
}
