//! Directories as they are made, counted, looked at and removed.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn folders() -> (tempfile::TempDir, Folders) {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::new(&dir.path().join("root")).unwrap();
    (dir, folders)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_is_whole_and_gone_as_a_whole() {
    let (_dir, folders) = folders();
    folders.make(1, Kind::Active, None).unwrap();
    assert_eq!(
        (mode_of(&folders.files(1)), mode_of(&folders.work(1))),
        (0o755, 0o711)
    );
    folders.make(2, Kind::View, None).unwrap();
    assert!(!folders.work(2).exists());
    // One that a process left behind when it was killed before it had remembered it.
    fs::write(folders.files(2).join("old"), "").unwrap();
    folders.make(2, Kind::View, None).unwrap();
    assert!(!folders.files(2).join("old").exists());
    fs::create_dir(folders.image(7)).unwrap();
    assert_eq!(folders.numbers().unwrap(), [1, 2, 7].into());
    for id in [1, 2, 7, 8] {
        folders.remove(id).unwrap();
    }
    assert!(folders.numbers().unwrap().is_empty());
}

#[test]
fn a_directory_has_the_owner_that_it_is_given() {
    let (_dir, folders) = folders();
    folders.make(1, Kind::Active, None).unwrap();
    lchown(folders.files(1), Some(1234), Some(4321)).unwrap();
    let owner = Owner::of(&folders.files(1)).unwrap();
    folders.make(2, Kind::Active, Some(owner)).unwrap();
    let made = fs::metadata(folders.files(2)).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 4321));
}

#[test]
fn files_with_two_names_count_once() {
    let (_dir, folders) = folders();
    folders.make(1, Kind::Active, None).unwrap();
    let empty = folders.usage(1).unwrap();
    assert_eq!(empty.inodes, 1);
    let files = folders.files(1);
    fs::create_dir(files.join("a")).unwrap();
    fs::write(files.join("a/x"), vec![1; 100_000]).unwrap();
    fs::hard_link(files.join("a/x"), files.join("y")).unwrap();
    symlink("/nonexistent", files.join("z")).unwrap();
    let usage = folders.usage(1).unwrap();
    assert_eq!(usage.inodes, 4);
    assert!(
        (100_000..200_000).contains(&(usage.bytes - empty.bytes)),
        "{usage:?}"
    );
    assert!(folders.usage(9).is_err());
}

fn bootstrap(at: usize, magic: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[at..at + 4].copy_from_slice(&magic);
    bytes
}

#[test]
fn metadata_are_known_by_place_and_form() {
    let (_dir, folders) = folders();
    for (id, name, bytes, (found, alone)) in [
        (1, "image/image.boot", bootstrap(0, RAFS5.1), (true, true)),
        (2, "image/image.boot", bootstrap(1024, EROFS.1), (true, true)),
        (3, "image.boot", bootstrap(1024, EROFS.1), (true, true)),
        (4, "image/image.boot", bootstrap(8, EROFS.1), (false, false)),
        (5, "image/image.boot", vec![0; 10], (false, false)),
        (6, "other/image.boot", bootstrap(0, RAFS5.1), (false, false)),
    ] {
        folders.make(id, Kind::Active, None).unwrap();
        let path = folders.files(id).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let of = |alone| folders.bootstrap(id, alone).unwrap();
        assert_eq!(of(false), found.then(|| path.clone()), "{id}");
        assert_eq!(of(true).is_some(), alone, "{id}");
    }
    // Tables may stand beside it; anything else makes it an ordinary layer, unless that says what it is.
    fs::write(folders.files(1).join("image/x.blob.meta"), "").unwrap();
    assert!(folders.bootstrap(1, true).unwrap().is_some());
    fs::write(folders.files(1).join("etc"), "").unwrap();
    assert!(folders.bootstrap(1, true).unwrap().is_none());
    assert!(folders.bootstrap(1, false).unwrap().is_some());
}

#[test]
fn links_of_a_layer_are_not_followed() {
    let (dir, folders) = folders();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("image.boot"), bootstrap(0, RAFS5.1)).unwrap();
    folders.make(1, Kind::Active, None).unwrap();
    symlink(&outside, folders.files(1).join("image")).unwrap();
    assert_eq!(folders.bootstrap(1, false).unwrap(), None);
    folders.make(2, Kind::Active, None).unwrap();
    fs::create_dir(folders.files(2).join("image")).unwrap();
    symlink(
        outside.join("image.boot"),
        folders.files(2).join("image/image.boot"),
    )
    .unwrap();
    assert_eq!(folders.bootstrap(2, false).unwrap(), None);
    folders.remove(1).unwrap();
    assert!(outside.join("image.boot").exists());
}

#[test]
fn a_path_that_overlayfs_cannot_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a:b", "a,b", "a\\b"] {
        assert!(Folders::new(&dir.path().join(name)).is_err(), "{name}");
    }
}

/// Its writer goes on at the new end, and not where the old one was.
#[test]
fn a_log_stays_short() {
    let (_dir, folders) = folders();
    folders.cut_log(1).unwrap();
    let mut log = folders.begin_log(1).unwrap();
    log.write_all(&vec![b'a'; 1 << 20]).unwrap();
    let length = || fs::metadata(folders.image_log(1)).unwrap().len();
    folders.cut_log(1).unwrap();
    assert_eq!(length(), 1 << 20, "it is no longer than it may be");
    log.write_all(b"last words").unwrap();
    folders.cut_log(1).unwrap();
    assert_eq!(length(), LOG_BYTES_KEPT);
    log.write_all(b" and more").unwrap();
    let text = fs::read(folders.image_log(1)).unwrap();
    assert!(text.starts_with(b"aaa") && text.ends_with(b"alast words and more"));
    drop(folders.begin_log(1).unwrap());
    assert_eq!(length(), 0);
    folders.remove(1).unwrap();
    assert!(!folders.image_log(1).exists());
}
