//! What was there before: a record of every file that a setup wrote, and the undo made from it.
//!
//! The record is `record.json` in the runtime's folder of the state directory, with copies of the former contents
//! beside it. It is a log: each entry says "this content became that content". An undo walks it backwards and
//! follows it only as long as the file is what the entry left behind, so that a change by somebody else is never
//! overwritten. The record is written before the files, so a crash between loses nothing.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::plan::{Change, Note, Plan};
use crate::{Error, Runtime, rooted};

const RECORD_FILE: &str = "record.json";
const RECORD_VERSION: u32 = 1;

/// The record's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// The number of the next copy: names are never used twice.
    next_copy: u32,
    /// Oldest first.
    entries: Vec<Entry>,
    /// Directories that setup created, outermost first.
    directories: Vec<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// As seen from inside the root.
    path: PathBuf,
    /// The copy of the former content; `None` if there was no file.
    before: Option<String>,
    /// SHA-256 of what was written, in hexadecimal; `None` if the file was removed.
    after: Option<String>,
    restart: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: RECORD_VERSION,
            next_copy: 1,
            entries: Vec::new(),
            directories: Vec::new(),
        }
    }
}

fn hash(content: Option<&[u8]>) -> Option<String> {
    content.map(|bytes| {
        Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}

fn load(state_dir: &Path) -> Result<Option<Record>, Error> {
    let path = state_dir.join(RECORD_FILE);
    let Some(bytes) = rooted::read(Path::new("/"), &path)? else {
        return Ok(None);
    };
    let bad = |reason: String| Error::BadRecord {
        path: path.clone(),
        reason,
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if record.version != RECORD_VERSION {
        return Err(bad(format!(
            "its version is {}, this release knows {RECORD_VERSION}",
            record.version
        )));
    }
    Ok(Some(record))
}

fn store(state_dir: &Path, record: &Record) -> Result<(), Error> {
    let path = state_dir.join(RECORD_FILE);
    let mut bytes = serde_json::to_vec_pretty(record).map_err(|error| Error::BadRecord {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    bytes.push(b'\n');
    rooted::write_private(&path, &bytes)
}

/// Notes down what `changes` are about to replace.
pub(crate) fn record(root: &Path, state_dir: &Path, changes: &[Change]) -> Result<(), Error> {
    let mut record = load(state_dir)?.unwrap_or_default();
    for change in changes {
        for directory in rooted::missing_parents(root, &change.path)? {
            if !record.directories.contains(&directory) {
                record.directories.push(directory);
            }
        }
        let after = hash(change.after.as_deref());
        // Our own earlier work, untouched since: what was before *that* is what an undo must give back.
        let own = record
            .entries
            .iter_mut()
            .rev()
            .find(|entry| entry.path == change.path);
        if let Some(own) = own.filter(|own| own.after == hash(change.before.as_deref())) {
            own.after = after;
            own.restart |= change.restart;
            continue;
        }
        let before = match &change.before {
            None => None,
            Some(bytes) => {
                let name = format!("copy-{:04}", record.next_copy);
                rooted::write_private(&state_dir.join(&name), bytes)?;
                record.next_copy += 1;
                Some(name)
            }
        };
        record.entries.push(Entry {
            path: change.path.clone(),
            before,
            after,
            restart: change.restart,
        });
    }
    store(state_dir, &record)
}

/// The plan that gives back what was there before every recorded setup.
pub(crate) fn undo(root: &Path, state_dir: &Path, runtime: Runtime) -> Result<Plan, Error> {
    let mut plan = Plan::new(root, runtime);
    let state_dir = state_dir.join(runtime.folder());
    let Some(mut record) = load(&state_dir)? else {
        plan.note(Note::NothingToUndo);
        return Ok(plan);
    };
    let mut files: BTreeMap<PathBuf, Undone> = BTreeMap::new();
    let mut kept = Vec::new();
    for entry in record.entries.drain(..).rev() {
        let file = match files.remove(&entry.path) {
            Some(file) => file,
            None => Undone::read(root, &entry.path)?,
        };
        let before = former(&state_dir, &entry)?;
        let (file, done) = file.step(&entry, before);
        files.insert(entry.path.clone(), file);
        if !done {
            let copy = entry.before.as_ref().map(|name| state_dir.join(name));
            plan.note(Note::ChangedSince {
                path: entry.path.clone(),
                copy,
            });
            kept.push(entry);
        }
    }
    kept.reverse();
    record.entries = kept;
    for (path, file) in files {
        let changed = file.disk != file.now;
        if changed && file.restart {
            plan.note(Note::RestartNeeded {
                path: path.clone(),
                runtime,
            });
        }
        plan.change(Change {
            path,
            before: file.disk,
            after: file.now,
            restart: file.restart,
            private: false,
        });
    }
    plan.left = Some(record);
    Ok(plan)
}

/// A file on the way back.
struct Undone {
    disk: Option<Vec<u8>>,
    now: Option<Vec<u8>>,
    restart: bool,
    /// An entry did not fit: the older ones cannot be followed either.
    stuck: bool,
}

impl Undone {
    fn read(root: &Path, path: &Path) -> Result<Self, Error> {
        let disk = rooted::read(root, path)?;
        Ok(Self {
            now: disk.clone(),
            disk,
            restart: false,
            stuck: false,
        })
    }

    /// One entry back; says whether the entry is dealt with.
    fn step(mut self, entry: &Entry, before: Option<Vec<u8>>) -> (Self, bool) {
        if self.stuck {
            return (self, false);
        }
        if self.now == before {
            // Never written, or given back by hand.
            return (self, true);
        }
        if hash(self.now.as_deref()) == entry.after {
            self.now = before;
            self.restart |= entry.restart;
            return (self, true);
        }
        self.stuck = true;
        (self, false)
    }
}

fn former(state_dir: &Path, entry: &Entry) -> Result<Option<Vec<u8>>, Error> {
    let Some(name) = &entry.before else {
        return Ok(None);
    };
    let path = state_dir.join(name);
    match rooted::read(Path::new("/"), &path)? {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::BadRecord {
            path: state_dir.join(RECORD_FILE),
            reason: format!("{name} is missing"),
        }),
    }
}

/// After the files are back: removes the directories that setup made, and what is no longer needed of the record.
pub(crate) fn finish_undo(root: &Path, state_dir: &Path, left: &Record) -> Result<(), Error> {
    let mut left = left.clone();
    let mut still_there = Vec::new();
    for directory in left.directories.iter().rev() {
        if !rooted::remove_empty_dir(root, directory)? {
            still_there.push(directory.clone());
        }
    }
    still_there.reverse();
    left.directories = still_there;
    if !left.entries.is_empty() {
        return store(state_dir, &left);
    }
    fs::remove_dir_all(state_dir).map_err(|error| Error::io("remove", state_dir, error))
}
