//! The store on disk.
//!
//! Start at [`DiskStore::open`]. `layout` says what lies where and guards the directory, `index` is the file
//! beside each content that survives `kill -9`, `recover` reads all of them at start, `task` is an open task,
//! `write` its way to the disk, `stall` and `behind` what becomes of that where the disk is slow, `flush` the background
//! threads, `map` the mappings (and all that is unsafe).
//!
//! What must hold:
//! - a task is created data first, index last, and dropped the other way round, so that a directory without a
//!   readable index is an orphan and nothing else;
//! - a data file has its final length before it is mapped, and is never truncated afterwards;
//! - locks are taken in the order tasks, files of a task, state of a task, what of it waits, what waits of all.

mod behind;
mod flush;
mod index;
mod layout;
mod map;
mod record;
mod recover;
mod stall;
mod task;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use darter_types::{RegistryName, TaskId};

use crate::account::{Account, Deficit, RegistryQuotas};
use crate::evict;
use crate::sync::lock;
use crate::{ContentFacts, Pace, PieceStore, StoreError, StoredTask, TaskSummary, Usage, WriteBehind};

use behind::Behind;
use flush::{Queue, Workers};
use layout::Root;
use record::Record;
use stall::Stalls;
use task::DiskTask;

pub use index::fuzz_index;
pub use layout::OpenError;
pub use map::{MappedRange, Mappings};
pub use recover::{Dropped, Recovery};

/// Where a [`DiskStore`] lives and what it may take.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Its directory. Made with mode 0700 if it is not there; must otherwise belong to this user, hold nothing
    /// else, and be writable by nobody else.
    pub dir: PathBuf,
    /// Most bytes that it may hold. Less than it holds already is no error: see
    /// [`PieceStore::make_room`].
    pub quota_bytes: u64,
    /// Bytes that must stay free on the file system.
    pub free_floor_bytes: u64,
}

/// Pieces in files, one sparse file a task, read through mappings.
///
/// Whoever drops the store waits for its threads to make durable what was proved. The directory stays locked
/// until all handles are dropped too.
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    _workers: Workers,
}

/// What the store and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    root: Root,
    account: Account,
    tasks: Mutex<BTreeMap<TaskId, Arc<Record>>>,
    /// Counts uses, for the order of eviction.
    uses: AtomicU64,
    mappings: Arc<Mappings>,
    queue: Queue,
    stalls: Stalls,
    behind: Behind,
}

impl DiskStore {
    /// Opens the directory, reads every index and drops what does not fit together; the report says what.
    /// Everything that was present is claimed now. Blocks for as long as that takes: about a second for 10⁵
    /// tasks.
    pub fn open(options: DiskOptions) -> Result<(Self, Recovery), OpenError> {
        let root = Root::open(&options.dir)?;
        let (found, report) = recover::recover(&root)?;
        let account = Account::new(options.quota_bytes, options.free_floor_bytes);
        for task in &found {
            account.adopt(task.facts.registry(), task.stored_bytes);
        }
        let uses = found.len() as u64;
        let tasks = found
            .into_iter()
            .zip(1..)
            .map(|(found, used)| (found.task, Arc::new(Record::recovered(found, used))))
            .collect();
        let shared = Arc::new(Shared {
            root,
            account,
            tasks: Mutex::new(tasks),
            uses: AtomicU64::new(uses),
            mappings: Arc::default(),
            queue: Queue::default(),
            stalls: Stalls::default(),
            behind: Behind::default(),
        });
        let workers = Workers::start(&shared).map_err(|source| OpenError::Io {
            action: "start the background threads of",
            path: options.dir.display().to_string(),
            source,
        })?;
        let store = Self {
            shared,
            _workers: workers,
        };
        Ok((store, report))
    }

    fn open_once(&self, task: TaskId, facts: &ContentFacts) -> Result<Arc<dyn StoredTask>, StoreError> {
        let mut tasks = lock(&self.shared.tasks);
        let record = match tasks.get(&task) {
            Some(record) => {
                record.facts.check_length(task, facts)?;
                record.clone()
            }
            None => {
                let record = Arc::new(Record::new(task, facts.clone()));
                tasks.insert(task, record.clone());
                record
            }
        };
        self.shared.begin(&record);
        drop(tasks);
        self.shared.handle(record, true)
    }

