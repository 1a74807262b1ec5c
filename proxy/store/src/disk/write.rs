//! Making, opening and writing the files of a task, and what the system's refusals mean.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use darter_types::{Digest, PieceNumber, TaskId};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::index::{self, HEADER_MAX, HeaderError, SUM_CELL, Shape};
use super::layout::nofollow;
use super::record::Files;
use crate::{ContentFacts, StoreError};

pub(super) const DATA: &str = "data";
pub(super) const INDEX: &str = "index";

/// What an error of the system is to a caller that wanted `wanted_bytes` more.
pub(super) fn refused(action: &'static str, path: &Path, wanted_bytes: u64, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { wanted_bytes },
        _ => StoreError::Io {
            action,
            path: path.display().to_string(),
            source,
        },
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(nofollow());
    options
}

/// Makes the directory, the data file at its full length, and last the index.
pub(super) fn create_files(dir: &Path, task: TaskId, facts: &ContentFacts) -> Result<Files, StoreError> {
    let wanted_bytes = facts.allocated_bytes();
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| refused(action, &path, wanted_bytes, source)
    };
    let (header, shape) = index::encode_header(task, facts).ok_or_else(|| {
        let long = io::Error::new(io::ErrorKind::InvalidInput, "origin and media type are too long");
        fail("make", dir)(long)
    })?;
    // Remains of a task that could not be made or dropped whole.
    let _ = std::fs::remove_dir_all(dir);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(fail("make", dir))?;
    let path = dir.join(DATA);
    let data = options()
        .create_new(true)
        .open(&path)
        .map_err(fail("make", &path))?;
    allocate(&data, facts.layout.length(), facts.whole).map_err(fail("allocate", &path))?;
    let index_path = dir.join(INDEX);
    let index = options()
        .create_new(true)
        .open(&index_path)
        .map_err(fail("make", &index_path))?;
    // Cells must not run out of space one by one later.
    allocate(&index, shape.file_bytes(), true).map_err(fail("allocate", &index_path))?;
    index
        .write_all_at(&header, 0)
        .map_err(fail("write", &index_path))?;
    Ok(files(data, index, shape, path, Some(BTreeMap::new())))
}

/// Opens what [`create_files`] made, possibly long ago.
pub(super) fn open_files(dir: &Path, facts: &ContentFacts) -> Result<Files, StoreError> {
    let path = dir.join(DATA);
    let index_path = dir.join(INDEX);
    let data = options()
        .open(&path)
        .map_err(|source| refused("open", &path, 0, source))?;
    let index = options()
        .open(&index_path)
        .map_err(|source| refused("open", &index_path, 0, source))?;
    let damaged = |reason| {
        refused(
            "read",
            &index_path,
            0,
            io::Error::new(io::ErrorKind::InvalidData, reason),
        )
    };
    let (_, found, shape) = read_header(&index).map_err(damaged)?;
    let length = data
        .metadata()
        .map_err(|source| refused("look at", &path, 0, source))?
        .len();
    if found.layout != facts.layout || length != facts.layout.length() {
        return Err(damaged("the files are not those that were made".to_owned()));
    }
    Ok(files(data, index, shape, path, None))
}

/// Reads the sums of pieces that are only attested. What cannot be read is not known: those pieces come again.
pub(super) fn read_sums(file: &File, shape: &Shape) -> BTreeMap<PieceNumber, Digest> {
    let length = usize::try_from(shape.pieces()).unwrap_or(0) * SUM_CELL;
    let bytes = read_up_to(file, shape.sum_at(0), length).unwrap_or_default();
    let cells = (0..shape.pieces()).zip(bytes.as_chunks::<SUM_CELL>().0);
    cells
        .filter_map(|(piece, cell)| Some((piece, shape.read_sum(piece, cell)?)))
        .collect()
}

/// `sums` are those of pieces that are only attested, where they are known.
fn files(
    data: File,
    index: File,
    shape: Shape,
    path: std::path::PathBuf,
    sums: Option<BTreeMap<PieceNumber, Digest>>,
) -> Files {
    Files {
        data: Arc::new(data),
        index,
        shape,
        path,
        map: Default::default(),
        unreadable: Default::default(),
        states: Default::default(),
        sums: Mutex::new(sums),
        unsynced_bytes: Default::default(),
        ahead: Default::default(),
    }
}

/// Reads the header of an index; the error says what is wrong with it.
pub(super) fn read_header(file: &File) -> Result<(TaskId, ContentFacts, Shape), String> {
    let mut wanted = 4096;
    loop {
        let bytes = read_up_to(file, 0, wanted).map_err(|error| error.to_string())?;
        match index::decode_header(&bytes) {
            Ok(header) => return Ok(header),
            Err(HeaderError::Damaged(reason)) => return Err(reason.to_owned()),
            Err(HeaderError::Short { needed }) if needed > wanted && needed <= HEADER_MAX => wanted = needed,
            Err(HeaderError::Short { .. }) => return Err("a truncated header".to_owned()),
        }
    }
}

/// Reads `length` bytes at `offset`, fewer if the file ends before.
pub(super) fn read_up_to(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Gives a new file its length, and with `whole` the space as well where the file system can do that.
fn allocate(file: &File, length: u64, whole: bool) -> io::Result<()> {
    file.set_len(length)?;
    if !whole || length == 0 {
        return Ok(());
    }
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
