//! Images mounted by FUSE in this process, compared with what they were made of.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use darter_nydus_bridge::blob::{BlobSource, Folder};
use darter_nydus_bridge::fs::{Limits, OpenImage};
use darter_nydus_bridge::mount::{Driver, Mount, MountError, Options};
use darter_service::supervise::Tasks;
use rustix::fs::StatVfsMountFlags;
use tokio_util::sync::CancellationToken;

use crate::fixture::{self, Built};
use crate::snapshot;
use crate::source::Disturbed;

/// What a test may take that looks at a mount: one that hangs is told, and not waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Mounts an image, runs `look` on a thread of its own, unmounts. Gives what `look` gave.
pub(crate) async fn mounted<T: Send + 'static>(
    built: &Built,
    driver: Driver,
    source: impl FnOnce(Folder) -> Arc<dyn BlobSource>,
    look: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let tasks = Tasks::new();
    let source = source(Folder::new(&built.blobs, tasks.clone()));
    let limits = Limits::default();
    let image = OpenImage::open(&built.bootstrap, source, &built.cache(), limits, tasks.clone()).unwrap();
    let point = built.mountpoint();
    let options = Options {
        driver,
        ..Options::default()
    };
    let mount = Mount::attach(image, "test", &point, &options, tasks.clone());
    let mount = mount.await.unwrap();
    assert_eq!(mount.driver(), driver);
    let stop = CancellationToken::new();
    let looking = tokio::task::spawn_blocking({
        let point = point.clone();
        move || look(&point)
    });
    let watched = async {
        let looked = tokio::time::timeout(PATIENCE, looking).await;
        stop.cancel();
        looked
    };
    let (ended, looked) = tokio::join!(mount.run(stop.clone()), watched);
    ended.unwrap();
    let looked = looked.unwrap().unwrap();
    assert_eq!(
        fs::read_dir(&point).unwrap().count(),
        0,
        "nothing is mounted any more"
    );
    looked
}

/// The drivers that can mount an image of a kind: all that hold for one hold for the other.
fn drivers(kind: fixture::Kind) -> &'static [Driver] {
    if kind.version.is_v6() {
        &[Driver::Fuse, Driver::Erofs]
    } else {
        &[Driver::Fuse]
    }
}

