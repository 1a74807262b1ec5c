//! What is counted of an image's use: questions by kind, how long they took, what was read, and reads that wait.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fs::FsError;

/// How many kinds of questions are counted, those of [`Question`] among them.
const QUESTIONS: usize = 15;
/// Longest reads of each class but the last, in bytes.
const SIZES: [u64; 7] = [
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    128 << 10,
    512 << 10,
    1 << 20,
];
/// Longest times of each class but the last, in microseconds.
const TIMES: [u64; 7] = [200, 1_000, 20_000, 50_000, 500_000, 1_000_000, 2_000_000];

/// Kinds of questions. The numbers are their places in the lists that are shown, as nydusd has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Question {
    Getattr = 0,
    Readlink = 1,
    Read = 4,
    Statfs = 5,
    Getxattr = 6,
    Listxattr = 7,
    Lookup = 9,
    Readdir = 10,
    Readdirplus = 11,
}

/// What is counted of one image.
#[derive(Debug)]
pub struct Counters {
    hits: [AtomicU64; QUESTIONS],
    errors: [AtomicU64; QUESTIONS],
    micros: [AtomicU64; QUESTIONS],
    read_sizes: [AtomicU64; SIZES.len() + 1],
    read_times: [AtomicU64; TIMES.len() + 1],
    read_bytes: AtomicU64,
    reads_waited: AtomicU64,
}

/// What was counted so far. Lists are in nydusd's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that were answered, by kind.
    pub hits: [u64; QUESTIONS],
    /// Questions that failed, by kind.
    pub errors: [u64; QUESTIONS],
    /// How long they took together, in microseconds, by kind.
    pub micros: [u64; QUESTIONS],
    /// Reads, by length.
    pub read_sizes: [u64; SIZES.len() + 1],
    /// Reads, by time.
    pub read_times: [u64; TIMES.len() + 1],
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Reads that had to wait for bytes from elsewhere.
    pub reads_waited: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            hits: zeros(),
            errors: zeros(),
            micros: zeros(),
            read_sizes: zeros(),
            read_times: zeros(),
            read_bytes: AtomicU64::default(),
            reads_waited: AtomicU64::default(),
        }
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    array::from_fn(|_| AtomicU64::new(0))
}

fn add<const N: usize>(counters: &[AtomicU64; N], at: usize, amount: u64) {
    if let Some(counter) = counters.get(at) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// The class of a value.
fn class(limits: &[u64], value: u64) -> usize {
    limits.iter().take_while(|limit| value > **limit).count()
}

impl Counters {
    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        fn values<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
            counters.each_ref().map(|counter| counter.load(Ordering::Relaxed))
        }
        Counts {
            hits: values(&self.hits),
            errors: values(&self.errors),
            micros: values(&self.micros),
            read_sizes: values(&self.read_sizes),
            read_times: values(&self.read_times),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            reads_waited: self.reads_waited.load(Ordering::Relaxed),
        }
    }
}

/// One question from now on to its answer.
#[derive(Debug)]
pub(in crate::mount) struct Watch {
    counters: Option<Arc<Counters>>,
    question: Question,
    began: Instant,
}

impl Watch {
    pub(in crate::mount) fn new(counters: Option<Arc<Counters>>, question: Question) -> Self {
        Self {
            counters,
            question,
            began: Instant::now(),
        }
    }

    /// The answer is this. That there is no such file is an answer like others.
    pub(super) fn note<T>(self, answer: Result<T, FsError>) -> Result<T, FsError> {
        self.count(matches!(&answer, Ok(_) | Err(FsError::NotFound)));
        answer
    }

    /// The answer to a read is this.
    pub(super) fn note_read(self, answer: &Result<Vec<u8>, FsError>, waited: bool) {
        if let (Some(counters), Ok(bytes)) = (&self.counters, answer) {
            let length = bytes.len() as u64;
            let took = micros(self.began.elapsed());
            add(&counters.read_sizes, class(&SIZES, length), 1);
            add(&counters.read_times, class(&TIMES, took), 1);
            counters.read_bytes.fetch_add(length, Ordering::Relaxed);
            counters
                .reads_waited
                .fetch_add(u64::from(waited), Ordering::Relaxed);
        }
        self.count(answer.is_ok());
    }

    fn count(&self, good: bool) {
        if let Some(counters) = &self.counters {
            let at = self.question as usize;
            add(if good { &counters.hits } else { &counters.errors }, at, 1);
            add(&counters.micros, at, micros(self.began.elapsed()));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Reads that wait for bytes from elsewhere. Cheap to clone; as many as an adapter lets wait.
#[derive(Clone, Debug, Default)]
pub struct Inflight(Arc<Mutex<BTreeMap<u64, WaitingRead>>>);

/// A read that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingRead {
    /// The kernel's number of it.
    pub unique: u64,
    /// The file's number.
    pub ino: u64,
    /// Since when.
    pub since: Instant,
}

/// A read waits as long as this lives.
#[derive(Debug)]
pub(super) struct Waits {
    inflight: Inflight,
    unique: u64,
}

impl Inflight {
    /// All that wait now.
    pub fn reads(&self) -> Vec<WaitingRead> {
        let reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.values().copied().collect()
    }

    pub(super) fn enter(&self, unique: u64, ino: u64) -> Waits {
        let read = WaitingRead {
            unique,
            ino,
            since: Instant::now(),
        };
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.insert(unique, read);
        Waits {
            inflight: self.clone(),
            unique,
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut reads = self.inflight.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures_are_counted_at_their_places() {
        let counters = Arc::new(Counters::default());
        let watch = |question| Watch::new(Some(Arc::clone(&counters)), question);
        watch(Question::Lookup).note(Ok(())).unwrap();
        watch(Question::Lookup)
            .note::<()>(Err(FsError::NotFound))
            .unwrap_err();
        watch(Question::Getattr)
            .note::<()>(Err(FsError::NotA("file")))
            .unwrap_err();
        watch(Question::Read).note_read(&Ok(vec![0; 4096]), true);
        watch(Question::Read).note_read(&Ok(vec![0; 4 << 20]), false);
        let counts = counters.counts();
        assert_eq!((counts.hits[9], counts.hits[4], counts.hits[0]), (2, 2, 0));
        assert_eq!(counts.errors[0], 1);
        assert_eq!(counts.read_sizes, [0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counts.read_times.iter().sum::<u64>(), 2);
        assert_eq!((counts.read_bytes, counts.reads_waited), (4096 + (4 << 20), 1));
    }

    #[test]
    fn a_read_waits_until_it_is_answered() {
        let inflight = Inflight::default();
        let waits = inflight.enter(7, 1);
        assert_eq!(inflight.reads().len(), 1);
        drop(waits);
        assert!(inflight.reads().is_empty());
    }
}
