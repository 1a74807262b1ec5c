//! One suite for every store: what [`PieceStore`] promises, asked of both.
//!
//! A [`Subject`] is a store that can be restarted as if its process had been killed.

mod model;

use std::sync::Arc;

use darter_types::{
    Algorithm, ByteRange, ChainState, ContentKind, Digest, OriginLocator, PieceLayout, TaskId,
};

use crate::{ContentFacts, PieceStore, StoreError, StoredTask};

/// Length of a piece of the short contents used here, as an offset and as the length of a slice.
pub(crate) const PIECE: u64 = PieceLayout::PIECE_MIN as u64;
pub(crate) const PIECE_BYTES: usize = PieceLayout::PIECE_MIN as usize;

/// A store under test.
pub(crate) trait Subject {
    /// An empty store.
    fn make(quota_bytes: u64) -> Self;

    fn store(&self) -> &dyn PieceStore;

    /// Kills the process that has the store, without warning, and starts another one. Handles are dropped
    /// before.
    fn restart(&mut self);
}

/// Runs the suite.
pub(crate) fn run<S: Subject>() {
    a_piece_counts_once_it_is_marked::<S>();
    a_marked_piece_is_claimed_after_a_restart::<S>();
    facts_stay_as_they_were_first_given::<S>();
    bytes_of_present_pieces_never_change::<S>();
    ranges_beyond_the_content_are_absent::<S>();
    an_empty_content_has_one_piece_to_mark::<S>();
    states_are_kept_up_to_the_first_gap::<S>();
    an_attested_piece_is_kept_apart_and_claimed_after_a_restart::<S>();
    proved_needs_all_pieces_and_ends_with_the_first_lost::<S>();
    the_quota_binds_whole_and_lazy_tasks::<S>();
    eviction_takes_the_least_recently_used_and_spares_open_tasks::<S>();
    a_removed_task_can_be_read_on_but_not_written::<S>();
    many_threads_may_write_at_once::<S>();
    model::behaves_as_the_model::<S>();
}

pub(crate) fn task(number: u8) -> TaskId {
    Digest::of(Algorithm::Sha256, &[number]).into()
}

pub(crate) fn facts(length: u64, whole: bool) -> ContentFacts {
    ContentFacts {
        layout: PieceLayout::of(length).unwrap(),
        origin: None,
        media_type: None,
        whole,
        public: true,
    }
}

/// Bytes that differ from piece to piece, and within one at all distances but multiples of a prime.
pub(crate) fn bytes_of(layout: PieceLayout, piece: u32) -> Vec<u8> {
    let length = layout.piece_range(piece).indices().len();
    let pattern: Vec<u8> = (0..1021)
        .map(|at: u32| (at / 5 + piece * 31).to_le_bytes()[0])
        .collect();
    let mut bytes = pattern.repeat(length.div_ceil(pattern.len()));
    bytes.truncate(length);
    bytes
}

pub(crate) fn put(task: &Arc<dyn StoredTask>, piece: u32) {
    let layout = task.facts().layout;
    task.write(layout.piece_range(piece).start, &bytes_of(layout, piece))
        .unwrap();
    task.mark_present(piece).unwrap();
}

pub(crate) fn read_all(task: &Arc<dyn StoredTask>, mut range: ByteRange) -> Result<Vec<u8>, StoreError> {
    let mut all = Vec::new();
    while !range.is_empty() {
        let part = task.read(range)?;
        assert!(!part.is_empty() && part.len() as u64 <= range.len());
        range.start += part.len() as u64;
        all.extend_from_slice(&part);
    }
    Ok(all)
}

pub(crate) fn read_piece(task: &Arc<dyn StoredTask>, piece: u32) -> Result<Vec<u8>, StoreError> {
    read_all(task, task.facts().layout.piece_range(piece))
}

fn state(number: u32) -> ChainState {
    ChainState::Sha256([number; 8])
}

fn a_piece_counts_once_it_is_marked<S: Subject>() {
    let subject = S::make(u64::MAX);
    let stored = subject
        .store()
        .open(task(1), &facts(3 * PIECE - 5, true))
        .unwrap();
    let layout = stored.facts().layout;
    let last = bytes_of(layout, 2);
    assert_eq!(last.len() as u64, PIECE - 5);
    stored.write(2 * PIECE, &last[..1000]).unwrap();
    stored.write(2 * PIECE + 1000, &last[1000..]).unwrap();
    assert!(stored.present().is_empty());
    assert_eq!(
        read_piece(&stored, 2).unwrap(),
        last,
        "written bytes can be read before"
    );
    stored.mark_present(2).unwrap();
    stored.mark_present(2).unwrap();
    put(&stored, 1);
    assert_eq!(stored.present().iter().collect::<Vec<_>>(), [1, 2]);
    assert!(stored.claimed().is_empty());
    let across = read_all(&stored, ByteRange::new(PIECE + 3, 3 * PIECE - 5)).unwrap();
    assert_eq!(across, [&bytes_of(layout, 1)[3..], &last].concat());
    assert!(matches!(stored.mark_present(3), Err(StoreError::Absent { .. })));
    stored.forget(2);
    stored.forget(77);
    assert_eq!(stored.present().iter().collect::<Vec<_>>(), [1]);
    let other = subject.store().find(task(1)).unwrap();
    assert_eq!(other.present(), stored.present(), "handles share one task");
    assert!(subject.store().find(task(2)).is_none());
}

