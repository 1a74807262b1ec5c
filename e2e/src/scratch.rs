//! Where large temporary files go: unpacking an image of many small files takes a third of the time in memory.

use std::path::Path;

/// The usual memory file system.
const PLACE: &str = "/dev/shm";

/// A memory file system that can take `bytes` while as much memory again stays free, and that may hold a root
/// file system (device nodes, programs). None when this machine has none: then the disk does.
pub fn memory(bytes: u64) -> Option<&'static Path> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let space = rustix::fs::statvfs(PLACE).ok()?;
    let free = space.f_bavail * space.f_frsize;
    let available = available_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let roomy = free > bytes && available > 2 * bytes;
    (roomy && takes_root_file_systems(&mounts, PLACE)).then_some(Path::new(PLACE))
}

/// `MemAvailable`, in bytes.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn takes_root_file_systems(mounts: &str, place: &str) -> bool {
    let mut mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let options = mounted
        .find(|words| words.get(1) == Some(&place))
        .and_then(|words| words.get(3).copied());
    options.is_some_and(|options| {
        !options
            .split(',')
            .any(|option| option == "nodev" || option == "noexec")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restricted_mounts_are_not_taken() {
        let mounts = "tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\ntmpfs /free tmpfs rw,relatime 0 0\n";
        assert!(!takes_root_file_systems(mounts, "/dev/shm"));
        assert!(takes_root_file_systems(mounts, "/free"));
        assert!(!takes_root_file_systems(mounts, "/absent"));
    }

    #[test]
    fn memory_is_in_kibibytes() {
        assert_eq!(
            available_memory("MemTotal: 5 kB\nMemAvailable:   2 kB\n"),
            Some(2048)
        );
        assert_eq!(available_memory(""), None);
    }

    #[test]
    fn nothing_is_that_roomy() {
        assert_eq!(memory(u64::MAX / 4), None);
    }
}
