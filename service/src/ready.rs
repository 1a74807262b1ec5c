//! Whether a role can do its work: it can when everything that it waits for has happened.
//!
//! The proxy is ready without a scheduler: only what pulls cannot do without is a latch. Liveness is another matter:
//! a process that answers is alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is unmet while the role stops.
const STOPPING: &str = "stopping";

/// Ready when all latches are released. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    unmet: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// One thing that must happen first. Dropping it is not releasing it: a component that died before it was ready
/// keeps the role from being ready.
#[derive(Debug)]
#[must_use = "the role is not ready until it is released"]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Ready, until something is waited for.
    pub fn new() -> Self {
        Self::default()
    }

    fn unmet_names(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.unmet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something more. Several of one name must all be released.
    pub fn latch(&self, name: &'static str) -> Latch {
        *self.unmet_names().entry(name).or_default() += 1;
        Latch {
            name,
            readiness: self.clone(),
        }
    }

    /// Not ready from here on: the first step of stopping, so that nobody sends new work.
    pub fn stop(&self) {
        self.unmet_names().insert(STOPPING, 1);
    }

    /// The names of what is waited for.
    pub fn unmet(&self) -> Vec<&'static str> {
        self.unmet_names().keys().copied().collect()
    }

    /// Whether nothing is waited for.
    pub fn is_ready(&self) -> bool {
        self.unmet_names().is_empty()
    }
}

impl Latch {
    /// It has happened.
    pub fn release(self) {
        let mut unmet = self.readiness.unmet_names();
        match unmet.get_mut(self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                unmet.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_latches_are_released() {
        let readiness = Readiness::new();
        let (store, mirror) = (
            readiness.latch("store recovered"),
            readiness.latch("mirror bound"),
        );
        assert_eq!(readiness.unmet(), ["mirror bound", "store recovered"]);
        mirror.release();
        assert_eq!(readiness.unmet(), ["store recovered"]);
        assert!(!readiness.is_ready());
        store.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn latches_of_one_name_are_counted() {
        let readiness = Readiness::new();
        let (first, second) = (readiness.latch("listener"), readiness.latch("listener"));
        first.release();
        assert_eq!(readiness.unmet(), ["listener"]);
        second.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_dropped_latch_is_not_released() {
        let readiness = Readiness::new();
        drop(readiness.latch("store"));
        assert_eq!(readiness.unmet(), ["store"]);
    }

    #[test]
    fn stopping_is_for_good() {
        let readiness = Readiness::new();
        let latch = readiness.latch("late");
        readiness.stop();
        latch.release();
        assert_eq!(readiness.unmet(), ["stopping"]);
    }
}
