//! What was read first, in order, so that the next mount of the same image can fetch it before it is wanted.
//!
//! A record is a text file in the cache folder, named by what the image is: the bootstrap's digest. It is a hint and nothing
//! else: one that is wrong fetches what nobody wants.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::chunk::ChunkKey;

const FOLDER: &str = "first-reads";
const HEAD: &str = "darter first reads 1";
/// Most chunks of a record.
const READS_MAX: usize = 8192;
/// Longest record that is read.
const BYTES_MAX: u64 = 1 << 20;
/// Most records of a folder: the oldest go.
const RECORDS_MAX: usize = 256;

/// A place that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In a file.
    File {
        /// Its number.
        ino: u64,
        /// Where in it.
        offset: u64,
    },
    /// In a blob's flat file.
    Flat {
        /// The blob's place in the image's table.
        blob: u32,
        /// Where in it.
        offset: u64,
    },
}

impl Seen {
    /// The place so many bytes behind.
    pub(super) fn behind(self, more: u64) -> Self {
        match self {
            Self::File { ino, offset } => Self::File {
                ino,
                offset: offset.saturating_add(more),
            },
            Self::Flat { blob, offset } => Self::Flat {
                blob,
                offset: offset.saturating_add(more),
            },
        }
    }

    fn line(self) -> String {
        match self {
            Self::File { ino, offset } => format!("file {ino} {offset}\n"),
            Self::Flat { blob, offset } => format!("blob {blob} {offset}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kind, number) = (words.next()?, words.next()?);
        let offset = words.next()?.parse().ok()?;
        match kind {
            "file" => Some(Self::File {
                ino: number.parse().ok()?,
                offset,
            }),
            "blob" => Some(Self::Flat {
                blob: number.parse().ok()?,
                offset,
            }),
            _ => None,
        }
    }
}

/// Notes what is read, as long as there is room.
#[derive(Debug)]
pub(super) struct Recorder {
    open: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    chunks: HashSet<ChunkKey>,
    order: Vec<Seen>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            open: AtomicBool::new(true),
            noted: Mutex::default(),
        }
    }
}

impl Recorder {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// A chunk is read. Each counts once.
    pub(super) fn note(&self, chunk: ChunkKey, seen: Seen) {
        let mut noted = self.noted();
        if noted.order.len() >= READS_MAX {
            self.open.store(false, Ordering::Relaxed);
            noted.chunks = HashSet::new();
        } else if noted.chunks.insert(chunk) {
            noted.order.push(seen);
        }
    }

    /// Writes the record of the image `key`, if anything was read.
    pub(super) fn save(&self, folder: &Path, key: &str) -> io::Result<()> {
        let order = self.noted().order.clone();
        if order.is_empty() {
            return Ok(());
        }
        let folder = folder.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut text = format!("{HEAD}\n");
        order.into_iter().for_each(|seen| text.push_str(&seen.line()));
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path(&folder, key)).map_err(|error| error.error)?;
        trim(&folder)
    }
}

/// The record of the image `key`; empty if there is none.
pub(super) fn load(folder: &Path, key: &str) -> Vec<Seen> {
    let path = path(&folder.join(FOLDER), key);
    let short = path.metadata().is_ok_and(|found| found.len() <= BYTES_MAX);
    match fs::read(path) {
        Ok(bytes) if short => parse(&bytes),
        _ => Vec::new(),
    }
}

/// As much of a record as makes sense.
fn parse(bytes: &[u8]) -> Vec<Seen> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Vec::new();
    }
    lines.map_while(Seen::parse).take(READS_MAX).collect()
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(key.replace(['/', ':', '\0'], "-"))
}

fn trim(folder: &Path) -> io::Result<()> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let modified = path.metadata().and_then(|found| found.modified());
        records.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), path));
    }
    records.sort();
    for (_, path) in records.iter().rev().skip(RECORDS_MAX) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: u64) -> ChunkKey {
        ChunkKey { blob: 0, start }
    }

    #[test]
    fn a_record_comes_back_in_order_and_each_chunk_once() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        recorder.save(dir.path(), "sha256:none").unwrap();
        assert!(!dir.path().join(FOLDER).exists());
        let reads = [
            Seen::File { ino: 7, offset: 9 },
            Seen::Flat { blob: 1, offset: 3 },
            Seen::File { ino: 2, offset: 0 },
        ];
        for (number, seen) in reads.into_iter().enumerate() {
            recorder.note(key(number as u64), seen);
            recorder.note(key(0), Seen::File { ino: 99, offset: 0 });
        }
        recorder.save(dir.path(), "sha256:a").unwrap();
        assert_eq!(load(dir.path(), "sha256:a"), reads);
        assert!(load(dir.path(), "sha256:b").is_empty());
    }

    #[test]
    fn records_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        for number in 0..READS_MAX as u64 + 10 {
            recorder.note(
                key(number),
                Seen::File {
                    ino: 1,
                    offset: number,
                },
            );
        }
        assert!(!recorder.is_open());
        for number in 0..RECORDS_MAX + 3 {
            recorder.save(dir.path(), &number.to_string()).unwrap();
        }
        assert_eq!(
            fs::read_dir(dir.path().join(FOLDER)).unwrap().count(),
            RECORDS_MAX
        );
        assert_eq!(load(dir.path(), "200").len(), READS_MAX);
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in ["", "other\nfile 1 2\n", "darter first reads 1\nelse 1 2"] {
            assert!(parse(text.as_bytes()).is_empty(), "{text}");
        }
        let torn = "darter first reads 1\nfile 1 2\nfile 1";
        assert_eq!(parse(torn.as_bytes()), [Seen::File { ino: 1, offset: 2 }]);
    }
}
