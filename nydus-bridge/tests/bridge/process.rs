//! The program itself: mounts, unmounts by signal and by command, comes back after it was killed.

#![expect(
    clippy::disallowed_methods,
    reason = "another process is waited for, by the clock that it has as well"
)]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{self, Built};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const LARGE_BYTES: usize = 48 << 20;
pub(crate) const DRIVERS: [&str; 2] = ["fuse", "erofs"];

/// The program while it runs. Killed and unmounted with this value.
pub(crate) struct Bridge {
    pub(crate) child: Child,
    point: PathBuf,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = command().args(["umount", "--lazy"]).arg(&self.point).output();
    }
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_darter-bridge"))
}

pub(crate) fn mount_command(built: &Built, driver: &str) -> Command {
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

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        sleep(Duration::from_millis(20));
    }
}

impl Bridge {
    pub(crate) fn start(built: &Built, driver: &str) -> Self {
        Self::run(built, mount_command(built, driver))
    }

    /// Runs a command that mounts, until its file can be read.
    pub(crate) fn run(built: &Built, command: Command) -> Self {
        let bridge = Self::launch(built, command);
        until("a file", || is_served(&bridge.point));
        bridge
    }

    /// Runs a command that mounts, until it says that it did: a dead mount may show what the kernel kept of it.
    #[expect(
        clippy::print_stderr,
        reason = "what the program says belongs to the test's output"
    )]
    fn launch(built: &Built, mut command: Command) -> Self {
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
            mounted.load(Ordering::SeqCst)
        });
        Self { child, point }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self::signal(self.child.id(), signal).unwrap();
    }

    fn peak_kib(&self) -> u64 {
        peak_kib(self.worker().unwrap()).unwrap()
    }

    /// The process that serves, which the other one guards.
    pub(crate) fn worker(&self) -> Option<u32> {
        children(self.child.id()).first().copied()
    }

    /// Kills the guardian and the worker.
    pub(crate) fn kill_both(&mut self) {
        let worker = self.worker().unwrap();
        self.signal(Signal::KILL);
        self.code();
        signal(worker, Signal::KILL).unwrap();
        until("the end of both", || {
            !Path::new(&format!("/proc/{worker}/exe")).exists()
        });
    }

    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut status = None;
        until("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

/// The most memory that a process had, without its program, of which a test build has much.
fn peak_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let value = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(value("VmHWM:")? - value("RssFile:")?)
}

fn is_mounted(point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == point.to_str())
}

/// Signals a process by its number.
pub(crate) fn signal(id: u32, signal: Signal) -> rustix::io::Result<()> {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal)
}

/// The processes that another one started and that run.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let line = format!("PPid:\t{parent}");
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_child = |id: &u32| {
        // It may have ended meanwhile.
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.lines().any(|found| found == line) && !status.contains("State:\tZ")
    };
    processes
        .filter_map(|name| name.parse().ok())
        .filter(is_child)
        .collect()
}

pub(crate) fn is_served(point: &Path) -> bool {
    fs::read(point.join("file")).is_ok_and(|content| content == b"content")
}

pub(crate) fn built() -> (tempfile::TempDir, Built) {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    (tree, built)
}

/// What is there for later mounts, and nothing else.
fn left_in_cache(built: &Built) -> Vec<OsString> {
    let left = fs::read_dir(built.cache()).unwrap();
    let mut left: Vec<OsString> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    left
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
            assert_eq!(left_in_cache(&built), ["chunks", "first-reads"]);
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
    first.kill_both();
    let mut second = Bridge::start(&built, next);
    second.signal(Signal::INT);
    assert_eq!(second.code(), Some(0));
    drop(first);
    assert_eq!(fs::read_dir(built.mountpoint()).unwrap().count(), 0);
    assert_eq!(
        left_in_cache(&built),
        ["chunks", "first-reads"],
        "no mark is left"
    );
}

#[test]
fn a_mount_whose_process_stands_still_is_not_waited_for() {
    let (_tree, built) = built();
    let mut bridge = Bridge::start(&built, "fuse");
    let worker = bridge.worker().unwrap();
    self::signal(worker, Signal::STOP).unwrap();
    let mut second = mount_command(&built, "fuse").spawn().unwrap();
    let mut status = None;
    until("a refusal", || {
        status = second.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(1));
    self::signal(worker, Signal::CONT).unwrap();
    assert!(is_served(&built.mountpoint()));
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.code(), Some(0));
}

#[test]
fn umount_takes_what_is_written_over_it_away_as_well() {
    let (_tree, built) = built();
    for (driver, killed) in [("fuse", false), ("erofs", false), ("fuse", true), ("erofs", true)] {
        let mut command = mount_command(&built, driver);
        command.arg("--writable");
        let mut bridge = Bridge::run(&built, command);
        fs::write(built.mountpoint().join("new"), "new").unwrap();
        if killed {
            bridge.kill_both();
            // The next one takes both layers away.
            let mut next = Bridge::start(&built, driver);
            assert!(!built.mountpoint().join("new").exists());
            next.signal(Signal::TERM);
            assert_eq!(next.code(), Some(0));
        } else {
            let done = self::command()
                .arg("umount")
                .arg(built.mountpoint())
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
            assert_eq!(bridge.code(), Some(0));
        }
        assert_eq!(fs::read_dir(built.mountpoint()).unwrap().count(), 0);
        assert_eq!(left_in_cache(&built), ["chunks", "first-reads"]);
    }
}

