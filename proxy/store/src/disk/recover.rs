//! What is there after a restart: reads every index, drops what does not fit together.
//!
//! What must hold: no content of a file makes it panic or take memory beyond the layout's own bounds; what it
//! reports as claimed are pieces that exist, of a data file of the right length.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use darter_types::{PieceRun, PieceSet, TaskId};
use rustix::fs::FallocateFlags;

use super::layout::{OpenError, Root, nofollow, parse_name, remove_any};
use super::write::{DATA, INDEX, read_header, read_up_to};
use crate::ContentFacts;

/// How many dropped tasks a report names.
const NAMED_MAX: usize = 100;
/// Threads that read at once: enough to hide the latency of a cold disk.
const READERS: usize = 4;
/// Blocks that a lazy file may have beyond its claimed pieces before they are given back, in bytes.
const EXCESS_BYTES: u64 = 256 * 1024;

/// What [`DiskStore::open`](super::DiskStore::open) found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Tasks that are there.
    pub tasks: u64,
    /// Their pieces, all of them claimed.
    pub claimed_pieces: u64,
    /// Bytes that they take.
    pub stored_bytes: u64,
    /// How many files and directories were deleted because they do not fit together.
    pub dropped: u64,
    /// The first hundred of those.
    pub named: Vec<Dropped>,
}

/// Something that was deleted at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The file or directory.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

/// A task that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) task: TaskId,
    pub(super) facts: ContentFacts,
    pub(super) claimed: PieceSet,
    pub(super) proved: bool,
    pub(super) stored_bytes: u64,
    last_used: SystemTime,
}

#[derive(Default)]
struct Reading {
    found: Vec<Found>,
    dropped: Vec<Dropped>,
}

/// Reads the whole store. Gives the tasks, least recently used first.
pub(super) fn recover(root: &Root) -> Result<(Vec<Found>, Recovery), OpenError> {
    let tasks = root.tasks();
    let prefixes = entries(&tasks).map_err(OpenError::io("read", &tasks))?;
    let mut all = Reading::default();
    std::thread::scope(|scope| {
        let share = prefixes.len().div_ceil(READERS).max(1);
        let readers: Vec<_> = prefixes
            .chunks(share)
            .map(|prefixes| scope.spawn(|| read_prefixes(root, prefixes)))
            .collect();
        for reader in readers {
            match reader.join() {
                Ok(reading) => {
                    let reading = reading?;
                    all.found.extend(reading.found);
                    all.dropped.extend(reading.dropped);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    all.found.sort_by_key(|found| (found.last_used, found.task));
    let report = Recovery {
        tasks: all.found.len() as u64,
        claimed_pieces: all.found.iter().map(|found| u64::from(found.claimed.len())).sum(),
        stored_bytes: all.found.iter().map(|found| found.stored_bytes).sum(),
        dropped: all.dropped.len() as u64,
        named: all.dropped.into_iter().take(NAMED_MAX).collect(),
    };
    Ok((all.found, report))
}

/// What lies in a directory, ordered by name.
fn entries(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn read_prefixes(root: &Root, prefixes: &[PathBuf]) -> Result<Reading, OpenError> {
    let mut reading = Reading::default();
    for prefix in prefixes {
        if !fs::symlink_metadata(prefix).is_ok_and(|metadata| metadata.is_dir()) {
            reading.drop(prefix, "not a directory of tasks".to_owned())?;
            continue;
        }
        for dir in entries(prefix).map_err(OpenError::io("read", prefix))? {
            match read_task(root, &dir) {
                Ok(found) => reading.found.push(found),
                Err(reason) => reading.drop(&dir, reason)?,
            }
        }
    }
    Ok(reading)
}

impl Reading {
    fn drop(&mut self, path: &Path, reason: String) -> Result<(), OpenError> {
        remove_any(path).map_err(OpenError::io("delete", path))?;
        let path = path.to_owned();
        self.dropped.push(Dropped { path, reason });
        Ok(())
    }
}

/// Reads one task's directory; the error says why it is none.
fn read_task(root: &Root, dir: &Path) -> Result<Found, String> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let task = parse_name(name).filter(|task| root.task_dir(*task) == dir);
    let task = task.ok_or("not the name of a task")?;
    let index = open(&dir.join(INDEX), false)?;
    let (named, facts, shape) = read_header(&index)?;
    if named != task {
        return Err(format!("the index of {named}"));
    }
    let metadata = fs::symlink_metadata(dir.join(DATA)).map_err(|error| format!("data: {error}"))?;
    if !metadata.is_file() || metadata.len() != facts.layout.length() {
        return Err("a data file of another length than the content".to_owned());
    }
    let cells =
        read_up_to(&index, shape.cells_at(), shape.cells_bytes()).map_err(|error| error.to_string())?;
    let mut claimed = PieceSet::new(facts.layout.piece_count());
    let (proved, pieces) = shape.read_cells(&cells);
    pieces.for_each(|piece| {
        claimed.insert(piece);
    });
    for piece in super::write::read_sums(&index, &shape).into_keys() {
        claimed.insert(piece);
    }
    let stored_bytes = if facts.whole {
        facts.layout.length()
    } else {
        give_back(dir, &facts, &claimed, metadata.blocks().saturating_mul(512))
    };
    let last_used = index.metadata().and_then(|metadata| metadata.modified());
    Ok(Found {
        task,
        proved: proved && claimed.is_full(),
        facts,
        claimed,
        stored_bytes,
        last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

fn open(path: &Path, write: bool) -> Result<File, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    // Looked at first: opening a FIFO would wait for ever.
    if !fs::symlink_metadata(path).map_err(told)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(nofollow());
    options.open(path).map_err(told)
}

/// Bytes of the claimed pieces of a lazy task. Blocks that its file has beyond those, of pieces that never came
/// to be linked, are given back; nothing has mapped the file yet.
fn give_back(dir: &Path, facts: &ContentFacts, claimed: &PieceSet, blocks_bytes: u64) -> u64 {
    let runs = claimed.runs().map(|run| facts.layout.run_range(run).len());
    let claimed_bytes = runs.sum();
    if blocks_bytes <= claimed_bytes + EXCESS_BYTES {
        return claimed_bytes;
    }
    // Where holes cannot be punched the blocks stay until the task is dropped.
    if let Ok(data) = open(&dir.join(DATA), true) {
        punch(data.as_fd(), facts, claimed);
    }
    claimed_bytes
}

fn punch(data: std::os::fd::BorrowedFd<'_>, facts: &ContentFacts, claimed: &PieceSet) {
    let pieces = facts.layout.piece_count();
    let mut first = claimed.next_missing(0);
    while first < pieces {
        let end = claimed.next_present(first).unwrap_or(pieces);
        let range = facts.layout.run_range(PieceRun {
            first,
            count: end - first,
        });
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(data, flags, range.start, range.len()).is_err() {
            return;
        }
        first = claimed.next_missing(end);
    }
}
