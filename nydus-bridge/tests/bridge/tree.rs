//! A tree with one of everything that an image can hold.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use darter_testkit::content::bytes_at;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

/// Files in the directory that does not fit into one listing.
const MANY: usize = 700;

/// Makes the tree at `root`, which must not exist.
pub(crate) fn make(root: &Path) {
    fs::create_dir(root).unwrap();
    contents(root);
    names(root);
    special(root);
    attributes(root);
    // Some time with nanoseconds, for files: those of directories change when something is made in them.
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    File::open(root.join("files/4096"))
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// A smaller one, for tests that look at it very often.
pub(crate) fn make_small(root: &Path) {
    fs::create_dir(root).unwrap();
    fs::create_dir(root.join("files")).unwrap();
    for length in [0, 1, 4097, 100_000, 1_500_000] {
        fs::write(
            root.join("files").join(length.to_string()),
            bytes_at(1, 0, length),
        )
        .unwrap();
    }
    special(root);
    attributes(root);
}

fn contents(root: &Path) {
    let files = root.join("files");
    fs::create_dir(&files).unwrap();
    for length in [0, 1, 4095, 4096, 4097, 100_000, 1 << 20, (1 << 20) + 1, 3_500_000] {
        fs::write(files.join(length.to_string()), bytes_at(length as u64, 0, length)).unwrap();
    }
    fs::write(files.join("words"), "the same words again, ".repeat(150_000)).unwrap();
    fs::write(files.join("zeros"), vec![0; 2_500_000]).unwrap();
    let sparse = File::create(files.join("sparse")).unwrap();
    sparse.write_all_at(b"far away", 5_000_000).unwrap();
    sparse.set_len(6_000_000).unwrap();
    let small = root.join("small");
    fs::create_dir(&small).unwrap();
    for number in 0..200_usize {
        let text = format!("file {number}\n").repeat(1 + 37 * number);
        fs::write(small.join(format!("{number}.txt")), text).unwrap();
    }
}

fn names(root: &Path) {
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..MANY {
        fs::write(many.join(format!("name-{number}")), []).unwrap();
    }
    let deep = root.join("a/b/c/d/e/f/g/h");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep"), "deep").unwrap();
    let names = root.join("names");
    fs::create_dir(&names).unwrap();
    let long = "n".repeat(255);
    for name in [
        b"with blank".as_slice(),
        b"not\xff\xfeutf8",
        "übergröße".as_bytes(),
        long.as_bytes(),
    ] {
        fs::write(names.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn special(root: &Path) {
    let special = root.join("special");
    fs::create_dir(&special).unwrap();
    symlink("../files/words", special.join("link")).unwrap();
    symlink("nowhere/".repeat(30), special.join("long-link")).unwrap();
    fs::hard_link(root.join("files/100000"), special.join("hard-link")).unwrap();
    drop(UnixListener::bind(special.join("socket")).unwrap());
    for (name, kind, device) in [
        ("pipe", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(7, 300)),
    ] {
        mknodat(CWD, special.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
}

fn attributes(root: &Path) {
    let attributes = root.join("attributes");
    fs::create_dir(&attributes).unwrap();
    for (name, mode) in [
        ("setuid", 0o4755),
        ("setgid", 0o2711),
        ("secret", 0o600),
        ("none", 0),
    ] {
        fs::write(attributes.join(name), name).unwrap();
        chown(attributes.join(name), Some(1234), Some(70_000)).unwrap();
        fs::set_permissions(attributes.join(name), Permissions::from_mode(mode)).unwrap();
    }
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o1777)).unwrap();
    let marked = attributes.join("marked");
    fs::write(&marked, "marked").unwrap();
    let long = vec![b'v'; 3000];
    for (name, value) in [
        ("user.short", b"value".as_slice()),
        ("user.empty", b""),
        ("user.long", &long),
        ("trusted.mark", b"t"),
        // Version 2, with one capability that may be used: as `setcap cap_net_raw+ep` writes it.
        (
            "security.capability",
            &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ] {
        setxattr(&marked, name, value, XattrFlags::empty()).unwrap();
    }
    setxattr(
        root.join("empty"),
        "user.of-a-directory",
        b"d",
        XattrFlags::empty(),
    )
    .unwrap();
}
