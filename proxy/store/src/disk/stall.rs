//! Writes to a disk that stands still must not stop the node.
//!
//! A write goes to the page cache and takes microseconds, so it is done where its caller runs. When more is dirty than
//! the kernel allows, each write sleeps until the disk has caught up: with as many threads as cores, everything that
//! the node serves would sleep along, and other nodes would take it for dead. So while writes are slow they are done
//! such that the runtime gives the thread's other work away first.

use std::sync::Mutex;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::sync::lock;

/// A write that takes longer than this waited for the disk.
const SLOW: Duration = Duration::from_millis(5);
/// How long after a slow write the next ones are expected to be slow.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Whether the disk of a store stands still now and then.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    slow_until: Mutex<Option<Instant>>,
}

impl Stalls {
    /// Does `work`, which may wait for the disk.
    pub(super) fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = match self.expected(begun) {
            true => hand_over(work),
            false => work(),
        };
        let took = begun.elapsed();
        if took >= SLOW {
            let mut until = lock(&self.slow_until);
            *until = (*until).max(Some(begun + took + REMEMBERED));
        }
        result
    }

    /// Whether a write would have to wait for the disk now, as far as one can tell.
    pub(super) fn is_slow(&self) -> bool {
        self.expected(Instant::now())
    }

    /// From now on it is as quick as it is.
    #[cfg(test)]
    pub(super) fn be_quick(&self) {
        *lock(&self.slow_until) = None;
    }

    /// From now on it is slow, whatever it does.
    #[cfg(test)]
    pub(super) fn be_slow(&self) {
        *lock(&self.slow_until) = Some(Instant::now() + Duration::from_secs(3600));
    }

    fn expected(&self, now: Instant) -> bool {
        lock(&self.slow_until).is_some_and(|until| now < until)
    }
}

/// Does `work`, which waits, such that the runtime gives the thread's other work away first.
pub(super) fn hand_over<T>(work: impl FnOnce() -> T) -> T {
    let has_more_threads =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    match has_more_threads {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn slow(stalls: &Stalls) {
        stalls.guard(|| {
            let begun = Instant::now();
            while begun.elapsed() < SLOW {
                std::hint::spin_loop();
            }
        });
    }

    #[test]
    fn works_without_a_runtime() {
        let stalls = Stalls::default();
        slow(&stalls);
        assert_eq!(stalls.guard(|| 7), 7);
    }

    #[test]
    fn a_quick_disk_is_not_suspected() {
        let stalls = Stalls::default();
        stalls.guard(|| ());
        slow(&stalls);
        assert!(stalls.expected(Instant::now()));
        assert!(!stalls.expected(Instant::now() + SLOW + REMEMBERED));
    }

    /// With one thread, a write that waits for something else that the runtime does would wait for ever.
    #[test]
    fn while_a_write_waits_the_runtime_goes_on() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let stalls = Stalls::default();
        slow(&stalls);
        let (says, hears) = mpsc::channel();
        runtime.block_on(async {
            let write = async move { stalls.guard(|| hears.recv().unwrap()) };
            let other = async move { says.send(5).unwrap() };
            let (write, other) = (runtime.spawn(write), runtime.spawn(other));
            other.await.unwrap();
            assert_eq!(write.await.unwrap(), 5);
        });
    }
}