#[test]
fn who_reads_from_a_silent_source_can_be_killed_and_gets_an_error_in_time() {
    for driver in DRIVERS {
        let (_tree, built) = built();
        for blob in fs::read_dir(&built.blobs).unwrap() {
            // To open it waits until somebody writes.
            let blob = blob.unwrap().path();
            fs::remove_file(&blob).unwrap();
            mknodat(CWD, &blob, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
        let mut command = mount_command(&built, driver);
        command.args(["--set", "requests.readMax=4s"]);
        let mut bridge = Bridge::launch(&built, command);
        let file = built.mountpoint().join("file");
        let mut reader = Command::new("cat")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(300));
        assert!(reader.try_wait().unwrap().is_none(), "it waits");
        let killed = Instant::now();
        reader.kill().unwrap();
        reader.wait().unwrap();
        assert!(
            killed.elapsed() < Duration::from_secs(3),
            "it went before the read was given up"
        );
        assert_eq!(fs::read(&file).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(fs::metadata(&file).unwrap().is_file(), "all else is there");
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.code(), Some(0));
    }
}

#[test]
fn memory_is_bounded_whatever_is_read() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    for number in 0..3 {
        let content = darter_testkit::content::bytes_at(number, 0, LARGE_BYTES);
        fs::write(tree.path().join(format!("large-{number}")), content).unwrap();
    }
    for kind in [fixture::V6, fixture::V6_BATCH] {
        let built = fixture::build(tree.path(), kind);
        for driver in DRIVERS {
            let mut command = mount_command(&built, driver);
            // As much as can be is done at once.
            command.args(["--prefetch", "all", "--cache-size", "64MiB"]);
            let mut bridge = Bridge::run(&built, command);
            for number in 0..3 {
                let mut file = fs::File::open(built.mountpoint().join(format!("large-{number}"))).unwrap();
                let read = std::io::copy(&mut file, &mut std::io::sink()).unwrap();
                assert_eq!(read, LARGE_BYTES as u64);
            }
            let peak = bridge.peak_kib();
            assert!(peak < 64 * 1024, "{kind:?} {driver}: {peak} KiB");
            bridge.signal(Signal::TERM);
            assert_eq!(bridge.code(), Some(0));
        }
    }
}

#[test]
fn damaged_metadata_are_refused_at_the_mount_in_little_memory() {
    let (_tree, built) = built();
    let good = fs::read(&built.bootstrap).unwrap();
    // The words of both superblocks, one after the other. What the kernel makes of them is not ours to try.
    for word in (1024..1024 + 128 + 64).step_by(4) {
        let mut bad = good.clone();
        bad[word..word + 4].fill(0xff);
        fs::write(&built.bootstrap, bad).unwrap();
        let mut child = mount_command(&built, "fuse")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let point = built.mountpoint();
        let mut peak = 0;
        until("a refusal or a mount", || {
            peak = peak.max(peak_kib(child.id()).unwrap_or(0));
            // A word that matters to nobody is no matter.
            is_mounted(&point) || child.try_wait().unwrap().is_some()
        });
        assert!(peak < 64 * 1024, "word {word}: {peak} KiB");
        if child.try_wait().unwrap().is_none() {
            let _ = fs::read(point.join("file"));
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        until("its end", || child.try_wait().unwrap().is_some());
        assert!(!is_mounted(&point), "word {word}");
    }
}

#[test]
fn metrics_are_shown_and_a_list_is_prefetched() {
    let (_tree, built) = built();
    let list = built.blobs.join("list");
    fs::write(&list, "# first\n\n/file\n").unwrap();
    let mut command = mount_command(&built, "auto");
    let socket = built.blobs.join("admin");
    command
        .arg("--set")
        .arg(format!("admin.listen=unix:{}", socket.display()));
    command.arg("--prefetch").arg(&list);
    let mut bridge = Bridge::run(&built, command);
    let metrics = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    until("a request", || {
        metrics().contains("darter_bridge_requests_total 1\n")
    });
    for name in ["read_bytes", "fetched_bytes", "wrong_chunks", "prefetched_bytes"] {
        assert!(
            metrics().contains(&format!("\ndarter_bridge_{name}_total ")),
            "{name}"
        );
    }
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.code(), Some(0));
    let missing = mount_command(&built, "auto")
        .args(["--prefetch", "/missing"])
        .output()
        .unwrap();
    assert!(
        said(&missing).contains("cannot read the list"),
        "{}",
        said(&missing)
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
