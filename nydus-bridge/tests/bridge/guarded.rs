//! A mount outlives the process that serves it: its guardian has another one go on.

#![expect(
    clippy::disallowed_methods,
    reason = "other processes are waited for, by the clock that they have as well"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use darter_testkit::cases;
use rustix::process::Signal;

use crate::fixture;
use crate::process::{Bridge, DRIVERS, built, children, command, is_served, mount_command, signal, until};

/// Longest that a read may wait. What is promised is a second; this machine may be busy.
const HANG: Duration = Duration::from_secs(20);

/// Asks the serving process again and again, past the kernel's cache, and compares.
#[derive(Debug)]
pub(crate) struct Readers {
    point: PathBuf,
    source: PathBuf,
    files: Vec<PathBuf>,
    stop: AtomicBool,
    asked: AtomicU64,
    longest_ms: AtomicU64,
}

impl Readers {
    pub(crate) fn new(point: &Path, source: &Path) -> Self {
        let files = source.join("files");
        let names = fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path());
        let names = names.map(|path| path.strip_prefix(source).unwrap().to_owned());
        Self {
            point: point.to_owned(),
            source: source.to_owned(),
            files: names.collect(),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
        }
    }

    /// Runs readers while `disturb` does, and for a while after it. Panics if one fails. Says how long they waited.
    pub(crate) fn run(&self, disturb: impl FnOnce()) -> String {
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|number| scope.spawn(move || self.read(number)))
                .collect();
            let before = || self.asked.load(Ordering::SeqCst);
            let started = before();
            until("the first answers", || before() > started + 20);
            // Whatever happens, the readers end.
            let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(disturb));
            let after = before();
            let done = Instant::now();
            while before() < after + 20 && done.elapsed() < HANG {
                sleep(Duration::from_millis(10));
            }
            self.stop.store(true, Ordering::SeqCst);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            disturbed.unwrap();
            assert!(before() >= after + 20, "readers hang");
        });
        let (asked, longest) = (
            self.asked.load(Ordering::SeqCst),
            self.longest_ms.load(Ordering::SeqCst),
        );
        assert!(u128::from(longest) < HANG.as_millis());
        format!("{asked} questions, the longest took {longest} ms")
    }

    fn read(&self, number: usize) {
        for name in self.files.iter().cycle().skip(number) {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let began = Instant::now();
            let mut bytes = Vec::new();
            open_past_the_cache(&self.point.join(name))
                .read_to_end(&mut bytes)
                .unwrap();
            assert!(
                bytes == fs::read(self.source.join(name)).unwrap(),
                "{}",
                name.display()
            );
            // Extended attributes and the size of the file system are never kept by the kernel.
            let missing = rustix::fs::lgetxattr(self.point.join(name), "user.none", &mut [0; 8][..]);
            assert_eq!(missing.unwrap_err(), rustix::io::Errno::NODATA);
            rustix::fs::statvfs(&self.point).unwrap();
            self.asked.fetch_add(1, Ordering::SeqCst);
            let took = u64::try_from(began.elapsed().as_millis()).unwrap();
            self.longest_ms.fetch_max(took, Ordering::SeqCst);
        }
    }
}

/// FUSE reads past the kernel's cache where it is asked to; EROFS cannot, and has to forget first.
fn open_past_the_cache(path: &Path) -> File {
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
    direct.unwrap_or_else(|error| {
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        let file = File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        file
    })
}

#[test]
fn a_killed_worker_is_an_error_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make_small(&tree);
    fs::write(tree.join("file"), "content").unwrap();
    let cold = darter_testkit::content::bytes_at(9, 0, 3_000_000);
    fs::write(tree.join("cold"), &cold).unwrap();
    for (kind, driver) in [
        (fixture::V6, "fuse"),
        (fixture::V5, "fuse"),
        (fixture::V6, "erofs"),
    ] {
        let built = fixture::build(&tree, kind);
        let mut bridge = Bridge::start(&built, driver);
        // The metadata may go as well: they are open.
        fs::remove_file(&built.bootstrap).unwrap();
        let waited = Readers::new(&built.mountpoint(), &tree).run(|| {
            for kill in 0..cases(10, 200) {
                let mut worker = None;
                until("a worker", || {
                    worker = bridge.worker();
                    worker.is_some()
                });
                sleep(Duration::from_millis(250 + u64::from(kill * 37 % 200)));
                signal(worker.unwrap(), Signal::KILL).unwrap();
                until("the next worker", || {
                    bridge.worker().is_some_and(|next| Some(next) != worker)
                });
            }
        });
        eprintln!("{waited}");
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.code(), Some(0));
        assert_eq!(fs::read_dir(built.mountpoint()).unwrap().count(), 0);
    }
}

