//! Processes of mounts, found by their arguments: whoever started them may be gone.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The end of a log that is told.
const WORDS_BYTES: u64 = 2048;

/// A process that serves a mount.
#[derive(Debug)]
pub(super) struct Serving {
    id: Pid,
    handle: OwnedFd,
    arguments: Vec<u8>,
}

/// The processes whose last argument is this directory and whose first one is `mount`.
pub(super) fn serving(path: &Path) -> Vec<Serving> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let processes = numbers.filter_map(Pid::from_raw);
    processes.filter_map(|id| Serving::find(id, path)).collect()
}

impl Serving {
    fn find(id: Pid, path: &Path) -> Option<Self> {
        let handle = pidfd_open(id, PidfdFlags::empty()).ok()?;
        let arguments = arguments(id)?;
        let words: Vec<&[u8]> = arguments.strip_suffix(b"\0")?.split(|byte| *byte == 0).collect();
        let ours =
            words.get(1) == Some(&b"mount".as_slice()) && words.last() == Some(&path.as_os_str().as_bytes());
        ours.then_some(Self {
            id,
            handle,
            arguments,
        })
    }

    /// Whether it is the same process still, and no corpse.
    pub(super) fn is_alive(&self) -> bool {
        arguments(self.id).as_deref() == Some(&self.arguments)
    }

    /// Ends it at once, and none that has its number by now.
    pub(super) fn kill(self) {
        // It may be gone.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// Of a process that ended and was not waited for they are empty.
fn arguments(id: Pid) -> Option<Vec<u8>> {
    let line = fs::read(format!("/proc/{}/cmdline", id.as_raw_nonzero())).ok()?;
    (!line.is_empty()).then_some(line)
}

/// The end of what a process said, as one line.
pub(super) fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WORDS_BYTES)))
        .ok()?;
    let mut words = Vec::new();
    file.take(WORDS_BYTES).read_to_end(&mut words).ok()?;
    let words = String::from_utf8_lossy(&words);
    let last = words.lines().rfind(|line| !line.trim().is_empty())?;
    Some(last.trim().trim_start_matches("darter: ").to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_mount_and_no_other_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("9");
        assert!(serving(&path).is_empty());
        // A shell whose arguments are those of a mount.
        let mut shell = Command::new("sh");
        shell.args(["mount", "-c"]).arg(&path);
        let script = dir.path().join("script");
        fs::write(&script, "read line\n").unwrap();
        let mut shell = Command::new("sh");
        std::os::unix::fs::symlink(&script, dir.path().join("mount")).unwrap();
        shell
            .current_dir(dir.path())
            .arg("mount")
            .arg(&path)
            .stdin(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let found = loop {
            let found = serving(&path);
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(found.len(), 1);
        assert!(serving(&dir.path().join("8")).is_empty());
        assert!(found.iter().all(Serving::is_alive));
        found.into_iter().for_each(Serving::kill);
        assert!(!child.wait().unwrap().success());
        assert!(serving(&path).is_empty());
    }

    #[test]
    fn the_last_line_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_words(&log), None);
        fs::write(&log, "a\ndarter: no mirror\n\n").unwrap();
        assert_eq!(last_words(&log).unwrap(), "no mirror");
        fs::write(&log, "x".repeat(5000)).unwrap();
        assert_eq!(last_words(&log).unwrap().len(), 2048);
    }
}