    /// Opens what is there. Where it `uses` the task, that is so for the order of eviction as well.
    fn open_existing(&self, task: TaskId, uses: bool) -> Option<Arc<dyn StoredTask>> {
        let tasks = lock(&self.shared.tasks);
        let record = tasks.get(&task).filter(|record| record.is_created())?.clone();
        if uses {
            self.shared.begin(&record);
        } else {
            record.handles.fetch_add(1, Ordering::Relaxed);
        }
        drop(tasks);
        let opened = self.shared.handle(record, uses);
        opened
            .inspect_err(|error| {
                let error = error as &dyn std::error::Error;
                tracing::warn!(%task, error, "cannot open a stored task");
            })
            .ok()
    }

    /// The mappings that its reads are slices of, for servers that send files without reading them.
    pub fn mappings(&self) -> Arc<Mappings> {
        self.shared.mappings.clone()
    }

    /// Holds each registry's contents to a quota from now on. Drops nothing by itself: see
    /// [`PieceStore::make_room_for`].
    pub fn set_registry_quotas(&self, quotas: RegistryQuotas) {
        self.shared.account.set_registry_quotas(quotas);
    }

    /// Bytes of each registry's contents.
    pub fn by_registry(&self) -> BTreeMap<RegistryName, u64> {
        self.shared.account.by_registry()
    }

    /// Size of the file system in bytes; 0 if it does not say.
    pub fn capacity_bytes(&self) -> u64 {
        self.shared.root.capacity_bytes()
    }

    /// Says how far what is written may run ahead of a slow disk from now on.
    pub fn set_write_behind(&self, limits: WriteBehind) {
        self.shared.behind.set_limits(limits);
    }

    /// Changes the limits from now on. Drops nothing by itself: see [`PieceStore::make_room`].
    pub fn set_limits(&self, quota_bytes: u64, free_floor_bytes: u64) {
        self.shared.account.set_limits(quota_bytes, free_floor_bytes);
    }
}

impl DiskStore {
    /// Drops what `deficit` asks for of the tasks that `counts` names.
    fn evict(&self, deficit: Deficit, counts: impl Fn(&Record) -> bool) -> Vec<TaskId> {
        let mut buried = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut tasks = lock(&self.shared.tasks);
            let records = tasks.values().filter(|record| counts(record));
            let candidates = records.map(|record| record.candidate());
            for task in evict::choose(candidates, deficit) {
                if let Ok(path) = self.shared.drop_task(&mut tasks, task) {
                    buried.push(path);
                    dropped.push(task);
                }
            }
        }
        buried.iter().for_each(|path| self.shared.root.sweep(path));
        dropped
    }
}

impl Shared {
    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a handle on `record`. Called with the table locked, so that eviction sees it.
    fn begin(&self, record: &Record) {
        record.handles.fetch_add(1, Ordering::Relaxed);
        record.last_used.store(self.next_use(), Ordering::Relaxed);
    }

    /// Takes a handle back that came to nothing, and the record with it if it never got files.
    fn abandon(&self, record: &Arc<Record>) {
        let mut tasks = lock(&self.tasks);
        let others = record.handles.fetch_sub(1, Ordering::Relaxed) - 1;
        if others == 0 && !record.is_created() && is_at(&tasks, record) {
            tasks.remove(&record.task);
        }
    }

    /// Opens the files of a record that was [begun](Self::begin), or at least counted as open.
    fn handle(self: &Arc<Self>, record: Arc<Record>, uses: bool) -> Result<Arc<dyn StoredTask>, StoreError> {
        match record.files(self) {
            Ok(files) => Ok(Arc::new(DiskTask::new(self.clone(), record, files, uses))),
            Err(error) => {
                self.abandon(&record);
                if record.is_created() && is_damage(&error) {
                    self.drop_failed(&record);
                }
                Err(error)
            }
        }
    }

