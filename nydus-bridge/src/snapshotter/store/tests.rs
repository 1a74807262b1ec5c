//! What was written is there again.

use std::time::SystemTime;

use super::super::catalog::{Begun, Kind, Labels, Wanted};
use super::*;

fn made(catalog: &Catalog, key: &str) -> Change {
    let wanted = Wanted {
        key: key.to_owned(),
        parent: None,
        kind: Kind::Active,
        labels: Labels::new(),
    };
    match catalog.begin(&wanted, SystemTime::UNIX_EPOCH).unwrap() {
        Begun::Made(change) => change,
        other => panic!("{other:?}"),
    }
}

#[test]
fn snapshots_and_numbers_survive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    let (store, mut catalog) = Store::open(&path).unwrap();
    assert_eq!(catalog.next(), 1);
    let change = made(&catalog, "a");
    store.write(&change, 2).unwrap();
    catalog.apply(change);
    let kept = catalog.get("a").unwrap().clone();
    let change = catalog.remove("a").unwrap();
    let second = made(&catalog, "b");
    store.write(&second, 3).unwrap();
    store.write(&change, 3).unwrap();
    assert!(Store::open(&path).is_err(), "one process at a time");
    drop(store);
    let (_, again) = Store::open(&path).unwrap();
    assert!(again.get("a").is_err());
    assert_eq!(again.get("b").unwrap().id, kept.id + 1);
    assert_eq!(again.next(), 3);
}

#[test]
fn another_version_and_another_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    let (store, _) = Store::open(&path).unwrap();
    let writing = store.database.begin_write().unwrap();
    writing.open_table(NUMBERS).unwrap().insert(VERSION, 2).unwrap();
    writing.commit().unwrap();
    drop(store);
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
    std::fs::write(&path, "no list").unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("list"), "{error}");
}

#[test]
fn a_list_that_cannot_be_true_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    let (store, catalog) = Store::open(&path).unwrap();
    let mut change = made(&catalog, "a");
    change.puts[0].1.parent = Some("missing".into());
    store.write(&change, 2).unwrap();
    drop(store);
    assert!(
        Store::open(&path)
            .unwrap_err()
            .to_string()
            .contains("not committed")
    );
}
