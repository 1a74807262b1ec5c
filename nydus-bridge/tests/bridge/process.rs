//! The program itself: mounts, unmounts by signal and by command, comes back after it was killed.

#![expect(
    clippy::disallowed_methods,
    reason = "another process is waited for, by the clock that it has as well"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{self, Built};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const DRIVERS: [&str; 2] = ["fuse", "erofs"];

/// The program while it runs. Killed and unmounted with this value.
struct Bridge {
    child: Child,
    point: PathBuf,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = command().args(["umount", "--lazy"]).arg(&self.point).output();
    }
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_darter-bridge"))
}

fn mount_command(built: &Built, driver: &str) -> Command {
    let mut command = command();
    command
        .args(["mount", "--driver", driver])
        .arg("--bootstrap")
        .arg(&built.bootstrap);
    command.arg("--blobs").arg(&built.blobs);
    command
        .arg("--cache-dir")
        .arg(built.cache())
        .arg(built.mountpoint());
    command
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        sleep(Duration::from_millis(20));
    }
}

impl Bridge {
    fn start(built: &Built, driver: &str) -> Self {
        Self::run(built, mount_command(built, driver))
    }

    /// Runs a command that mounts, until it says that it did: a dead mount may show what the kernel kept of it.
    fn run(built: &Built, mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mounted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&mounted);
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                eprintln!("{line}");
                seen.fetch_or(line.contains("mounted"), Ordering::SeqCst);
            }
        });
        let point = built.mountpoint();
        until("a mount", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            mounted.load(Ordering::SeqCst) && is_served(&point)
        });
        Self { child, point }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        until("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

fn is_served(point: &Path) -> bool {
    fs::read(point.join("file")).is_ok_and(|content| content == b"content")
}

fn built() -> (tempfile::TempDir, Built) {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    (tree, built)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_signal_unmounts() {
    let (_tree, built) = built();
    for driver in DRIVERS {
        for signal in [Signal::INT, Signal::TERM] {
            let mut bridge = Bridge::start(&built, driver);
            bridge.signal(signal);
            assert_eq!(bridge.code(), Some(0));
            assert!(!is_served(&built.mountpoint()));
            assert_eq!(fs::read_dir(built.cache()).unwrap().count(), 0);
        }
    }
}

#[test]
fn umount_ends_the_process() {
    DRIVERS.into_iter().for_each(umount_ends_one_by);
}

fn umount_ends_one_by(driver: &str) {
    let (_tree, built) = built();
    let mut bridge = Bridge::start(&built, driver);
    let open = fs::File::open(built.mountpoint().join("file")).unwrap();
    let busy = command().arg("umount").arg(built.mountpoint()).output().unwrap();
    assert!(
        !busy.status.success() && said(&busy).contains("in use"),
        "{busy:?}"
    );
    drop(open);
    let done = command().arg("umount").arg(built.mountpoint()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(bridge.code(), Some(0));
    let again = command().arg("umount").arg(built.mountpoint()).output().unwrap();
    assert!(
        !again.status.success() && said(&again).contains("no image is mounted"),
        "{again:?}"
    );
}

#[test]
fn a_mount_whose_process_was_killed_is_taken_over_and_a_live_one_is_not() {
    // Either comes back after either.
    for (killed, next) in [
        ("fuse", "fuse"),
        ("erofs", "erofs"),
        ("fuse", "erofs"),
        ("erofs", "fuse"),
    ] {
        one_is_taken_over_after_its_death(killed, next);
    }
}

fn one_is_taken_over_after_its_death(killed: &str, next: &str) {
    let (_tree, built) = built();
    let mut first = Bridge::start(&built, killed);
    let taken = mount_command(&built, next).output().unwrap();
    assert!(
        !taken.status.success() && said(&taken).contains("mounted"),
        "{taken:?}"
    );
    assert!(is_served(&built.mountpoint()));
    first.signal(Signal::KILL);
    first.code();
    let mut second = Bridge::start(&built, next);
    second.signal(Signal::INT);
    assert_eq!(second.code(), Some(0));
    drop(first);
    assert_eq!(fs::read_dir(built.mountpoint()).unwrap().count(), 0);
    assert_eq!(
        fs::read_dir(built.cache()).unwrap().count(),
        0,
        "nothing is left on disk"
    );
}

#[test]
fn what_is_typed_wrongly_ends_with_64_and_what_fails_with_1() {
    for arguments in [
        &["mount"][..],
        &["mount", "/tmp"],
        &["mount", "not an image", "/tmp"],
        &["mount", "--bootstrap", "x", "/tmp"],
        &["mount", "nginx", "/tmp", "--mirror", "nowhere"],
        &["umount"],
        &["else"],
    ] {
        let output = command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    let (_tree, built) = built();
    fs::write(&built.bootstrap, "no metadata").unwrap();
    let output = mount_command(&built, "auto").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("metadata is damaged"), "{}", said(&output));
    assert!(command().arg("--help").output().unwrap().status.success());
}
