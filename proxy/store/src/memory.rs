//! A store in memory: for tests, and for the simulation, where it is the disk of a simulated node.
//!
//! It keeps only what was written, knows which bytes those are, and fails as it is told ([`Faults`]).
//! What must hold: it behaves as the disk store does (one conformance suite runs against both), and the
//! same calls give the same results in every run.

mod content;
mod faults;
mod task;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use darter_types::{RegistryName, TaskId};

use crate::account::Account;
use crate::evict::{self, Candidate};
use crate::sync::lock;
use crate::{ContentFacts, Pace, PieceStore, StoreError, StoredTask, TaskSummary, Usage};

use content::Content;
use faults::Plan;
use task::{Handle, Record};

pub use faults::Faults;

/// The store in memory. Clones share one content, so that a simulated node that comes back after a crash can
/// be given what its disk held.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    account: Account,
    tasks: Mutex<BTreeMap<TaskId, Arc<Record>>>,
    uses: AtomicU64,
    plan: Mutex<Plan>,
}

impl MemoryStore {
    /// An empty store that may hold `quota_bytes`.
    pub fn new(quota_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                account: Account::new(quota_bytes, 0),
                tasks: Mutex::default(),
                uses: AtomicU64::new(0),
                plan: Mutex::default(),
            }),
        }
    }

    /// The handle that makes it fail.
    pub fn faults(&self) -> Faults {
        Faults::new(self.shared.clone())
    }
}

impl Shared {
    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn free_bytes(&self) -> u64 {
        lock(&self.plan).free_bytes
    }

    fn handle(self: &Arc<Self>, record: &Arc<Record>) -> Arc<dyn StoredTask> {
        record.handles.fetch_add(1, Ordering::Relaxed);
        record.last_used.store(self.next_use(), Ordering::Relaxed);
        Arc::new(Handle {
            shared: self.clone(),
            record: record.clone(),
            uses: true,
        })
    }

    fn drop_record(&self, record: &Record) {
        let mut content = lock(&record.content);
        content.gone = true;
        self.account.release(None, content.charged_bytes());
    }
}

impl Record {
    fn candidate(&self) -> Candidate {
        let content = lock(&self.content);
        Candidate {
            task: self.task,
            stored_bytes: content.charged_bytes(),
            last_used: self.last_used.load(Ordering::Relaxed),
            proved: content.proved,
            open: self.handles.load(Ordering::Relaxed) > 0,
        }
    }

    fn summary(&self) -> TaskSummary {
        let content = lock(&self.content);
        let mut held = content.present.clone();
        held.insert_all(&content.claimed);
        TaskSummary {
            task: self.task,
            facts: self.facts.clone(),
            held,
            stored_bytes: content.charged_bytes(),
            proved: content.proved,
        }
    }
}

impl PieceStore for MemoryStore {
    fn open(&self, task: TaskId, facts: &ContentFacts) -> Result<Arc<dyn StoredTask>, StoreError> {
        let mut tasks = lock(&self.shared.tasks);
        if let Some(record) = tasks.get(&task) {
            record.facts.check_length(task, facts)?;
            return Ok(self.shared.handle(record));
        }
        let wanted_bytes = facts.allocated_bytes();
        if !self
            .shared
            .account
            .reserve(None, wanted_bytes, self.shared.free_bytes())
        {
            return Err(StoreError::NoSpace { wanted_bytes });
        }
        let record = Arc::new(Record {
            task,
            facts: facts.clone(),
            content: Mutex::new(Content::new(facts)),
            handles: AtomicUsize::new(0),
            last_used: AtomicU64::new(0),
        });
        tasks.insert(task, record.clone());
        Ok(self.shared.handle(&record))
    }

    fn find(&self, task: TaskId) -> Option<Arc<dyn StoredTask>> {
        let tasks = lock(&self.shared.tasks);
        Some(self.shared.handle(tasks.get(&task)?))
    }

    fn inspect(&self, task: TaskId) -> Option<Arc<dyn StoredTask>> {
        let record = lock(&self.shared.tasks).get(&task)?.clone();
        record.handles.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Handle {
            shared: self.shared.clone(),
            record,
            uses: false,
        }))
    }

    fn list(&self) -> Vec<TaskSummary> {
        lock(&self.shared.tasks)
            .values()
            .map(|record| record.summary())
            .collect()
    }

    fn remove(&self, task: TaskId) -> Result<(), StoreError> {
        let record = lock(&self.shared.tasks)
            .remove(&task)
            .ok_or(StoreError::Gone(task))?;
        self.shared.drop_record(&record);
        Ok(())
    }

    fn make_room(&self, wanted_bytes: u64) -> Vec<TaskId> {
        let mut tasks = lock(&self.shared.tasks);
        let deficit = self
            .shared
            .account
            .deficit(wanted_bytes, self.shared.free_bytes());
        let chosen = evict::choose(tasks.values().map(|record| record.candidate()), deficit);
        for task in &chosen {
            if let Some(record) = tasks.remove(task) {
                self.shared.drop_record(&record);
            }
        }
        chosen
    }

    fn usage(&self) -> Usage {
        let tasks = lock(&self.shared.tasks).len();
        Usage {
            stored_bytes: self.shared.account.stored_bytes(),
            quota_bytes: self.shared.account.quota_bytes(),
            free_bytes: self.shared.free_bytes(),
            tasks: tasks as u64,
            unwritten_bytes: 0,
            refusals: self.shared.account.refusals(),
        }
    }

    fn has_room(&self, _: Option<&RegistryName>, bytes: u64) -> bool {
        self.shared.account.fits(None, bytes, self.shared.free_bytes())
    }

    fn pace(&self, _: u64) -> Pace {
        lock(&self.shared.plan).pace
    }
}

#[cfg(test)]
mod tests;