fn a_marked_piece_is_claimed_after_a_restart<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(4 * PIECE, false)).unwrap();
    put(&stored, 0);
    put(&stored, 2);
    put(&stored, 3);
    stored.forget(3);
    stored.write(PIECE, &[1; 10]).unwrap();
    drop(stored);
    subject.restart();
    assert_eq!(subject.store().usage().stored_bytes, 2 * PIECE);
    let stored = subject.store().find(task(1)).unwrap();
    assert!(stored.present().is_empty());
    assert_eq!(stored.claimed().iter().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(
        read_piece(&stored, 2).unwrap(),
        bytes_of(stored.facts().layout, 2)
    );
    stored.mark_present(2).unwrap();
    stored.write(5, &[9]).unwrap();
    assert!(
        stored.claimed().is_empty(),
        "what is written over is claimed no more"
    );
    assert_eq!(stored.present().iter().collect::<Vec<_>>(), [2]);
    drop(stored);
    subject.restart();
    let held = subject.store().list().remove(0).held;
    assert_eq!(held.iter().collect::<Vec<_>>(), [2]);
}

fn facts_stay_as_they_were_first_given<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let digest = Digest::of(Algorithm::Sha512, b"x");
    let given = ContentFacts {
        origin: Some(OriginLocator {
            registry: "registry.test:5000".parse().unwrap(),
            repository: "library/busybox".parse().unwrap(),
            kind: ContentKind::Manifest,
            digest,
        }),
        media_type: Some("application/vnd.oci.image.manifest.v1+json; \"quoted\" \u{1F980}".to_owned()),
        public: false,
        ..facts(1000, true)
    };
    let url = TaskId::of_url("http://test/", "", "", "");
    for name in [digest.into(), url] {
        subject.store().open(name, &given).unwrap();
        let again = subject.store().open(name, &facts(1000, false)).unwrap();
        assert_eq!(again.facts(), given);
        assert!(matches!(
            subject.store().open(name, &facts(1001, true)),
            Err(StoreError::LengthConflict {
                known: 1000,
                offered: 1001,
                ..
            })
        ));
    }
    subject.restart();
    let listed = subject.store().list();
    assert!(listed.is_sorted_by_key(|summary| summary.task));
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|summary| summary.facts == given));
    assert_eq!(subject.store().find(url).unwrap().facts(), given);
}

fn bytes_of_present_pieces_never_change<S: Subject>() {
    let subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(4 * PIECE, true)).unwrap();
    let layout = stored.facts().layout;
    put(&stored, 1);
    put(&stored, 2);
    let held = stored.read(layout.piece_range(1)).unwrap();
    stored.write(0, &vec![7; 4 * PIECE_BYTES]).unwrap();
    assert_eq!(held, bytes_of(layout, 1));
    for piece in [1, 2] {
        assert_eq!(read_piece(&stored, piece).unwrap(), bytes_of(layout, piece));
    }
    for piece in [0, 3] {
        assert_eq!(read_piece(&stored, piece).unwrap(), vec![7; PIECE_BYTES]);
    }
}

fn ranges_beyond_the_content_are_absent<S: Subject>() {
    let subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(100, false)).unwrap();
    for (offset, length) in [(100, 1), (0, 101), (u64::MAX, 5)] {
        let refused = stored.write(offset, &vec![1; length]);
        assert!(
            matches!(refused, Err(StoreError::Absent { .. })),
            "{offset} {length}"
        );
    }
    stored.write(100, &[]).unwrap();
    stored.write(0, &[1; 100]).unwrap();
    let refused = stored.read(ByteRange::new(0, 101));
    assert!(matches!(refused, Err(StoreError::Absent { .. })));
    assert!(stored.read(ByteRange::new(50, 50)).unwrap().is_empty());
    assert_eq!(stored.read(ByteRange::new(99, 100)).unwrap(), [1].as_slice());
}

