//! Bytes that a store holds, against its quota and the file system's free bytes.
//!
//! Not the place that asks the file system: free bytes are an argument. What must hold: the sum of what was
//! reserved never passes the quota (unless the quota was lowered since), and never less than zero is held.

use std::sync::Mutex;

use crate::sync::lock;

#[derive(Debug)]
pub(crate) struct Account {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    stored_bytes: u64,
    quota_bytes: u64,
    floor_bytes: u64,
}

/// Bytes that must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deficit {
    /// To be within the limits as things are.
    pub(crate) now_bytes: u64,
    /// To be within them with what is wanted besides.
    pub(crate) wanted_bytes: u64,
}

impl Account {
    pub(crate) fn new(quota_bytes: u64, floor_bytes: u64) -> Self {
        Self {
            counts: Mutex::new(Counts {
                stored_bytes: 0,
                quota_bytes,
                floor_bytes,
            }),
        }
    }

    pub(crate) fn set_limits(&self, quota_bytes: u64, floor_bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.quota_bytes = quota_bytes;
        counts.floor_bytes = floor_bytes;
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        lock(&self.counts).stored_bytes
    }

    pub(crate) fn quota_bytes(&self) -> u64 {
        lock(&self.counts).quota_bytes
    }

    /// Takes `bytes` if they fit under the quota and leave the floor free; false, and nothing taken, if not.
    pub(crate) fn reserve(&self, bytes: u64, free_bytes: u64) -> bool {
        let mut counts = lock(&self.counts);
        let after = counts.stored_bytes.saturating_add(bytes);
        let fits = after <= counts.quota_bytes && free_bytes >= counts.floor_bytes.saturating_add(bytes);
        if bytes > 0 && !fits {
            return false;
        }
        counts.stored_bytes = after;
        true
    }

    /// Takes `bytes` that are there already, whatever the limits say.
    pub(crate) fn adopt(&self, bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.stored_bytes = counts.stored_bytes.saturating_add(bytes);
    }

    pub(crate) fn release(&self, bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.stored_bytes = counts.stored_bytes.saturating_sub(bytes);
    }

    pub(crate) fn deficit(&self, wanted_bytes: u64, free_bytes: u64) -> Deficit {
        let counts = lock(&self.counts);
        let missing = |wanted: u64| {
            let over_quota = counts
                .stored_bytes
                .saturating_add(wanted)
                .saturating_sub(counts.quota_bytes);
            let under_floor = counts
                .floor_bytes
                .saturating_add(wanted)
                .saturating_sub(free_bytes);
            over_quota.max(under_floor)
        };
        Deficit {
            now_bytes: missing(0),
            wanted_bytes: missing(wanted_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_passes_the_quota_or_eats_the_floor() {
        let account = Account::new(100, 10);
        assert!(account.reserve(60, 1000));
        assert!(!account.reserve(41, 1000));
        assert!(!account.reserve(40, 49), "9 bytes would stay free");
        assert!(account.reserve(40, 50));
        assert!(account.reserve(0, 0), "nothing always fits");
        account.release(150);
        assert_eq!(account.stored_bytes(), 0);
    }

    #[test]
    fn deficit_is_the_larger_of_quota_and_floor() {
        let account = Account::new(100, 10);
        account.adopt(130);
        let deficit = account.deficit(5, 3);
        assert_eq!((deficit.now_bytes, deficit.wanted_bytes), (30, 35));
        let deficit = account.deficit(90, 3);
        assert_eq!(deficit.wanted_bytes, 120);
        assert_eq!(Account::new(u64::MAX, 0).deficit(5, u64::MAX).wanted_bytes, 0);
    }
}