#[test]
fn without_its_guardian_a_mount_goes_on_and_ends_in_order() {
    for driver in DRIVERS {
        let (_tree, built) = built();
        let mut bridge = Bridge::start(&built, driver);
        let worker = bridge.worker().unwrap();
        bridge.signal(Signal::KILL);
        bridge.code();
        assert!(is_served(&built.mountpoint()));
        signal(worker, Signal::TERM).unwrap();
        until("the end of the mount", || is_empty(&built.mountpoint()));
    }
}

/// Chunks are kept, marks of mounts are not.
fn is_unmarked(cache: &Path) -> bool {
    let mut names = fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    !names.any(|name| name.as_encoded_bytes().starts_with(b"mount-"))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|names| names.count() == 0)
}

#[test]
fn after_both_were_killed_it_is_mounted_anew() {
    for driver in DRIVERS {
        let (_tree, built) = built();
        let mut bridge = Bridge::start(&built, driver);
        let open = File::open(built.mountpoint().join("file")).unwrap();
        bridge.kill_both();
        let mut next = Bridge::start(&built, driver);
        drop(open);
        next.signal(Signal::INT);
        assert_eq!(next.code(), Some(0));
        assert!(is_empty(&built.mountpoint()) && is_unmarked(&built.cache()));
    }
}

#[test]
fn workers_that_die_at_once_are_given_up_and_nothing_is_left() {
    for driver in DRIVERS {
        let (_tree, built) = built();
        let mut bridge = Bridge::start(&built, driver);
        let mut killed = 0;
        let mut code = None;
        until("the guardian's end", || {
            for worker in children(bridge.child.id()) {
                // It may have ended just now.
                killed += u32::from(signal(worker, Signal::KILL).is_ok());
            }
            code = bridge.child.try_wait().unwrap();
            code.is_some()
        });
        assert!(killed >= 10, "{killed}");
        assert_eq!(code.unwrap().code(), Some(1));
        assert!(is_empty(&built.mountpoint()), "nothing is mounted");
        assert!(is_unmarked(&built.cache()), "and nothing is marked");
        let again = command().arg("umount").arg(built.mountpoint()).output().unwrap();
        assert!(!again.status.success());
    }
}

#[test]
fn what_is_written_over_an_image_outlives_the_worker() {
    let tree = tempfile::tempdir().unwrap();
    for name in ["file", "changed"] {
        fs::write(tree.path().join(name), "content").unwrap();
    }
    for driver in DRIVERS {
        let built = fixture::build(tree.path(), fixture::V6);
        let mut command = mount_command(&built, driver);
        command.arg("--writable");
        let mut bridge = Bridge::run(&built, command);
        let point = built.mountpoint();
        let mut open = File::create(point.join("new")).unwrap();
        for round in 0..3 {
            open.write_all(b"a line\n").unwrap();
            let worker = bridge.worker();
            signal(worker.unwrap(), Signal::KILL).unwrap();
            until("the next worker", || {
                bridge.worker().is_some_and(|next| Some(next) != worker)
            });
            let beneath = open_past_the_cache(&point.join("file"));
            assert_eq!(
                std::io::read_to_string(beneath).unwrap(),
                "content",
                "in round {round}"
            );
            let lines = fs::read_to_string(point.join("new")).unwrap();
            assert_eq!(lines.lines().count(), round + 1);
            let changed = format!("round {round}");
            fs::write(point.join("changed"), &changed).unwrap();
            assert_eq!(fs::read_to_string(point.join("changed")).unwrap(), changed);
        }
        drop(open);
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.code(), Some(0));
        assert!(
            is_empty(&point) && is_unmarked(&built.cache()),
            "all layers are gone"
        );
    }
}

/// Whoever asks it to end while one worker is dead and the next does not serve yet gets what he wants.
#[test]
fn asked_between_two_workers_it_ends_as_well_as_ever() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    for driver in DRIVERS {
        for wait in (0..40).step_by(4) {
            let built = fixture::build(tree.path(), fixture::V6);
            let mut command = mount_command(&built, driver);
            command.arg("--writable");
            let mut bridge = Bridge::run(&built, command);
            // The first has told the guardian what it has, if there is a second that serves.
            let first = bridge.worker();
            signal(first.unwrap(), Signal::KILL).unwrap();
            until("the next worker", || {
                bridge.worker().is_some_and(|next| Some(next) != first)
            });
            drop(open_past_the_cache(&built.mountpoint().join("file")));
            signal(bridge.worker().unwrap(), Signal::KILL).unwrap();
            std::thread::park_timeout(Duration::from_millis(wait));
            bridge.signal(Signal::TERM);
            assert_eq!(bridge.code(), Some(0), "{driver} after {wait} ms");
            assert!(is_empty(&built.mountpoint()), "{driver} after {wait} ms");
            assert!(is_unmarked(&built.cache()), "{driver} after {wait} ms");
        }
    }
}
