//! The store's background threads. The one here starts write-back while contents arrive, and makes proved contents
//! durable, data first and the record of it after; the other one writes what waits ([`super::behind`]).
//!
//! What must hold: the queue has at most one entry a task, so the number of tasks bounds it; the proved cell
//! is written only after `fdatasync` of the data succeeded; a content whose `fdatasync` failed is dropped and
//! not tried again, since the system forgets which pages it lost.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use darter_types::TaskId;

use super::Shared;
use super::behind;
use super::map;
use super::record::{Files, Record};
use crate::sync::lock;

/// How much is written before the disk is asked to begin.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    work: BTreeMap<TaskId, Work>,
    stop: bool,
}

#[derive(Debug)]
enum Work {
    Writeback(Arc<Files>),
    Durable(Arc<Record>, Arc<Files>),
}

impl Queue {
    /// Bytes went to the data file.
    pub(super) fn wrote(&self, task: TaskId, files: &Arc<Files>, bytes: u64) {
        let before = files.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / WRITEBACK_BYTES != (before + bytes) / WRITEBACK_BYTES {
            self.start_writeback(task, files);
        }
    }

    fn start_writeback(&self, task: TaskId, files: &Arc<Files>) {
        let mut pending = lock(&self.pending);
        pending
            .work
            .entry(task)
            .or_insert_with(|| Work::Writeback(files.clone()));
        self.ready.notify_one();
    }

    pub(super) fn make_durable(&self, record: &Arc<Record>, files: &Arc<Files>) {
        let work = Work::Durable(record.clone(), files.clone());
        lock(&self.pending).work.insert(record.task, work);
        self.ready.notify_one();
    }

    /// The work that is there, once there is some; `None` when all is done and the store is dropped.
    fn next(&self) -> Option<BTreeMap<TaskId, Work>> {
        let mut pending = lock(&self.pending);
        while pending.work.is_empty() {
            if pending.stop {
                return None;
            }
            pending = self.ready.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut pending.work))
    }
}

/// The threads; dropping this waits until their queues are empty and they have ended.
#[derive(Debug)]
pub(super) struct Workers {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let start = |name: &str, run: fn(&Shared)| {
            let shared = Arc::clone(shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || run(&shared))
        };
        let mut workers = Self {
            shared: Arc::clone(shared),
            writer: None,
            flusher: None,
        };
        workers.writer = Some(start("darter-writer", behind::run)?);
        workers.flusher = Some(start("darter-store", run)?);
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // A panic in a thread was printed when it happened.
        self.shared.behind.stop();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        // It may have been given work by the other one until now.
        lock(&self.shared.queue.pending).stop = true;
        self.shared.queue.ready.notify_one();
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
    }
}

fn run(shared: &Shared) {
    while let Some(batch) = shared.queue.next() {
        batch.into_values().for_each(|work| perform(shared, work));
    }
}

fn perform(shared: &Shared, work: Work) {
    match work {
        Work::Writeback(files) => map::start_writeback(&files.data),
        Work::Durable(record, files) => {
            if let Err(error) = make_durable(&record, &files) {
                tracing::warn!(task = %record.task, error = &error as &dyn std::error::Error,
                    "cannot make a content durable: it is dropped from the cache");
                shared.drop_failed(&record);
            }
        }
    }
}

fn make_durable(record: &Record, files: &Files) -> io::Result<()> {
    rustix::fs::fdatasync(&files.data)?;
    {
        // Under the lock, so that a piece that is forgotten now takes the mark with it.
        let state = lock(&record.state);
        if !state.proved || state.gone {
            return Ok(());
        }
        files
            .index
            .write_all_at(&files.shape.proved_cell(), files.shape.cells_at())?;
    }
    Ok(rustix::fs::fdatasync(&files.index)?)
}