fn an_empty_content_has_one_piece_to_mark<S: Subject>() {
    let mut subject = S::make(0);
    let stored = subject.store().open(task(1), &facts(0, true)).unwrap();
    stored.mark_present(0).unwrap();
    stored.record_proved();
    assert!(stored.read(ByteRange::new(0, 0)).unwrap().is_empty());
    drop(stored);
    subject.restart();
    let stored = subject.store().find(task(1)).unwrap();
    assert!(stored.claimed().is_full());
    assert!(subject.store().list()[0].proved);
}

fn states_are_kept_up_to_the_first_gap<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(6 * PIECE, false)).unwrap();
    stored.record_states(4, &[state(4), state(5), state(6)]).unwrap();
    assert_eq!(stored.states(), []);
    stored.record_states(0, &[state(0), state(99), state(2)]).unwrap();
    assert_eq!(stored.states(), [state(99), state(2)]);
    stored.record_states(1, &[state(1)]).unwrap();
    stored.record_states(u32::MAX, &[state(1)]).unwrap();
    drop(stored);
    subject.restart();
    let stored = subject.store().find(task(1)).unwrap();
    assert_eq!(stored.states(), [state(1), state(2)]);
    let wide = ChainState::Sha512([u64::MAX; 8]);
    stored.record_states(3, &[wide]).unwrap();
    assert_eq!(stored.states(), [state(1), state(2), wide, state(4), state(5)]);
    drop(stored);
    let stored = subject.store().find(task(1)).unwrap();
    assert_eq!(stored.states(), [state(1), state(2), wide, state(4), state(5)]);
}

fn an_attested_piece_is_kept_apart_and_claimed_after_a_restart<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(5 * PIECE, false)).unwrap();
    let layout = stored.facts().layout;
    let sum = |piece| Digest::of(Algorithm::Sha256, &bytes_of(layout, piece));
    for piece in [1, 3, 4] {
        for (offset, part) in [(0, 0..100), (100, 100..PIECE_BYTES)] {
            let bytes = bytes_of(layout, piece);
            stored
                .write(u64::from(piece) * PIECE + offset, &bytes[part])
                .unwrap();
        }
        stored.record_attestation(piece, sum(piece)).unwrap();
    }
    assert!(stored.record_attestation(5, sum(1)).is_err());
    assert!(stored.present().is_empty() && stored.claimed().is_empty());
    stored.forget(3);
    let kept = |stored: &Arc<dyn StoredTask>| stored.attestations().into_iter().collect::<Vec<_>>();
    assert_eq!(kept(&stored), [(1, sum(1)), (4, sum(4))]);
    drop(stored);
    let stored = subject.store().find(task(1)).unwrap();
    assert_eq!(kept(&stored), [(1, sum(1)), (4, sum(4))], "in the same life");
    drop(stored);
    subject.restart();
    let stored = subject.store().find(task(1)).unwrap();
    assert_eq!(kept(&stored), [(1, sum(1)), (4, sum(4))]);
    assert_eq!(stored.claimed().iter().collect::<Vec<_>>(), [1, 4]);
    assert_eq!(read_piece(&stored, 1).unwrap(), bytes_of(layout, 1));
    // What still fits is apart again; what the chain reached is present, and claimed as such after the next restart.
    stored.record_attestation(1, sum(1)).unwrap();
    stored.mark_present(4).unwrap();
    assert_eq!(kept(&stored), [(1, sum(1))]);
    assert!(stored.claimed().is_empty());
    drop(stored);
    subject.restart();
    let stored = subject.store().find(task(1)).unwrap();
    assert_eq!(stored.claimed().iter().collect::<Vec<_>>(), [1, 4]);
    assert_eq!(kept(&stored), [(1, sum(1))]);
}

fn proved_needs_all_pieces_and_ends_with_the_first_lost<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let proved = |subject: &S| subject.store().list()[0].proved;
    let stored = subject.store().open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 0);
    stored.record_proved();
    assert!(!proved(&subject));
    put(&stored, 1);
    stored.record_proved();
    assert!(proved(&subject));
    drop(stored);
    subject.restart();
    assert!(proved(&subject));
    let stored = subject.store().find(task(1)).unwrap();
    assert!(stored.claimed().is_full());
    stored.mark_present(0).unwrap();
    stored.mark_present(1).unwrap();
    stored.record_proved();
    stored.forget(1);
    assert!(!proved(&subject));
    drop(stored);
    subject.restart();
    assert!(!proved(&subject));
    assert_eq!(subject.store().list()[0].held.iter().collect::<Vec<_>>(), [0]);
    let stored = subject.store().find(task(1)).unwrap();
    put(&stored, 1);
    drop(stored);
    subject.restart();
    assert!(
        subject.store().list()[0].held.is_full() && !proved(&subject),
        "nobody proved it again"
    );
}

