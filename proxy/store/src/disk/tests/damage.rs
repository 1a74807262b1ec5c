//! Files that were truncated, zeroed, flipped or replaced while nobody looked.

use super::*;
use darter_types::ChainState;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

const LENGTHS: [u64; 4] = [0, 1000, PIECE + 17, 2 * PIECE];

#[derive(Clone, Debug)]
enum Damage {
    Truncate(usize),
    Extend(usize),
    Zero(usize, usize),
    Flip(usize, u8),
    Fill(usize, Vec<u8>),
    Copy(usize, usize, usize),
    Delete,
    Directory,
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || prop_oneof![0usize..900, 0usize..1 << 20];
    prop_oneof![
        at().prop_map(Damage::Truncate),
        (1usize..5000).prop_map(Damage::Extend),
        (at(), 1usize..2000).prop_map(|(at, length)| Damage::Zero(at, length)),
        (at(), 1u8..).prop_map(|(at, flip)| Damage::Flip(at, flip)),
        (at(), prop::collection::vec(any::<u8>(), 1..200)).prop_map(|(at, bytes)| Damage::Fill(at, bytes)),
        (at(), at(), 1usize..100).prop_map(|(from, to, length)| Damage::Copy(from, to, length)),
        Just(Damage::Delete),
        Just(Damage::Directory),
    ]
}

/// Applies damage, each position taken within the file.
fn inflict(path: &Path, whole: &[u8], damage: &Damage) {
    let mut bytes = whole.to_vec();
    let within = |at: usize| at % whole.len().max(1);
    let mut overwrite = |at: usize, with: &[u8]| {
        bytes
            .iter_mut()
            .skip(within(at))
            .zip(with)
            .for_each(|(slot, byte)| *slot = *byte);
    };
    match damage {
        Damage::Truncate(at) => bytes.truncate(within(*at)),
        Damage::Extend(by) => bytes.extend(vec![0xAA; *by]),
        Damage::Zero(at, length) => overwrite(*at, &vec![0; *length]),
        Damage::Flip(at, flip) => overwrite(*at, &[whole.get(within(*at)).unwrap_or(&0) ^ flip]),
        Damage::Fill(at, with) => overwrite(*at, with),
        Damage::Copy(from, to, length) => {
            let from = within(*from);
            overwrite(*to, &whole[from..whole.len().min(from + length)]);
        }
        Damage::Delete | Damage::Directory => {}
    }
    std::fs::remove_file(path).unwrap();
    match damage {
        Damage::Delete => {}
        Damage::Directory => std::fs::create_dir(path).unwrap(),
        _ => std::fs::write(path, bytes).unwrap(),
    }
}

fn state(border: u32) -> ChainState {
    ChainState::Sha256([border ^ 0x5555; 8])
}

/// A store with a task of each length: all pieces but the first of each are there.
fn prepare(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (store, _) = open(dir, u64::MAX);
    let mut files = BTreeMap::new();
    for (length, number) in LENGTHS.into_iter().zip(0..) {
        let stored = store.open(task(number), &facts(length, number % 2 == 0)).unwrap();
        let layout = stored.facts().layout;
        (u32::from(layout.piece_count() > 1)..layout.piece_count()).for_each(|piece| put(&stored, piece));
        stored.record_states(1, &[state(1), state(2), state(3)]).unwrap();
        stored.record_proved();
        for name in ["data", "index"] {
            files.insert(data_file(&store, number).with_file_name(name), Vec::new());
        }
    }
    drop(store);
    for (path, bytes) in &mut files {
        *bytes = std::fs::read(path).unwrap();
    }
    files
}