fn plain(folder: Folder) -> Arc<dyn BlobSource> {
    Arc::new(folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_tree_equals_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make(&tree);
    let mut expected = snapshot::of(&tree);
    for kind in fixture::kinds() {
        eprintln!("{kind:?}");
        if kind.packing == fixture::Packing::Zran {
            // Ordinary layers hold neither sockets nor, as this one was made, extended attributes and nanoseconds.
            snapshot::as_a_layer(&mut expected);
        }
        let built = fixture::build(&tree, kind);
        for driver in drivers(kind) {
            let found = mounted(&built, *driver, plain, snapshot::of).await;
            snapshot::assert_same(&found, &expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make(&tree);
    let expected = Arc::new(snapshot::of(&tree));
    for kind in [fixture::V5, fixture::V6_BATCH] {
        let built = fixture::build(&tree, kind);
        for driver in drivers(kind) {
            let expected = Arc::clone(&expected);
            let slow = |folder| Arc::new(Disturbed::new(folder)) as Arc<dyn BlobSource>;
            mounted(&built, *driver, slow, move |point| {
                std::thread::scope(|scope| {
                    let look = || snapshot::assert_same(&snapshot::of(point), &expected);
                    let threads: Vec<_> = (0..6).map(|_| scope.spawn(look)).collect();
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                });
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_an_io_error_until_they_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make(&tree);
    for kind in [fixture::V5, fixture::V6] {
        for driver in drivers(kind) {
            // Nothing is kept of the other one.
            let built = fixture::build(&tree, kind);
            let source = Folder::new(&built.blobs, Tasks::new());
            let source = Arc::new(Disturbed::new(source));
            let lying = Arc::clone(&source);
            let expected = fs::read(tree.join("files/words")).unwrap();
            let look = move |point: &Path| {
                lying.lie(1_000_000);
                let words = point.join("files/words");
                assert!(snapshot::is_io_error(fs::read(&words)));
                lying.lie(0);
                assert!(fs::read(&words).unwrap() == expected);
            };
            mounted(&built, *driver, |_| source, look).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_cannot_be_written_and_says_how_large_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make(&tree);
    let built = fixture::build(&tree, fixture::V6);
    for driver in drivers(fixture::V6) {
        mounted(&built, *driver, plain, |point| {
            look_at_a_read_only_mount(point, *driver)
        })
        .await;
    }
}

fn look_at_a_read_only_mount(point: &Path, driver: Driver) {
    let refused = File::create(point.join("new")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(
        File::options()
            .write(true)
            .open(point.join("files/4096"))
            .is_err()
    );
    let missing = fs::metadata(point.join("files/missing")).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    let found = rustix::fs::statvfs(point).unwrap();
    let flags = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    assert!(found.f_flag.contains(flags), "{:?}", found.f_flag);
    assert!(found.f_files > 900, "{}", found.f_files);
    // EROFS counts the bootstrap alone.
    let least = if driver == Driver::Fuse {
        10_000_000
    } else {
        10_000
    };
    assert!(found.f_blocks * found.f_frsize > least, "{}", found.f_blocks);
    let whole = File::open(point.join("files/3500000")).unwrap();
    let mut end = [0; 16];
    assert_eq!(whole.read_at(&mut end, 3_499_990).unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_mount_is_detached_and_serves_its_last_reader() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make(&tree);
    let built = fixture::build(&tree, fixture::V6);
    let expected = fs::read(tree.join("files/1048576")).unwrap();
    for driver in drivers(fixture::V6) {
        let open = mounted(&built, *driver, plain, |point| {
            File::open(point.join("files/1048576")).unwrap()
        })
        .await;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; 1 << 20];
            open.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        assert!(read.await.unwrap().unwrap() == expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_something_is_mounted_nothing_else_is() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    let tasks = Tasks::new();
    let source = plain(Folder::new(&built.blobs, tasks.clone()));
    let cache = built.cache();
    let image = OpenImage::open(&built.bootstrap, source, &cache, Limits::default(), tasks.clone()).unwrap();
    for point in [
        PathBuf::from("/proc"),
        tree.path().join("file"),
        tree.path().join("missing"),
    ] {
        for driver in [Driver::Fuse, Driver::Erofs, Driver::Auto] {
            let options = Options {
                driver,
                ..Options::default()
            };
            let refused = Mount::attach(image.clone(), "test", &point, &options, tasks.clone());
            let refused = refused.await.unwrap_err();
            assert!(
                matches!(refused, MountError::Taken(_) | MountError::System { .. }),
                "{refused}"
            );
        }
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "no mark is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_erofs_cannot_mount_fuse_does_unless_erofs_was_named() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    for (kind, chosen) in [(fixture::V5, Driver::Fuse), (fixture::V6, Driver::Erofs)] {
        let built = fixture::build(tree.path(), kind);
        let tasks = Tasks::new();
        let source = plain(Folder::new(&built.blobs, tasks.clone()));
        let cache = built.cache();
        let image =
            OpenImage::open(&built.bootstrap, source, &cache, Limits::default(), tasks.clone()).unwrap();
        let point = built.mountpoint();
        let auto = Options::default();
        let auto = Mount::attach(image.clone(), "test", &point, &auto, tasks.clone()).await;
        let auto = auto.unwrap();
        assert_eq!(auto.driver(), chosen);
        // One that nobody ran is taken away as well.
        drop(auto);
        let options = Options {
            driver: Driver::Erofs,
            ..Options::default()
        };
        let named = Mount::attach(image, "test", &point, &options, tasks.clone()).await;
        assert_eq!(named.is_ok(), chosen == Driver::Erofs, "{named:?}");
    }
}
