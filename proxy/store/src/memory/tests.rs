//! The faults of the memory store do what they say.

use super::*;
use crate::conformance::{self, PIECE, PIECE_BYTES, Subject, bytes_of, facts, put, read_piece, task};
use darter_types::ByteRange;

impl Subject for MemoryStore {
    fn make(quota_bytes: u64) -> Self {
        Self::new(quota_bytes)
    }

    fn store(&self) -> &dyn PieceStore {
        self
    }

    fn restart(&mut self) {
        self.faults().crash();
    }
}

#[test]
fn conforms() {
    conformance::run::<MemoryStore>();
}

#[test]
fn refuses_to_mark_what_was_not_written_whole() {
    let store = MemoryStore::new(u64::MAX);
    let stored = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    let layout = stored.facts().layout;
    assert!(matches!(stored.mark_present(0), Err(StoreError::Absent { .. })));
    stored.write(0, &bytes_of(layout, 0)[1..]).unwrap();
    stored.write(PIECE - 1, &[0]).unwrap();
    put(&stored, 0);
    stored.write(PIECE + 1, &[1; 7]).unwrap();
    assert!(stored.mark_present(1).is_err());
    assert!(
        stored.read(ByteRange::new(PIECE, PIECE + 1)).is_err(),
        "never written"
    );
}

#[test]
fn runs_out_of_space_after_so_many_bytes_until_space_returns() {
    let store = MemoryStore::new(u64::MAX);
    let stored = store.open(task(1), &facts(PIECE, true)).unwrap();
    store.faults().no_space_after(10);
    stored.write(0, &[1; 6]).unwrap();
    assert!(matches!(
        stored.write(6, &[1; 5]),
        Err(StoreError::NoSpace { wanted_bytes: 5 })
    ));
    stored.write(6, &[1; 4]).unwrap();
    assert!(store.open(task(2), &facts(1, true)).is_err());
    assert_eq!(store.make_room(1), [], "nothing of ours would help");
    store.faults().space_returns();
    stored.write(10, &[1; 5]).unwrap();
}

#[test]
fn fails_writes_and_reads_as_scripted() {
    let store = MemoryStore::new(u64::MAX);
    let stored = store.open(task(1), &facts(100, true)).unwrap();
    store.faults().short_write(30);
    store.faults().fail_write();
    assert!(matches!(stored.write(0, &[5; 100]), Err(StoreError::Io { .. })));
    assert_eq!(stored.read(ByteRange::new(0, 100)).unwrap(), [5; 30].as_slice());
    assert!(stored.write(50, &[5; 10]).is_err());
    assert!(stored.mark_present(0).is_err());
    stored.write(0, &[6; 100]).unwrap();
    stored.mark_present(0).unwrap();
    store.faults().fail_reads(2);
    assert!(stored.read(ByteRange::new(0, 1)).is_err());
    assert!(stored.read(ByteRange::new(0, 1)).is_err());
    assert!(stored.read(ByteRange::new(0, 1)).is_ok());
}

#[test]
fn flips_a_byte_at_rest_and_leaves_slices_alone() {
    let store = MemoryStore::new(u64::MAX);
    let stored = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 1);
    let before = read_piece(&stored, 1).unwrap();
    let slice = stored.read(ByteRange::new(PIECE, 2 * PIECE)).unwrap();
    assert!(!store.faults().flip_byte(task(1), 0, 0));
    assert!(!store.faults().flip_byte(task(2), 1, 0));
    assert!(!store.faults().flip_byte(task(1), 1, PIECE_BYTES));
    assert!(store.faults().flip_byte(task(1), 1, 3));
    let after = read_piece(&stored, 1).unwrap();
    assert_eq!(slice, before);
    let differing = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 1);
}

#[test]
fn handles_from_before_a_crash_are_dead() {
    let store = MemoryStore::new(u64::MAX);
    let stored = store.open(task(1), &facts(PIECE, true)).unwrap();
    put(&stored, 0);
    store.faults().crash();
    assert!(stored.read(ByteRange::new(0, 1)).is_err());
    assert!(stored.write(0, &[1]).is_err());
    stored.forget(0);
    assert_eq!(store.list()[0].held.len(), 1);
    assert_eq!(store.make_room(u64::MAX), []);
    drop(stored);
    assert_eq!(store.find(task(1)).unwrap().claimed().len(), 1);
}

#[test]
fn a_power_cut_keeps_only_bytes_of_proved_contents() {
    let store = MemoryStore::new(u64::MAX);
    for number in [0, 1] {
        let stored = store.open(task(number), &facts(PIECE, true)).unwrap();
        put(&stored, 0);
        if number == 1 {
            stored.record_proved();
        }
    }
    store.faults().power_cut();
    let read = |number| read_piece(&store.find(task(number)).unwrap(), 0).unwrap();
    assert_eq!(read(0), vec![0; PIECE_BYTES]);
    assert_eq!(read(1), bytes_of(facts(PIECE, true).layout, 0));
}

#[test]
fn a_big_sparse_task_costs_what_was_written() {
    let store = MemoryStore::new(u64::MAX);
    let length = darter_types::PieceLayout::LENGTH_MAX;
    let stored = store.open(task(1), &facts(length, true)).unwrap();
    stored.write(length - 5, b"hello").unwrap();
    assert_eq!(
        stored.read(ByteRange::new(length - 5, length)).unwrap(),
        b"hello".as_slice()
    );
}
