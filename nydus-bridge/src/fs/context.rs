//! Where chunks are that share units with others: a table at the end of their blob, read once and kept.
//!
//! Nothing proves the table; a wrong one leads to wrong bytes, which the digests of the chunks show. Then it is thrown away.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use darter_types::{ByteRange, Digest};
use nydus_storage::backend::{BackendError, BackendResult, BlobReader};
use nydus_storage::device::{BlobFeatures, BlobInfo};
use nydus_storage::meta::BlobCompressionContextInfo;
use nydus_utils::compress::zlib_random::ZranContext;
use nydus_utils::metrics::BackendMetrics;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::chunk::{CHUNK_BYTES_MAX, Chunk, Form, Packing, Placed, Unit};
use super::error::{FsError, guarded};
use crate::blob::{BlobError, BlobSource};

/// Longest table that is read: that of a blob with sixteen million chunks.
const TABLE_BYTES_MAX: u64 = 512 << 20;
/// Bytes of a table that are asked for at once.
const PART_BYTES_MAX: u64 = 4 << 20;
/// What the names of folders begin with in which tables are read.
const PREFIX: &str = "table-";
/// Another process may sweep a new folder before it is locked.
const ATTEMPTS_MAX: usize = 3;

/// The tables of an image's blobs, as far as they were needed.
pub(super) struct Contexts {
    source: Arc<dyn BlobSource>,
    infos: Vec<Arc<BlobInfo>>,
    /// Where a table is kept while it is read; it has no name afterwards.
    folder: PathBuf,
    loaded: Vec<Mutex<Option<Arc<Context>>>>,
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// The table of one blob.
pub(super) struct Context {
    table: BlobCompressionContextInfo,
}

impl Contexts {
    /// Knows nothing yet; tables are kept in `folder`.
    pub(super) fn new(source: Arc<dyn BlobSource>, infos: Vec<Arc<BlobInfo>>, folder: &Path) -> Self {
        Self {
            source,
            loaded: infos.iter().map(|_| Mutex::default()).collect(),
            infos,
            folder: folder.to_owned(),
        }
    }

    /// The table of a blob. Blocks while it is fetched: not for threads of the runtime.
    pub(super) fn load(&self, blob: u32, runtime: &Handle) -> Result<Arc<Context>, FsError> {
        let index = usize::try_from(blob).unwrap_or(usize::MAX);
        let (Some(slot), Some(info)) = (self.loaded.get(index), self.infos.get(index)) else {
            return Err(FsError::damaged(format!("there is no blob {blob}")));
        };
        // Others that need the same table wait here.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = &*slot {
            return Ok(Arc::clone(context));
        }
        let context = Arc::new(self.fetch(info, runtime)?);
        *slot = Some(Arc::clone(&context));
        Ok(context)
    }

    /// The table of a blob, if it is here.
    pub(super) fn known(&self, blob: u32) -> Option<Arc<Context>> {
        let slot = self.loaded.get(usize::try_from(blob).ok()?)?;
        slot.try_lock().ok()?.clone()
    }

