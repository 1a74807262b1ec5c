//! An image that is open: the questions of a mount, and reads that end at once or later.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use darter_service::supervise::Tasks;
use darter_types::{Algorithm, ByteRange, Digest, PieceHasher};
use tokio::time::timeout;

use super::cache::CacheFolder;
use super::chunk::{Chunk, Extent};
use super::engine::{Engine, Fetch};
use super::error::FsError;
use super::limits::Limits;
use super::record::{self, Recorder, Seen};
use super::stats::{Stats, add};
use super::tree::{Attributes, Entry, Tree};
use crate::blob::BlobSource;

/// Longest read that is answered whole; the kernel asks for a few MiB at most.
const READ_BYTES_MAX: u64 = 16 << 20;

/// An image that is open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenImage {
    pub(super) tree: Arc<Tree>,
    pub(super) engine: Arc<Engine>,
    recorder: Arc<Recorder>,
    bootstrap: Arc<File>,
    folder: Arc<Path>,
}

/// A read, as far as it could be answered at once.
#[derive(Debug)]
pub enum Reading {
    /// The bytes. Fewer than asked for at the end of the file.
    Done(Vec<u8>),
    /// Some have to be fetched.
    Pending(Pending),
}

/// The rest of a read.
#[derive(Debug)]
pub struct Pending {
    image: OpenImage,
    buffer: Vec<u8>,
    gaps: Vec<Gap>,
}

/// A part of a buffer that waits for a chunk.
#[derive(Clone, Copy, Debug)]
struct Gap {
    chunk: Chunk,
    skip: u64,
    part: ByteRange,
}

impl OpenImage {
    /// Opens the image whose bootstrap is in a file, which must not change from here on. What is fetched is kept in
    /// `folder`, for later ones as well. Must be called within a runtime; reads a few files.
    ///
    /// # Errors
    /// The bootstrap is damaged or needs what is not supported, or the folder cannot be written.
    pub fn open(
        bootstrap: &Path,
        source: Arc<dyn BlobSource>,
        folder: &Path,
        limits: Limits,
        tasks: Tasks,
    ) -> Result<Self, FsError> {
        let folder = CacheFolder::open(folder, limits.cache_bytes_max)?;
        Self::open_in(bootstrap, source, &folder, limits, tasks)
    }

    /// The same, with a cache folder that other images of this process use as well.
    ///
    /// # Errors
    /// The bootstrap is damaged or needs what is not supported.
    pub fn open_in(
        bootstrap: &Path,
        source: Arc<dyn BlobSource>,
        folder: &CacheFolder,
        limits: Limits,
        tasks: Tasks,
    ) -> Result<Self, FsError> {
        let file = File::open(bootstrap);
        let file = file.map_err(|error| FsError::local("cannot open the image's metadata", &error))?;
        let tree = Tree::open(bootstrap)?;
        let engine = Engine::new(&tree, source, folder, limits, tasks);
        Ok(Self {
            engine: Arc::new(engine),
            tree: Arc::new(tree),
            recorder: Arc::default(),
            bootstrap: Arc::new(file),
            folder: folder.path().into(),
        })
    }

    /// What `stat` shows of a file.
    ///
    /// # Errors
    /// There is none, or the bootstrap is damaged.
    pub fn attributes(&self, ino: u64) -> Result<Attributes, FsError> {
        self.tree.attributes(ino)
    }

