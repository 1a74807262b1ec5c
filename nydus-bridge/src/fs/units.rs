//! The last unpacked units that several chunks share: neighbours of a chunk that was read are mostly read next.
//!
//! Memory, and little of it. Chunks themselves are kept in [`super::cache`].

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::chunk::UnitKey;

/// Bytes of all units together. One of the longest always fits.
const BYTES_MAX: usize = 16 << 20;

/// The units used last.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// The one used last is at the end.
    recent: Mutex<VecDeque<(UnitKey, Bytes)>>,
}

impl Units {
    /// A unit, if it is here.
    pub(super) fn get(&self, key: UnitKey) -> Option<Bytes> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(here, _)| *here == key)?;
        let unit = recent.remove(at)?;
        let bytes = unit.1.clone();
        recent.push_back(unit);
        Some(bytes)
    }

    /// Keeps a unit, and drops those that were not used for longest.
    pub(super) fn put(&self, key: UnitKey, bytes: Bytes) {
        self.forget(key);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((key, bytes));
        let mut total: usize = recent.iter().map(|(_, bytes)| bytes.len()).sum();
        while total > BYTES_MAX {
            let Some((_, oldest)) = recent.pop_front() else {
                return;
            };
            total -= oldest.len();
        }
    }

    /// Drops a unit, since it is not what it should be.
    pub(super) fn forget(&self, key: UnitKey) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(here, _)| *here != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: u64) -> UnitKey {
        UnitKey {
            blob: 0,
            start,
            digest: None,
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (units, third) = (Units::default(), Bytes::from(vec![0; BYTES_MAX / 3]));
        for start in 0..3 {
            units.put(key(start), third.clone());
        }
        assert!(units.get(key(0)).is_some());
        units.put(key(3), third.clone());
        let here: Vec<bool> = (0..4).map(|start| units.get(key(start)).is_some()).collect();
        assert_eq!(here, [true, false, true, true]);
        units.forget(key(2));
        assert!(units.get(key(2)).is_none());
    }
}