    /// Throws a blob's table away, since it may be wrong.
    pub(super) fn forget(&self, blob: u32) {
        let slot = usize::try_from(blob)
            .ok()
            .and_then(|index| self.loaded.get(index));
        if let Some(slot) = slot {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn fetch(&self, info: &BlobInfo, runtime: &Handle) -> Result<Context, FsError> {
        let length = info
            .meta_ci_compressed_size()
            .saturating_add(info.meta_ci_uncompressed_size());
        if length > TABLE_BYTES_MAX {
            return Err(FsError::damaged(format!(
                "the table of a blob has {length} bytes"
            )));
        }
        let id = guarded(|| {
            if info.has_feature(BlobFeatures::SEPARATE) {
                info.get_blob_meta_id().map_err(io::Error::other)
            } else {
                Ok(info.blob_id())
            }
        })?;
        let digest = format!("sha256:{id}").parse();
        let reader = Arc::new(Reader {
            source: Arc::clone(&self.source),
            digest: digest.map_err(|_| FsError::damaged("the table of a blob has no digest for a name"))?,
            runtime: runtime.clone(),
            failure: Mutex::default(),
            metrics: BackendMetrics::new(&id, "mirror"),
        });
        let shared = Arc::clone(&reader) as Arc<dyn BlobReader>;
        // A file of an earlier table would be taken for this one.
        let scratch = Scratch::new(&self.folder);
        let scratch = scratch.map_err(|error| FsError::local("cannot keep the table of a blob", &error))?;
        let path = scratch.dir.path().join("blob").display().to_string();
        let table = guarded(|| BlobCompressionContextInfo::new(&path, info, Some(&shared), false));
        match (table, reader.failure()) {
            // It is mapped, and stays so without its name.
            (Ok(table), _) => Ok(Context { table }),
            (Err(_), Some(failure)) => Err(failure.into()),
            (Err(error), None) => Err(error),
        }
    }
}

/// A folder for a moment, locked as long as somebody uses it.
struct Scratch {
    dir: TempDir,
    _lock: File,
}

impl Scratch {
    fn new(folder: &Path) -> io::Result<Self> {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS_MAX {
            let dir = TempDir::with_prefix_in(PREFIX, folder)?;
            match lock(dir.path()) {
                // Another process may have swept it before it was locked.
                Ok(lock) if dir.path().exists() => return Ok(Self { dir, _lock: lock }),
                Ok(_) => {}
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn lock(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes tables that processes left which were killed while they read one.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_scratch = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        if !is_scratch {
            continue;
        }
        if let Ok(_lock) = lock(&entry.path()) {
            // What stays is swept another time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Context {
    /// Where a chunk is.
    pub(super) fn place(&self, chunk: Chunk, packing: Packing) -> Result<Placed, FsError> {
        let placed = guarded(|| match packing {
            Packing::Zran => self.zran(chunk),
            Packing::Batch if self.table.is_batch_chunk(chunk.index) => self.batch(chunk),
            Packing::Batch | Packing::Single => Ok(Placed::single(chunk)),
        })?;
        if placed.unit.packed.len() > CHUNK_BYTES_MAX || u64::from(placed.unit.length) > CHUNK_BYTES_MAX {
            return Err(FsError::damaged("a unit is too long"));
        }
        Ok(placed)
    }

    fn batch(&self, chunk: Chunk) -> io::Result<Placed> {
        let unit = self
            .table
            .get_batch_context(self.table.get_batch_index(chunk.index)?)?;
        let index = usize::try_from(chunk.index).map_err(io::Error::other)?;
        let start = self.table.get_chunk_info(index).compressed_offset();
        let (packed, plain) = (unit.compressed_size(), unit.uncompressed_batch_size());
        let form = if packed == plain {
            Form::Stored
        } else {
            Form::Compressed
        };
        Ok(Placed {
            chunk,
            unit: Unit {
                blob: chunk.blob,
                packed: ByteRange::new(start, start.saturating_add(u64::from(packed))),
                length: plain,
                form,
            },
            at: self.table.get_uncompressed_offset_in_batch_buf(chunk.index)?,
        })
    }

    fn zran(&self, chunk: Chunk) -> io::Result<Placed> {
        let number = self.table.get_zran_index(chunk.index)?;
        let (restart, _) = self.table.get_zran_context(number)?;
        let end = restart.in_offset.saturating_add(u64::from(restart.in_len));
        Ok(Placed {
            chunk,
            unit: Unit {
                blob: chunk.blob,
                packed: ByteRange::new(restart.in_offset, end),
                length: restart.out_len,
                form: Form::Zran(number),
            },
            at: self.table.get_zran_offset(chunk.index)?,
        })
    }

    /// What the decoder needs to begin at a restart point: its state, and the bytes before it.
    pub(super) fn restart(&self, number: u32) -> io::Result<(ZranContext, &[u8])> {
        self.table.get_zran_context(number)
    }
}

/// A blob as the Nydus crates read it. They ask from threads that may block.
struct Reader {
    source: Arc<dyn BlobSource>,
    digest: Digest,
    runtime: Handle,
    /// Why there were no bytes. They try again, but the source was patient already.
    failure: Mutex<Option<BlobError>>,
    metrics: Arc<BackendMetrics>,
}

impl Reader {
    fn failure(&self) -> Option<BlobError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn fetch(&self, range: ByteRange) -> Result<Bytes, BlobError> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let read = self.runtime.block_on(self.source.read(&self.digest, range));
        if let Err(error) = &read {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
        read
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The Nydus crates keep a list of all of them.
        let _ = self.metrics.release();
    }
}

impl BlobReader for Reader {
    fn blob_size(&self) -> BackendResult<u64> {
        Err(BackendError::Unsupported("the length of a blob".to_owned()))
    }

    fn try_read(&self, buffer: &mut [u8], offset: u64) -> BackendResult<usize> {
        // Whoever asks asks again for the rest.
        let length = PART_BYTES_MAX.min(buffer.len() as u64);
        let range = ByteRange::new(offset, offset.saturating_add(length));
        let read = self.fetch(range);
        let bytes = read.map_err(|error| BackendError::Unsupported(error.to_string()))?;
        let length = bytes.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), bytes.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_killed_processes_are_swept_and_those_of_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("table-left")).unwrap();
        fs::write(dir.path().join("table-left/blob.blob.meta"), "table").unwrap();
        fs::create_dir(dir.path().join("else")).unwrap();
        let used = Scratch::new(dir.path()).unwrap();
        sweep(dir.path());
        assert!(used.dir.path().exists() && dir.path().join("else").exists());
        assert!(!dir.path().join("table-left").exists());
    }
}
