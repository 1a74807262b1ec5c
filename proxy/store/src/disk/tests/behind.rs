//! A disk that is slow: nobody waits for it, and nothing else differs.

use super::*;
use crate::Pace;

/// A store all of whose writes wait in memory.
pub(super) fn open_slow(dir: &Path, quota_bytes: u64) -> (DiskStore, Recovery) {
    let (store, recovery) = open(dir, quota_bytes);
    store.shared.stalls.be_slow();
    (store, recovery)
}

#[test]
fn a_slow_disk_is_a_disk() {
    conformance::run::<OnDisk<true>>();
}

fn on_disk(store: &DiskStore, number: u8) -> Vec<u8> {
    std::fs::read(data_file(store, number)).unwrap()
}

/// Waits until the disk has all that was written.
fn caught_up(store: &DiskStore, stored: &Arc<dyn StoredTask>) {
    let record = lock(&store.shared.tasks).get(&stored.task()).unwrap().clone();
    let files = record.files(&store.shared).unwrap();
    while files.ahead.is_behind() {
        std::thread::yield_now();
    }
}

#[test]
fn what_the_disk_has_not_taken_is_read_from_memory() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open_slow(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(3 * PIECE, true)).unwrap();
    let layout = stored.facts().layout;
    put(&stored, 0);
    caught_up(&store, &stored);
    store.shared.behind.hold(true);
    put(&stored, 1);
    assert_eq!(store.usage().unwritten_bytes, PIECE);
    assert!(on_disk(&store, 1)[PIECE_BYTES..].iter().all(|byte| *byte == 0));
    let other = store.find(task(1)).unwrap();
    for piece in [0, 1] {
        assert_eq!(read_piece(&other, piece).unwrap(), bytes_of(layout, piece));
        let back = other.read_back(layout.piece_range(piece)).unwrap();
        assert_eq!(back, bytes_of(layout, piece));
    }
    let across = other.read(ByteRange::new(PIECE - 5, 2 * PIECE)).unwrap();
    assert_eq!(
        across,
        bytes_of(layout, 0)[PIECE_BYTES - 5..],
        "up to where the file ends"
    );
    store.shared.behind.hold(false);
    caught_up(&store, &stored);
    assert_eq!(store.usage().unwritten_bytes, 0);
    assert_eq!(
        on_disk(&store, 1)[PIECE_BYTES..2 * PIECE_BYTES],
        bytes_of(layout, 1)
    );
    let slice = other.read(layout.piece_range(1)).unwrap();
    assert!(store.mappings().find(&slice).is_some(), "from the file again");
}

#[test]
fn what_was_never_written_was_never_recorded() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open_slow(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 0);
    caught_up(&store, &stored);
    store.shared.behind.hold(true);
    put(&stored, 1);
    stored.record_proved();
    drop(store);
    assert!(stored.write(0, b"x").is_ok(), "a present piece is left alone");
    stored.forget(1);
    assert!(stored.write(PIECE, b"x").is_err(), "nobody would write it");
    drop(stored);
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!(recovery.claimed_pieces, 1);
    assert!(!store.list()[0].proved);
}

#[test]
fn who_has_more_than_may_wait_is_told_so_and_waits() {
    more_than_may_wait(|_| {});
    // What waits is still to be written, and what comes is written after it.
    more_than_may_wait(|store| store.shared.stalls.be_quick());
}

fn more_than_may_wait(then: impl Fn(&DiskStore)) {
    let dir = TempDir::new().unwrap();
    let (store, _) = open_slow(dir.path(), u64::MAX);
    store.set_write_behind(WriteBehind {
        bytes_max: 2 * PIECE,
        slow_bytes_per_second: Some(u64::MAX),
    });
    let stored = store.open(task(1), &facts(4 * PIECE, true)).unwrap();
    store.shared.behind.hold(true);
    put(&stored, 0);
    put(&stored, 1);
    assert_eq!(store.pace(1), Pace::Waits, "it was not watched for long enough");
    then(&store);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| put(&stored, 2));
        // Long enough for it to do what it must not.
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        assert_eq!(store.usage().unwritten_bytes, 2 * PIECE);
        assert!(!stored.present().contains(2));
        // Nobody waits behind the one that waits for the disk.
        stored.forget(1);
        stored.mark_present(1).unwrap();
        store.shared.behind.hold(false);
        writer.join().unwrap();
    });
    caught_up(&store, &stored);
    assert_eq!(store.pace(1), Pace::Ready);
    assert_eq!(
        on_disk(&store, 1)[2 * PIECE_BYTES..3 * PIECE_BYTES],
        bytes_of(stored.facts().layout, 2)
    );
}

#[test]
fn a_write_that_fails_late_costs_the_content_and_gives_no_byte() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open_slow(dir.path(), u64::MAX);
    let _made = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    let full = with_data(&store, 1, File::options().write(true).open("/dev/full").unwrap());
    store.shared.behind.hold(true);
    put(&full, 0);
    assert_eq!(read_piece(&full, 0).unwrap(), bytes_of(full.facts().layout, 0));
    store.shared.behind.hold(false);
    while store.usage().tasks > 0 {
        std::thread::yield_now();
    }
    assert!(matches!(read_piece(&full, 0), Err(StoreError::Io { .. })));
    assert!(matches!(full.write(PIECE, b"x"), Err(StoreError::Gone(_))));
    while store.usage().unwritten_bytes > 0 || !full.present().is_empty() {
        std::thread::yield_now();
    }
    drop(store);
}

#[test]
fn what_was_removed_can_be_read_on_while_the_disk_is_slow() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open_slow(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(PIECE, true)).unwrap();
    store.shared.behind.hold(true);
    put(&stored, 0);
    store.remove(task(1)).unwrap();
    assert_eq!(
        read_piece(&stored, 0).unwrap(),
        bytes_of(stored.facts().layout, 0)
    );
    store.shared.behind.hold(false);
    while store.usage().unwritten_bytes > 0 {
        std::thread::yield_now();
    }
    assert_eq!(
        read_piece(&stored, 0).unwrap(),
        bytes_of(stored.facts().layout, 0)
    );
}
