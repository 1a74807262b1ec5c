//! Damaged bootstraps: whatever they say, there is an answer or an error, in bounded time, and no panic leaves the library.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_nydus_bridge::blob::Folder;
use darter_nydus_bridge::fs::{Attributes, Kind, Limits, OpenImage, ROOT, Reading};
use darter_service::supervise::Tasks;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::fixture::{self, Built};

/// Damaged copies of each bootstrap.
const COPIES: u64 = 200;
/// Most files of a damaged image that are looked at: directories may contain themselves.
const FILES_MAX: usize = 200;
/// Longest time for one copy.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_metadata_are_an_error_and_nothing_worse() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make_small(&tree);
    for kind in [fixture::V5, fixture::V6, fixture::V6_BATCH, fixture::V6_ZRAN] {
        let built = fixture::build(&tree, kind);
        let good = std::fs::read(&built.bootstrap).unwrap();
        for seed in 0..COPIES {
            let copy = dir.path().join("damaged");
            std::fs::write(&copy, damage(&good, seed)).unwrap();
            let looked = tokio::time::timeout(PATIENCE, look(&built, &copy)).await;
            assert!(looked.is_ok(), "{kind:?}, seed {seed}: no end");
        }
    }
}

/// A copy with one of the things that happen to bytes.
fn damage(good: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut bytes = good.to_vec();
    // Most of the first blocks matter, and little of the rest.
    let end = if rng.random_bool(0.5) {
        bytes.len().min(8192)
    } else {
        bytes.len()
    };
    match seed % 4 {
        0 => bytes.truncate(rng.random_range(0..good.len())),
        1 => {
            for _ in 0..rng.random_range(1..20) {
                let at = rng.random_range(0..end);
                bytes[at] = rng.random();
            }
        }
        2 => {
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..end / 4) * 4;
                let value: u32 =
                    [0, 1, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX][rng.random_range(0..7)];
                if let Some(word) = bytes.get_mut(at..at + 4) {
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        _ => {
            let at = rng.random_range(0..end);
            let length = rng.random_range(1..4096).min(bytes.len() - at);
            let fill = if rng.random() { 0 } else { 0xff };
            bytes[at..at + length].fill(fill);
        }
    }
    bytes
}

/// Asks everything that a mount would ask.
async fn look(built: &Built, bootstrap: &Path) {
    let tasks = Tasks::new();
    let source = Arc::new(Folder::new(&built.blobs, tasks.clone()));
    let limits = Limits::default();
    let Ok(image) = OpenImage::open(bootstrap, source, &built.cache(), limits, tasks.clone()) else {
        return;
    };
    let mut seen = BTreeSet::from([ROOT]);
    let mut next = vec![ROOT];
    while let Some(ino) = next.pop() {
        let mut found: Vec<Attributes> = Vec::new();
        let _ = image.attributes(ino);
        let _ = image.entries(ino, 0, |entry| {
            let again = image.lookup(ino, &entry.name);
            found.extend([entry.attributes].into_iter().chain(again));
            found.len() < FILES_MAX
        });
        for attributes in found {
            if seen.len() < FILES_MAX && seen.insert(attributes.ino) {
                look_at(&image, &attributes).await;
                if attributes.kind == Kind::Directory {
                    next.push(attributes.ino);
                }
            }
        }
    }
    tasks.shut_down(Duration::from_secs(10)).await;
}

async fn look_at(image: &OpenImage, attributes: &Attributes) {
    let ino = attributes.ino;
    let _ = image.link(ino);
    for name in image.xattrs(ino).unwrap_or_default() {
        let _ = image.xattr(ino, &name);
    }
    for offset in [0, attributes.size / 2, attributes.size.saturating_sub(1)] {
        if let Ok(Reading::Pending(pending)) = image.read(ino, offset, 4096) {
            let _ = pending.finish().await;
        }
    }
}
