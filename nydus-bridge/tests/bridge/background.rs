//! What is fetched before anybody wants it, what is read ahead, and what is kept for later mounts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_nydus_bridge::blob::Folder;
use darter_nydus_bridge::fs::{FsError, Limits, OpenImage, Prefetch, ROOT, Reading};
use darter_service::supervise::Tasks;
use darter_testkit::content::bytes_at;

use crate::fixture::{self, Built, Kind};
use crate::source::Disturbed;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const KINDS: [Kind; 4] = [fixture::V5, fixture::V6, fixture::V6_BATCH, fixture::V6_ZRAN];
const FILE_BYTES: usize = 1_500_000;

/// An image of ten files of a megabyte and a half, and a directory of small ones.
struct Lab {
    tree: tempfile::TempDir,
    built: Built,
}

/// An opening of it.
struct Mounted {
    image: OpenImage,
    source: Arc<Disturbed>,
    tasks: Tasks,
}

fn lab(kind: Kind) -> Lab {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..10 {
        let content = bytes_at(number, 0, FILE_BYTES);
        std::fs::write(tree.path().join(format!("file-{number}")), content).unwrap();
    }
    std::fs::create_dir(tree.path().join("small")).unwrap();
    for number in 0..100 {
        let content = bytes_at(100 + number, 0, 3000);
        std::fs::write(tree.path().join(format!("small/{number}")), content).unwrap();
    }
    let built = fixture::build(tree.path(), kind);
    Lab { tree, built }
}

/// No reading ahead, so that what is fetched was asked for.
fn plain() -> Limits {
    Limits {
        ahead_bytes: 0,
        gap_bytes_max: 0,
        ..Limits::default()
    }
}

impl Lab {
    fn open(&self, limits: Limits) -> Mounted {
        let tasks = Tasks::new();
        let source = Arc::new(Disturbed::new(Folder::new(&self.built.blobs, tasks.clone())));
        let image = OpenImage::open(
            &self.built.bootstrap,
            Arc::clone(&source) as _,
            &self.built.cache(),
            limits,
            tasks.clone(),
        );
        Mounted {
            image: image.unwrap(),
            source,
            tasks,
        }
    }

    fn expected(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.tree.path().join(path)).unwrap()
    }
}

