//! Where pieces are kept: room, inodes, and what kind of file system it is.

use std::path::{Path, PathBuf};

use darter_proxy::config::StoreConfig;
use darter_service::config::ByteSize;
use rustix::fs::{StatVfs, statfs, statvfs};

use super::finding::Finding;

const CHECK: &str = "store";
/// Less than this share of inodes left is soon none.
const INODES_PERCENT_MIN: u64 = 5;
/// `f_type` of file systems that are no place for a store: linux/magic.h.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const NFS: u64 = 0x6969;
const OVERLAY: u64 = 0x794c_7630;

/// The file system of the store, below `root`.
pub(super) fn check(root: &Path, store: &StoreConfig) -> Vec<Finding> {
    let relative = store.dir.strip_prefix("/").unwrap_or(&store.dir);
    let dir = existing(&root.join(relative));
    match (statvfs(&dir), statfs(&dir)) {
        (Ok(room), Ok(kind)) => {
            // The kernel's number is unsigned; its type differs between machines.
            #[expect(clippy::cast_sign_loss, reason = "a magic number, not an amount")]
            let magic = kind.f_type as u64 & 0xffff_ffff;
            judge(store, &Room::from(room), magic)
        }
        (Err(error), _) | (_, Err(error)) => vec![Finding::fail(
            CHECK,
            format!("{} cannot be looked at: {error}", dir.display()),
            "check the directory and its rights",
        )],
    }
}

/// The nearest folder that is there.
fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

struct Room {
    total: u64,
    free: u64,
    inodes: u64,
    inodes_free: u64,
}

impl From<StatVfs> for Room {
    fn from(stat: StatVfs) -> Self {
        Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
        }
    }
}

fn judge(store: &StoreConfig, room: &Room, magic: u64) -> Vec<Finding> {
    let dir = store.dir.display();
    let mut findings = Vec::new();
    let mut warn = |seen: String, advice: &str| findings.push(Finding::warn(CHECK, seen, advice));
    let free = gib(room.free);
    if room.free < store.free_floor.of(room.total) {
        warn(
            format!(
                "{free} free at {dir}, less than store.freeFloor ({}): nothing is kept",
                store.free_floor
            ),
            "make room, or set store.dir to a larger file system",
        );
    }
    if room.total < store.quota.as_u64() {
        warn(
            format!(
                "store.quota ({}) is more than the file system of {dir} has ({})",
                store.quota,
                gib(room.total)
            ),
            "set store.quota to what it may take; until then only store.freeFloor bounds it",
        );
    }
    // Some file systems make inodes as they go and say 0.
    if room.inodes > 0 && room.inodes_free < room.inodes / 100 * INODES_PERCENT_MIN {
        warn(
            format!("{} inodes left at {dir}", room.inodes_free),
            "delete small files there, or set store.dir",
        );
    }
    let unfit = match magic {
        TMPFS | RAMFS => Some("memory"),
        NFS => Some("NFS"),
        OVERLAY => Some("an overlay, such as a container's own layer"),
        _ => None,
    };
    if let Some(kind) = unfit {
        warn(
            format!("{dir} is on {kind}"),
            "set store.dir to a local disk (in Kubernetes: a hostPath)",
        );
    }
    if findings.is_empty() {
        let quota = store.quota;
        findings.push(Finding::ok(CHECK, format!("{free} free at {dir}, quota {quota}")));
    }
    findings
}

fn gib(bytes: u64) -> String {
    let mib = bytes >> 20;
    match mib >> 10 {
        0 => ByteSize::mib(mib).to_string(),
        gib => format!("{gib}GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn seen(total: u64, free: u64, inodes_free: u64, magic: u64) -> Vec<String> {
        let room = Room {
            total: total * GIB,
            free: free * GIB,
            inodes: 1000,
            inodes_free,
        };
        let findings = judge(&StoreConfig::default(), &room, magic);
        findings
            .into_iter()
            .map(|one| format!("{:?} {}", one.state, one.seen))
            .collect()
    }

    #[test]
    fn a_file_system_is_judged() {
        const EXT4: u64 = 0xef53;
        let one = |found: Vec<String>, words: &str| {
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(words), "{found:?}");
        };
        one(seen(200, 150, 900, EXT4), "Ok 150GiB free");
        one(
            seen(200, 4, 900, EXT4),
            "Warn 4GiB free at /var/lib/darter/store, less than store.freeFloor (5GiB)",
        );
        one(seen(50, 40, 900, EXT4), "Warn store.quota (100GiB) is more");
        one(seen(200, 150, 9, EXT4), "Warn 9 inodes left");
        one(seen(200, 150, 900, TMPFS), "is on memory");
        one(seen(200, 150, 900, NFS), "is on NFS");
        assert_eq!(seen(50, 1, 9, OVERLAY).len(), 4);
    }

    #[test]
    fn a_store_that_is_not_there_yet_is_judged_by_what_it_will_lie_on() {
        let root = tempfile::tempdir().unwrap();
        let found = check(root.path(), &StoreConfig::default());
        assert!(found.iter().all(|one| one.state != State::Fail), "{found:?}");
    }
}