fn the_quota_binds_whole_and_lazy_tasks<S: Subject>() {
    let subject = S::make(3 * PIECE);
    let store = subject.store();
    let whole = store.open(task(1), &facts(PIECE + 10, true)).unwrap();
    assert_eq!(store.usage().stored_bytes, PIECE + 10);
    assert!(matches!(
        store.open(task(2), &facts(2 * PIECE, true)),
        Err(StoreError::NoSpace { wanted_bytes }) if wanted_bytes == 2 * PIECE
    ));
    assert!(store.find(task(2)).is_none());
    assert_eq!(store.usage().tasks, 1);
    let lazy = store.open(task(2), &facts(100 * PIECE, false)).unwrap();
    assert_eq!(store.usage().stored_bytes, PIECE + 10);
    put(&lazy, 70);
    lazy.write(70 * PIECE, &[1]).unwrap();
    assert_eq!(store.usage().stored_bytes, 2 * PIECE + 10);
    let refused = store.usage().refusals;
    assert!(!store.has_room(None, PIECE), "10 bytes are taken of the last one");
    assert!(store.has_room(None, PIECE - 10) && store.has_room(None, 0));
    assert_eq!(store.usage().refusals, refused, "a question is no refusal");
    assert!(matches!(lazy.write(0, &[1]), Err(StoreError::NoSpace { .. })));
    assert_eq!(store.make_room(PIECE), [], "both are open");
    drop(whole);
    assert_eq!(store.make_room(PIECE), [task(1)]);
    put(&lazy, 0);
    assert_eq!(store.usage().stored_bytes, 2 * PIECE);
    drop(lazy);
    store.remove(task(2)).unwrap();
    assert_eq!(store.usage().stored_bytes, 0);
    assert!(matches!(store.remove(task(2)), Err(StoreError::Gone(_))));
    store.open(task(1), &facts(3 * PIECE, true)).unwrap();
}

fn eviction_takes_the_least_recently_used_and_spares_open_tasks<S: Subject>() {
    let subject = S::make(4 * PIECE);
    let store = subject.store();
    for number in 0..4 {
        put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
    }
    drop(store.find(task(0)));
    let open = store.find(task(1)).unwrap();
    assert_eq!(store.make_room(0), []);
    assert_eq!(store.make_room(5 * PIECE), [], "it would be dropped for nothing");
    assert_eq!(store.make_room(PIECE), [task(2)]);
    assert_eq!(store.make_room(3 * PIECE), [task(3), task(0)]);
    assert_eq!(read_piece(&open, 0).unwrap(), bytes_of(open.facts().layout, 0));
    assert!(store.find(task(0)).is_none());
}

fn a_removed_task_can_be_read_on_but_not_written<S: Subject>() {
    let mut subject = S::make(u64::MAX);
    let stored = subject.store().open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 0);
    let slice = stored.read(ByteRange::new(10, 20)).unwrap();
    subject.store().remove(task(1)).unwrap();
    assert_eq!(
        read_piece(&stored, 0).unwrap(),
        bytes_of(stored.facts().layout, 0)
    );
    assert!(matches!(stored.write(PIECE, &[1]), Err(StoreError::Gone(_))));
    assert!(matches!(stored.mark_present(0), Err(StoreError::Gone(_))));
    assert!(matches!(
        stored.record_states(1, &[state(1)]),
        Err(StoreError::Gone(_))
    ));
    assert!(matches!(stored.forget_states(1), Err(StoreError::Gone(_))));
    stored.record_proved();
    let fresh = subject.store().open(task(1), &facts(3 * PIECE, true)).unwrap();
    assert!(fresh.present().is_empty(), "another task under the same name");
    put(&fresh, 2);
    stored.forget(2);
    drop(stored);
    assert_eq!(subject.store().make_room(u64::MAX), []);
    assert_eq!(slice, bytes_of(facts(2 * PIECE, true).layout, 0)[10..20]);
    drop(fresh);
    subject.restart();
    let summary = subject.store().list().remove(0);
    assert_eq!(summary.held.iter().collect::<Vec<_>>(), [2]);
    assert_eq!(summary.stored_bytes, 3 * PIECE);
}

fn many_threads_may_write_at_once<S: Subject>() {
    let subject = S::make(u64::MAX);
    let store = subject.store();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for piece in 0..8 {
                    let stored = store
                        .open(task(piece % 2), &facts(32 * PIECE, thread % 2 == 0))
                        .unwrap();
                    put(&stored, thread * 8 + u32::from(piece));
                }
            });
        }
    });
    for number in [0, 1] {
        let stored = store.find(task(number)).unwrap();
        assert_eq!(stored.present().len(), 16);
        for piece in stored.present().iter() {
            assert_eq!(
                read_piece(&stored, piece).unwrap(),
                bytes_of(stored.facts().layout, piece)
            );
        }
    }
}