/// Whatever happened: what is claimed was put, exists and can be read, and the store works.
fn check(dir: &Path, damaged: &Path) {
    let (store, recovery) = open(dir, u64::MAX);
    let listed = store.list();
    assert_eq!(recovery.tasks, listed.len() as u64);
    assert!(recovery.tasks + recovery.dropped >= LENGTHS.len() as u64);
    assert!(
        recovery.tasks >= LENGTHS.len() as u64 - 1,
        "one damaged file costs one task"
    );
    for summary in listed {
        let number = (0..).find(|number| task(*number) == summary.task).unwrap();
        assert_eq!(
            summary.facts,
            facts(LENGTHS[usize::from(number)], number % 2 == 0)
        );
        let stored = store.find(summary.task).unwrap();
        let layout = summary.facts.layout;
        for piece in summary.held.iter() {
            assert!(piece < layout.piece_count() && (piece > 0 || layout.piece_count() == 1));
            let bytes = read_piece(&stored, piece).unwrap();
            assert!(damaged == data_file(&store, number) || bytes == bytes_of(layout, piece));
            stored.mark_present(piece).unwrap();
        }
        assert!(
            stored
                .states()
                .into_iter()
                .zip(1..)
                .all(|(found, border)| found == state(border))
        );
        (0..layout.piece_count()).for_each(|piece| put(&stored, piece));
    }
}

/// Makes every task anew as it was: `check` filled them up.
fn restore(files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        let directory = path.parent().unwrap();
        // Some file systems flush a file that is overwritten from its start, so it is another one.
        let _ = std::fs::remove_dir_all(path);
        let _ = std::fs::remove_file(path);
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn whatever_happens_to_one_file_the_store_opens_and_claims_nothing_wrong() {
    let dir = TempDir::new().unwrap();
    let files = prepare(dir.path());
    let all: Vec<&PathBuf> = files.keys().collect();
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(darter_testkit::cases(1024, 10_000))
    });
    // Indexes are what is parsed: three of four go to them.
    let target = (0..all.len() / 2, prop_oneof![3 => Just(1), 1 => Just(0)])
        .prop_map(|(pair, which)| 2 * pair + which);
    let run = runner.run(&(target, damage()), |(target, damage)| {
        inflict(all[target], &files[all[target]], &damage);
        check(dir.path(), all[target]);
        restore(&files);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn strange_things_among_the_tasks_are_dropped_and_named() {
    let dir = TempDir::new().unwrap();
    prepare(dir.path());
    let tasks = dir.path().join("tasks");
    let real = std::fs::read_dir(&tasks).unwrap().next().unwrap().unwrap().path();
    std::fs::write(tasks.join("stray"), "x").unwrap();
    std::fs::create_dir(real.join("not a task")).unwrap();
    std::fs::write(real.join("not a task/file"), "x").unwrap();
    let outside = TempDir::new().unwrap();
    std::fs::write(outside.path().join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path(), real.join("link")).unwrap();
    // A task that lies where another belongs.
    let moved = std::fs::read_dir(&real)
        .unwrap()
        .find(|entry| entry.as_ref().unwrap().path().join("index").exists());
    let moved = moved.unwrap().unwrap().path();
    std::fs::create_dir(tasks.join("zz")).unwrap();
    std::fs::rename(&moved, tasks.join("zz").join(moved.file_name().unwrap())).unwrap();
    std::fs::create_dir_all(dir.path().join("trash/7/x")).unwrap();
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!((recovery.dropped, recovery.named.len()), (4, 4));
    assert_eq!(recovery.tasks, LENGTHS.len() as u64 - 1);
    assert!(outside.path().join("precious").exists(), "links are not followed");
    assert_eq!(std::fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    drop(store);
    assert_eq!(open(dir.path(), u64::MAX).1.dropped, 0);
}

#[test]
fn a_data_file_that_is_a_link_is_not_followed() {
    let dir = TempDir::new().unwrap();
    let files = prepare(dir.path());
    for path in files.keys() {
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, path).unwrap();
    }
    let (_, recovery) = open(dir.path(), u64::MAX);
    assert_eq!((recovery.tasks, recovery.dropped), (0, LENGTHS.len() as u64));
}

#[test]
fn an_index_in_the_place_of_another_is_refused() {
    let dir = TempDir::new().unwrap();
    let index = |store: &DiskStore, number| data_file(store, number).with_file_name("index");
    let (from, to) = {
        let (store, _) = open(dir.path(), u64::MAX);
        for number in [0, 1] {
            put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
        }
        (index(&store, 0), index(&store, 1))
    };
    std::fs::copy(from, to).unwrap();
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!((recovery.tasks, recovery.dropped), (1, 1));
    assert!(store.find(task(0)).is_some() && store.find(task(1)).is_none());
}
