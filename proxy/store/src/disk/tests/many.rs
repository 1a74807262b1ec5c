//! Many pieces: a start reads them all in a moment, and what goes leaves nothing behind.

use super::*;

/// Pieces of the store, spread over contents large and small.
const PIECES: u32 = 100_000;
const LARGE: u32 = 500;
const SMALL: u32 = 1000;
/// A start over all of them, on a machine that has much else to do. It takes a tenth of that.
const OPENED_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

fn numbered(number: u32) -> TaskId {
    darter_types::Digest::of(darter_types::Algorithm::Sha256, &number.to_le_bytes()).into()
}

/// A sparse content whose pieces are all marked, without a byte of theirs.
fn mark(store: &DiskStore, number: u32, pieces: u32) {
    let stored = store
        .open(numbered(number), &facts(u64::from(pieces) * PIECE, false))
        .unwrap();
    (0..pieces).for_each(|piece| stored.mark_present(piece).unwrap());
}

/// Every file below the directory belongs to a content that the store lists.
pub(super) fn no_orphans(store: &DiskStore, dir: &Path) {
    let listed: std::collections::BTreeSet<PathBuf> = store
        .list()
        .iter()
        .map(|line| store.shared.root.task_dir(line.task))
        .collect();
    let entries = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(entries(&dir.join("trash")), Vec::<PathBuf>::new());
    let mut found = std::collections::BTreeSet::new();
    for prefix in entries(&dir.join("tasks")) {
        for task in entries(&prefix) {
            let mut names: Vec<_> = entries(&task)
                .iter()
                .map(|file| file.file_name().unwrap().to_owned())
                .collect();
            names.sort();
            assert_eq!(names, ["data", "index"], "{}", task.display());
            found.insert(task);
        }
    }
    assert_eq!(found, listed);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a start takes is what is asked"
)]
fn a_hundred_thousand_pieces_are_read_in_a_moment() {
    let dir = TempDir::new().unwrap();
    let (large, small) = (PIECES / 2 / LARGE, PIECES / 2 / SMALL);
    {
        let (store, _) = open(dir.path(), u64::MAX);
        for number in 0..LARGE {
            mark(&store, number, large);
        }
        for number in 0..SMALL {
            mark(&store, LARGE + number, small);
        }
    }
    let begun = std::time::Instant::now();
    let (store, recovery) = open(dir.path(), u64::MAX);
    let took = begun.elapsed();
    assert_eq!(recovery.claimed_pieces, u64::from(PIECES));
    assert_eq!((recovery.tasks, recovery.dropped), (u64::from(LARGE + SMALL), 0));
    assert!(took <= OPENED_WITHIN, "{took:?}");
    no_orphans(&store, dir.path());

    // Half of them go.
    store.set_limits(u64::from(PIECES) / 2 * PIECE, 0);
    let dropped = store.make_room(0).len();
    assert!(dropped > 0);
    no_orphans(&store, dir.path());
    drop(store);
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!(recovery.tasks, u64::from(LARGE + SMALL) - dropped as u64);
    assert_eq!(recovery.dropped, 0);
    no_orphans(&store, dir.path());
}
