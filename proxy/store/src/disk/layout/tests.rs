//! The data directory: what is accepted, made, tightened and refused.

use super::*;
use crate::conformance::task;
use crate::{DiskOptions, DiskStore};
use std::os::unix::fs::symlink;
use tempfile::TempDir;

fn open(dir: &Path) -> Result<DiskStore, OpenError> {
    let options = DiskOptions {
        dir: dir.to_owned(),
        quota_bytes: 1 << 30,
        free_floor_bytes: 0,
    };
    DiskStore::open(options).map(|(store, _)| store)
}

fn message(dir: &Path) -> String {
    open(dir).unwrap_err().to_string()
}

#[test]
fn makes_a_private_directory_with_parents() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path().join("a/b/store");
    drop(open(&dir).unwrap());
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_to_string(dir.join("VERSION")).unwrap(), VERSION_LINE);
    drop(open(&dir).unwrap());
}

#[test]
fn closes_a_readable_directory_and_refuses_a_writable_one() {
    let temp = TempDir::new().unwrap();
    let set = |mode| fs::set_permissions(temp.path(), fs::Permissions::from_mode(mode)).unwrap();
    set(0o777);
    assert!(message(temp.path()).contains("mode 0777"));
    set(0o755);
    drop(open(temp.path()).unwrap());
    assert_eq!(fs::metadata(temp.path()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn refuses_links_and_files() {
    let temp = TempDir::new().unwrap();
    let link = temp.path().join("link");
    fs::create_dir(temp.path().join("real")).unwrap();
    symlink(temp.path().join("real"), &link).unwrap();
    fs::write(temp.path().join("file"), "x").unwrap();
    assert!(matches!(open(&link), Err(OpenError::NotADirectory { .. })));
    assert!(matches!(
        open(&temp.path().join("file")),
        Err(OpenError::NotADirectory { .. })
    ));
    assert!(open(&temp.path().join("file/below")).is_err());
}

#[test]
fn refuses_a_directory_of_somebody_else() {
    let temp = TempDir::new().unwrap();
    let dir = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(temp.path(), Some(12345), None).unwrap();
        temp.path()
    } else {
        Path::new("/proc")
    };
    assert!(matches!(open(dir), Err(OpenError::Owner { .. })));
}

#[test]
fn refuses_what_is_not_a_store_and_touches_nothing() {
    let temp = TempDir::new().unwrap();
    fs::create_dir(temp.path().join("tasks")).unwrap();
    fs::write(temp.path().join("tasks/precious"), "x").unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(message(temp.path()).contains("\"tasks\""));
    assert!(temp.path().join("tasks/precious").exists());
    assert!(!temp.path().join("LOCK").exists());
}

#[test]
fn goes_on_with_a_start_that_was_cut_short() {
    let temp = TempDir::new().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for harmless in HARMLESS {
        fs::write(temp.path().join(harmless), "12345678901234567890").unwrap();
    }
    let store = open(temp.path()).unwrap();
    let lock = fs::read_to_string(temp.path().join("LOCK")).unwrap();
    assert_eq!(lock.trim(), std::process::id().to_string());
    drop(store);
}

#[test]
fn refuses_another_version() {
    let temp = TempDir::new().unwrap();
    drop(open(temp.path()).unwrap());
    for version in ["darter-store 2\n", "", "\u{0}\u{0}"] {
        fs::write(temp.path().join("VERSION"), version).unwrap();
        let message = message(temp.path());
        assert!(message.contains("reads \"darter-store 1\""), "{message}");
    }
}

#[test]
fn names_the_process_that_holds_the_lock() {
    let temp = TempDir::new().unwrap();
    let store = open(temp.path()).unwrap();
    let message = message(temp.path());
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(store);
    drop(open(temp.path()).unwrap());
}

#[test]
fn says_when_it_cannot_write() {
    let told = open(Path::new("/sys/kernel/darter-store")).unwrap_err();
    assert!(matches!(told, OpenError::ReadOnly { .. }), "{told:?}");
}

#[test]
fn names_of_tasks_are_read_back_in_one_spelling_only() {
    let sha512 = darter_types::Digest::of(darter_types::Algorithm::Sha512, b"").into();
    for task in [task(1), sha512, TaskId::of_url("http://x/", "", "", "")] {
        let name = task_name(task);
        assert!(!name.contains([':', '/', '.']));
        assert_eq!(parse_name(&name), Some(task));
        assert_eq!(parse_name(&name.to_uppercase()), None);
        assert_eq!(parse_name(&name.replacen('-', ":", 1)), None);
    }
    for other in ["", "-", "..", "sha256-", "sha256-00", "url-", "lost+found"] {
        assert_eq!(parse_name(other), None);
    }
}