impl Mounted {
    fn ino(&self, path: &str) -> u64 {
        let names = Path::new(path).iter();
        names.fold(ROOT, |parent, name| self.image.lookup(parent, name).unwrap().ino)
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>, FsError> {
        match self.image.read(self.ino(path), 0, 1 << 30)? {
            Reading::Done(bytes) => Ok(bytes),
            Reading::Pending(pending) => pending.finish().await,
        }
    }

    /// Whether a file is here.
    async fn has(&self, path: &str) -> bool {
        self.source.requests();
        self.read(path).await.unwrap();
        self.source.requests().is_empty()
    }

    /// Fetches in the background, to its end.
    async fn prefetch(&self, wanted: Prefetch) {
        self.image.prefetch(&wanted);
        let done = async {
            while self.tasks.running().contains_key("prefetch") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_named_is_fetched_and_nothing_else() {
    for kind in KINDS {
        let lab = lab(kind);
        let mounted = lab.open(plain());
        mounted
            .prefetch(Prefetch {
                paths: ["/file-3", "small", "missing", "file-3/x"]
                    .map(Into::into)
                    .to_vec(),
                ..Prefetch::default()
            })
            .await;
        let stats = mounted.image.stats();
        assert!(
            stats.background > 0 && stats.fetched == stats.background,
            "{stats:?}"
        );
        assert!(mounted.source.background() > 0);
        assert!(
            mounted.has("file-3").await && mounted.has("small/7").await,
            "{kind:?}"
        );
        assert!(mounted.read("file-3").await.unwrap() == lab.expected("file-3"));
        assert!(!mounted.has("file-8").await, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_fetched_up_to_half_of_the_room() {
    for kind in KINDS {
        let lab = lab(kind);
        let all = || Prefetch {
            all: true,
            ..Prefetch::default()
        };
        let mounted = lab.open(plain());
        mounted.prefetch(all()).await;
        for path in ["file-0", "file-9", "small/99"] {
            assert!(mounted.has(path).await, "{kind:?} {path}");
        }
        std::fs::remove_dir_all(lab.built.cache().join("chunks")).unwrap();
        let tight = lab.open(Limits {
            cache_bytes_max: 8 << 20,
            request_bytes_max: 1 << 20,
            ..plain()
        });
        tight.prefetch(all()).await;
        let fetched = tight.image.stats().background;
        assert!((1 << 20..8 << 20).contains(&fetched), "{kind:?} {fetched}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_image_names_is_fetched_first() {
    let lab = lab(fixture::V6);
    let before = lab.open(plain());
    let (file, folder) = (before.ino("file-5"), before.ino("small"));
    lab.built.wish(&[file, folder, 0, 77_777]);
    let mounted = lab.open(plain());
    mounted
        .prefetch(Prefetch {
            table: true,
            ..Prefetch::default()
        })
        .await;
    assert!(mounted.has("file-5").await && mounted.has("small/50").await);
    assert!(!mounted.has("file-6").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_asked_for_while_a_reader_waits() {
    let lab = lab(fixture::V6);
    let mounted = lab.open(plain());
    mounted.source.slow(Duration::from_millis(300));
    let begin = async {
        while mounted.source.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        mounted.image.prefetch(&Prefetch {
            all: true,
            ..Prefetch::default()
        });
    };
    let begin = tokio::time::timeout(PATIENCE, begin);
    let (read, begun) = tokio::join!(mounted.read("file-9"), begin);
    begun.unwrap();
    assert!(read.unwrap() == lab.expected("file-9"));
    let goes_on = async {
        while mounted.source.background() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, goes_on).await.unwrap();
    assert!(!mounted.source.order()[0], "the reader was first");
    assert_eq!(mounted.source.background_beside_readers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_mount_finds_what_an_earlier_one_kept_and_proves_it() {
    for kind in KINDS {
        let lab = lab(kind);
        let first = lab.open(plain());
        first.read("file-2").await.unwrap();
        let second = lab.open(plain());
        // The table of the blob, if there is one.
        second.read("small/1").await.unwrap();
        assert!(second.has("file-2").await, "{kind:?}");
        assert!(second.read("file-2").await.unwrap() == lab.expected("file-2"));
        // What is on disk is not believed.
        for entry in std::fs::read_dir(lab.built.cache().join("chunks")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "data") {
                let length = std::fs::metadata(&path).unwrap().len();
                std::fs::write(&path, vec![7; usize::try_from(length).unwrap()]).unwrap();
            }
        }
        let third = lab.open(plain());
        assert!(
            third.read("file-2").await.unwrap() == lab.expected("file-2"),
            "{kind:?}"
        );
        assert!(!third.source.requests().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_first_is_fetched_at_the_next_mount() {
    for kind in KINDS {
        let lab = lab(kind);
        let first = lab.open(plain());
        first.read("file-7").await.unwrap();
        first.read("small/3").await.unwrap();
        if first.image.flat().is_some() {
            let flat = first.image.read_flat(0, 0, 4096).unwrap();
            assert!(matches!(flat, Reading::Done(_) | Reading::Pending(_)));
        }
        first.image.save_record("key").unwrap();
        std::fs::remove_dir_all(lab.built.cache().join("chunks")).unwrap();
        let second = lab.open(plain());
        let seen = second.image.load_record("key");
        assert!(seen.len() >= 3, "{kind:?}: {seen:?}");
        second
            .prefetch(Prefetch {
                seen,
                ..Prefetch::default()
            })
            .await;
        assert!(
            second.has("file-7").await && second.has("small/3").await,
            "{kind:?}"
        );
        assert!(second.image.load_record("other").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_source_is_an_error_for_that_read_and_not_for_the_next() {
    let lab = lab(fixture::V6);
    let mounted = lab.open(Limits {
        read_max: Duration::from_millis(200),
        ..plain()
    });
    mounted.source.slow(Duration::from_secs(1));
    let slow = mounted.read("file-1").await;
    assert!(matches!(slow, Err(FsError::Slow(_))), "{slow:?}");
    // What the first one asked for goes on, and serves a later one.
    let later = async {
        loop {
            mounted.source.slow(Duration::ZERO);
            if let Ok(bytes) = mounted.read("file-1").await {
                return bytes;
            }
        }
    };
    let bytes = tokio::time::timeout(PATIENCE, later).await.unwrap();
    assert!(bytes == lab.expected("file-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_in_order_needs_few_requests_and_anywhere_no_more_than_the_bound() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("large"), bytes_at(1, 0, 40 << 20)).unwrap();
    let built = fixture::build(tree.path(), fixture::V5);
    let lab = Lab { tree, built };
    let mounted = lab.open(Limits::default());
    let ino = mounted.ino("large");
    let read = async |offset| match mounted.image.read(ino, offset, 128 << 10).unwrap() {
        Reading::Done(bytes) => bytes,
        Reading::Pending(pending) => pending.finish().await.unwrap(),
    };
    for number in 0..320 {
        read(number * (128 << 10)).await;
    }
    let stats = mounted.image.stats();
    assert_eq!(stats.read, 40 << 20);
    assert!(mounted.source.requests().len() <= 16, "{stats:?}");
    assert!((95..=105).contains(&stats.amplification().unwrap()), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_wait_for_a_request_that_can_wait() {
    for kind in [fixture::V6, fixture::V6_BATCH] {
        let lab = lab(kind);
        let mounted = lab.open(plain());
        // The table of the blob, if there is one.
        mounted.read("small/1").await.unwrap();
        mounted.source.slow(Duration::from_secs(3600));
        mounted.image.prefetch(&Prefetch {
            paths: vec!["/file-3".into()],
            ..Prefetch::default()
        });
        let begun = async {
            while mounted.source.background() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.unwrap();
        mounted.source.slow(Duration::ZERO);
        let read = tokio::time::timeout(PATIENCE, mounted.read("file-3")).await;
        assert!(read.unwrap().unwrap() == lab.expected("file-3"), "{kind:?}");
    }
}
