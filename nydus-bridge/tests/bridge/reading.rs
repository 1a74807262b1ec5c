//! Reads through the library, without FUSE: what is asked for, and what comes of wrong bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_nydus_bridge::blob::Folder;
use darter_nydus_bridge::fs::{FsError, Limits, OpenImage, ROOT, Reading};
use darter_service::supervise::Tasks;

use crate::fixture::{self, Built, Kind};
use crate::source::Disturbed;

struct Lab {
    image: OpenImage,
    source: Arc<Disturbed>,
    tree: tempfile::TempDir,
    _built: Built,
}

/// An image of a few files, open.
fn lab(kind: Kind, limits: Limits) -> Lab {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(
        tree.path().join("large"),
        darter_testkit::content::bytes_at(1, 0, 5_300_000),
    )
    .unwrap();
    for number in 0..100_u64 {
        let content = darter_testkit::content::bytes_at(100 + number, 0, 3000);
        std::fs::write(tree.path().join(format!("small-{number:02}")), content).unwrap();
    }
    let built = fixture::build(tree.path(), kind);
    let tasks = Tasks::new();
    let source = Arc::new(Disturbed::new(Folder::new(&built.blobs, tasks.clone())));
    let image = OpenImage::open(
        &built.bootstrap,
        Arc::clone(&source) as _,
        &built.cache(),
        limits,
        tasks,
    );
    Lab {
        image: image.unwrap(),
        source,
        tree,
        _built: built,
    }
}

impl Lab {
    async fn read(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, FsError> {
        read(&self.image, name, offset, length).await
    }

    fn expected(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.tree.path().join(name)).unwrap()
    }
}

async fn read(image: &OpenImage, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, FsError> {
    let ino = image.lookup(ROOT, Path::new(name).as_os_str())?.ino;
    match image.read(ino, offset, length)? {
        Reading::Done(bytes) => Ok(bytes),
        Reading::Pending(pending) => pending.finish().await,
    }
}

const QUIET: Limits = Limits {
    cache_bytes_max: 64 << 20,
    requests_max: 4,
    request_bytes_max: 4 << 20,
    gap_bytes_max: 0,
    ahead_bytes: 0,
    ahead_bytes_max: 0,
    amplification_max: 400,
    background_max: 2,
    read_max: Duration::from_secs(30),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_part_of_a_file_is_read() {
    for kind in [fixture::V5, fixture::V6, fixture::V6_BATCH, fixture::V6_ZRAN] {
        let lab = lab(kind, Limits::default());
        let whole = lab.expected("large");
        let length = whole.len() as u64;
        for (offset, size) in [
            (0, 1),
            (1_048_575, 2),
            (5, 3 << 20),
            (length - 7, 100),
            (length, 10),
            (u64::MAX, 10),
            (0, u64::MAX),
        ] {
            let start = usize::try_from(offset.min(length)).unwrap();
            let end = usize::try_from(offset.saturating_add(size).min(length)).unwrap();
            let read = lab.read("large", offset, size).await.unwrap();
            assert!(read == whole[start..end], "{kind:?} {offset} {size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_is_asked_for_once_however_many_want_it() {
    for kind in [fixture::V5, fixture::V6_BATCH, fixture::V6_ZRAN] {
        let lab = Arc::new(lab(kind, QUIET));
        // The table of the blob, if there is one.
        lab.read("small-00", 0, 10).await.unwrap();
        lab.source.requests();
        let readers = (0..20).map(|_| {
            let lab = Arc::clone(&lab);
            async move { lab.read("large", 1 << 20, 100).await.unwrap() }
        });
        futures_util::future::join_all(readers).await;
        assert_eq!(lab.source.requests().len(), 1, "{kind:?}");
        lab.read("large", (1 << 20) + 200, 100).await.unwrap();
        assert_eq!(lab.source.requests().len(), 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_taken_along() {
    for kind in [fixture::V5, fixture::V6, fixture::V6_BATCH, fixture::V6_ZRAN] {
        let lab = lab(kind, Limits::default());
        for number in 0..100 {
            let name = format!("small-{number:02}");
            assert_eq!(lab.read(&name, 0, 1 << 20).await.unwrap(), lab.expected(&name));
        }
        let requests = lab.source.requests();
        assert!(requests.len() <= 6, "{kind:?}: {requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_far_apart_are_asked_for_one_by_one() {
    let lab = lab(fixture::V6, QUIET);
    lab.read("large", 0, 6 << 20).await.unwrap();
    let requests = lab.source.requests();
    assert!(
        requests.len() >= 2,
        "each is shorter than the bound: {requests:?}"
    );
    assert!(
        requests
            .iter()
            .all(|range| range.len() <= QUIET.request_bytes_max)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_asked_for_again_and_never_handed_out() {
    for kind in [fixture::V5, fixture::V6, fixture::V6_BATCH, fixture::V6_ZRAN] {
        let lab = lab(kind, QUIET);
        let whole = lab.expected("large");
        // Opens the table of the blob, which may be read wrongly as well, but not here.
        lab.read("small-00", 0, 1).await.unwrap();
        lab.source.lie(1);
        assert!(
            lab.read("large", 0, 1000).await.unwrap() == whole[..1000],
            "{kind:?}"
        );
        lab.source.lie(1000);
        let wrong = lab.read("large", 3 << 20, 1000).await;
        assert!(
            matches!(wrong, Err(FsError::WrongBytes { .. } | FsError::Damaged(_))),
            "{kind:?}: {wrong:?}"
        );
        lab.source.lie(0);
        let right = lab.read("large", 3 << 20, 1000).await.unwrap();
        assert!(right == whole[3 << 20..][..1000], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_is_an_error_and_asked_again_by_the_next_reader() {
    for kind in [fixture::V5, fixture::V6_BATCH] {
        let lab = lab(kind, QUIET);
        lab.source.fail(1000);
        assert!(lab.read("large", 0, 10).await.is_err(), "{kind:?}");
        lab.source.fail(0);
        assert_eq!(
            lab.read("large", 0, 10).await.unwrap(),
            lab.expected("large")[..10],
            "{kind:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_cache_is_enough() {
    for kind in [fixture::V5, fixture::V6_BATCH] {
        let limits = Limits {
            cache_bytes_max: 2 << 20,
            ..Limits::default()
        };
        let lab = lab(kind, limits);
        for _ in 0..2 {
            let read = lab.read("large", 0, 1 << 30).await.unwrap();
            assert!(read == lab.expected("large"), "{kind:?}");
        }
        let none = Limits {
            cache_bytes_max: 0,
            ..limits
        };
        let lab = self::lab(kind, none);
        assert!(lab.read("large", 0, 1 << 30).await.unwrap() == lab.expected("large"));
    }
}
