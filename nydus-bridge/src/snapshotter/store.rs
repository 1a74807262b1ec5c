//! The catalog on disk: one file, a transaction a change, written through before anybody hears of it. A process that is killed
//! at any moment leaves the state before a change or after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use thiserror::Error;

use super::catalog::{Catalog, Change, Snapshot};

const SNAPSHOTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("snapshots");
const NUMBERS: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");
/// The number of the next snapshot.
const NEXT: &str = "next";
/// The form of what is stored.
const VERSION: &str = "version";
const VERSION_NOW: u64 = 1;
/// All of it is in memory anyway.
const CACHE_BYTES: usize = 4 << 20;

/// The file cannot be read or written.
#[derive(Debug, Error)]
#[error("the list of snapshots {path}: {reason}")]
pub struct StoreError {
    path: PathBuf,
    reason: String,
}

/// Where the catalog is kept.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the file, or makes it, and reads what is in it. Only one process can have it open.
    ///
    /// # Errors
    /// It is damaged, of a newer version, open elsewhere, or cannot be written.
    pub fn open(path: &Path) -> Result<(Self, Catalog), StoreError> {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let store = Self {
            database: opened.map_err(|error| wrong(path, error))?,
            path: path.to_owned(),
        };
        let catalog = store.read().map_err(|error| wrong(path, error))?;
        let problems = catalog.problems();
        match problems.is_empty() {
            true => Ok((store, catalog)),
            false => Err(wrong(path, problems.join("; "))),
        }
    }

    fn read(&self) -> Result<Catalog, Box<dyn std::error::Error>> {
        let writing = self.database.begin_write()?;
        {
            let mut numbers = writing.open_table(NUMBERS)?;
            let version = numbers.get(VERSION)?.map(|found| found.value());
            match version {
                None => drop(numbers.insert(VERSION, VERSION_NOW)?),
                Some(VERSION_NOW) => {}
                Some(other) => {
                    return Err(format!("it has version {other}, this program knows {VERSION_NOW}").into());
                }
            }
            writing.open_table(SNAPSHOTS)?;
        }
        writing.commit()?;
        let reading = self.database.begin_read()?;
        let next = reading
            .open_table(NUMBERS)?
            .get(NEXT)?
            .map_or(1, |next| next.value());
        let mut snapshots = BTreeMap::new();
        for entry in reading.open_table(SNAPSHOTS)?.iter()? {
            let (name, value) = entry?;
            let snapshot: Snapshot = serde_json::from_slice(value.value())?;
            snapshots.insert(name.value().to_owned(), snapshot);
        }
        Ok(Catalog::new(snapshots, next))
    }

    /// Writes a change; it is on disk when this comes back. `next` is above all numbers in it.
    ///
    /// # Errors
    /// It cannot be written; then nothing of it is.
    pub fn write(&self, change: &Change, next: u64) -> Result<(), StoreError> {
        self.commit(change, next)
            .map_err(|error| wrong(&self.path, error))
    }

    fn commit(&self, change: &Change, next: u64) -> Result<(), Box<dyn std::error::Error>> {
        let writing = self.database.begin_write()?;
        {
            let mut snapshots = writing.open_table(SNAPSHOTS)?;
            for name in &change.deletes {
                snapshots.remove(name.as_str())?;
            }
            for (name, snapshot) in &change.puts {
                snapshots.insert(name.as_str(), serde_json::to_vec(snapshot)?.as_slice())?;
            }
            writing.open_table(NUMBERS)?.insert(NEXT, next)?;
        }
        Ok(writing.commit()?)
    }
}

fn wrong(path: &Path, reason: impl ToString) -> StoreError {
    StoreError {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests;