    /// What `name` in a directory names.
    ///
    /// # Errors
    /// Nothing, or the bootstrap is damaged.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, FsError> {
        self.tree.lookup(parent, name)
    }

    /// Shows the entries of a directory from a place on, until `show` says that it has enough.
    ///
    /// # Errors
    /// It is no directory, or the bootstrap is damaged.
    pub fn entries(&self, ino: u64, from: u64, show: impl FnMut(Entry) -> bool) -> Result<(), FsError> {
        self.tree.entries(ino, from, show)
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// It is none, or the bootstrap is damaged.
    pub fn link(&self, ino: u64) -> Result<OsString, FsError> {
        self.tree.link(ino)
    }

    /// An extended attribute, if the file has it.
    ///
    /// # Errors
    /// The bootstrap is damaged.
    pub fn xattr(&self, ino: u64, name: &OsStr) -> Result<Option<Vec<u8>>, FsError> {
        self.tree.xattr(ino, name)
    }

    /// The names of all extended attributes of a file.
    ///
    /// # Errors
    /// The bootstrap is damaged.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<OsString>, FsError> {
        self.tree.xattrs(ino)
    }

    /// How many files there are.
    pub fn files(&self) -> u64 {
        self.tree.files()
    }

    /// How many bytes all files have together.
    pub fn bytes(&self) -> u64 {
        self.tree.bytes()
    }

    /// The bootstrap.
    pub(crate) fn bootstrap(&self) -> &File {
        &self.bootstrap
    }

    /// The digest of the bootstrap: what the image is, whatever its name. Reads all of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bootstrap_digest(&self) -> io::Result<Digest> {
        let mut hasher = PieceHasher::start(Algorithm::Sha256);
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let length = self.bootstrap.read_at(&mut buffer, at)?;
            if length == 0 {
                return Ok(hasher.digest());
            }
            hasher.update(buffer.get(..length).unwrap_or_default());
            at += length as u64;
        }
    }

    /// The folder for what is kept.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lengths of the image's blobs as flat files, if the kernel can read it by them.
    pub fn flat(&self) -> Option<Vec<u64>> {
        self.tree.flat_lengths()
    }

    /// Reads bytes of a blob as a flat file: unpacked, with zeros where no chunk is. The caller knows where it ends.
    ///
    /// # Errors
    /// There is no such blob, or the bootstrap is damaged.
    pub fn read_flat(&self, blob: u32, offset: u64, length: u64) -> Result<Reading, FsError> {
        let range = ByteRange::new(offset, offset.saturating_add(length.min(READ_BYTES_MAX)));
        let extents = self.tree.flat_extents(blob, range)?;
        Ok(self.start(extents, Seen::Flat { blob, offset }))
    }

    /// Reads bytes of a file: those that are on this machine at once, without waiting for anything else.
    ///
    /// # Errors
    /// It is no file, or the bootstrap is damaged.
    pub fn read(&self, ino: u64, offset: u64, length: u64) -> Result<Reading, FsError> {
        let range = ByteRange::new(offset, offset.saturating_add(length.min(READ_BYTES_MAX)));
        let extents = self.tree.extents(ino, range)?;
        Ok(self.start(extents, Seen::File { ino, offset }))
    }

    /// Takes what is here; the rest is pending.
    fn start(&self, extents: Vec<Extent>, from: Seen) -> Reading {
        let total: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
        let mut buffer = vec![0; ByteRange::new(0, total.min(READ_BYTES_MAX)).indices().len()];
        let mut gaps = Vec::new();
        let mut at = 0;
        for extent in extents {
            if let Some(chunk) = extent.chunk.filter(|_| self.recorder.is_open()) {
                self.recorder.note(chunk.key(), from.behind(at));
            }
            let part = ByteRange::new(at, at + u64::from(extent.length));
            at = part.end;
            gaps.extend(self.fill(&extent, part, &mut buffer));
        }
        if gaps.is_empty() {
            add(&self.engine.counts().read, buffer.len() as u64);
            return Reading::Done(buffer);
        }
        Reading::Pending(Pending {
            image: self.clone(),
            buffer,
            gaps,
        })
    }

    /// Fills a part of the buffer; what is not on this machine is a gap.
    fn fill(&self, extent: &Extent, part: ByteRange, buffer: &mut [u8]) -> Option<Gap> {
        let (chunk, skip) = (extent.chunk?, u64::from(extent.skip));
        let target = buffer.get_mut(part.indices())?;
        (!self.engine.read_kept(&chunk, skip, target)).then_some(Gap { chunk, skip, part })
    }

    /// What is worth to be taken along with fetches. The first call puts all chunks in order.
    async fn ahead(&self, fetches: &[Fetch]) -> Vec<Chunk> {
        let Some((last, window)) = self.engine.worth(fetches) else {
            return Vec::new();
        };
        let tree = Arc::clone(&self.tree);
        let look = move || tree.following(&last, window);
        let ahead = self.engine.blocking("look at what follows", look).await;
        ahead.unwrap_or_default()
    }

    /// What was read and what that cost, up to now.
    pub fn stats(&self) -> Stats {
        self.engine.counts().now()
    }

    /// Looks after the cache: to be done every minute or so, also when nothing is read.
    pub async fn tidy(&self) {
        self.engine.tidy().await;
    }

    /// What earlier mounts of the image `key` read first; empty if nobody knows. Reads a file.
    pub fn load_record(&self, key: &str) -> Vec<Seen> {
        record::load(&self.folder, key)
    }

    /// Writes down what was read first, for the next mount of the image `key`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save_record(&self, key: &str) -> io::Result<()> {
        self.recorder.save(&self.folder, key)
    }
}

impl Pending {
    /// Fetches what is missing. Dropping the future leaves the fetch running, for the next reader.
    ///
    /// # Errors
    /// The bytes cannot be had, or are wrong.
    pub async fn finish(mut self) -> Result<Vec<u8>, FsError> {
        let patience = self.image.engine.limits().read_max;
        match timeout(patience, self.fetch()).await {
            Ok(fetched) => fetched?,
            Err(_) => return Err(FsError::Slow(patience)),
        }
        let counts = self.image.engine.counts();
        add(&counts.read, self.buffer.len() as u64);
        add(&counts.waited, self.buffer.len() as u64);
        Ok(self.buffer)
    }

    async fn fetch(&mut self) -> Result<(), FsError> {
        let image = &self.image;
        // What others wanted as well may have come since.
        let kept = |gap: &Gap, buffer: &mut [u8]| {
            let target = buffer.get_mut(gap.part.indices());
            target.is_some_and(|target| image.engine.read_kept(&gap.chunk, gap.skip, target))
        };
        self.gaps.retain(|gap| !kept(gap, &mut self.buffer));
        let _waits = image.engine.wait();
        let wanted = self.gaps.iter().map(|gap| gap.chunk).collect();
        let (coming, fetches) = image.engine.find(wanted).await?;
        if !fetches.is_empty() {
            let image = image.clone();
            // Others wait for these as well: it goes on if this reader leaves.
            let launch = async move {
                let ahead = image.ahead(&fetches).await;
                image.engine.launch(fetches, ahead);
            };
            self.image.engine.tasks().spawn("look at what follows", launch);
        }
        let chunks = image.engine.collect(coming).await?;
        for (gap, chunk) in self.gaps.iter().zip(chunks) {
            copy(&chunk, gap, &mut self.buffer)?;
        }
        Ok(())
    }
}

fn copy(chunk: &Bytes, gap: &Gap, buffer: &mut [u8]) -> Result<(), FsError> {
    let source = ByteRange::new(gap.skip, gap.skip + gap.part.len());
    let both = chunk
        .get(source.indices())
        .zip(buffer.get_mut(gap.part.indices()));
    let (source, target) =
        both.ok_or_else(|| FsError::damaged("a chunk is shorter than its part of a file"))?;
    target.copy_from_slice(source);
    Ok(())
}
