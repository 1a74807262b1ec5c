//! Pieces on disk, or in memory: where a node keeps what it fetched.
//!
//! Start reading at [`PieceStore`]. [`DiskStore`] is the real one, [`MemoryStore`] serves tests and the
//! simulation and can be told to fail; one conformance suite runs against both.
//!
//! What must hold:
//! - a piece is *present* only after somebody linked it (`mark_present`), and only while its bytes are there;
//! - the bytes of a present piece never change;
//! - after a restart a piece is at most *claimed*: it must be linked again before its first use;
//! - only this crate deletes files, and it unlinks, never truncates, what may be mapped;
//! - bytes and files are accounted, bounded by a quota and a floor of free space.

mod account;
mod disk;
mod evict;
mod memory;
mod store;
mod sync;

#[cfg(test)]
mod conformance;

pub use account::RegistryQuotas;
pub use disk::{DiskOptions, DiskStore, Dropped, MappedRange, Mappings, OpenError, Recovery, fuzz_index};
pub use memory::{Faults, MemoryStore};
pub use store::{
    ContentFacts, Pace, PieceStore, Refusals, StoreError, StoredTask, TaskSummary, Usage, WriteBehind,
};
