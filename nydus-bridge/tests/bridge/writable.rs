//! Mounts over which programs write, in this process and by the program.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_nydus_bridge::blob::Folder;
use darter_nydus_bridge::fs::{Limits, OpenImage};
use darter_nydus_bridge::mount::{Driver, Mount, MountError, Options};
use darter_service::supervise::Tasks;
use tokio_util::sync::CancellationToken;

use crate::fixture::{self, Built};
use crate::snapshot;

const PATIENCE: Duration = Duration::from_secs(60);

async fn attach(built: &Built, options: &Options, tasks: &Tasks) -> Result<Mount, MountError> {
    let source = Arc::new(Folder::new(&built.blobs, tasks.clone()));
    let limits = Limits::default();
    let image = OpenImage::open(&built.bootstrap, source, &built.cache(), limits, tasks.clone()).unwrap();
    Mount::attach(image, "test", &built.mountpoint(), options, tasks.clone()).await
}

/// Mounts, looks, unmounts.
async fn mounted(built: &Built, options: &Options, look: impl FnOnce(&Path) + Send + 'static) {
    let tasks = Tasks::new();
    let mount = attach(built, options, &tasks).await.unwrap();
    let (stop, point) = (CancellationToken::new(), built.mountpoint());
    let looking = tokio::task::spawn_blocking(move || look(&point));
    let watched = async {
        let looked = tokio::time::timeout(PATIENCE, looking).await;
        stop.cancel();
        looked
    };
    let (ended, looked) = tokio::join!(mount.run(stop.clone()), watched);
    ended.unwrap();
    looked.unwrap().unwrap();
    assert_eq!(
        fs::read_dir(built.mountpoint()).unwrap().count(),
        0,
        "all layers are gone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_seen_and_the_image_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make_small(&tree);
    let built = fixture::build(&tree, fixture::V6);
    let expected = Arc::new(snapshot::of(&tree));
    for driver in [Driver::Fuse, Driver::Erofs] {
        let kept = dir.path().join(format!("kept-{driver:?}"));
        let keeping = Options {
            driver,
            writable: true,
            writable_dir: Some(kept.clone()),
        };
        mounted(&built, &keeping, |point| {
            assert_eq!(fs::metadata(point).unwrap().mode() & 0o7777, 0o755);
            fs::write(point.join("new"), "new").unwrap();
            fs::write(point.join("files/1"), "other").unwrap();
            fs::remove_file(point.join("files/4097")).unwrap();
            assert_eq!(fs::read(point.join("files/1")).unwrap(), b"other");
        })
        .await;
        assert_eq!(fs::read(kept.join("upper/new")).unwrap(), b"new");
        // It comes back with its folder, and is not there without.
        mounted(&built, &keeping, |point| {
            assert_eq!(fs::read(point.join("new")).unwrap(), b"new");
            assert!(!point.join("files/4097").exists());
        })
        .await;
        let passing = Options {
            driver,
            writable: true,
            ..Options::default()
        };
        let expected = Arc::clone(&expected);
        mounted(&built, &passing, move |point| {
            assert_eq!(fs::read(point.join("files/1")).unwrap().len(), 1);
            fs::write(point.join("passing"), "passing").unwrap();
            fs::remove_file(point.join("passing")).unwrap();
            let found = snapshot::of(point);
            // An overlay hides what is its own business.
            for (path, seen) in expected.iter().filter(|(path, _)| path.starts_with("files")) {
                assert!(found.get(path) == Some(seen), "{}", path.display());
            }
        })
        .await;
        let left = fs::read_dir(built.cache()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["chunks"], "what was written is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mounts_do_not_write_to_one_folder() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let (first, second) = (
        fixture::build(tree.path(), fixture::V6),
        fixture::build(tree.path(), fixture::V5),
    );
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        writable: true,
        writable_dir: Some(dir.path().to_owned()),
        ..Options::default()
    };
    let tasks = Tasks::new();
    let mount = attach(&first, &options, &tasks).await.unwrap();
    let refused = attach(&second, &options, &tasks).await.unwrap_err();
    assert!(refused.to_string().contains("make writable"), "{refused}");
    assert_eq!(fs::read_dir(second.mountpoint()).unwrap().count(), 0);
    drop(mount);
    assert_eq!(fs::read_dir(first.mountpoint()).unwrap().count(), 0);
}