    /// Takes a task out of the table and its files out of sight. What `bury` moved must be
    /// [swept](Root::sweep) afterwards, without locks.
    fn drop_task(
        &self,
        tasks: &mut BTreeMap<TaskId, Arc<Record>>,
        task: TaskId,
    ) -> Result<PathBuf, StoreError> {
        let record = tasks.get(&task).ok_or(StoreError::Gone(task))?.clone();
        let buried = record.retire(self)?;
        tasks.remove(&task);
        Ok(buried)
    }

    /// Drops `record` because its files are not what they were: somebody deleted them, or the disk lost what
    /// was written. Handles that exist see no piece any more.
    fn drop_failed(&self, record: &Arc<Record>) {
        let mut tasks = lock(&self.tasks);
        if !is_at(&tasks, record) {
            return;
        }
        let buried = self.drop_task(&mut tasks, record.task);
        drop(tasks);
        record.disown();
        if let Ok(path) = buried {
            self.root.sweep(&path);
        }
    }
}

/// Whether `record` is the one that the table has under its name.
fn is_at(tasks: &BTreeMap<TaskId, Arc<Record>>, record: &Arc<Record>) -> bool {
    tasks.get(&record.task).is_some_and(|at| Arc::ptr_eq(at, record))
}

/// Whether files that exist by the table were found missing or changed.
fn is_damage(error: &StoreError) -> bool {
    use std::io::ErrorKind::{InvalidData, NotFound};
    matches!(error, StoreError::Io { source, .. } if matches!(source.kind(), NotFound | InvalidData))
}

impl PieceStore for DiskStore {
    fn open(&self, task: TaskId, facts: &ContentFacts) -> Result<Arc<dyn StoredTask>, StoreError> {
        match self.open_once(task, facts) {
            // What was damaged has been dropped: the second try makes the task anew.
            Err(error) if is_damage(&error) => self.open_once(task, facts),
            other => other,
        }
    }

    fn find(&self, task: TaskId) -> Option<Arc<dyn StoredTask>> {
        self.open_existing(task, true)
    }

    fn inspect(&self, task: TaskId) -> Option<Arc<dyn StoredTask>> {
        self.open_existing(task, false)
    }

    fn list(&self) -> Vec<TaskSummary> {
        let tasks = lock(&self.shared.tasks);
        let created = tasks.values().filter(|record| record.is_created());
        created.map(|record| record.summary()).collect()
    }

    fn remove(&self, task: TaskId) -> Result<(), StoreError> {
        let buried = self.shared.drop_task(&mut lock(&self.shared.tasks), task)?;
        self.shared.root.sweep(&buried);
        Ok(())
    }

    fn make_room(&self, wanted_bytes: u64) -> Vec<TaskId> {
        let free_bytes = self.shared.root.free_bytes();
        let deficit = self.shared.account.deficit(wanted_bytes, free_bytes);
        self.evict(deficit, |_| true)
    }

    fn make_room_for(&self, registry: Option<&RegistryName>, wanted_bytes: u64) -> Vec<TaskId> {
        let Some(registry) = registry else {
            return self.make_room(wanted_bytes);
        };
        let Some(deficit) = self.shared.account.registry_deficit(registry, wanted_bytes) else {
            return Vec::new();
        };
        let mut dropped = self.evict(deficit, |record| record.facts.registry() == Some(registry));
        dropped.extend(self.make_room(wanted_bytes));
        dropped
    }

    fn usage(&self) -> Usage {
        let tasks = lock(&self.shared.tasks);
        let created = tasks.values().filter(|record| record.is_created()).count();
        Usage {
            stored_bytes: self.shared.account.stored_bytes(),
            quota_bytes: self.shared.account.quota_bytes(),
            free_bytes: self.shared.root.free_bytes(),
            tasks: created as u64,
            unwritten_bytes: self.shared.behind.bytes(),
            refusals: self.shared.account.refusals(),
        }
    }

    fn has_room(&self, registry: Option<&RegistryName>, bytes: u64) -> bool {
        let free_bytes = self.shared.root.free_bytes();
        self.shared.account.fits(registry, bytes, free_bytes)
    }

    fn pace(&self, bytes: u64) -> Pace {
        self.shared.behind.pace(bytes)
    }
}

#[cfg(test)]
mod tests;
